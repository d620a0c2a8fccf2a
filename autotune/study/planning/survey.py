"""Survey a search space for one model: count its plans, list adjusted and impossible settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.compression.describe import describe_settings
from autotune.compression.settings import ALGORITHMS, DATA_FREE_METRIC, Settings
from autotune.config.space.space import Parameter, Range, SearchSpace
from autotune.errors import PlanError
from autotune.study.sampling.sampler import walk

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan

COUNTED = 2_000
"""Most points of a space that are planned: each takes some milliseconds."""

EIGHT_BITS = 6.0
"""Bits a weight from which most weights have 8."""

LISTED = ("mode", "group_size", "all_layers")
"""Parameters that decide the formats of a weight; algorithms are tried one at a time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Setting that is adjusted, left out or impossible.

    Attributes:
        text: what, and why; names the weight.
        settings: the settings of the space with which it happens, in short.
        impossible: whether trials with these settings fail.
    """

    text: str
    settings: tuple[str, ...]
    impossible: bool


def chosen_by_calibration(engine: Engine, settings: Settings) -> bool:
    """Return True if the choice of layers depends on the calibration."""
    return engine.resolve(settings).ranks_by_activations


def plan_without_calibration(engine: Engine, settings: Settings) -> Plan:
    """Plan without calibration statistics: layers are chosen by the weights alone, and AWQ is left out.

    Raises:
        PlanError: the settings cannot be used with this model.
    """
    if settings.budget is not None:  # a uniform plan of similar size replaces the allocation, which is measured
        settings = Settings(mode="int8_asym" if settings.budget >= EIGHT_BITS else "int4_sym", all_layers=True)
    calibrated = chosen_by_calibration(engine, settings)
    free_of_awq = replace(settings, awq=False)
    return engine.plan(replace(free_of_awq, sensitivity_metric=DATA_FREE_METRIC) if calibrated else free_of_awq)


def count_plans(space: SearchSpace, engine: Engine) -> tuple[int, int] | None:
    """Count the distinct plans of the space, at least and at most; None if it has too many points.

    The two differ where the calibration chooses. Its metrics may all rank layers alike or all differently, and AWQ may
    choose no scale.
    """
    points = space.enumerate(COUNTED)
    if points is None:
        return None
    least: set[str] = set()
    most: set[tuple[str, str | None, bool]] = set()
    for point in points:
        settings = space.settings(point)
        if settings.allocation == "budget":  # two budgets may buy the same, or not
            least.add("budget")
            most.add((f"budget {settings.budget}", None, settings.distillation))
            continue
        try:
            key = plan_without_calibration(engine, settings).key
        except PlanError:
            continue
        least.add(key)
        metric = settings.sensitivity_metric if chosen_by_calibration(engine, settings) else None
        most.add((key, metric, settings.awq))
    return len(least), len(most)


def findings(space: SearchSpace, engine: Engine) -> list[Finding]:
    """List group sizes that do not divide, weights that an algorithm leaves out, and impossible settings."""
    labels_of: dict[tuple[str, bool], list[str]] = {}
    for settings in probes(space):
        label = describe_settings(settings.as_dict(), short=True)
        try:
            notes = [(note, False) for note in plan_without_calibration(engine, settings).notes]
        except PlanError as error:
            notes = [(str(error), True)]
        for note in notes:
            labels = labels_of.setdefault(note, [])
            if label not in labels:
                labels.append(label)
    return [Finding(text, tuple(labels), impossible) for (text, impossible), labels in labels_of.items()]


def probes(space: SearchSpace) -> Iterator[Settings]:
    """Yield a few settings that cover everything that any point or budget of the space can do to a weight."""
    space = space.without_budgets()

    def completed(chosen: Mapping[str, Any]) -> Settings:
        def choose(name: str, parameter: Parameter, _: Mapping[str, Any]) -> Any:
            if name in chosen:
                return chosen[name]
            values = candidates(parameter)
            return values[-1] if name == "ratio" else values[0]

        return space.settings(walk(space, choose))

    combinations: list[dict[str, Any]] = [{}]
    for name in LISTED:
        if name in space.parameters:
            values = candidates(space.parameters[name])
            combinations = [{**chosen, name: value} for chosen in combinations for value in values]
    off = dict.fromkeys(ALGORITHMS, False)
    switches: list[dict[str, Any]] = [{}]
    for name in ALGORITHMS:
        if name in space.parameters and True in candidates(space.parameters[name]):
            switches.append({name: True})
    ranks = candidates(space.parameters["lora_rank"]) if "lora_rank" in space.parameters else ()
    switches += [{"lora_correction": True, "lora_rank": rank} for rank in ranks[1:]]
    yield from dict.fromkeys(completed({**off, **switch, **chosen}) for chosen in combinations for switch in switches)


def candidates(parameter: Parameter) -> tuple[Any, ...]:
    """List all values of a parameter, or the ends of a continuous range."""
    if isinstance(parameter, Range) and parameter.values is None:
        return parameter.low, parameter.high
    return parameter.values or ()
