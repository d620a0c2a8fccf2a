"""What a search space comes to for one model: how many plans it holds, what is adjusted, and what cannot be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import settings_text
from autotune.compression.settings import ALGORITHMS, DATA_FREE_METRIC, Settings
from autotune.config.space.space import Parameter, Range, SearchSpace
from autotune.errors import PlanError
from autotune.study.sampling.sampler import walk

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan

__all__ = ["Finding", "chosen_by_calibration", "count_plans", "findings", "plan_without_calibration"]

COUNTED = 2_000
"""Spaces of more points are not planned out: each takes some milliseconds."""

EIGHT_BITS = 6.0
"""Bits a weight from which most weights have 8."""

LISTED = ("mode", "group_size", "all_layers")
"""Parameters that decide by themselves what a weight can have; algorithms are looked at one at a time."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is adjusted, left out or impossible.

    Attributes:
        text: what, and why; names the weight.
        settings: the settings of the space with which it happens, in short.
        impossible: whether trials with these settings fail.
    """

    text: str
    settings: tuple[str, ...]
    impossible: bool


def chosen_by_calibration(engine: Engine, settings: Settings) -> bool:
    """Whether the choice of layers waits for the calibration."""
    return engine.resolve(settings).ranks_by_activations


def plan_without_calibration(engine: Engine, settings: Settings) -> Plan:
    """The plan, or the one that the weights alone would give where the calibration is to choose; without AWQ, whose
    channel scales wait for the calibration as well.

    Raises:
        PlanError: the settings cannot be used with this model.
    """
    if settings.budget is not None:  # what it buys waits for measurements; a uniform plan of about that size stands in
        settings = Settings(mode="int8_asym" if settings.budget >= EIGHT_BITS else "int4_sym", all_layers=True)
    waits = chosen_by_calibration(engine, settings)
    known = replace(settings, awq=False)
    return engine.plan(replace(known, sensitivity_metric=DATA_FREE_METRIC) if waits else known)


def count_plans(space: SearchSpace, engine: Engine) -> tuple[int, int] | None:
    """How many different plans the space holds, at least and at most; None where it has too many points to say.

    The two differ where the calibration chooses: its metrics may all rank layers alike or all differently, and AWQ may
    find nothing worth a scale.
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
            most.add((f"budget {settings.budget}", None, False))
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
    """Every group size that does not divide, every weight that an algorithm leaves out, every impossible setting."""
    found: dict[tuple[str, bool], list[str]] = {}
    for settings in probes(space):
        label = settings_text(settings.as_dict(), short=True)
        try:
            notes = [(note, False) for note in plan_without_calibration(engine, settings).notes]
        except PlanError as error:
            notes = [(str(error), True)]
        for note in notes:
            labels = found.setdefault(note, [])
            if label not in labels:
                labels.append(label)
    return [Finding(text, tuple(labels), impossible) for (text, impossible), labels in found.items()]


def probes(space: SearchSpace) -> Iterator[Settings]:
    """Few settings that show everything that can happen to a weight of any point of the space, or on any budget."""
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
    """All values of a parameter, or the ends of a continuous range."""
    if isinstance(parameter, Range) and parameter.values is None:
        return parameter.low, parameter.high
    return parameter.values or ()
