"""Initial points of a study: established settings, and the two ends of the space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from autotune.common.validation import nearest
from autotune.compression.describe import describe_budget
from autotune.compression.formats.table import FORMATS, Format
from autotune.compression.settings import INT8_MODES
from autotune.config.space.parse import read_budget
from autotune.config.space.space import BUDGET_PARAMETERS, Parameter, Range, SearchSpace
from autotune.errors import ConfigError
from autotune.study.sampling.sampler import params_of, walk
from autotune.study.storage.history import point_key

COMMON_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "int8_asym": {"mode": "int8_asym"},
    "int4_asym, group size 64, GPTQ": {"mode": "int4_asym", "group_size": 64, "ratio": 1.0, "gptq": True},
    "optimum-intel's 4-bit default": {"mode": "int4_asym", "group_size": 128, "ratio": 1.0},
    "NNCF's int4_sym default": {"mode": "int4_sym", "group_size": 128, "ratio": 1.0},
    "int4_asym, group size 64, ratio 0.8": {"mode": "int4_asym", "group_size": 64, "ratio": 0.8},
    "int4_asym, group size 64, AWQ and scale estimation": {
        "mode": "int4_asym",
        "group_size": 64,
        "ratio": 1.0,
        "awq": True,
        "scale_estimation": True,
    },
}
"""Label -> settings. What is not named has the default of `Settings` where the space allows it.

The first two span most of a front: 90% of the final hypervolume after 76 s, where it took 129 s with GPTQ in the last
place (a replay of 14 trials of a model of 22 M parameters)."""

DEFAULTS: Mapping[str, Any] = {
    "allocation": "ratio",
    "budget": 4.5,
    "group_size": 128,
    "ratio": 1.0,
    "sensitivity_metric": "output_error",
    "all_layers": False,
    "backup_mode": "int8_asym",
    "awq": False,
    "scale_estimation": False,
    "gptq": False,
    "gptq_act_order": True,
    "lora_correction": False,
    "lora_rank": 8,
    "distillation": False,
}

OTHER_4_BIT = ("nf4", "fp4", "nvfp4", "mxfp4", "cb4", "codebook", "adaptive_codebook")

FAMILIES: Mapping[str, tuple[str, ...]] = {
    "int8_asym": ("int8_asym", "int8_sym"),
    "int8_sym": ("int8_sym", "int8_asym"),
    "int4_asym": ("int4_asym", "int4_sym", *OTHER_4_BIT),
    "int4_sym": ("int4_sym", "int4_asym", *OTHER_4_BIT),
}
"""Modes that replace a mode that the space does not allow, nearest first."""

SMALLEST: Mapping[str, Any] = {"ratio": 1.0, "all_layers": True, "awq": True, "gptq": True}
MOST_ACCURATE: Mapping[str, Any] = {"ratio": 0.0, "all_layers": False, "awq": True, "gptq": True}
BUDGETS = 9
"""Number of budgets to try first: the two ends, then midpoints by bisection."""

UNCOMPRESSED_BITS = 16.0
ROW = 4096
"""Input channels a row, assumed only to compare a group a row with smaller groups."""
EMBEDDINGS = 0.2
"""Share of embeddings and last layer, assumed only to rank points by size."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """Initial point with its label."""

    label: str
    point: Mapping[str, Any]


def anchors(space: SearchSpace) -> list[Anchor]:
    """List the established settings, each moved to the nearest point of the space, then the space's two ends.

    A setting whose whole family of modes is absent is left out, and no point is listed twice. In a space with budgets,
    `BUDGETS` of them follow; a space without ratios has only these.
    """
    found: dict[str, Anchor] = {}
    if "ratio" not in space.allocations:
        return budgets(space)
    for label, target in COMMON_SETTINGS.items():
        modes = space.parameters["mode"].values or ()
        mode = next((m for m in FAMILIES[target["mode"]] if m in modes), None)
        if mode is None:
            continue
        point = project(space, {**DEFAULTS, **target, "mode": mode})
        actual = {**asdict(space.settings(point)), "group_size": space.settings(point).effective_group_size}
        exact = all(actual[name] == value for name, value in target.items())
        found.setdefault(point_key(params_of(space, point)), Anchor(label if exact else f"near {label}", point))
    for label, point in (("smallest", end(space, SMALLEST)), ("most accurate", end(space, MOST_ACCURATE))):
        found.setdefault(point_key(params_of(space, point)), Anchor(label, point))
    return [*found.values(), *(budgets(space) if "budget" in space.allocations else ())]


def budgets(space: SearchSpace) -> list[Anchor]:
    """List budgets spread over those of the space, in the order of bisection."""
    parameter = space.parameters["budget"]
    values = parameter.values
    if values is None:
        assert isinstance(parameter, Range)
        step = (parameter.high - parameter.low) / (BUDGETS - 1)
        values = tuple(parameter.low + step * index for index in range(BUDGETS))
    places = [round(index * (len(values) - 1) / (BUDGETS - 1)) for index in (0, 8, 4, 2, 6, 1, 3, 5, 7)]
    chosen = [values[place] for place in dict.fromkeys(places)]
    return [Anchor(f"a budget of {describe_budget(v)}", _budget_point(space, v)) for v in chosen]


def _budget_point(space: SearchSpace, value: float) -> dict[str, Any]:
    point = {"allocation": "budget"} if "allocation" in space.parameters else {}
    trained = {"distillation": space.values("distillation")[0]} if "distillation" in space.parameters else {}
    return {**point, "budget": value, **trained}


def enqueued(space: SearchSpace, points: Sequence[Mapping[str, Any]]) -> list[Anchor]:
    """Complete the points of `study.enqueue` by defaults, or the space's values nearest to them.

    Raises:
        ConfigError: a parameter or value that the space does not hold, or one that has no effect with the others.
    """
    found = []
    for index, target in enumerate(points):
        key = f"study.enqueue[{index}]"
        if target.get("allocation") == "budget" and "budget" in space.allocations:
            found.append(Anchor("as wished", enqueued_budget(space, target, key)))
            continue
        if target.get("mode") not in (space.parameters["mode"].values or ()):
            modes = ", ".join(space.parameters["mode"].values or ())
            raise ConfigError(f"needs a mode of the space ({modes}), got {target.get('mode')!r}", key=f"{key}.mode")
        for name, value in target.items():
            parameter = space.parameters.get(name)
            if parameter is None:
                names = ", ".join(space.parameters)
                raise ConfigError(
                    f"is not a parameter of the space{nearest(name, space.parameters)}; it has {names}",
                    key=f"{key}.{name}",
                )
            if nearest_value(parameter, value) != value:
                raise ConfigError(f"is outside the space: {value!r}; add it to the space", key=f"{key}.{name}")
        point = project(space, {**DEFAULTS, **target})
        for name in target:
            if name not in point:
                raise ConfigError(f"has no effect with mode {target['mode']}; remove it", key=f"{key}.{name}")
        found.append(Anchor("as wished", point))
    return found


def enqueued_budget(space: SearchSpace, target: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Read an entry of `study.enqueue` that has a budget."""
    value, problem = read_budget(target.get("budget"))
    unused = [name for name in target if name not in (*BUDGET_PARAMETERS, "distillation")]
    if problem is None and nearest_value(space.parameters["budget"], value) != value:
        problem = f"is outside the space: {target['budget']!r}; add it to the space"
    if problem is not None:
        raise ConfigError(problem, key=f"{key}.budget")
    if unused:
        raise ConfigError("has no effect with allocation: budget; remove it", key=f"{key}.{unused[0]}")
    assert value is not None
    return {**_budget_point(space, value), **{n: target[n] for n in ("distillation",) if n in target}}


def from_front(space: SearchSpace, settings: Mapping[str, Mapping[str, Any]]) -> list[Anchor]:
    """Convert the front of another study, label -> settings, to the nearest points of this space.

    A setting whose mode this space does not have is left out.
    """
    found: dict[str, Anchor] = {}
    for label, target in settings.items():
        if target.get("allocation") == "budget" and "budget" in space.allocations:
            point = project(space, {**DEFAULTS, **target})
            found.setdefault(point_key(params_of(space, point)), Anchor(label, point))
            continue
        if "ratio" not in space.allocations or target.get("mode") not in (space.parameters["mode"].values or ()):
            continue
        given = {name: value for name, value in target.items() if name in DEFAULTS and value is not None}
        point = project(space, {**DEFAULTS, **given, "mode": target["mode"]})
        found.setdefault(point_key(params_of(space, point)), Anchor(label, point))
    return list(found.values())


def project(space: SearchSpace, target: Mapping[str, Any]) -> dict[str, Any]:
    """Find the point of the space nearest to `target`, parameter by parameter."""
    return walk(space, lambda name, parameter, _: nearest_value(parameter, target[name]))


def nearest_value(parameter: Parameter, target: Any) -> Any:
    """Find the parameter's value that equals `target`, else the nearest number, else its first value."""
    values = parameter.values
    if values is None:
        assert isinstance(parameter, Range)
        return min(max(float(target), parameter.low), parameter.high)
    if target in values:
        return values[values.index(target)]
    if isinstance(target, (int, float)) and not isinstance(target, bool):
        return min(values, key=lambda v: abs(channels(v) - channels(target)))
    return values[0]


def channels(value: float) -> float:
    """Convert a group size to channels: -1 is a whole row."""
    return ROW if value == -1 else value


def end(space: SearchSpace, target: Mapping[str, Any]) -> dict[str, Any]:
    """Find the smallest (target ratio 1) or the most accurate (target ratio 0) point of the space.

    Sizes are ranked by `estimated_bits`; more bits count as more accurate, and of points with equal bits the one with
    the algorithms on.
    """
    largest = target["ratio"] == 0.0
    sign = -1 if largest else 1

    def choose(mode: str) -> dict[str, Any]:
        def pick(name: str, parameter: Parameter, point: Mapping[str, Any]) -> Any:
            if name == "mode":
                return mode
            if name == "allocation":
                return "ratio"
            values = parameter.values
            if name == "group_size" and values is not None:
                return min(values, key=lambda v: -sign * channels(v))
            if name == "group_size" and isinstance(parameter, Range):
                return parameter.low if largest else parameter.high
            if name == "backup_mode" and values is not None:
                return min(values, key=lambda v: sign * backup_bits(v, point.get("group_size", -1)))
            return nearest_value(parameter, target.get(name, DEFAULTS[name]))

        return walk(space, pick)

    points = [choose(mode) for mode in space.parameters["mode"].values or ()]
    return min(points, key=lambda point: sign * estimated_bits(space, point))


def format_bits(fmt: Format, group_size: int) -> float:
    """Compute the bits a weight of a format: an element, and its share of the group's scale and zero point."""
    return fmt.bits + fmt.bits_per_group / channels(fmt.group_size if fmt.fixed_group_size else group_size)


def backup_bits(mode: str, group_size: int) -> float:
    """Compute the bits a weight of a backup mode."""
    return UNCOMPRESSED_BITS if mode == "none" else format_bits(FORMATS[mode], group_size)


def estimated_bits(space: SearchSpace, point: Mapping[str, Any]) -> float:
    """Estimate the bits a weight of a typical model, to rank points by size."""
    settings = space.settings(point)
    if settings.mode in INT8_MODES:
        return format_bits(settings.format, -1)
    group = settings.effective_group_size
    backup = backup_bits(settings.effective_backup_mode, group)
    body = settings.ratio * format_bits(settings.format, group) + (1 - settings.ratio) * backup
    return (1 - EMBEDDINGS) * body + EMBEDDINGS * (body if settings.all_layers else backup)
