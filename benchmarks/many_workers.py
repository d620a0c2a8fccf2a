"""Time that workers on many machines lose to the storage they share: asking, telling, and waiting for its lock.

    python benchmarks/many_workers.py reports/study --workers 16 64 [--storage URL] [--seconds 60]

Each worker runs the real search loop on the real storage (an SQLite file by default). Only a trial's own work is left
out: it takes the time and leaves the result of a trial of the recorded study. Workers take turns in one process, each
with a clock of its own that the measured seconds and the recorded ones advance. One worker at a time holds the lock, by
these clocks. So many machines are simulated on one, but a storage that serves several workers at once is not modelled.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common  # noqa: F401  the import path
import numpy as np

from autotune.common.files import fingerprint
from autotune.config.config import load_config
from autotune.study.loop import Search
from autotune.study.progress import SilentListener
from autotune.study.storage import coordination
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url, open_study, quiet_optuna
from autotune.study.storage.history import History
from autotune.study.trials.trial import TrialResult, duplicate
from autotune.study.workers.pool import Finished, Later


@dataclass(frozen=True)
class Recorded:
    """A trial of the recorded study: its result, and the seconds of its own work."""

    result: TrialResult
    seconds: float


def recorded(folder: Path) -> tuple[list[Recorded], Mapping[str, Any]]:
    """Read the trials of a study that did work of their own, and the study's attributes."""
    import optuna

    storage = connect(database_url(folder / DATABASE))
    study = optuna.load_study(study_name=STUDY_NAME, storage=storage)
    found = []
    for trial in History(study.get_trials(deepcopy=False)).finished:
        attrs = {name: value for name, value in trial.user_attrs.items() if name not in ("settings", "origin")}
        state: Any = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "fail")
        values = None if trial.values is None else tuple(trial.values)
        seconds = sum(part for name, _, part in attrs.get("stages", ()) if name not in ("calibration", "reference"))
        found.append(Recorded(TrialResult(state, values, attrs, dict(trial.constraints)), seconds))
    attributes = dict(study.user_attrs)
    close(storage)
    return found, attributes


class Clocks:
    """Clocks of workers that take turns: the one that is furthest behind runs."""

    def __init__(self, workers: int) -> None:
        self.times = dict.fromkeys(range(workers), 0.0)
        self.lost = dict.fromkeys(("asking", "telling", "waiting for the lock"), 0.0)
        self.worked = 0.0
        self.lock_free = 0.0
        self._turn = threading.Condition()
        self._since = 0.0

    def wait_turn(self, worker: int) -> None:
        """Block until this worker is furthest behind."""
        with self._turn:
            self._turn.wait_for(lambda: min(self.times, key=lambda each: (self.times[each], each)) == worker)
        self._since = time.perf_counter()

    def advance(self, worker: int, what: str, seconds: float = 0.0) -> None:
        """Add the seconds since the turn began to what was lost, and `seconds` of a trial's own work."""
        real = time.perf_counter() - self._since
        self.lost[what] += real
        self.worked += seconds
        self._pass_on(worker, real + seconds)

    def wait_for_lock(self, worker: int) -> None:
        """Let the worker wait until the lock is free."""
        self.lost["waiting for the lock"] += max(0.0, self.lock_free - self.times[worker])
        self.times[worker] = max(self.lock_free, self.times[worker])

    def hold_lock(self, worker: int) -> None:
        """Record until when the worker holds the lock."""
        self.lock_free = self.times[worker] + time.perf_counter() - self._since

    def leave(self, worker: int) -> None:
        """End a worker."""
        with self._turn:
            del self.times[worker]
            self._turn.notify_all()

    def _pass_on(self, worker: int, seconds: float) -> None:
        with self._turn:
            self.times[worker] += seconds
            self._turn.notify_all()
        self.wait_turn(worker)


class NoMoreTrials(Exception):
    """The study has all its trials."""


class Sleeping:
    """Pool of one place, in which a trial takes the recorded time and does nothing."""

    def __init__(self, worker: int, clocks: Clocks, trials: Sequence[Recorded], scale: float) -> None:
        self.worker, self.clocks, self.trials, self.scale = worker, clocks, trials, scale
        self.task: tuple[int, Any] | None = None
        self.left = 0.0
        self.decided = False
        self.status_of: Any = None

    @property
    def free(self) -> bool:
        """See `Pool`."""
        return self.task is None

    def start(self, number: int, settings: Any, rivals: Any) -> None:
        """See `Pool`."""
        self.task, self.decided = (number, settings), False

    def wait(self, seconds: float) -> Finished | None:
        """See `Pool`."""
        if self.task is None:
            raise NoMoreTrials
        number, settings = self.task
        chosen = self.trials[number % len(self.trials)]
        if not self.decided:
            plan = fingerprint(settings.as_dict())[:16]
            status = self.status_of(number, plan)
            assert not isinstance(status, Later)
            if status is not None:
                self.task = None
                twin = {"plan": plan, "duplicate_of": getattr(status, "number", None)}
                same = duplicate(*status) if isinstance(status, tuple) else TrialResult("twin", attrs=twin)
                return Finished(number, same)
            self.decided, self.left = True, chosen.seconds * self.scale
        now = min(seconds, self.left)
        self.left -= now
        self.clocks.advance(self.worker, "telling", now)
        if self.left > 0:
            return None
        self.task = None
        noise = random.Random(number).uniform(0.95, 1.05)
        values = None if chosen.result.values is None else (noise * chosen.result.values[0], *chosen.result.values[1:])
        attrs = {**chosen.result.attrs, "plan": fingerprint(settings.as_dict())[:16]}
        return Finished(number, replace(chosen.result, values=values, attrs=attrs))


class OneLock(coordination.Shared):
    """The storage's own lock, which waits by the workers' clocks as well."""

    def __init__(self, study: Any, worker: int, clocks: Clocks) -> None:
        super().__init__(study)
        self.worker, self.clocks = worker, clocks

    @contextmanager
    def claim(self) -> Iterator[None]:
        """See `Sharing`."""
        self.clocks.advance(self.worker, "telling")
        self.clocks.wait_for_lock(self.worker)
        with super().claim():
            yield
        self.clocks.hold_lock(self.worker)
        self.clocks.advance(self.worker, "asking")


def simulate(folder: Path, url: str, workers: int, trials: int, seconds: float | None) -> None:
    """Run a study of so many workers and print what they lost."""
    results, attributes = recorded(folder)
    usual = float(np.mean([each.seconds for each in results]))
    scale = 1.0 if seconds is None else seconds / usual
    config = load_config(folder / "model.yaml", [f"study.trials={trials}"])
    clocks = Clocks(workers)
    coordination.INTERVAL = 3600.0  # heartbeats would come by the real time

    def run(worker: int) -> None:
        with tempfile.TemporaryDirectory() as scratch, open_study(Path(scratch), url, dict(config.objectives)) as study:
            clocks.wait_turn(worker)
            sharing = OneLock(study, worker, clocks)
            search = Search(config, study, Path(scratch), SilentListener(), sharing, budget=trials)
            search.pool = pool = Sleeping(worker, clocks, results, scale)  # type: ignore[assignment]
            pool.status_of = search.plan_status
            clocks.advance(worker, "telling")
            clocks.lost["telling"] = 0.0  # opening the study is not part of a trial
            try:
                with suppress(NoMoreTrials):
                    search.loop(SimpleNamespace(objectives=dict(config.objectives)), None)  # type: ignore[arg-type]
            finally:
                sharing.close()
                clocks.leave(worker)

    with tempfile.TemporaryDirectory() as scratch:
        with open_study(Path(scratch), url, dict(config.objectives)) as study:
            for name in ("original", "config", "objectives", "metrics"):
                study.set_user_attr(name, attributes[name])
        threads = [threading.Thread(target=run, args=(worker,)) for worker in range(workers)]
        cpu, wall = time.process_time(), time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    lost = sum(clocks.lost.values())
    parts = ", ".join(f"{name} {value / trials:.2f}" for name, value in clocks.lost.items())
    print(
        f"{workers} workers, {trials} trials of {usual * scale:.0f} s: {100 * lost / (lost + clocks.worked):.1f}% lost"
    )
    print(f"  seconds a trial: {parts}; measured in {wall:.0f} s, {cpu:.0f} s of them in this process", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of a finished study")
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 64])
    parser.add_argument("--storage", help="URL of an empty database; by default an SQLite file")
    parser.add_argument("--seconds", type=float, help="mean seconds of a trial, other than the recorded ones")
    parser.add_argument("--trials", type=int, default=4, help="of each worker")
    options = parser.parse_args()
    for workers in options.workers:
        with tempfile.TemporaryDirectory() as scratch, quiet_optuna():
            url = options.storage or database_url(Path(scratch) / DATABASE)
            simulate(options.study, url, workers, options.trials * workers, options.seconds)


if __name__ == "__main__":
    main()
