"""Parse and validate one search space: each parameter alone, then all of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

from autotune.common.units import parse_bytes
from autotune.common.validation import Finding, Invalid, got, nearest
from autotune.compression.formats.table import FORMATS, MOST_LEVELS, read_codebook
from autotune.compression.settings import ALLOCATIONS, MODES, MOST_BITS, SETTINGS, SettingInfo, Settings
from autotune.config.space.space import (
    BUDGET_PARAMETERS,
    DRAWN_PARAMETERS,
    FIXED_PARAMETERS,
    Choices,
    Parameter,
    Range,
    SearchSpace,
    active_parameters,
)

ALL_PARAMETERS = (*BUDGET_PARAMETERS, *DRAWN_PARAMETERS, *FIXED_PARAMETERS)
ABOUT = ("name", "description")
"""Keys of a space that do not change what it allows."""

MAX_STEPS = 1000
"""A range of more steps is taken for a typing error."""

BUDGET_STEPS = 64
"""Steps of a range of bytes that names none."""

BUDGET_STEP_BITS = 0.25
"""Step in bits a weight of the budgets of a space that names none."""


class SpaceReader:
    """Parser of one mapping that collects all problems; relative paths start from `base_dir`."""

    def __init__(self, data: Mapping[str, Any], base_dir: Path) -> None:
        self.data = data
        self.base_dir = base_dir
        self.findings: list[Finding] = []

    def space(self, name: str) -> SearchSpace:
        """Return the space.

        Raises:
            Invalid: with all problems.
        """
        read: dict[str, Parameter] = {}
        for key, value in self.data.items():
            if key in ABOUT:
                if not isinstance(value, str):
                    self.wrong((key,), f"must be a text, got {got(value)}")
            elif key not in ALL_PARAMETERS:
                names = ", ".join(ALL_PARAMETERS)
                self.wrong((key,), f"unknown parameter{nearest(key, ALL_PARAMETERS)}; the parameters are {names}")
            else:
                parameter = self.parameter(key, value)
                if parameter is not None:
                    read[key] = parameter
        if "mode" not in self.data:
            self.wrong((), f"has no mode; a space needs at least mode, one or more of {', '.join(MODES)}")
        parameters = {key: read[key] for key in ALL_PARAMETERS if key in read}
        if not self.findings and "budget" not in read and "budget" in SearchSpace("", parameters).allocations:
            parameters = {"allocation": parameters["allocation"], "budget": default_budgets(parameters), **parameters}
        if not self.findings:
            self.check_together(parameters)
        if self.findings:
            raise Invalid(*self.findings)
        return SearchSpace(self.data.get("name", name), parameters, self.data.get("description", ""))

    def wrong(self, path: tuple[str | int, ...], message: str) -> None:
        """Record a problem at `path` of the mapping."""
        self.findings.append(Finding(path, message))

    def parameter(self, key: str, value: Any) -> Parameter | None:
        """Parse one parameter in any of its forms; None if it is wrong."""
        before = len(self.findings)
        if key == "budget" and isinstance(value, dict):
            parameter: Parameter | None = self.budgets(value)
        elif key == "ignored_scope":
            parameter = self.patterns(value)
        elif key == "codebook":
            parameter = self.codebook(value)
        elif isinstance(value, dict):
            parameter = self.range(key, value)
        elif isinstance(value, list):
            if key in FIXED_PARAMETERS:
                self.wrong(
                    (key,),
                    f"has one value for the whole space, got a list; write {key}: {value[0] if value else 'adjust'}",
                )
            if not value:
                self.wrong((key,), "has no choices; give at least one")
            values = [self.scalar(key, each, (key, index)) for index, each in enumerate(value)]
            for index, each in enumerate(values):
                if each is not None and each in values[:index]:
                    self.wrong((key, index), f"is listed twice: {each}")
            parameter = Choices(tuple(values))
        else:
            parameter = Choices((self.scalar(key, value, (key,)),))
        return parameter if len(self.findings) == before else None

    def scalar(self, key: str, value: Any, path: tuple[str | int, ...]) -> Any:
        """Check one value of one parameter and return it in its type; None if it is wrong."""
        problem = None
        info = SETTINGS.get(key)
        choices = ALLOCATIONS if key == "allocation" else info.choices if info else ()
        if choices:
            if value not in choices:
                problem = f"must be one of {', '.join(choices)}, got {got(value)}{nearest(value, choices)}"
        elif key == "runtime_compressed" or (info and info.kind == "switch"):
            if not isinstance(value, bool):
                slips = {"on": "true", "yes": "true", "off": "false", "no": "false"}
                hint = f"; write {slips[value]}" if isinstance(value, str) and value in slips else ""
                problem = f"must be true or false, got {got(value)}{hint}"
        elif key == "budget":
            value, problem = read_budget(value)
        elif key == "group_size":
            if not isinstance(value, int) or isinstance(value, bool):
                problem = f"must be a whole number or -1, got {got(value)}"
            else:
                problem = next((each.message for each in Settings("int4_sym", group_size=value).problems()), None)
        elif info and info.minimum is not None:
            if not isinstance(value, int) or isinstance(value, bool) or value < info.minimum:
                problem = f"must be a whole number of at least {info.minimum}, got {got(value)}"
        elif not isinstance(value, (int, float)) or isinstance(value, bool):
            problem = f"must be a number between 0 and 1, got {got(value)}"
        elif not 0 <= value <= 1:
            problem = f"must be between 0 and 1, got {value}"
        else:
            value = float(value)
        if problem is None:
            return value
        self.wrong(path, problem)
        return None

    def patterns(self, value: Any) -> Choices:
        """Parse ignored_scope: one list of names and patterns for the whole space."""
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list):
            self.wrong(("ignored_scope",), f"must be a list of names or patterns, got {got(value)}")
            return Choices(((),))
        for index, each in enumerate(listed):
            if not isinstance(each, str) or not each:
                self.wrong(("ignored_scope", index), f"must be a name or a pattern, got {got(each)}")
        return Choices((tuple(listed),))

    def codebook(self, value: Any) -> Choices:
        """Parse the table of mode codebook: a list of numbers, or a file that contains them."""
        table: tuple[float, ...] = ()
        if isinstance(value, str):
            try:
                table = read_codebook(self.base_dir / Path(value).expanduser())
            except ValueError as error:
                self.wrong(("codebook",), str(error))
                return Choices(((),))
        elif isinstance(value, (list, tuple)) and all(type(each) in (int, float) for each in value):
            table = tuple(float(each) for each in value)
        else:
            self.wrong(("codebook",), f"must be a list of numbers, or a file that has them, got {got(value)}")
            return Choices(((),))
        for problem in Settings("codebook", codebook=table).problems():
            self.wrong(("codebook",), problem.message)
        return Choices((table,))

    def range(self, key: str, value: dict[str, Any]) -> Range | None:
        """Parse ``{low, high, step}`` of a number; the steps must reach the high end."""
        if key != "budget" and (key not in SETTINGS or SETTINGS[key].kind not in ("integer", "number")):
            self.wrong((key,), "cannot be a range; give a list of choices or one value")
            return None
        names = ("low", "high", "step")
        for name in value:
            if name not in names:
                self.wrong((key, name), f"unknown key{nearest(name, names)}; a range has low, high and step")
        for name in ("low", "high"):
            if name not in value:
                self.wrong((key,), f"is a range without {name}; write {{low: ..., high: ...}}")
        if any(finding.path[:1] == (key,) for finding in self.findings):
            return None
        low, high = (self.scalar(key, value[name], (key, name)) for name in ("low", "high"))
        step = value.get("step")
        if low is None or high is None:
            return None
        if low > high:
            self.wrong((key, "low"), f"must not be above high ({high}), got {low}")
        elif step is not None:
            self.check_step(key, low, high, step)
        elif key == "group_size":
            self.wrong((key,), "a range of group sizes needs a step; or list them, as in [32, 64, 128]")
        return Range(low, high, float(step) if key == "ratio" and isinstance(step, (int, float)) else step)

    def budgets(self, value: dict[str, Any]) -> Range | None:
        """Parse a range of budgets, with both ends in bits a weight or both in bytes."""
        found = self.range("budget", {name: end for name, end in value.items() if name != "step"})
        if found is None:
            return None
        in_bytes = [end > MOST_BITS for end in (found.low, found.high)]
        if in_bytes[0] != in_bytes[1]:
            self.wrong(("budget",), "has one end in bits a weight and the other in bytes; give both in one unit")
            return None
        step = value.get("step")
        if not in_bytes[0]:
            low, high = float(found.low), float(found.high)
            if step is not None:
                self.check_step("budget", low, high, step)
            return Range(low, high, step if step is None else float(step)) if not self.findings else None
        if isinstance(step, str):
            step, problem = read_budget(step)
            if problem is not None:
                self.wrong(("budget", "step"), problem)
                return None
        step = step or max(1, (int(found.high) - int(found.low)) // BUDGET_STEPS)
        steps = (int(found.high) - int(found.low)) // int(step)
        return Range(int(found.low), int(found.low) + steps * int(step), int(step))

    def check_step(self, key: str, low: float, high: float, step: Any) -> None:
        """Check that a step has the right type, reaches the high end, and gives not too many values."""
        kind = int if key == "group_size" else (int, float)
        if not isinstance(step, kind) or isinstance(step, bool) or not math.isfinite(step) or step <= 0:
            self.wrong((key, "step"), f"must be a {'whole ' if kind is int else ''}number above 0, got {got(step)}")
            return
        steps, rest = divmod(Decimal(str(high)) - Decimal(str(low)), Decimal(str(step)))
        if rest:
            reached = Decimal(str(low)) + steps * Decimal(str(step))
            self.wrong((key, "step"), f"steps of {step} from {low} reach {reached}, not {high}; change high or step")
        elif steps > MAX_STEPS:
            self.wrong((key, "step"), f"gives {steps} values, more than {MAX_STEPS}; take a larger step or none")
        elif low <= 0 and key == "group_size":
            self.wrong((key, "low"), f"must be positive in a range, got {low}; list -1 with the others instead")

    def check_together(self, parameters: Mapping[str, Parameter]) -> None:
        """Refuse parameters that have an effect in no mode of the space."""
        modes = parameters["mode"].values or ()
        with_budget = "budget" in SearchSpace("", parameters).allocations
        for key in ("budget", "runtime_compressed"):
            if key in parameters and not with_budget:
                self.wrong((key,), "belongs to allocation: budget, which this space does not have")
        if ("codebook" in modes) != ("codebook" in parameters):
            missing = "codebook" in modes
            self.wrong(
                ("mode",) if missing else ("codebook",),
                "codebook needs a table: add codebook, a list of numbers or a file that has them"
                if missing
                else "is the table of mode codebook, which this space does not have",
            )
        for key, parameter in parameters.items():
            if key in (*FIXED_PARAMETERS, *BUDGET_PARAMETERS) or any(
                key in active_parameters(mode, {"ratio": 0.5}) for mode in modes
            ):
                continue
            values = (parameter.low, parameter.high) if isinstance(parameter, Range) else parameter.values
            problems = [
                [each.message for each in Settings(**{"mode": mode, key: value}).problems()]
                for mode in modes
                for value in values
            ]
            if all(problems):
                self.wrong((key,), f"fits no mode of this space: {problems[0][0]}")


def read_budget(value: Any) -> tuple[float | int | None, str | None]:
    """Parse the size limit of a model: bits a weight as float, or bytes as int.

    Sizes have a unit, such as ``13.8MB``. A number up to `MOST_BITS` is bits a weight, above it bytes.

    Returns:
        The value or None, and the problem or None.
    """
    expected = "must be bits a weight such as 4.5, or a size such as 13.8MB"
    if isinstance(value, str):
        try:
            return parse_bytes(value), None
        except ValueError as error:
            return None, f"{expected}: {error}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or not math.isfinite(value):
        return None, f"{expected}, got {got(value)}"
    return (float(value), None) if value <= MOST_BITS else (int(value), None)


def default_budgets(parameters: Mapping[str, Parameter]) -> Range:
    """Return the budgets of a space that names none: from the fewest bits of its modes to 8 bits with their scales."""
    least = float(min(FORMATS[mode].bits for mode in parameters["mode"].values or ()))
    return Range(least, max(8.0, least) + BUDGET_STEP_BITS, BUDGET_STEP_BITS)


def space_schema() -> dict[str, Any]:
    """Return the JSON Schema of a space that is written as a mapping."""
    size = {"type": ["number", "string"]}
    properties: dict[str, Any] = {name: {"type": "string"} for name in ABOUT}
    properties["allocation"] = _one_or_several({"enum": list(ALLOCATIONS)})
    properties["budget"] = _one_or_several(size, ends=size)
    properties["runtime_compressed"] = {"type": "boolean"}
    for name, info in SETTINGS.items():
        value = _value_schema(name, info)
        ends = {"type": "number"} if info.kind in ("integer", "number") else None
        properties[name] = value if name in FIXED_PARAMETERS else _one_or_several(value, ends=ends)
    return {"type": "object", "properties": properties, "required": ["mode"], "additionalProperties": False}


def _value_schema(name: str, info: SettingInfo) -> dict[str, Any]:
    """Return the schema of one value of a setting."""
    if info.choices:
        return {"enum": list(info.choices)}
    if name == "codebook":
        table = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": MOST_LEVELS}
        return {"anyOf": [table, {"type": "string"}]}
    if name == "group_size":
        return {"type": "integer", "minimum": -1, "not": {"const": 0}}
    kinds: dict[str, dict[str, Any]] = {
        "switch": {"type": "boolean"},
        "integer": {"type": "integer", "minimum": info.minimum},
        "number": {"type": "number", "minimum": 0, "maximum": 1},
        "list": {"type": "array", "items": {"type": "string"}},
    }
    return kinds[info.kind]


def _one_or_several(value: dict[str, Any], *, ends: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the schema of a value or a list of values; with `ends` also of a range."""
    span = {
        "type": "object",
        "properties": {"low": ends, "high": ends, "step": ends},
        "required": ["low", "high"],
        "additionalProperties": False,
    }
    return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}, *([] if ends is None else [span])]}
