"""Optuna samplers over a search space: distributions, conditional suggestions, one seed a trial.

Samplers run on a copy of the study in memory, so that the storage only contains trials that begin. A repeated point can
be drawn again without a trace, and a trial enters the storage in one step.
"""

from __future__ import annotations

import copy
import math
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
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

    from autotune.evaluation import Direction

SAMPLERS = ("tpe", "nsga2", "gp", "random", "grid")
STARTUP_TRIALS = 10
"""Number of trials before tpe and gp start to model; enqueued ones count."""

POPULATION = 16
"""Size of an NSGA-II generation: Optuna's 50 would leave most studies in their first, random, generation."""

LEARNED, LEARNED_BY_GP = 1000, 400
"""Most trials that a sampler learns from; the time of a Gaussian process grows with the cube of their number."""

BEST = 100
"""Most trials learned from that are on the front of a larger study; the others are the latest."""

FIRST = (*BUDGET_PARAMETERS, "mode", "ratio")
DRAW_ORDER = (*FIRST, *(name for name in DRAWN_PARAMETERS if name not in FIRST))
"""Allocation, mode and ratio first: whether anything else means something depends on these alone."""


def is_fixed(parameter: Parameter) -> bool:
    """Test if the parameter has one value only, and so is not drawn."""
    return parameter.values is not None and len(parameter.values) == 1


def walk(space: SearchSpace, choose: Callable[[str, Parameter, Mapping[str, Any]], Any]) -> dict[str, Any]:
    """Build a point of the space, one active parameter after the other.

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
    """Let an Optuna trial suggest every active parameter, and return the point.

    Raises:
        ValueError: the trial was queued with a value that the space does not hold.
    """

    return walk(space, lambda name, parameter, _: snap(parameter, suggest(trial, name, parameter)))


def point_of(space: SearchSpace, params: Mapping[str, Any]) -> dict[str, Any]:
    """Convert an Optuna trial's parameters to a point, fixed parameters included; the inverse of `params_of`."""
    return walk(space, lambda name, parameter, _: snap(parameter, params[name]))


def snap(parameter: Parameter, value: Any) -> Any:
    """Round to the nearest value of a stepped range: 0.7000000000000001 is 0.7."""
    if isinstance(parameter, Range) and parameter.values is not None:
        return min(parameter.values, key=lambda step: abs(step - value))
    return value


def suggest(trial: Any, name: str, parameter: Parameter) -> Any:
    """Let an Optuna trial suggest one parameter."""
    if isinstance(parameter, Choices):
        return trial.suggest_categorical(name, parameter.values)
    if parameter.is_integer:
        return trial.suggest_int(name, int(parameter.low), int(parameter.high), step=int(parameter.step or 1))
    return trial.suggest_float(name, parameter.low, parameter.high, step=parameter.step)


def params_of(space: SearchSpace, point: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a point to Optuna's parameters: the active ones without the fixed ones."""
    return {name: value for name, value in space.active(point).items() if not is_fixed(space.parameters[name])}


def seed_for(*numbers: int) -> int:
    """Make a seed in [0, 2**32) from a study's seed, a trial's position, ...; SeedSequence decorrelates neighbours."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def make_sampler(name: str, seed: int, *, concurrent: bool = False) -> BaseSampler:
    """Make a sampler; its whole state is in the study.

    Args:
        name: one of `SAMPLERS`. A grid's points are enqueued; its sampler draws at random.
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
        # TPE's groups for conditional spaces and the deterministic Gaussian process are experimental; accepted.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return makers[name]()


@dataclass(frozen=True, slots=True)
class Draft:
    """Point in Optuna's form.

    Attributes:
        params: the drawn parameters; distributions: the same names.
        system_attrs: the sampler's state of this trial (NSGA-II: its generation).
    """

    params: Mapping[str, Any]
    distributions: Mapping[str, BaseDistribution]
    system_attrs: Mapping[str, Any]


class Mirror:
    """Copy of a study in memory, as far as one sampler uses it."""

    def __init__(
        self,
        trials: Sequence[FrozenTrial],
        directions: Sequence[Direction],
        space: SearchSpace,
        sampler: str,
        front: Sequence[FrozenTrial] = (),
    ) -> None:
        """Copy the finished trials, which the sampler learns from, and the running ones, which it should not repeat.

        Args:
            trials: of the study.
            directions: of the objectives.
            space: the search space.
            sampler: its name.
            front: the best trials; of more than `LEARNED` trials the sampler learns from these and from the latest.
        """
        import optuna
        from optuna.trial import TrialState

        self.space = space
        self.sampler = sampler
        self.concurrent = any(trial.state == TrialState.RUNNING for trial in trials)
        self.study = optuna.create_study(directions=list(directions))
        used = [t for t in trials if t.state in (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)]
        most = LEARNED_BY_GP if sampler == "gp" else LEARNED
        best, latest = (list(map(scored, part)) for part in learned(used, front, most))
        fill(self.study, [*best, *latest])
        if best and sampler == "nsga2":
            begin_generations(self.study, best, latest)

    def draw(self, *seed: int) -> Draft:
        """Draw a point; equal seeds and studies give equal points."""
        return self._ask(seed)

    def take(self, params: Mapping[str, Any]) -> Draft:
        """Register a given point as if the sampler had drawn it."""
        self.study.enqueue_trial(dict(params))
        return self._ask((0,))

    def _ask(self, seed: Sequence[int]) -> Draft:
        self.study.sampler = make_sampler(self.sampler, seed_for(*seed), concurrent=self.concurrent)
        trial = self.study.ask()
        _ = trial.relative_params  # even if nothing is left to draw: NSGA-II only breeds from trials that it has drawn
        draw(trial, self.space)
        return draft_of(self.study.get_trials(deepcopy=False)[-1])


def scored(trial: FrozenTrial) -> FrozenTrial:
    """Copy a trial; one that was stopped because it was dominated becomes complete, with its estimated values."""
    from optuna.trial import TrialState

    copied = copy.copy(trial)
    if estimate := trial.user_attrs.get("estimate"):
        copied.state, copied.values = TrialState.COMPLETE, estimate
    return copied


def learned(
    trials: Sequence[FrozenTrial], front: Sequence[FrozenTrial], most: int
) -> tuple[list[FrozenTrial], Sequence[FrozenTrial]]:
    """Choose the trials that a sampler learns from, so that a proposal takes the same time in a study of any size.

    Returns:
        (trials of the front before the latest ones, at most `BEST`, evenly spaced; the latest ones). Of no more than
        `most` trials, all are the latest.
    """
    if len(trials) <= most:
        return [], trials
    earlier = {trial.number for trial in trials[: BEST - most]}
    best = [trial for trial in front if trial.number in earlier]
    return best[:: math.ceil(len(best) / BEST) or 1], trials[BEST - most :]


def fill(study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Put trials into an empty study in memory; `add_trials` would validate and copy each of them."""
    storage: Any = study._storage
    for number, trial in enumerate(trials):
        trial.number = trial._trial_id = number
        storage._trial_id_to_study_id_and_number[number] = (study._study_id, number)
    storage._studies[study._study_id].trials = list(trials)
    storage._max_trial_id = len(trials) - 1


def begin_generations(study: optuna.Study, best: Sequence[FrozenTrial], latest: Sequence[FrozenTrial]) -> None:
    """Let the best trials be the parents of the first whole generation of the latest; NSGA-II goes back to it."""
    from optuna.samplers import NSGAIISampler

    key = NSGAIISampler._get_generation_key()
    generations = [trial.system_attrs[key] for trial in latest if key in trial.system_attrs]
    if generations:
        name = f"{NSGAIISampler._get_parent_cache_key_prefix()}{min(generations) + 1}"
        parents = [trial._trial_id for trial in best[:POPULATION]]
        study._storage.set_study_system_attr(study._study_id, name, parents)


def draft_of(trial: FrozenTrial) -> Draft:
    """Read a trial's point and its sampler's state, to repeat it."""
    state = {key: value for key, value in trial.system_attrs.items() if key != "fixed_params"}
    return Draft(trial.params, trial.distributions, state)
