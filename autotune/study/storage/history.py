"""History of a study's trials, read from the storage before every trial, so that a resumed study decides alike."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.results.storage import INTERRUPTED
from autotune.study.trials.trial import TrialResult

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from autotune.evaluation import Direction


def point_key(params: Mapping[str, Any]) -> str:
    """Convert a point of the space to text; floats are rounded like those of ranges with a step."""
    return repr(sorted((k, round(float(v), 10) if isinstance(v, float) else v) for k, v in params.items()))


class Settled:
    """Views of the finished trials that come before any other; finished trials never change, so each is read once."""

    def __init__(self) -> None:
        self.trials: list[FrozenTrial] = []
        self.current: list[FrozenTrial] = []
        self.finished: list[FrozenTrial] = []
        self.interrupted: list[FrozenTrial] = []
        self.again: dict[int, int] = {}
        self.points: set[str] = set()
        self.fronts: dict[tuple[Direction, ...], tuple[int, list[FrozenTrial]]] = {}

    @cached_property
    def before(self) -> Settled:
        """The same for the histories that the next trial depends on."""
        return Settled()

    def follow(self, trials: Sequence[FrozenTrial]) -> None:
        """Read the trials that have become settled; read all again if these are not the trials of the last time."""
        if trials[: len(self.trials)] != self.trials:  # compares identities first
            self.__init__()  # type: ignore[misc]
        for trial in trials[len(self.trials) :]:
            if not trial.state.is_finished():
                break
            self.add(trial)

    def add(self, trial: FrozenTrial) -> None:
        """Read one trial."""
        attributes = trial.user_attrs
        self.trials.append(trial)
        if attributes.get("retry_of") is not None:
            self.again[trial.number] = attributes["retry_of"]
        if is_interrupted(trial):
            self.interrupted.append(trial)
            return
        self.current.append(trial)
        if "duplicate_of" not in attributes and trial.state.is_finished():
            self.finished.append(trial)
        if not is_candidate(trial):
            self.points.add(point_key(fixed_params(trial) if trial.state.name == "WAITING" else trial.params))


class History:
    """Trials of a study, oldest first, in the views that the search decides by.

    Attributes:
        trials: all trials.
        current: all that were not interrupted.
        finished: finished ones, failed ones included, without duplicates: those that a budget of trials counts.
        waiting: those enqueued by hand or by a dashboard and not yet begun.
        running: those that have begun and not ended.
        points: keys of all points that were tried or enqueued.
        settled: views that histories of one study share.
        count: number of `finished` that are settled.
    """

    def __init__(self, trials: Sequence[FrozenTrial], settled: Settled | None = None) -> None:
        self.trials = list(trials)
        self.settled = Settled() if settled is None else settled
        self.settled.follow(self.trials)
        first, last = self.settled, Settled()
        for trial in self.trials[len(first.trials) :]:
            last.add(trial)
        self.count = len(first.finished)
        self.current = first.current + last.current
        self.finished = first.finished + last.finished
        self.waiting = [trial for trial in last.trials if trial.state.name == "WAITING"]
        self.running = [trial for trial in last.trials if trial.state.name == "RUNNING"]
        self.points = first.points | last.points
        self._interrupted = first.interrupted + last.interrupted
        self._again = {**first.again, **last.again}

    @cached_property
    def begun(self) -> list[FrozenTrial]:
        """Current trials that have begun, in the order of an uninterrupted study; a repeated one keeps its place."""
        begun = [trial for trial in self.current if trial.state.name != "WAITING"] if self.waiting else self.current
        return sorted(begun, key=self.rank) if self._again else begun

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
            self._before[lag] = History([*finished, *map(as_running, last)], self.settled.before)
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
    def to_retry(self) -> list[FrozenTrial]:
        """Interrupted trials with settings that were not repeated or enqueued yet, ordered as `begun`."""
        repeated = set(self._again.values())
        interrupted = (trial for trial in self._interrupted if "settings" in trial.user_attrs)
        return sorted((trial for trial in interrupted if trial.number not in repeated), key=self.rank)

    @property
    def duplicates_in_a_row(self) -> int:
        """Number of the latest finished trials that only repeated a plan."""
        count = 0
        for trial in reversed(self.current):
            if trial.state.is_finished():
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
    origin = trial.user_attrs.get("origin")
    return isinstance(origin, str) and origin.startswith("candidate: ")


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
