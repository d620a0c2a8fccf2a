"""What a search space is: parameters with choices or ranges, and the rules that say which of them mean something.

A space is conditional: `active_parameters` says which parameters mean something given the mode and what was chosen
before; the others are neither drawn nor set, so that invalid combinations cannot come up and equal points are one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, TypeAlias

from autotune.common.files import fingerprint
from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import ALGORITHMS, DATA_FREE_METRIC, INT8_MODES, MIXED, Settings

__all__ = ["FIXED_ONLY", "ORDER", "SPENDING", "Choices", "Parameter", "Range", "SearchSpace", "active_parameters"]

SPENDING = ("allocation", "budget")
"""How a plan comes about, and what it may take where that is by a budget; drawn before all others."""

ORDER = (
    "mode",
    "group_size",
    "ratio",
    "sensitivity_metric",
    "all_layers",
    "backup_mode",
    "awq",
    "scale_estimation",
    "gptq",
    "gptq_act_order",
    "lora_correction",
    "lora_rank",
)
"""The parameters that are drawn, in the order in which they are: what a condition needs comes before it."""

FIXED_ONLY = ("codebook", "ignored_scope", "group_size_fallback", "awq_data_free", "runtime_compressed")
"""Parameters with one value for the whole space; they are part of `SearchSpace.settings`, never drawn.

(`runtime_compressed` is not: it says which variants a budget may be spent on.)
"""

Parameter: TypeAlias = "Choices | Range"


@dataclass(frozen=True, slots=True)
class Choices:
    """A list of values without an order; one value is a fixed one."""

    values: tuple[Any, ...]

    @property
    def is_fixed(self) -> bool:
        """Whether there is nothing to choose."""
        return len(self.values) == 1

    def as_data(self) -> Any:
        """As YAML has it: a list, or the one value."""
        if not self.is_fixed:
            return list(self.values)
        return list(self.values[0]) if isinstance(self.values[0], tuple) else self.values[0]


@dataclass(frozen=True, slots=True)
class Range:
    """Numbers from `low` to `high`, both included; continuous (or every whole number) where `step` is None."""

    low: float
    high: float
    step: float | None = None

    @property
    def is_integer(self) -> bool:
        """Whether only whole numbers are meant."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 0))

    @property
    def values(self) -> tuple[Any, ...] | None:
        """Every number of the range in rising order, or None where it is continuous."""
        step = 1 if self.step is None and self.is_integer else self.step
        if step is None:
            return None if self.low < self.high else (self.low,)
        low, exact = Decimal(str(self.low)), Decimal(str(step))
        count = int((Decimal(str(self.high)) - low) / exact) + 1
        return tuple((int if self.is_integer else float)(low + exact * index) for index in range(count))

    def as_data(self) -> dict[str, Any]:
        """As YAML has it."""
        step = {} if self.step is None else {"step": self.step}
        return {"low": self.low, "high": self.high, **step}


def active_parameters(mode: str | None, chosen: Mapping[str, Any]) -> tuple[str, ...]:
    """The parameters of `ORDER` that mean something, in that order, given the mode and what was chosen so far.

    - with allocation budget only the budget counts, and there is no mode: the other parameters say which variants are
      allowed, all of them at once. Without it (or with ratio) there is no budget;
    - the int8 modes compress every weight in one way: only the mode counts;
    - a mode whose format fixes the group size (mxfp4, mxfp8_e4m3, nvfp4) has no group_size;
    - the 8-bit floating-point modes leave nothing to win back: no algorithms;
    - sensitivity_metric decides between weights only when 0 < ratio < 1 (a ratio not chosen is 1);
    - gptq_act_order is that of gptq, where it is on;
    - gptq leaves no error that lora_correction could catch: with gptq there is none;
    - lora_rank is that of lora_correction, where it is on;
    - with ratio 0 no weight gets the mode, so nothing counts that says how it is applied.

    codebook (of the mode with this name), ignored_scope, group_size_fallback and awq_data_free are fixed for a whole
    space and not listed.
    """
    first = ("allocation",) if "allocation" in chosen else ()
    if chosen.get("allocation") == "budget":
        return (*first, "budget")
    if mode is None:
        return (*first, "mode")
    if mode in INT8_MODES:
        return (*first, "mode")
    ratio = chosen.get("ratio", 1.0)
    inactive: set[str] = set()
    if FORMATS[mode].fixed_group_size:
        inactive.add("group_size")
    if not FORMATS[mode].takes_algorithms:
        inactive |= set(ALGORITHMS)
    if not 0 < ratio < 1:
        inactive.add("sensitivity_metric")
    if ratio == 0:
        inactive |= {"group_size", "all_layers", *ALGORITHMS}
    if chosen.get("gptq") and "gptq" not in inactive:
        inactive.add("lora_correction")
    else:
        inactive.add("gptq_act_order")
    if "lora_correction" in inactive or not chosen.get("lora_correction"):
        inactive.add("lora_rank")
    return (*first, *(name for name in ORDER if name not in inactive))


@dataclass(frozen=True)
class SearchSpace:
    """What may be tried.

    Attributes:
        name: the preset's or file's name, or ``inline``.
        parameters: parameter -> `Choices` or `Range`, in the order of `ORDER`, then the fixed ones. What is not named
            has the default of `Settings`.
        description: one line for people.
    """

    name: str
    parameters: Mapping[str, Parameter]
    description: str = field(default="", compare=False)

    def fingerprint(self) -> str:
        """Changes whenever what may be tried changes (the order of choices included: Optuna's storages keep it)."""
        return fingerprint("space", {name: parameter.as_data() for name, parameter in self.parameters.items()})

    @property
    def allocations(self) -> tuple[str, ...]:
        """How plans may come about: ``ratio``, ``budget`` or both."""
        return tuple(self.parameters["allocation"].values or ()) if "allocation" in self.parameters else ("ratio",)

    def uniform(self) -> SearchSpace:
        """The same space without budgets: what it has of `ratio`, and where it has none, what the variants are of."""
        left = {name: p for name, p in self.parameters.items() if name not in ("allocation", "budget")}
        return SearchSpace(self.name, left, self.description)

    @property
    def may_look_at_activations(self) -> bool:
        """Whether some point of the space needs calibration statistics to be planned or applied."""

        def values(name: str, default: Any) -> tuple[Any, ...]:
            parameter = self.parameters.get(name)
            if parameter is None:
                return (default,)
            return (parameter.low, parameter.high) if isinstance(parameter, Range) else parameter.values

        data_free = {"awq"} if False not in values("awq_data_free", False) else set()
        if "budget" in self.allocations or any(True in values(name, False) for name in {*ALGORITHMS} - data_free):
            return True
        data_aware = any(metric != DATA_FREE_METRIC for metric in values("sensitivity_metric", None))
        return data_aware and any(0 < ratio < 1 for ratio in values("ratio", 1.0))

    def as_dict(self) -> dict[str, Any]:
        """Plain data that `load_space` reads back as an equal space."""
        about = {"name": self.name, **({"description": self.description} if self.description else {})}
        return {**about, **{name: parameter.as_data() for name, parameter in self.parameters.items()}}

    def active(self, point: Mapping[str, Any]) -> dict[str, Any]:
        """`point` without the parameters that mean nothing in it."""
        names = active_parameters(point.get("mode"), point)
        return {name: point[name] for name in names if name in point}

    def enumerate(self, limit: int) -> list[dict[str, Any]] | None:
        """All distinct points, or None where there are more than `limit` or infinitely many.

        A point has the active parameters of this space only, in the order of `ORDER`.
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
        """Every completion of `chosen`; None where a continuous range is in the way."""
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
        """The settings of one point: its active parameters, the space's fixed ones, defaults for the rest.

        A parameter that means nothing in this point is ignored; one that the space does not name is taken as given.
        """
        fixed: dict[str, Any] = {
            name: self.parameters[name].as_data() for name in FIXED_ONLY if name in self.parameters
        }
        fixed.pop("runtime_compressed", None)
        if point.get("allocation") == "budget":
            kept = {name: fixed[name] for name in ("group_size_fallback",) if name in fixed}
            scope = tuple(fixed.get("ignored_scope", ()))
            return Settings(mode=MIXED, allocation="budget", budget=point["budget"], ignored_scope=scope, **kept)
        if point["mode"] != "codebook":
            fixed.pop("codebook", None)
        for name in ("codebook", "ignored_scope"):
            if name in fixed:
                fixed[name] = tuple(fixed[name])
        return Settings(**self.active(point), **fixed)
