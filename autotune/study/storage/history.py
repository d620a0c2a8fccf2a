"""What a study's storage says has happened: read anew for every trial, so that a continued study knows what it knew."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.study.trials.trial import TrialResult

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["INTERRUPTED", "History", "is_interrupted", "point_key", "result_of"]

INTERRUPTED = "interrupted"
"""Type of the error of a trial whose process ended before it did. Such a trial counts for nothing: it is done again."""


def point_key(params: Mapping[str, Any]) -> str:
    """A point of the space as text; floats are rounded as ranges with a step are."""
    return json.dumps({k: round(v, 10) if isinstance(v, float) else v for k, v in params.items()}, sort_keys=True)


class History:
    """The trials of a study, oldest first, and the questions the search asks of them."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self.trials = list(trials)

    @cached_property
    def standing(self) -> list[FrozenTrial]:
        """All trials that were not interrupted."""
        return [trial for trial in self.trials if not is_interrupted(trial)]

    @cached_property
    def begun(self) -> list[FrozenTrial]:
        """The standing trials that have begun, as an undisturbed study orders them: one done again in its old place."""
        return sorted((trial for trial in self.standing if trial.state.name != "WAITING"), key=self.rank)

    @cached_property
    def _again(self) -> dict[int, int]:
        """Trial that does another one again -> that one."""
        retries = ((trial.number, trial.user_attrs.get("retry_of")) for trial in self.trials)
        return {number: earlier for number, earlier in retries if earlier is not None}

    def rank(self, trial: FrozenTrial) -> int:
        """The number of the trial, or of the interrupted one that it does again."""
        number = int(trial.number)
        while number in self._again:
            number = self._again[number]
        return number

    @property
    def position(self) -> int:
        """Which trial of an undisturbed study comes next; seeds the sampler, so that interruptions leave no trace."""
        return len(self.standing) - len(self.waiting)

    @property
    def turn(self) -> int:
        """The same, where an interrupted trial waits to be done again: which one that is."""
        if not self.to_retry or self.waiting:
            return self.position
        first = self.rank(self.to_retry[0])
        return sum(self.rank(trial) < first for trial in self.begun)

    def known(self, lag: int | None) -> History:
        """What the next trial may know: the others before it, the last `lag` - 1 of them as if still at work.

        So it does not matter which of them are. With None it may know everything.
        """
        if lag is None:
            return self
        finished = self._needed(lag)
        return History([*finished, *map(at_work, self.begun[len(finished) : self.turn])])

    def may_begin(self, lag: int | None) -> bool:
        """Whether everything is there that the next trial has to know, see `known`."""
        return lag is None or all(trial.state.is_finished() for trial in self._needed(lag))

    def _needed(self, lag: int) -> list[FrozenTrial]:
        """The trials whose results the next one knows."""
        return self.begun[: max(0, self.turn - lag + 1)]

    @cached_property
    def waiting(self) -> list[FrozenTrial]:
        """Trials put into the queue by someone (also a dashboard) and not yet begun."""
        return [trial for trial in self.trials if trial.state.name == "WAITING"]

    @cached_property
    def running(self) -> list[FrozenTrial]:
        """Trials that have begun and are not over."""
        return [trial for trial in self.trials if trial.state.name == "RUNNING"]

    @cached_property
    def to_retry(self) -> list[FrozenTrial]:
        """Interrupted trials whose point was known and which nobody has begun or queued again, ordered as `begun`."""
        again = {trial.user_attrs.get("retry_of") for trial in self.trials}
        known = (trial for trial in self.trials if is_interrupted(trial) and "settings" in trial.user_attrs)
        return sorted((trial for trial in known if trial.number not in again), key=self.rank)

    @cached_property
    def finished(self) -> list[FrozenTrial]:
        """Finished trials that did (or failed to do) work of their own: what a budget of trials counts."""
        return [t for t in self.standing if t.state.is_finished() and "duplicate_of" not in t.user_attrs]

    @cached_property
    def points(self) -> set[str]:
        """Keys of all points that were tried or are queued."""
        return {point_key(fixed_params(t) if t.state.name == "WAITING" else t.params) for t in self.standing}

    @property
    def duplicates_in_a_row(self) -> int:
        """How many of the latest finished trials only repeated a plan."""
        count = 0
        for trial in reversed([t for t in self.standing if t.state.is_finished()]):
            if "duplicate_of" not in trial.user_attrs:
                break
            count += 1
        return count

    def earlier(self, plan: str) -> tuple[int, TrialResult] | None:
        """The trial that worked through `plan` itself, by number and result."""
        for trial in self.finished:
            if trial.user_attrs.get("plan") == plan:
                return trial.number, result_of(trial)
        return None

    def undecided_before(self, number: int) -> list[int]:
        """The running trials that come before a running one and whose plan is not known yet."""
        own = next(self.rank(trial) for trial in self.running if trial.number == number)
        return [t.number for t in self.running if self.rank(t) < own and "plan" not in t.user_attrs]

    def at_work_on(self, plan: str) -> int | None:
        """The trial that is being worked on and has this plan."""
        return next((trial.number for trial in self.running if trial.user_attrs.get("plan") == plan), None)


def at_work(trial: FrozenTrial) -> FrozenTrial:
    """A trial as it was when it had begun and no more was known of it than its point."""
    from optuna.trial import TrialState

    before = copy.copy(trial)
    before.state, before.values, before.datetime_complete = TrialState.RUNNING, None, None
    before.user_attrs = {name: trial.user_attrs[name] for name in ("origin", "settings") if name in trial.user_attrs}
    before.system_attrs = {name: value for name, value in trial.system_attrs.items() if "constraint" not in name}
    return before


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial's process ended before the trial."""
    error = trial.user_attrs.get("error")
    return isinstance(error, Mapping) and error.get("type") == INTERRUPTED


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters a queued trial was queued with."""
    return dict(trial.system_attrs.get("fixed_params", {}))


RESULT_ATTRS = frozenset(
    [
        "plan",
        "plan_file",
        "footprint",
        "bits_per_weight",
        "compression_rate",
        "int4_percent",
        "int8_percent",
        "metrics",
        "beaten_by",
        "beaten_after",
        "estimate",
        "error",
    ]
)


def result_of(trial: FrozenTrial) -> TrialResult:
    """A finished trial's result as `run_trial` gave it (without times and counts, which were its own)."""
    attrs = {key: value for key, value in trial.user_attrs.items() if key in RESULT_ATTRS}
    values = None if trial.values is None else tuple(trial.values)
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "fail")
    return TrialResult(state, values, attrs, dict(trial.constraints))  # type: ignore[arg-type]
