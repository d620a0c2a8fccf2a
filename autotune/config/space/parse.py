"""One search space as users write it: each parameter checked by itself, then all of them together."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, get_args

from autotune.common.units import parse_bytes
from autotune.common.validation import Finding, Invalid, got, nearest
from autotune.compression.formats.table import FORMATS, MOST_LEVELS, read_codebook
from autotune.compression.settings import (
    ALGORITHMS,
    ALLOCATIONS,
    BACKUP_MODES,
    MODES,
    MOST_BITS,
    SENSITIVITY_METRICS,
    Fallback,
    Settings,
)
from autotune.config.space.space import (
    FIXED_ONLY,
    ORDER,
    SPENDING,
    Choices,
    Parameter,
    Range,
    SearchSpace,
    active_parameters,
)

__all__ = ["SpaceReader", "read_budget", "space_schema"]

CATEGORIES: Mapping[str, tuple[str, ...]] = {
    "allocation": ALLOCATIONS,
    "mode": MODES,
    "sensitivity_metric": SENSITIVITY_METRICS,
    "backup_mode": BACKUP_MODES,
    "group_size_fallback": get_args(Fallback),
}
SWITCHES = ("all_layers", *ALGORITHMS, "gptq_act_order", "awq_data_free", "runtime_compressed")
NUMBERS = ("group_size", "ratio", "lora_rank", "budget")
ABOUT = ("name", "description")
"""Keys of a space that say what it is, and change nothing."""

MOST_VALUES = 1000
"""More steps than this in one range are a slip of the pen."""

BUDGET_STEPS = 64
"""Steps of a range of bytes that names none."""

QUARTER = 0.25
"""Steps of bits a weight, where a space with budgets names none."""


class SpaceReader:
    """Reads one mapping, collecting everything that is wrong with it; relative paths start from `base_dir`."""

    def __init__(self, data: Mapping[str, Any], base_dir: Path) -> None:
        self.data = data
        self.base_dir = base_dir
        self.findings: list[Finding] = []

    def space(self, name: str) -> SearchSpace:
        """The space, or `Invalid` with all findings."""
        allowed = (*SPENDING, *ORDER, *FIXED_ONLY)
        read: dict[str, Parameter] = {}
        for key, value in self.data.items():
            if key in ABOUT:
                if not isinstance(value, str):
                    self.wrong((key,), f"must be a text, got {got(value)}")
            elif key not in allowed:
                self.wrong((key,), f"unknown parameter{nearest(key, allowed)}; the parameters are {', '.join(allowed)}")
            else:
                parameter = self.parameter(key, value)
                if parameter is not None:
                    read[key] = parameter
        if "mode" not in self.data:
            self.wrong((), f"has no mode; a space needs at least mode, one or more of {', '.join(MODES)}")
        parameters = {key: read[key] for key in allowed if key in read}
        if not self.findings and "budget" not in read and "budget" in SearchSpace("", parameters).allocations:
            parameters = {"allocation": parameters["allocation"], "budget": usual_budgets(parameters), **parameters}
        if not self.findings:
            self.check_together(parameters)
        if self.findings:
            raise Invalid(*self.findings)
        return SearchSpace(self.data.get("name", name), parameters, self.data.get("description", ""))

    def wrong(self, path: tuple[str | int, ...], message: str) -> None:
        """Remember what is wrong at `path` of the mapping."""
        self.findings.append(Finding(path, message))

    def parameter(self, key: str, value: Any) -> Parameter | None:
        """One parameter in any of its forms; None when it is wrong."""
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
            if key in FIXED_ONLY:
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
        """One value of one parameter, checked and in its own type; None when it is wrong."""
        problem = None
        if key in CATEGORIES:
            allowed = CATEGORIES[key]
            if value not in allowed:
                problem = f"must be one of {', '.join(allowed)}, got {got(value)}{nearest(value, allowed)}"
        elif key in SWITCHES:
            if not isinstance(value, bool):
                slips = {"on": "true", "yes": "true", "off": "false", "no": "false"}
                hint = f"; write {slips[value]}" if isinstance(value, str) and value in slips else ""
                problem = f"must be true or false, got {got(value)}{hint}"
        elif key == "group_size":
            if not isinstance(value, int) or isinstance(value, bool):
                problem = f"must be a whole number or -1, got {got(value)}"
            else:
                problem = next((each.message for each in Settings("int4_sym", group_size=value).problems()), None)
        elif key == "budget":
            value, problem = read_budget(value)
        elif key == "lora_rank":
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                problem = f"must be a whole number of at least 1, got {got(value)}"
        elif not isinstance(value, (int, float)) or isinstance(value, bool):
            problem = f"must be a number between 0 and 1, got {got(value)}"
        elif not 0 <= value <= 1:
            problem = f"must be between 0 and 1, got {value}"
        elif key == "ratio":
            value = float(value)
        if problem is None:
            return value
        self.wrong(path, problem)
        return None

    def patterns(self, value: Any) -> Choices:
        """ignored_scope: one list of names and patterns for the whole space."""
        listed = [value] if isinstance(value, str) else value
        if not isinstance(listed, list):
            self.wrong(("ignored_scope",), f"must be a list of names or patterns, got {got(value)}")
            return Choices(((),))
        for index, each in enumerate(listed):
            if not isinstance(each, str) or not each:
                self.wrong(("ignored_scope", index), f"must be a name or a pattern, got {got(each)}")
        return Choices((tuple(listed),))

    def codebook(self, value: Any) -> Choices:
        """The table of mode codebook: a list of numbers, or a file that has them."""
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
        """``{low, high, step}`` of a number; ends and steps must fit."""
        if key not in NUMBERS:
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
        """A range of budgets, its ends both in bits a weight or both in bytes."""
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
        """See that a range's step is one of its kind and takes it neither nowhere nor on for ever."""
        kind = int if key == "group_size" else (int, float)
        if not isinstance(step, kind) or isinstance(step, bool) or not math.isfinite(step) or step <= 0:
            self.wrong((key, "step"), f"must be a {'whole ' if kind is int else ''}number above 0, got {got(step)}")
            return
        steps, rest = divmod(Decimal(str(high)) - Decimal(str(low)), Decimal(str(step)))
        if rest:
            reached = Decimal(str(low)) + steps * Decimal(str(step))
            self.wrong((key, "step"), f"steps of {step} from {low} reach {reached}, not {high}; change high or step")
        elif steps > MOST_VALUES:
            self.wrong((key, "step"), f"gives {steps} values, more than {MOST_VALUES}; take a larger step or none")
        elif low <= 0 and key == "group_size":
            self.wrong((key, "low"), f"must be positive in a range, got {low}; list -1 with the others instead")

    def check_together(self, parameters: Mapping[str, Parameter]) -> None:
        """Refuse a parameter that no mode of the space can have: no point with it would be valid."""
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
            if key in (*FIXED_ONLY, *SPENDING) or any(key in active_parameters(mode, {"ratio": 0.5}) for mode in modes):
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
    """What a model may take, and what is wrong with it: bits a weight as float, or bytes as int.

    Sizes have a unit, such as ``13.8MB``; a number is bits a weight up to `MOST_BITS` and bytes above.
    """
    wanted = "must be bits a weight such as 4.5, or a size such as 13.8MB"
    if isinstance(value, str):
        try:
            return parse_bytes(value), None
        except ValueError as error:
            return None, f"{wanted}: {error}"
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0 or not math.isfinite(value):
        return None, f"{wanted}, got {got(value)}"
    return (float(value), None) if value <= MOST_BITS else (int(value), None)


def usual_budgets(parameters: Mapping[str, Parameter]) -> Range:
    """Bits a weight in quarters, from what no plan is below (the smallest is meant) to 8 bits with their scales."""
    least = float(min(FORMATS[mode].bits for mode in parameters["mode"].values or ()))
    return Range(least, max(8.0, least) + QUARTER, QUARTER)


def space_schema() -> dict[str, Any]:
    """JSON Schema of a space written out as a mapping."""

    def either(value: dict[str, Any], *, ranged: bool = False) -> dict[str, Any]:
        number = {"type": "number"}
        span = {
            "type": "object",
            "properties": {"low": number, "high": number, "step": number},
            "required": ["low", "high"],
            "additionalProperties": False,
        }
        return {"anyOf": [value, {"type": "array", "items": value, "minItems": 1}, *([span] if ranged else [])]}

    properties: dict[str, Any] = {name: {"type": "string"} for name in ABOUT}
    properties |= {name: either({"enum": list(values)}) for name, values in CATEGORIES.items()}
    properties["group_size"] = either({"type": "integer", "minimum": -1, "not": {"const": 0}}, ranged=True)
    span = {"type": ["number", "string"]}
    properties["budget"] = either(span)
    properties["budget"]["anyOf"].append(
        {
            "type": "object",
            "properties": {"low": span, "high": span, "step": span},
            "required": ["low", "high"],
            "additionalProperties": False,
        }
    )
    properties["runtime_compressed"] = {"type": "boolean"}
    properties["ratio"] = either({"type": "number", "minimum": 0, "maximum": 1}, ranged=True)
    properties |= {name: either({"type": "boolean"}) for name in SWITCHES}
    table = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": MOST_LEVELS}
    properties["codebook"] = {"anyOf": [table, {"type": "string"}]}
    properties["ignored_scope"] = {"type": "array", "items": {"type": "string"}}
    properties["group_size_fallback"] = {"enum": list(CATEGORIES["group_size_fallback"])}
    properties["lora_rank"] = either({"type": "integer", "minimum": 1}, ranged=True)
    return {"type": "object", "properties": properties, "required": ["mode"], "additionalProperties": False}
