"""Main loop of a search: propose a trial, begin it, wait, and store its result, until there is a reason to stop.

The loop reads everything that decides the next trial from the storage. A trial is proposed, raced and compared using
only trials so far before it that parallel workers have finished them. So a study that was killed, interrupted or
extended continues exactly, and one or two workers give the same study, trial by trial.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from autotune.common.files import atomic_write
from autotune.common.formatting import duration
from autotune.common.units import parse_precision
from autotune.evaluation import Direction
from autotune.results.front.pareto import costs, hypervolume
from autotune.study.planning.eta import Expected, RunForecast
from autotune.study.progress import Listener, StudyInfo
from autotune.study.sampling.initial_points import Anchor, enqueued, from_front
from autotune.study.sampling.proposals import Proposal, Proposer
from autotune.study.storage.attributes import Description, all_metrics, describe_study, record_manifest
from autotune.study.storage.coordination import Sharing
from autotune.study.storage.history import History, Settled, is_interrupted, result_of
from autotune.study.storage.rows import front_rows, front_trials, is_feasible, row_of
from autotune.study.trial_writer import begin, finish_trial, mark_interrupted
from autotune.study.trials.racing import rivals_of
from autotune.study.trials.trial import PlanStatus, Site, TrialResult, Twin, describe, duplicate
from autotune.study.workers.pool import LATER, Finished, Later, Pool, Stopped

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from autotune.config.config import Config
    from autotune.evaluation import Metric

Callback: TypeAlias = "Callable[[optuna.Study, FrozenTrial], None]"

LAG = 3
"""A trial depends on all trials but the two before it (see `History.before_next`). So one of two workers seldom waits
for the other: 1 to 4% of the time in two studies of 48 trials. With a lag of 2 it would be 9%."""

FEW_OBJECTS = 10_000
"""Number of frozen objects that a Python process may have from its start; 3.12 has 375."""

Reason = Literal["trials", "timeout", "patience", "exhausted", "interrupted"]


@dataclass(frozen=True, slots=True)
class AtWork:
    """A running trial, and when it began (`time.monotonic`)."""

    trial: optuna.Trial
    begun: float


class Search:
    """Search over one open study.

    Attributes:
        pool: runs the trials, once `run` was called.
        description: the study's inputs, once `run` was called.
        ran: number of trials of this run that did work of their own.
        counts: what was (computed, reused), once the loop has ended.
        signal: the signal that ended the loop, if any.
    """

    pool: Pool

    def __init__(
        self,
        config: Config,
        study: optuna.Study,
        folder: Path,
        listener: Listener,
        sharing: Sharing,
        *,
        budget: int,
        earlier_front: Mapping[str, Mapping[str, Any]] | None = None,
        callbacks: Sequence[Callback] = (),
        forecast: RunForecast | None = None,
    ) -> None:
        """Check the initial points before any work.

        Args:
            config: the study's configuration.
            study: its open storage.
            folder: its folder.
            listener: receives the progress.
            sharing: coordinates with other processes.
            budget: number of trials of the whole study.
            earlier_front: label -> settings of another study's front, to be tried first.
            callbacks: called with (study, trial) after every trial.
            forecast: of the time left; it also receives the stages that the pool reports.

        Raises:
            ConfigError: a point to be tried first is outside the space, or a grid cannot be listed.
        """
        self.config = config
        self.study = study
        self.folder = folder
        self.listener = listener
        self.sharing = sharing
        self.budget = budget
        self.callbacks = callbacks
        self.forecast = RunForecast(Expected.of(config)) if forecast is None else forecast
        self.directions = list(config.objectives.values())
        workers = 0 if config.study.workers == "auto" else config.study.workers
        self.lag = max(LAG, workers + 1) if sharing.alone else None
        self.inherited = [*study.user_attrs.get("inherited", [])]
        for anchor in from_front(config.space, earlier_front or {}):
            if [anchor.label, anchor.point] not in self.inherited:
                self.inherited.append([anchor.label, anchor.point])
        self.proposer = Proposer(
            config.space,
            directions=self.directions,
            sampler=config.study.sampler,
            budget=budget,
            seed=config.study.seed,
            candidates=config.candidates,
            first=[*enqueued(config.space, config.study.enqueue), *(Anchor(*each) for each in self.inherited)],
        )
        self.description: Description | None = None
        self.ran = 0
        self.counts: Mapping[str, tuple[int, int]] = {}
        self.signal: int | None = None
        self._at_work: dict[int, AtWork] = {}
        self._twins: dict[int, tuple[AtWork, int]] = {}  # with the number of the trial that works on the same plan
        self._settled = Settled()
        self._started = time.monotonic()

    def history(self) -> History:
        """Read the trials from the storage."""
        return History(self.study.get_trials(deepcopy=False), self._settled)

    def reason_without_work(self) -> Reason | None:
        """Return why a resumed study has no trial to run, found without a model; None if it may have one."""
        history = self.history()
        if not self.sharing.alone or history.running or not history.finished:
            return None
        reason = self.reason_to_stop(history, None)
        if reason is None and self.proposer.next(history, self.lag) is None:
            return "exhausted"
        return reason

    def run(self, pool: Pool, timeout: float | None, *, joins: bool = False) -> Reason:
        """Bring the study's attributes up to date, then run trials until there is a reason to stop.

        Args:
            pool: runs the trials.
            timeout: seconds after which no further trial begins.
            joins: the study belongs to another process, which keeps its attributes.
        """
        self._started = time.monotonic()
        self.pool = pool
        self.description = describe_study(self.study, self.config, self.pool.describe, self.folder, joins=joins)
        if not joins:
            with atomic_write(self.folder / "model.yaml") as temporary:
                temporary.write_text(self.config.to_yaml(), encoding="utf-8")
            if self.inherited != self.study.user_attrs.get("inherited", []):
                self.study.set_user_attr("inherited", self.inherited)
        self.recover()
        info = self.info(self.description.metrics)
        deadline = None if timeout is None else time.monotonic() + timeout
        self.forecast.started(info.total, info.done, len(info.front), deadline)
        self.listener.started(info)
        objectives = dict(self.config.objectives)
        precision = None if self.config.study.precision is None else parse_precision(self.config.study.precision)
        site = Site(self.folder, objectives, self.config.constraints, info.original, precision)
        self.pool.open(site, self.plan_status)
        try:
            with imports_frozen():
                return self.loop(info, deadline)
        except KeyboardInterrupt as stop:
            self.signal = stop.signal if isinstance(stop, Stopped) else 2
            return "interrupted"
        finally:
            mark_interrupted(self.study, [*self._at_work, *self._twins])
            self.counts = self.pool.counts()
            if self.ran and not joins:
                record_manifest(self.study, self.pool.manifest())

    def recover(self) -> History:
        """Mark the trials of dead processes as interrupted, so that they are repeated; return the new history."""
        history = self.history()
        lost = [trial.number for trial in self.sharing.lost(history)]
        mark_interrupted(self.study, lost)
        return self.history() if lost else history

    def info(self, measured: Mapping[str, Metric]) -> StudyInfo:
        """Collect what the listener needs before the first trial."""
        metrics, history = all_metrics(measured), self.history()
        original = self.study.user_attrs["original"]
        scores = {name: score["value"] for name, score in original["metrics"].items()}
        return StudyInfo(
            folder=str(self.folder),
            total=max(self.budget, len(history.finished)),
            done=len(history.finished),
            objectives={name: metrics[name] for name in self.config.objectives},
            original={**scores, "footprint": original["footprint"]},
            front=front_rows(history, list(self.config.objectives), self.directions),
            remaining=self.forecast.left,
        )

    def loop(self, info: StudyInfo, deadline: float | None) -> Reason:
        """Run trials until there is a reason to stop and no trial is running."""
        while True:
            if self.pool.free:  # a busy process leaves the lock and the storage to the others
                with self.sharing.claim():
                    history = self.recover()
                    if self.finish_twins(history):
                        continue
                    reason = self.reason_to_stop(history, deadline)
                    if reason is None and history.may_begin(self.lag):
                        proposal = self.proposer.next(history, self.lag)
                        if proposal is not None:
                            self.begin(history, proposal, info, deadline)
                            continue
                        reason = "exhausted"
                if reason is not None and not self._at_work and self.may_stop(reason, history):
                    return reason
            finished = self.pool.wait(self.sharing.poll_interval)
            if finished is not None:
                self.finish(finished, info, deadline)

    def may_stop(self, reason: Reason, history: History) -> bool:
        """Test if no other process is running a trial, which might have to be repeated."""
        return reason == "timeout" or not self.sharing.others(history)

    def reason_to_stop(self, history: History, deadline: float | None) -> Reason | None:
        """Return why no further trial should begin now, or None."""
        if len(history.finished) + len(history.running) - len(self._twins) >= self.budget:
            return "trials"
        if deadline is not None and time.monotonic() >= deadline:
            return "timeout"
        patience = self.config.study.patience
        if patience is not None and has_converged(history.before_next(self.lag), self.directions, patience):
            return "patience"
        return None

    def begin(self, history: History, proposal: Proposal, info: StudyInfo, deadline: float | None) -> None:
        """Write a trial into the storage and start it."""
        trial, settings = begin(self.study, self.config, history, proposal)
        self._at_work[trial.number] = AtWork(trial, time.monotonic())
        self.sharing.begun(trial)
        if isinstance(settings, Exception):
            failed = TrialResult("fail", attrs={"error": describe(settings)})
            self.finish(Finished(trial.number, failed), info, deadline)
            return
        count = len(history.finished) + len(self._at_work)
        self.forecast.trial_started(trial.number)
        self.listener.trial_started(trial.number, count, settings.as_dict())
        before = history.before_next(self.lag)
        scored = before.finished if self.config.study.precision is not None else ()
        rivals = rivals_of(front_trials(before, self.directions), list(info.objectives), scored)
        raced = self.config.study.racing and not settings.candidate  # a candidate's scores are wanted in full
        self.pool.start(trial.number, settings, rivals if raced else None)

    def plan_status(self, number: int, plan: str) -> PlanStatus | Later:
        """Look up the plan of the running trial `number`; a new plan is assigned to that trial.

        Of several trials with one plan the first does the work, not the first whose plan is determined.
        """
        with self.sharing.claim():
            history = self.history()
            if self.lag is not None and set(history.undecided_before(number)) - set(self._twins):
                return LATER
            earlier = history.earlier(plan)
            if earlier is not None:
                return earlier
            other = history.running_plan(plan)
            if other is not None and other != number:
                return Twin(other)
            self._at_work[number].trial.set_user_attr("plan", plan)
            return None

    def finish(self, finished: Finished, info: StudyInfo, deadline: float | None) -> None:
        """Write a trial's result into the storage, or let the trial wait for its twin."""
        number, result = finished.number, finished.result
        work = self._at_work.pop(number)
        if result.state == "twin":
            self._twins[number] = (work, result.attrs["duplicate_of"])
            return
        self.sharing.ended(work.trial)
        if not finish_trial(self.study, work.trial, result):
            self.listener.note(f"trial {number} was marked as lost and is repeated by another process")
            return
        self.ran += "duplicate_of" not in result.attrs
        self.show(number, time.monotonic() - work.begun, info)

    def finish_twins(self, history: History) -> bool:
        """Give trials that waited for a twin its result; return whether there were any."""
        by_number = {trial.number: trial for trial in history.trials}
        over = [number for number, (_, leader) in self._twins.items() if by_number[leader].state.is_finished()]
        for number in over:
            work, leading = self._twins.pop(number)
            self.sharing.ended(work.trial)
            leader = by_number[leading]
            if is_interrupted(leader):
                mark_interrupted(self.study, [number])
            else:
                finish_trial(self.study, work.trial, duplicate(leading, result_of(leader)))
        return bool(over)

    def show(self, number: int, seconds: float, info: StudyInfo) -> None:
        """Report a finished trial to the listener, with the front and the time left."""
        history = self.history()
        front = front_rows(history, list(info.objectives), self.directions)
        count = len(history.finished)
        trial = next(trial for trial in history.trials if trial.number == number)
        on_front = any(row.number == number for row in front)
        row = row_of(trial, list(info.objectives), count=count, seconds=seconds, on_front=on_front)
        self.forecast.trial_finished(number, count, len(front), on_front=on_front)
        self.listener.trial_finished(row, front, self.forecast.left())
        for callback in self.callbacks:
            callback(self.study, trial)

    def summary(self, reason: Reason, history: History) -> str:
        """Summarise why the search ended, and what it computed and reused: one line each."""
        finished = len(history.finished)
        total = max(self.budget, finished)
        sentence = {
            "trials": f"the study has its {total} trials",
            "timeout": f"time is up after {finished} of {total} trials; run the same command to continue",
            "patience": f"the front has not become better for {self.config.study.patience} trials (study.patience); "
            f"ended after {finished} of {total} trials",
            "exhausted": f"the space is exhausted: {finished} different models are all it holds",
            "interrupted": f"interrupted after {finished} of {total} trials; run the same command to continue",
        }[reason]
        failed = sum(trial.state.name == "FAIL" for trial in history.finished)
        lines = [sentence + (f"; {failed} failed (see trials.csv)" if failed else "")]
        interrupted = len(history.trials) - len(history.current)
        if interrupted:
            lines[0] += f"; {interrupted} interrupted, which do not count and are repeated"
        if self.ran:
            lines[0] += f"; {self.ran} trials in {duration(time.monotonic() - self._started)} this time"
        if self.counts:
            parts = (counted(what, *count) for what, count in self.counts.items())
            lines.append("; ".join(parts))
        return "\n".join(lines)


@contextmanager
def imports_frozen() -> Iterator[None]:
    """Let the collection after each trial skip every imported module.

    A process that froze its objects by itself is left as it is.
    """
    if gc.get_freeze_count() > FEW_OBJECTS:
        yield
        return
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def counted(what: str, new: int, old: int) -> str:
    """``variants 3 computed, 20 reused``."""
    done, reused = ("measured", "known") if what == "scores" else ("computed", "reused")
    return f"{what} {new} {done}, {old} {reused}"


SMALLEST_GAIN = 1e-3
"""Least relative gain of hypervolume that counts."""


def has_converged(history: History, directions: Sequence[Direction], last: int) -> bool:
    """Test if the last trials added less than `SMALLEST_GAIN` to the hypervolume of the feasible front.

    Trials that were stopped or failed count as trials without a gain; duplicates do not count. Each objective is scaled
    to [0, 1] over all feasible trials, with the reference point at 1.1.
    """
    finished = sorted(history.finished, key=lambda trial: trial.number)
    before = {trial.number for trial in finished[:-last]}
    scored = [trial for trial in finished if trial.state.name == "COMPLETE" and is_feasible(trial)]
    if len(finished) <= last or not any(trial.number in before for trial in scored):
        return False
    cost = costs(np.array([trial.values for trial in scored], np.float64), directions)
    low, high = cost.min(axis=0), cost.max(axis=0)
    unit = (cost - low) / np.where(high > low, high - low, 1.0)
    reference = np.full(len(directions), 1.1)
    old = hypervolume(unit[[trial.number in before for trial in scored]], reference)
    return hypervolume(unit, reference) < (1 + SMALLEST_GAIN) * old
