"""From a search space to Optuna: distributions, conditional suggestion, samplers by name, one seed a trial.

Asks Optuna's samplers in memory, so that the storage only ever sees trials that begin.

A point that was tried before can then be drawn again without a trace, and a trial enters the storage in one step with
everything that is known of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.validation import nearest
from autotune.config.space.space import (
    BUDGET_PARAMETERS,
    DRAWN_PARAMETERS,
    Choices,
    Parameter,
    Range,
    SearchSpace,
    active_parameters,
)
from autotune.errors import ConfigError

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

__all__ = [
    "SAMPLERS",
    "Draft",
    "Mirror",
    "draw",
    "drawn_already",
    "make_sampler",
    "params_of",
    "point_of",
    "seed_for",
    "walk",
]

SAMPLERS = ("tpe", "nsga2", "gp", "random", "grid")
STARTUP_TRIALS = 10
"""Trials that tpe and gp want to see before they model anything; the enqueued ones count."""

POPULATION = 16
"""Size of an NSGA-II generation: Optuna's 50 would leave most studies in their first, random, generation."""

FIRST = (*BUDGET_PARAMETERS, "mode", "ratio")
DRAW_ORDER = (*FIRST, *(name for name in DRAWN_PARAMETERS if name not in FIRST))
"""Allocation, mode and ratio first: whether anything else means something depends on these alone."""


def is_fixed(parameter: Parameter) -> bool:
    """Whether the parameter has one value only, and so is not drawn."""
    return parameter.values is not None and len(parameter.values) == 1


def walk(space: SearchSpace, choose: Callable[[str, Parameter, Mapping[str, Any]], Any]) -> dict[str, Any]:
    """A point of the space, its parameters chosen one after the other, the ones that mean nothing never asked for.

    Args:
        space: the space.
        choose: (parameter's name, parameter, point so far) -> value; not called for fixed parameters.
    """
    point: dict[str, Any] = {}
    for name in DRAW_ORDER:
        parameter = space.parameters.get(name)
        if parameter is None or (point and name not in active_parameters(point.get("mode"), point)):
            continue
        values = parameter.values
        fixed = values is not None and len(values) == 1
        point[name] = values[0] if fixed and values is not None else choose(name, parameter, point)
    return point


def draw(trial: Any, space: SearchSpace) -> dict[str, Any]:
    """Let an Optuna trial suggest every active parameter; returns the point.

    Raises:
        ValueError: the trial was queued with a value that the space does not hold.
    """

    return walk(space, lambda name, parameter, _: snap(parameter, suggest(trial, name, parameter)))


def point_of(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """The point behind an Optuna trial's parameters, fixed ones included; the inverse of `params_of`."""
    return walk(space, lambda name, parameter, _: snap(parameter, params[name]))


def snap(parameter: Parameter, value: Any) -> Any:
    """The number of a stepped range that is meant: 0.7000000000000001 is 0.7."""
    if isinstance(parameter, Range) and parameter.values is not None:
        return min(parameter.values, key=lambda known: abs(known - value))
    return value


def suggest(trial: Any, name: str, parameter: Parameter) -> Any:
    """Ask an Optuna trial for one parameter."""
    if isinstance(parameter, Choices):
        return trial.suggest_categorical(name, parameter.values)
    if parameter.is_integer:
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), step=int(parameter.step or 1))
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step)


def params_of(space: SearchSpace, point: Mapping[str, Any]) -> dict[str, Any]:
    """What Optuna knows of a point: its active parameters without the fixed ones."""
    return {name: value for name, value in space.active(point).items() if not is_fixed(space.parameters[name])}


def seed_for(*numbers: int) -> int:
    """A seed in [0, 2**32) for a study's seed, a trial's position, ...; SeedSequence keeps neighbours independent."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def make_sampler(name: str, seed: int, *, concurrent: bool = False) -> BaseSampler:
    """A fresh sampler; everything it must remember is in the study.

    Args:
        name: one of `SAMPLERS`. A grid draws nothing itself (its points are enqueued); at random where it must.
        seed: from `seed_for`.
        concurrent: other trials run at the same time, and their points should be avoided.

    Raises:
        ConfigError: unknown name.
    """
    import optuna
    from optuna.samplers import GPSampler, NSGAIISampler, RandomSampler, TPESampler

    makers: dict[str, Callable[[], BaseSampler]] = {
        "tpe": lambda: TPESampler(
            seed=seed, multivariate=True, group=True, constant_liar=concurrent, n_startup_trials=STARTUP_TRIALS
        ),
        "nsga2": lambda: NSGAIISampler(seed=seed, population_size=POPULATION),
        "gp": lambda: GPSampler(seed=seed, n_startup_trials=STARTUP_TRIALS, deterministic_objective=True),
        "random": lambda: RandomSampler(seed=seed),
        "grid": lambda: RandomSampler(seed=seed),
    }
    if name not in makers:
        raise ConfigError(
            f"unknown sampler {name!r}; one of {', '.join(SAMPLERS)}{nearest(name, SAMPLERS)}", key="study.sampler"
        )
    with warnings.catch_warnings():
        # TPE's groups for conditional spaces and the deterministic Gaussian process are experimental: known, accepted.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return makers[name]()


@dataclass(frozen=True, slots=True)
class Draft:
    """A point as Optuna keeps it.

    Attributes:
        params: the drawn parameters; distributions: the same names.
        system_attrs: what the sampler wants to remember of this trial (NSGA-II its generation).
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    system_attrs: Mapping[str, Any]


class Mirror:
    """A copy of a study in memory, as far as samplers look at it."""

    def __init__(self, trials: Sequence[FrozenTrial], directions: Sequence[str], space: SearchSpace) -> None:
        """Copy the finished trials, which samplers learn from, and those at work, which they should not repeat."""
        import optuna
        from optuna.trial import TrialState, create_trial

        self.space = space
        self.concurrent = any(trial.state == TrialState.RUNNING for trial in trials)
        self.study = optuna.create_study(directions=list(directions))
        for trial in trials:
            if trial.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING):
                kept = {
                    "params": trial.params,
                    "distributions": trial.distributions,
                    "system_attrs": trial.system_attrs,
                }
                estimate = trial.user_attrs.get("estimate")  # of a trial that was stopped because it was beaten
                state = TrialState.COMPLETE if estimate else trial.state
                self.study.add_trial(create_trial(state=state, values=estimate or trial.values, **kept))

    def draw(self, sampler: str, *seed: int) -> Draft:
        """A point of the sampler's choice; equal seeds and studies give equal points."""
        return self._ask(sampler, seed)

    def take(self, params: Mapping[str, Any], sampler: str) -> Draft:
        """The given point, as if the sampler had chosen it: it may model or breed from it."""
        self.study.enqueue_trial(dict(params))
        return self._ask(sampler, (0,))

    def _ask(self, sampler: str, seed: Sequence[int]) -> Draft:
        self.study.sampler = make_sampler(sampler, seed_for(*seed), concurrent=self.concurrent)
        trial = self.study.ask()
        _ = (
            trial.relative_params
        )  # also where nothing is left to draw: NSGA-II only breeds from trials that it has seen
        draw(trial, self.space)
        return drawn_already(self.study.get_trials(deepcopy=False)[-1])


def drawn_already(trial: FrozenTrial) -> Draft:
    """A trial's point, with what its sampler remembered of it: whoever does it again learns nothing else from it."""
    remembered = {key: value for key, value in trial.system_attrs.items() if key != "fixed_params"}
    return Draft(trial.params, trial.distributions, remembered)
