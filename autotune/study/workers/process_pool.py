"""Trials in worker processes.

A crash or an out-of-memory kill in native code then costs one trial and is recorded; a trial that hangs or takes too
much memory can be ended; and what OpenVINO leaks with each model that it compiles ends with the worker, which is
replaced after some trials.

A stand-in for what has been prepared in a worker process: each question goes there and comes back as data.
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
from autotune.study.trials.racing import Rival
from autotune.study.trials.trial import TrialResult
from autotune.study.workers.connection import Gone, Said, WorkerProcess, exit_text
from autotune.study.workers.memory import worker_count
from autotune.study.workers.messages import (
    Adopt,
    Ask,
    Begin,
    Call,
    Clock,
    Done,
    Raised,
    Reply,
    Returned,
    Run,
    Share,
    Site,
    Stage,
)
from autotune.study.workers.pool import Answer, Finished, Later, Stopped

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.evaluation import Metric
    from autotune.study.progress import Listener
    from autotune.study.workers.prepared import Prepared

__all__ = ["Limits", "Remote", "WorkerPool"]

TICK = 0.2
"""Seconds between looks at clocks and memory."""

HOPELESS = 3
"""Workers lost before any trial came to a result, after which the search gives up."""

LOST = "worker lost"
TIMED_OUT = "trial timeout"
OVER_MEMORY = "memory limit"
"""Types of the errors of trials whose worker ended before them."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one trial may take.

    Attributes:
        seconds: time, without work that all trials share; None is no limit.
        memory: bytes of the worker's own memory; None is no limit.
    """

    seconds: float | None = None
    memory: int | None = None


@dataclass(eq=False)
class Place:
    """One worker's place: the process that holds it now, and what that process is at.

    Attributes:
        trial: number of the trial at work, None where there is none.
        trials: how many trials the process has begun.
        spent: seconds of the trial's own time until `since`; since: when its clock was started, None while it stands.
        verdict: why the process is being ended.
        counts: as the process told them last.
    """

    process: WorkerProcess
    trial: int | None = None
    trials: int = 0
    spent: float = 0.0
    since: float | None = None
    verdict: str | None = None
    counts: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def own_seconds(self) -> float:
        """How long the trial has been at work, without what all trials share."""
        return self.spent + (0.0 if self.since is None else time.monotonic() - self.since)


class WorkerPool:
    """Trials in worker processes."""

    TRIALS_A_WORKER = 50
    """Trials after which a worker is replaced: each compiled model leaves a thread and some megabytes behind."""

    def __init__(
        self,
        config: Config,
        prepare: Callable[..., Any],
        listener: Listener,
        *,
        limits: Limits = Limits(),
    ) -> None:
        """Start the workers, which then import what they need; the first one is to prepare the study for all.

        With ``auto`` workers it is alone until the study is opened, when it is known how large the model is.
        """
        first = 1 if config.study.workers == "auto" else config.study.workers
        self._config, self._prepare, self._listener = config, prepare, listener
        self._limits = limits
        self._threads = share(first)
        self._inbox: SimpleQueue[tuple[WorkerProcess | None, Any]] = SimpleQueue()
        self._adopt: Adopt | None = None
        self._lost = 0
        self._any_done = False
        self._asking: dict[Place, tuple[int, str]] = {}
        self._retired: list[Mapping[str, tuple[int, int]]] = []
        self._manifests: list[Mapping[str, Any]] = []
        self._places = [Place(self._new_process()) for _ in range(first)]

    def _new_process(self) -> WorkerProcess:
        begin = Begin(self._config, self._prepare, logging.getLogger().getEffectiveLevel())
        process = WorkerProcess(begin, self._threads, self._inbox)  # type: ignore[arg-type]
        if self._adopt is not None:
            process.send(self._adopt)
        return process

    def prepared(self) -> Prepared:
        """See `Pool`: a stand-in whose methods are called in the first worker."""
        return Remote(self)  # type: ignore[return-value]

    def call(self, name: str, *arguments: Any) -> Any:
        """Have the first worker call a method, or get an attribute, of its `Prepared`.

        Raises:
            StudyError: the worker died over it.
        """
        first = self._places[0]
        first.process.send(Call(name, arguments))
        _, answer = self._answered([first])
        if isinstance(answer, Gone):
            last_words = f"; its last words were: {answer.last_words}" if answer.last_words else ""
            raise StudyError(
                f"the worker process died ({exit_text(answer.status)}) while it prepared the study{last_words}"
                f"{out_of_memory(answer.status)}"
            )
        return answer.value

    def report_scores(self, models: Sequence[Settings]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Pool`: each worker takes the next model when it is done with one; its death costs that one's scores."""
        left, at = list(enumerate(models))[::-1], dict[Place, int]()
        idle = list(self._places)
        while True:
            for place in idle[: len(left)]:
                at[place], settings = left.pop()
                place.process.send(Call("report_scores", (settings,)))
            if not at:
                return
            place, answer = self._answered(at)
            index, idle = at.pop(place), [place]
            if isinstance(answer, Gone):
                self._replace(place)
                yield index, {"error": died(answer)}
            else:
                yield index, answer.value

    def _answered(self, called: Collection[Place]) -> tuple[Place, Returned | Gone]:
        """The next of the workers that were called to return, or to die over it."""
        while True:
            sender, message = self._inbox.get()
            place = next((place for place in self._places if place.process is sender), None)
            if sender is None or place in called:
                if place is not None and isinstance(message, (Returned, Gone)):
                    return place, message
                self._common(message)
            elif place is not None and isinstance(message, Gone):
                self._replace(place)

    def open(self, site: Site, answer: Answer) -> None:
        """See `Pool`."""
        self._site, self._answer = site, answer
        self._adopt = Adopt(self.call("found"))
        for place in self._places[1:]:
            place.process.send(self._adopt)
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

    def start(self, number: int, settings: Settings, rivals: Sequence[Rival]) -> None:
        """See `Pool`."""
        place = next(place for place in self._places if place.trial is None)
        place.trial, place.trials, place.verdict = number, place.trials + 1, None
        place.spent, place.since = 0.0, time.monotonic()
        place.process.send(Run(settings, self._site, rivals))

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
        """Answer the trials that asked about their plans, as far as there are answers."""
        for place, (trial, plan) in list(self._asking.items()):
            seen = self._answer(trial, plan)
            if not isinstance(seen, Later):
                del self._asking[place]
                place.process.send(Reply(seen))

    def _from(self, place: Place, message: Any) -> Finished | None:
        """Act on a message of a worker."""
        match message:
            case Done(result, counts, manifest) if place.trial is not None:
                finished = Finished(place.trial, result)
                place.trial, place.since, place.counts = None, None, counts
                self._any_done = True
                if manifest not in self._manifests:
                    self._manifests.append(manifest)
                if place.trials >= self.TRIALS_A_WORKER:
                    self._replace(place)
                return finished
            case Ask(plan) if place.trial is not None:
                self._asking[place] = (place.trial, plan)
            case Clock(running):
                place.spent, place.since = place.own_seconds(), time.monotonic() if running else None
            case Stage(text) if place.trial is not None:
                self._listener.stage(text, place.trial)
            case Gone(status, last_words):
                return self._bury(place, status, last_words)
            case _:
                self._common(message)
        return None

    def _common(self, message: Any) -> None:
        """Act on what needs no worker to be understood."""
        match message:
            case Stopped():
                raise message
            case Raised(error):
                raise error
            case Stage(text):
                self._listener.stage(text)
            case Said(line):
                self._listener.note(line)

    def _watch(self) -> None:
        """End the workers whose trial takes too long or too much; their `Gone` then fails the trial."""
        for place in self._places:
            if place.trial is None or place.verdict is not None:
                continue
            seconds, memory = self._limits.seconds, self._limits.memory
            if seconds is not None and place.own_seconds() > seconds:
                place.verdict = f"{TIMED_OUT}: no result after {seconds:g} s (study.trial_timeout)"
            elif memory is not None and (used := place.process.memory()) > memory:
                place.verdict = (
                    f"{OVER_MEMORY}: the worker held {used / 1e9:.2f} GB, more than {memory / 1e9:.2f} GB "
                    "(study.memory_limit)"
                )
            if place.verdict is not None:
                place.process.kill()

    def _bury(self, place: Place, status: int, last_words: str) -> Finished | None:
        """Replace a worker that died, and fail its trial."""
        trial, verdict = place.trial, place.verdict
        self._replace(place)
        if trial is None:
            return None
        self._lost += verdict is None
        if self._lost >= HOPELESS and not self._any_done:
            raise StudyError(
                f"the first {HOPELESS} trials each ended their worker process ({exit_text(status)}), so nothing can be "
                f"tried this way{out_of_memory(status)}. Its last words were: {last_words or 'none'}"
            )
        error = died(Gone(status, last_words), verdict)
        return Finished(trial, TrialResult("fail", attrs={"error": error}))

    def _replace(self, place: Place) -> None:
        """Put a new process into a worker's place."""
        self._asking.pop(place, None)
        place.process.close()
        self._retired.append(place.counts)
        place.process, place.trial, place.trials, place.since, place.counts = self._new_process(), None, 0, None, {}

    def counts(self) -> dict[str, tuple[int, int]]:
        """What all workers together have computed and found ready."""
        told = [*self._retired, *(place.counts for place in self._places)]
        names = dict.fromkeys(name for counts in told for name in counts)
        sums = {name: [counts.get(name, (0, 0)) for counts in told] for name in names}
        return {name: (sum(new for new, _ in each), sum(old for _, old in each)) for name, each in sums.items()}

    def manifest(self) -> dict[str, Any]:
        """What the study ran on, from all that workers told."""
        if not self._manifests:
            return dict(self.call("manifest"))
        merged = dict(self._manifests[-1])
        for told in self._manifests:
            known = {name: value for name, value in told["hashes"].items() if value is not None}
            merged["hashes"] = {**merged["hashes"], **known}
            merged["runtime_properties"] = merged["runtime_properties"] or told["runtime_properties"]
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


def died(gone: Gone, verdict: str | None = None) -> dict[str, str]:
    """The end of a worker as the error of what it was at; `verdict` says why it was ended, if it was."""
    how = exit_text(gone.status)
    kind, _, text = (verdict or f"{LOST}: the worker process died ({how}){out_of_memory(gone.status)}").partition(": ")
    return {"type": kind, "message": text, "signal": how, "traceback": gone.last_words}


def out_of_memory(status: int) -> str:
    """What a death by SIGKILL usually means."""
    if exit_text(status) != "SIGKILL":
        return ""
    return "; the system does that when memory runs out: see study.memory_limit and study.workers"


class Remote:
    """`Prepared`, as far as the search itself asks, living in the first worker."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """See `Prepared`."""
        metrics: Mapping[str, Metric] = self._pool.call("metrics")
        return metrics

    def fingerprints(self) -> dict[str, str]:
        """See `Prepared`."""
        return dict(self._pool.call("fingerprints"))

    def original(self) -> dict[str, Any]:
        """See `Prepared`."""
        return dict(self._pool.call("original"))

    def report_fingerprint(self) -> str | None:
        """See `Prepared`."""
        found: str | None = self._pool.call("report_fingerprint")
        return found

    def report_texts(self) -> dict[str, Any]:
        """See `Prepared`."""
        return dict(self._pool.call("report_texts"))

    def counts(self) -> dict[str, tuple[int, int]]:
        """See `Prepared`: of all workers."""
        return self._pool.counts()

    def manifest(self) -> dict[str, Any]:
        """See `Prepared`: of all workers."""
        return self._pool.manifest()
