"""Pool that runs trials in worker processes.

A crash in native code costs one trial and is recorded. A trial whose worker was killed from outside runs once more. A
trial that hangs or takes too much memory can be ended. What OpenVINO leaks with each compiled model ends with the
worker, which is replaced after some trials.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from autotune.common.threads import share
from autotune.errors import StudyError
from autotune.study.storage.attributes import Description
from autotune.study.trials.racing import Rival
from autotune.study.trials.trial import Site, TrialResult
from autotune.study.workers.connection import Exited, LogLine, WorkerProcess, exit_text
from autotune.study.workers.memory import worker_count
from autotune.study.workers.messages import (
    Begin,
    Clock,
    Describe,
    Done,
    FrontScores,
    GetStatus,
    Raised,
    Reply,
    Run,
    ScoreFront,
    Scoring,
    SetSource,
    Share,
    Stage,
)
from autotune.study.workers.pool import Finished, Later, StatusOf, Stopped

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.study.progress import Listener
    from autotune.study.session import Session

TICK = 0.2
"""Seconds between checks of clocks and memory."""

CRASH_LIMIT = 3
"""Number of workers lost before any trial has a result, after which the search gives up."""

LOST = "worker lost"
TIMED_OUT = "trial timeout"
OVER_MEMORY = "memory limit"
"""Error types of trials whose worker ended first."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one trial.

    Attributes:
        seconds: time, without work that all trials share; None is no limit.
        memory: bytes of the worker's private memory; None is no limit.
    """

    seconds: float | None = None
    memory: int | None = None


@dataclass(eq=False)
class Place:
    """One worker's place: its current process, and what that process is doing.

    Attributes:
        process: the current process.
        trial: number of the running trial, None if there is none.
        trials: number of trials the process has begun.
        elapsed: seconds of the trial's own time until `since`.
        since: time at which the trial's clock was started, None while it is stopped.
        kill_reason: why the process is being ended.
        request: the message that began the trial.
        repeated: whether the trial runs for the second time, after a kill from outside.
        counts: as of the process's last result.
    """

    process: WorkerProcess
    trial: int | None = None
    trials: int = 0
    elapsed: float = 0.0
    since: float | None = None
    kill_reason: str | None = None
    request: Run | None = None
    repeated: bool = False
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def own_seconds(self) -> float:
        """Return the running time of the trial, without work that all trials share."""
        return self.elapsed + (0.0 if self.since is None else time.monotonic() - self.since)


class WorkerPool:
    """Runs trials in worker processes."""

    TRIALS_A_WORKER = 50
    """Trials after which a worker is replaced: each compiled model leaves a thread and some megabytes behind."""

    def __init__(
        self,
        config: Config,
        open_session: Callable[[Config, Callable[[str], None]], Session],
        listener: Listener,
        *,
        limits: Limits = Limits(),
    ) -> None:
        """Start the workers, which then import their modules; the first one prepares the study for all.

        With ``auto`` workers it is alone until the study is opened and the size of the model is determined.
        """
        first = 1 if config.study.workers == "auto" else config.study.workers
        self._config, self._open_session, self._listener = config, open_session, listener
        self._limits = limits
        self._threads = share(first)
        self._inbox: SimpleQueue[tuple[WorkerProcess | None, Any]] = SimpleQueue()
        self._source: SetSource | None = None
        self._lost = 0
        self._any_done = False
        self._pending: dict[Place, tuple[int, str]] = {}
        self._retired: list[Mapping[str, tuple[int, int]]] = []
        self._manifests: list[Mapping[str, Any]] = []
        self._places = [Place(self._new_process()) for _ in range(first)]

    def _new_process(self) -> WorkerProcess:
        begin = Begin(self._config, self._open_session, logging.getLogger().getEffectiveLevel())
        process = WorkerProcess(begin, self._threads, self._inbox)  # type: ignore[arg-type]
        if self._source is not None:
            process.send(self._source)
        return process

    def describe(self, *, original: bool = False, report: bool = False) -> Description:
        """See `Pool`; the first worker answers.

        Raises:
            StudyError: the worker died.
        """
        first = self._places[0]
        first.process.send(Describe(original, report))
        _, answer = self._next_answer([first])
        if isinstance(answer, Exited):
            stderr_tail = f"; last lines of its stderr: {answer.stderr_tail}" if answer.stderr_tail else ""
            raise StudyError(
                f"the worker process died ({exit_text(answer.status)}) while it prepared the study{stderr_tail}"
                f"{out_of_memory(answer.status)}. Run the same command with --workers 0 to see where it fails"
            )
        assert isinstance(answer, Description)
        self._source = SetSource(answer.source)
        self._add_manifest(answer.manifest)
        return answer

    def _add_manifest(self, manifest: Mapping[str, Any]) -> None:
        if manifest not in self._manifests:
            self._manifests.append(manifest)

    def front_scores(
        self, models: Sequence[Settings], scoring: Scoring = "front_scores"
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """See `Pool`. Each idle worker takes the next model; if it dies, that model has no scores.

        A model whose worker was killed from outside is scored once more.
        """
        left, at = list(enumerate(models))[::-1], dict[Place, int]()
        repeated = set[int]()
        idle = list(self._places)
        while True:
            for place in idle[: len(left)]:
                at[place], settings = left.pop()
                place.process.send(ScoreFront(settings, scoring))
            if not at:
                return
            place, answer = self._next_answer(at)
            index, idle = at.pop(place), [place]
            if isinstance(answer, Exited):
                self._replace(place)
                if is_killed(answer.status) and index not in repeated:
                    repeated.add(index)
                    left.append((index, models[index]))
                else:
                    yield index, {"error": describe_exit(answer)}
            else:
                assert isinstance(answer, FrontScores)
                yield index, answer.scores

    def _next_answer(self, called: Collection[Place]) -> tuple[Place, Description | FrontScores | Exited]:
        """Wait for the next answer, or death, of the workers that were sent a request."""
        while True:
            sender, message = self._inbox.get()
            place = next((place for place in self._places if place.process is sender), None)
            if sender is None or place in called:
                if place is not None and isinstance(message, (Description, FrontScores, Exited)):
                    return place, message
                self._common(message)
            elif place is not None and isinstance(message, Exited):
                self._replace(place)

    def open(self, site: Site, status: StatusOf) -> None:
        """See `Pool`."""
        self._site, self._status_of = site, status
        for place in self._places[1:]:
            if self._source is not None:
                place.process.send(self._source)
        if self._config.study.workers == "auto":
            self._grow(worker_count(self._config, int(site.original["footprint"])))

    def _grow(self, workers: int) -> None:
        """Divide the cores among more workers."""
        if workers > len(self._places):
            self._threads = share(workers)
            for place in self._places:
                place.process.send(Share(self._threads))
            self._places += [Place(self._new_process()) for _ in range(workers - len(self._places))]

    @property
    def free(self) -> bool:
        """See `Pool`."""
        return any(place.trial is None for place in self._places)

    def start(self, number: int, settings: Settings, rivals: Sequence[Rival] | None) -> None:
        """See `Pool`."""
        place = next(place for place in self._places if place.trial is None)
        self._begin(place, number, Run(settings, self._site, rivals), repeated=False)

    def _begin(self, place: Place, number: int, request: Run, *, repeated: bool) -> None:
        place.trial, place.trials, place.kill_reason = number, place.trials + 1, None
        place.request, place.repeated = request, repeated
        place.elapsed, place.since = 0.0, time.monotonic()
        place.process.send(request)

    def wait(self, seconds: float) -> Finished | None:
        """See `Pool`."""
        until = time.monotonic() + seconds
        watched = self._limits != Limits()
        while True:
            self._reply()
            left = until - time.monotonic()
            if left <= 0:
                return None
            try:
                sender, message = self._inbox.get(timeout=min(left, TICK) if watched else left)
            except Empty:
                self._watch()
                continue
            if watched:
                self._watch()
            place = next((place for place in self._places if place.process is sender), None)
            if place is None and sender is not None:
                continue  # a worker that was replaced
            if place is None:
                self._common(message)
            elif (finished := self._from(place, message)) is not None:
                return finished

    def _reply(self) -> None:
        """Send the status of their plans to the trials that wait for it, where it is decided."""
        for place, (trial, plan) in list(self._pending.items()):
            status = self._status_of(trial, plan)
            if not isinstance(status, Later):
                del self._pending[place]
                place.process.send(Reply(status))

    def _from(self, place: Place, message: Any) -> Finished | None:
        """Handle a worker's message."""
        match message:
            case Done(result, counts, manifest) if place.trial is not None:
                finished = Finished(place.trial, result)
                place.trial, place.since, place.counts = None, None, counts
                self._any_done = True
                self._add_manifest(manifest)
                if place.trials >= self.TRIALS_A_WORKER:
                    self._replace(place)
                return finished
            case GetStatus(plan) if place.trial is not None:
                self._pending[place] = (place.trial, plan)
            case Clock(running):
                place.elapsed, place.since = place.own_seconds(), time.monotonic() if running else None
            case Stage(text) if place.trial is not None:
                self._listener.stage(text, place.trial)
            case Exited(status, stderr_tail):
                return self._replace_worker(place, status, stderr_tail)
            case _:
                self._common(message)
        return None

    def _common(self, message: Any) -> None:
        """Handle a message that does not depend on its worker."""
        match message:
            case Stopped():
                raise message
            case Raised(error):
                raise error
            case Stage(text):
                self._listener.stage(text)
            case LogLine(line):
                self._listener.note(line)

    def _watch(self) -> None:
        """Kill the workers whose trial exceeds a limit; their `Exited` then fails the trial."""
        for place in self._places:
            if place.trial is None or place.kill_reason is not None:
                continue
            seconds, memory = self._limits.seconds, self._limits.memory
            if seconds is not None and place.own_seconds() > seconds:
                place.kill_reason = f"{TIMED_OUT}: no result after {seconds:g} s (study.trial_timeout)"
            elif memory is not None and (used := place.process.memory()) > memory:
                place.kill_reason = (
                    f"{OVER_MEMORY}: the worker held {used / 1e9:.2f} GB, more than {memory / 1e9:.2f} GB "
                    "(study.memory_limit)"
                )
            if place.kill_reason is not None:
                place.process.kill()

    def _replace_worker(self, place: Place, status: int, stderr_tail: str) -> Finished | None:
        """Replace a worker that died; fail its trial, or begin it again after the first kill from outside."""
        trial, kill_reason, request = place.trial, place.kill_reason, place.request
        self._replace(place)
        if trial is None:
            return None
        if is_killed(status) and kill_reason is None and not place.repeated and request is not None:
            self._listener.note(f"the worker of trial {trial} was killed by SIGKILL; the trial runs once more")
            self._begin(place, trial, request, repeated=True)
            return None
        self._lost += kill_reason is None
        if self._lost >= CRASH_LIMIT and not self._any_done:
            raise StudyError(
                f"the first {CRASH_LIMIT} trials each crashed their worker process ({exit_text(status)}), so the "
                f"search stops{out_of_memory(status)}. Last lines of its stderr: {stderr_tail or 'none'}"
            )
        error = describe_exit(Exited(status, stderr_tail), kill_reason)
        return Finished(trial, TrialResult("fail", attrs={"error": error}))

    def _replace(self, place: Place) -> None:
        """Start a new process in a worker's place."""
        self._pending.pop(place, None)
        place.process.close()
        self._retired.append(place.counts)
        place.process, place.trial, place.trials, place.since, place.counts = self._new_process(), None, 0, None, {}

    def counts(self) -> dict[str, tuple[int, int]]:
        """Add up the counts of all workers."""
        parts = [*self._retired, *(place.counts for place in self._places)]
        names = dict.fromkeys(name for counts in parts for name in counts)
        sums = {name: [counts.get(name, (0, 0)) for counts in parts] for name in names}
        return {name: (sum(new for new, _ in each), sum(old for _, old in each)) for name, each in sums.items()}

    def manifest(self) -> dict[str, Any]:
        """Merge the manifests of all workers."""
        merged = dict(self._manifests[-1])
        for manifest in self._manifests:
            hashes = {name: value for name, value in manifest["hashes"].items() if value is not None}
            merged["hashes"] = {**merged["hashes"], **hashes}
            merged["runtime_properties"] = merged["runtime_properties"] or manifest["runtime_properties"]
        return merged

    def stop(self, signal: int) -> None:
        """See `Pool`. A `SimpleQueue` may be put into by a signal handler."""
        self._inbox.put((None, Stopped(signal)))

    def close(self) -> None:
        """See `Pool`."""
        for place in self._places:
            place.process.kill()
        for place in self._places:
            place.process.close()


def describe_exit(exited: Exited, kill_reason: str | None = None) -> dict[str, str]:
    """Describe a worker's death as a trial's error; `kill_reason` says why it was killed, if it was."""
    how = exit_text(exited.status)
    kind, _, text = (kill_reason or f"{LOST}: the worker process died ({how}){out_of_memory(exited.status)}").partition(
        ": "
    )
    return {"type": kind, "message": text, "signal": how, "traceback": exited.stderr_tail}


def is_killed(status: int) -> bool:
    """Test if SIGKILL ended a process, which does not come from the process itself."""
    return exit_text(status) == "SIGKILL"


def out_of_memory(status: int) -> str:
    """Explain what a death by SIGKILL usually means."""
    if not is_killed(status):
        return ""
    return "; the system does that when memory runs out: see study.memory_limit and study.workers"
