"""Search spaces: parameters with choices or ranges, and the conditions under which a parameter has an effect.

A space is conditional. `active_parameters` lists the parameters that have an effect, given the mode and the values
chosen so far. The others are neither drawn nor set, so no invalid point is drawn and equal models are one point.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache
from itertools import product
from typing import Any, TypeAlias

from autotune.common.files import fingerprint
from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import ALGORITHMS, EFFORTS, INT8_MODES, MIXED, SETTINGS, Settings

BUDGET_PARAMETERS = ("allocation", "budget")
"""The kind of plan, and the size limit of a plan with measured errors; drawn before all others."""

DRAWN_PARAMETERS = tuple(name for order in (1, 2) for name, info in SETTINGS.items() if info.search_order == order)
"""The other parameters of a point, in the order in which they are drawn: a condition needs those before it."""

SWITCHES = tuple(dict.fromkeys(info.requires for info in SETTINGS.values() if info.requires))
"""Algorithms with parameters of their own."""

FIXED_PARAMETERS = (*(name for name, info in SETTINGS.items() if not info.search_order), "runtime_compressed")
"""Parameters with one value for the whole space, never drawn.

They are part of `SearchSpace.settings`, except `runtime_compressed`, which limits the variants of a budget.
"""

Parameter: TypeAlias = "Choices | Range"


@dataclass(frozen=True, slots=True)
class Choices:
    """A list of values without an order; a single value is fixed."""

    values: tuple[Any, ...]

    @property
    def is_fixed(self) -> bool:
        """Return True if there is only one value."""
        return len(self.values) == 1

    def as_data(self) -> Any:
        """Return the form for YAML: a list, or the one value."""
        if not self.is_fixed:
            return list(self.values)
        return list(self.values[0]) if isinstance(self.values[0], tuple) else self.values[0]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; without `step` continuous, or every whole number."""

    low: float
    high: float
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        """Return True if all values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 0))

    @property
    def values(self) -> tuple[Any, ...] | None:
        """All numbers of the range in rising order; None if it is continuous."""
        step = 1 if self.step is None and self.is_integer else self.step
        if step is None:
            return None if self.low < self.high else (self.low,)
        return _steps(str(self.low), str(self.high), str(step), self.is_integer)

    def as_data(self) -> dict[str, Any]:
        """Return the form for YAML."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **step}


@cache  # listing a space asks for the same ranges at every point
def _steps(low: str, high: str, step: str, whole: bool) -> tuple[float, ...]:
    """Return the numbers of a range, counted in decimal digits: 0.1 * 3 is 0.3."""
    first, exact = Decimal(low), Decimal(step)
    count = int((Decimal(high) - first) / exact) + 1
    return tuple((int if whole else float)(first + exact * index) for index in range(count))


def active_parameters(mode: str | None, chosen: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the parameters that have an effect, in the order in which they are drawn.

    - With allocation ``budget`` only the budget and distillation count. The other parameters of the space list the
      variants that a plan may use, all of them together. With ``ratio``, or without allocation, there is no budget.
    - The int8 modes compress all weights alike: only the mode counts.
    - A mode with a fixed group size (mxfp4, mxfp8_e4m3, nvfp4) has no group_size.
    - The 8-bit floating-point modes leave too little error for algorithms.
    - sensitivity_metric decides between weights only if 0 < ratio < 1 (the default ratio is 1).
    - gptq excludes lora_correction, whose low-rank adapters have nothing left to correct.
    - gptq_act_order and lora_rank need their algorithm.
    - With ratio 0 no weight gets the mode, so the parameters that say how to apply it do not count.

    Args:
        mode: the chosen mode, None if it is not chosen yet.
        chosen: the values chosen so far.
    """
    first = ("allocation",) if "allocation" in chosen else ()
    if chosen.get("allocation") == "budget":
        return (*first, "budget", "distillation")
    ratio, switches = chosen.get("ratio", 1.0), tuple(bool(chosen.get(name)) for name in SWITCHES)
    return first + _active_with_ratio(mode, 0.5 if 0 < ratio < 1 else ratio, switches)


@cache  # listing a space asks for the same few cases at thousands of points
def _active_with_ratio(mode: str | None, ratio: float, switches: tuple[bool, ...]) -> tuple[str, ...]:
    """Return the active parameters of a point without a budget; `switches` are the values of `SWITCHES`."""
    if mode is None or mode in INT8_MODES:
        return ("mode",)
    is_on = dict(zip(SWITCHES, switches, strict=True))
    inactive: set[str] = set()
    if FORMATS[mode].fixed_group_size:
        inactive.add("group_size")
    if not FORMATS[mode].takes_algorithms:
        inactive |= set(ALGORITHMS)
    if not 0 < ratio < 1:
        inactive.add("sensitivity_metric")
    if ratio == 0:
        inactive |= {"group_size", "all_layers", "distillation", *ALGORITHMS}
    if is_on["gptq"] and "gptq" not in inactive:
        inactive.add("lora_correction")
    for name in DRAWN_PARAMETERS:
        switch = SETTINGS[name].requires
        if switch is not None and (switch in inactive or not is_on[switch]):
            inactive.add(name)
    return tuple(name for name in DRAWN_PARAMETERS if name not in inactive)


@dataclass(frozen=True)
class SearchSpace:
    """The settings that a study may try.

    Attributes:
        name: the name of the preset or file, or ``inline``.
        parameters: parameter -> `Choices` or `Range`, the drawn ones in their order, then the fixed ones. Parameters
            that are not named have the default of `Settings`.
        description: one line for people.
        left_out: values that target devices do not take, each as a sentence; see `restrict.restrict`.
    """

    name: str
    parameters: Mapping[str, Parameter]
    description: str = field(default="", compare=False)
    left_out: tuple[str, ...] = field(default=(), compare=False)

    def with_effort(self, effort: str) -> SearchSpace:
        """Return the space with the switches of an effort, one of `EFFORTS`, on; those that it fixes stay.

        Distillation stays a choice: it is tried on the points of the front, last.
        """
        parameters = dict(self.parameters)
        for name in EFFORTS[effort]:
            if name not in parameters or len(self.values(name)) > 1:
                parameters[name] = Choices((False, True) if name == "distillation" else (True,))
        order = (*BUDGET_PARAMETERS, *DRAWN_PARAMETERS, *FIXED_PARAMETERS)
        return replace(self, parameters={name: parameters[name] for name in order if name in parameters})

    def fingerprint(self) -> str:
        """Hash the parameters, with the order of their choices, which Optuna's storages keep."""
        return fingerprint("space", {name: parameter.as_data() for name, parameter in self.parameters.items()})

    @property
    def allocations(self) -> tuple[str, ...]:
        """The kinds of plan in this space: ``ratio``, ``budget`` or both."""
        return tuple(self.parameters["allocation"].values or ()) if "allocation" in self.parameters else ("ratio",)

    def without_budgets(self) -> SearchSpace:
        """Return the same space without budgets."""
        left = {name: p for name, p in self.parameters.items() if name not in ("allocation", "budget")}
        return SearchSpace(self.name, left, self.description)

    def values(self, name: str) -> tuple[Any, ...]:
        """Return the values of a parameter: the default of `Settings` if it is not named here.

        Of a continuous range these are the ends and the middle.
        """
        parameter = self.parameters.get(name)
        if parameter is None:
            return (SETTINGS[name].default,)
        if isinstance(parameter, Range) and parameter.values is None:
            return parameter.low, (parameter.low + parameter.high) / 2, parameter.high
        return parameter.values or ()

    @property
    def needs_calibration(self) -> bool:
        """Return True if any point of the space needs calibration statistics."""
        ratios = {ratio if ratio in (0, 1) else 0.5 for ratio in self.values("ratio")}
        switches = [(name, on) for name in (*ALGORITHMS, "distillation") for on in self.values(name)]
        points = (
            {"mode": mode, "ratio": ratio, "sensitivity_metric": metric, name: on}
            for mode, ratio, metric, (name, on) in product(
                self.values("mode"), ratios, self.values("sensitivity_metric"), switches
            )
        )
        return "budget" in self.allocations or any(
            self.settings(point).resolved(calibrated=True).needs_calibration for point in points
        )

    def uniform_settings(self) -> list[Settings]:
        """Return the settings whose variants an allocation may give to a weight.

        Every mode, group size and backup mode of the space is allowed. Embeddings and the last layer may have the
        formats of less than 8 bits if `all_layers` may be true. GPTQ and scale estimation are on if the space allows
        them: they cost no bytes. AWQ and LoRA correction are off (see `allocation.choices.make_menus`), and ratio and
        sensitivity_metric have no effect.
        """
        common: dict[str, Any] = {"group_size_fallback": self.values("group_size_fallback")[0]}
        common["ignored_scope"] = tuple(self.values("ignored_scope")[0])
        found: list[Settings] = []
        for mode in self.values("mode"):
            fmt = FORMATS[mode]
            if mode in INT8_MODES:
                found.append(Settings(mode=mode, **common))
                continue
            settings = Settings(mode=mode, all_layers=True in self.values("all_layers"), **common)
            if mode == "codebook":
                settings = replace(settings, codebook=tuple(self.values("codebook")[0]))
            if fmt.takes_algorithms:
                settings = replace(
                    settings,
                    gptq=True in self.values("gptq"),
                    gptq_act_order=True in self.values("gptq_act_order") or True not in self.values("gptq"),
                    scale_estimation=True in self.values("scale_estimation"),
                )
            sizes = (None,) if fmt.fixed_group_size else self.values("group_size")
            found += [replace(settings, group_size=size) for size in sizes]
        # The weights without a small format get the backup mode; "none" is among the choices of every weight.
        backups = self.values("backup_mode") if "backup_mode" in self.parameters else ("int8_asym",)
        found += [Settings(mode=mode, **common) for mode in backups if mode in INT8_MODES]
        return list(dict.fromkeys(found))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that `load_space` reads back as an equal space."""
        about = {"name": self.name, **({"description": self.description} if self.description else {})}
        return {**about, **{name: parameter.as_data() for name, parameter in self.parameters.items()}}

    def active(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """Return `point` without the parameters that have no effect in it."""
        names = active_parameters(point.get("mode"), point)
        return {name: point[name] for name in names if name in point}

    def enumerate(self, limit: int) -> list[dict[str, Any]] | None:
        """Return all distinct points; None if there are more than `limit` or infinitely many.

        A point has only the active parameters of this space, in the order in which they are drawn.
        """
        points: dict[tuple[tuple[str, Any], ...], dict[str, Any]] = {}
        for point in self._points({}):
            if point is None:
                return None
            points[tuple(point.items())] = point
            if len(points) > limit:
                return None
        return list(points.values())

    def _points(self, chosen: dict[str, Any]) -> Iterator[dict[str, Any] | None]:
        """Yield every completion of `chosen`, or None for a continuous range."""
        active: tuple[str, ...] = active_parameters(chosen.get("mode"), chosen)
        if not chosen and "allocation" in self.parameters:
            active = ("allocation",)
        undecided = next((name for name in active if name in self.parameters and name not in chosen), None)
        if undecided is None:
            yield self.active(chosen)
            return
        values = self.parameters[undecided].values
        if values is None:
            yield None
            return
        for value in values:
            yield from self._points({**chosen, undecided: value})

    def settings(self, point: Mapping[str, Any]) -> Settings:
        """Return the settings of one point: its active parameters, the fixed ones of the space, else the defaults.

        Parameters without effect in this point are ignored. Parameters that the space does not name are used.
        """
        fixed: dict[str, Any] = {
            name: self.parameters[name].as_data() for name in FIXED_PARAMETERS if name in self.parameters
        }
        fixed.pop("runtime_compressed", None)
        if point.get("allocation") == "budget":
            kept = {name: fixed[name] for name in ("group_size_fallback",) if name in fixed}
            scope = tuple(fixed.get("ignored_scope", ()))
            kept["distillation"] = point.get("distillation", self.values("distillation")[0])
            return Settings(mode=MIXED, allocation="budget", budget=point["budget"], ignored_scope=scope, **kept)
        if point["mode"] != "codebook":
            fixed.pop("codebook", None)
        for name in ("codebook", "ignored_scope"):
            if name in fixed:
                fixed[name] = tuple(fixed[name])
        return Settings(**self.active(point), **fixed)
