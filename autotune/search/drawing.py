"""Asks Optuna's samplers in memory, so that the storage only ever sees trials that begin.

A point that was tried before can then be drawn again without a trace, and a trial enters the storage in one step with
everything that is known of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.search.sampling import draw, make_sampler, seed_for
from autotune.space_model import SearchSpace

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["Draft", "Mirror", "drawn_already"]


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
