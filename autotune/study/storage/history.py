"""History of a study's trials, read from the storage before every trial, so that a resumed study decides alike."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from autotune.results.storage import INTERRUPTED
from autotune.study.trials.trial import TrialResult

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


def point_key(params: Mapping[str, Any]) -> str:
    """Convert a point of the space to text; floats are rounded like those of ranges with a step."""
    return repr(sorted((k, round(float(v), 10) if isinstance(v, float) else v) for k, v in params.items()))


class History:
    """Trials of a study, oldest first, in the views that the search decides by."""

    def __init__(self, trials: Sequence[FrozenTrial], keys: dict[int, str] | None = None) -> None:
        """Take the trials, and the keys of finished trials' points by number, which histories of one study share."""
        self.trials = list(trials)
        self._keys = {} if keys is None else keys

    @cached_property
    def current(self) -> list[FrozenTrial]:
        """All trials that were not interrupted."""
        return [trial for trial in self.trials if not is_interrupted(trial)]

    @cached_property
    def begun(self) -> list[FrozenTrial]:
        """Current trials that have begun, in the order of an uninterrupted study; a repeated one keeps its place."""
        begun = [trial for trial in self.current if trial.state.name != "WAITING"]
        return sorted(begun, key=self.rank if self._again else attrgetter("number"))

    @cached_property
    def _again(self) -> dict[int, int]:
        """Trial that repeats another one -> that one."""
        retries = ((trial.number, trial.user_attrs.get("retry_of")) for trial in self.trials)
        return {number: earlier for number, earlier in retries if earlier is not None}

    def rank(self, trial: FrozenTrial) -> int:
        """Return the number of the trial, or of the interrupted one that it repeats."""
        number = int(trial.number)
        while number in self._again:
            number = self._again[number]
        return number

    @property
    def position(self) -> int:
        """Position of the next trial in an undisturbed study; it seeds the sampler, so interruptions have no effect."""
        return len(self.current) - len(self.waiting)

    @property
    def turn(self) -> int:
        """Position of the next trial; that of an interrupted trial if one waits to be repeated."""
        if not self.to_retry or self.waiting:
            return self.position
        first = self.rank(self.to_retry[0])
        return sum(self.rank(trial) < first for trial in self.begun)

    def before_next(self, lag: int | None) -> History:
        """Return the history that the next trial may depend on; the last `lag` - 1 trials before it count as running.

        So it does not matter which of those have finished. With None the whole history is returned.
        """
        if lag is None:
            return self
        if lag not in self._before:
            finished = self._needed(lag)
            last = self.begun[len(finished) : self.turn]
            self._before[lag] = History([*finished, *map(as_running, last)], self._keys)
        return self._before[lag]

    @cached_property
    def _before(self) -> dict[int, History]:
        return {}

    def may_begin(self, lag: int | None) -> bool:
        """Test if all trials have finished that the next one depends on, see `before_next`."""
        return lag is None or all(trial.state.is_finished() for trial in self._needed(lag))

    def _needed(self, lag: int) -> list[FrozenTrial]:
        """The trials whose results the next one depends on."""
        return self.begun[: max(0, self.turn - lag + 1)]

    @cached_property
    def waiting(self) -> list[FrozenTrial]:
        """Trials enqueued by hand or by a dashboard and not yet begun."""
        return [trial for trial in self.trials if trial.state.name == "WAITING"]

    @cached_property
    def running(self) -> list[FrozenTrial]:
        """Trials that have begun and not ended."""
        return [trial for trial in self.trials if trial.state.name == "RUNNING"]

    @cached_property
    def to_retry(self) -> list[FrozenTrial]:
        """Interrupted trials with settings that were not repeated or enqueued yet, ordered as `begun`."""
        repeated = {trial.user_attrs.get("retry_of") for trial in self.trials}
        interrupted = (trial for trial in self.trials if is_interrupted(trial) and "settings" in trial.user_attrs)
        return sorted((trial for trial in interrupted if trial.number not in repeated), key=self.rank)

    @cached_property
    def finished(self) -> list[FrozenTrial]:
        """Finished trials, failed ones included, without duplicates: the trials that a budget of trials counts."""
        return [t for t in self.current if t.state.is_finished() and "duplicate_of" not in t.user_attrs]

    @cached_property
    def points(self) -> set[str]:
        """Keys of all points that were tried or enqueued."""
        return {self._key(trial) for trial in self.current if not is_candidate(trial)}

    def _key(self, trial: FrozenTrial) -> str:
        if not trial.state.is_finished():  # the parameters of a running trial may be incomplete
            return point_key(fixed_params(trial) if trial.state.name == "WAITING" else trial.params)
        if trial.number not in self._keys:
            self._keys[trial.number] = point_key(trial.params)
        return self._keys[trial.number]

    @property
    def duplicates_in_a_row(self) -> int:
        """Number of the latest finished trials that only repeated a plan."""
        count = 0
        for trial in reversed([t for t in self.current if t.state.is_finished()]):
            if "duplicate_of" not in trial.user_attrs:
                break
            count += 1
        return count

    def earlier(self, plan: str) -> tuple[int, TrialResult] | None:
        """Find the finished trial of a plan: its number and result."""
        for trial in self.finished:
            if trial.user_attrs.get("plan") == plan:
                return trial.number, result_of(trial)
        return None

    def undecided_before(self, number: int) -> list[int]:
        """Find the running trials that come before a running one and have no plan yet."""
        own = next(self.rank(trial) for trial in self.running if trial.number == number)
        return [t.number for t in self.running if self.rank(t) < own and "plan" not in t.user_attrs]

    def running_plan(self, plan: str) -> int | None:
        """Find the running trial of a plan."""
        return next((trial.number for trial in self.running if trial.user_attrs.get("plan") == plan), None)


def as_running(trial: FrozenTrial) -> FrozenTrial:
    """Reduce a trial to its point, as when it had just begun."""
    from optuna.trial import TrialState

    before = copy.copy(trial)
    before.state, before.values, before.datetime_complete = TrialState.RUNNING, None, None
    before.user_attrs = {name: trial.user_attrs[name] for name in ("origin", "settings") if name in trial.user_attrs}
    before.system_attrs = {name: value for name, value in trial.system_attrs.items() if "constraint" not in name}
    return before


def is_interrupted(trial: FrozenTrial) -> bool:
    """Test if the trial's process ended before the trial."""
    error = trial.user_attrs.get("error")
    return bool(error) and isinstance(error, Mapping) and error.get("type") == INTERRUPTED


def is_candidate(trial: FrozenTrial) -> bool:
    """Test if the trial is of a candidate, which is no point of the space."""
    return str(trial.user_attrs.get("origin", "")).startswith("candidate: ")


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """Read the parameters that a trial was enqueued with."""
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
        "sequences",
        "windows",
        "error",
    ]
)


def result_of(trial: FrozenTrial) -> TrialResult:
    """Restore a finished trial's result, without times and counts, which belong to that trial."""
    attrs = {key: value for key, value in trial.user_attrs.items() if key in RESULT_ATTRS}
    values = None if trial.values is None else tuple(trial.values)
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "fail")
    return TrialResult(state, values, attrs, dict(trial.constraints))  # type: ignore[arg-type]
