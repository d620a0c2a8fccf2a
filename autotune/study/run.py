"""Run a search: one study, new or resumed, up to its report; or join a running one from another process.

At the end the front is scored once more, see `workers.front`.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from autotune.errors import StudyError
from autotune.models.intake import read_intake
from autotune.results.storage import CHECKSUM, check_study, study_checksums
from autotune.study.loop import Callback, Reason, Search
from autotune.study.page import with_page
from autotune.study.planning.eta import Expected, RunForecast, StageTimer
from autotune.study.progress import Listener, make_listener
from autotune.study.sampling.optimum_default import with_optimum_default
from autotune.study.session import Session
from autotune.study.storage.attributes import own_fingerprints, remove_checksums
from autotune.study.storage.coordination import Alone, Shared, Sharing
from autotune.study.storage.database import check_config, folder_lock, open_study, quiet_optuna
from autotune.study.storage.history import History
from autotune.study.storage.rows import front_trials
from autotune.study.workers.deployment import is_deployed, score_as_deployed, search_runtime
from autotune.study.workers.front import is_scored, score_front
from autotune.study.workers.pool import InProcessPool, Pool, Stopped
from autotune.study.workers.process_pool import Limits, WorkerPool

if TYPE_CHECKING:
    import optuna

    from autotune.config.config import Config

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""Signals that end a search with its report."""

OpenSession: TypeAlias = "Callable[[Config, Callable[[str], None]], Session]"


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """Outcome of a search.

    Attributes:
        folder: the study's folder, report included.
        reason: why no further trial was begun.
        message: the same as a sentence.
        finished: number of trials of the whole study that did work of their own.
        failed: number of those that failed.
        duplicates: number of trials that repeated another's plan.
        ran: number of trials of this run that did work of their own.
        seconds: duration of this run, preparation and report included.
        moved_aside: folder to which `--fresh` moved the old study.
        report: return value of `reporting.write.report`.
        signal: number of the signal that interrupted the search.
    """

    folder: Path
    reason: Reason
    message: str
    finished: int
    failed: int
    duplicates: int
    ran: int
    seconds: float
    moved_aside: Path | None = None
    report: Any = None
    signal: int | None = None

    @property
    def interrupted(self) -> bool:
        """Return True if a signal stopped the search."""
        return self.reason == "interrupted"

    @property
    def exit_code(self) -> int:
        """Exit code: 0, or 128 plus the signal's number (130 after Ctrl-C, 143 after SIGTERM)."""
        return 0 if self.signal is None else 128 + self.signal


def run_search(
    config: Config,
    *,
    listener: Listener | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    fresh: bool = False,
    storage: str | None = None,
    start_from: Path | None = None,
    callbacks: Sequence[Callback] = (),
    open_page: bool = False,
    open_session: OpenSession = Session,
    report: Callable[[Path], Any] | None = None,
) -> StudyOutcome:
    """Search until the study has its trials; resume it if it exists.

    Args:
        config: the resolved model.yaml.
        listener: receives the progress; by default a live display or plain lines on stderr.
        trials: number of trials of the whole study, without duplicates; default `config.study.trials`.
        timeout: seconds after which no further trial begins in this run; default `config.study.timeout`.
        fresh: move an existing study to another folder and start a new one.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        start_from: the folder of another study, whose front is tried first.
        callbacks: called with (study, trial) after every trial, as those of `optuna.Study.optimize`.
        open_page: open report.html in the browser, kept up to date while the search runs.
        open_session: (config, stage) -> session; for tests. With workers it must be picklable.
        report: writes the report of a folder; for tests.

    Raises:
        StudyError: the folder is in use or cannot be written, or the study has other inputs.
        ConfigError: no evaluator measures an objective or a constraint.
        Stopped: a signal before the first trial. Later, a signal ends the search with its report and an outcome.
    """
    started = time.monotonic()
    forecast = RunForecast(Expected.of(config))
    listener = StageTimer(make_listener() if listener is None else listener, forecast)
    folder = Path(config.output)
    listener.stage(f"opening the study in {folder}")
    budget = config.study.trials if trials is None else trials
    limit = config.study.timeout if timeout is None else timeout
    front = None if start_from is None else front_of(start_from)
    try:
        with folder_lock(folder, fresh=fresh) as aside:
            if open_page:
                listener = with_page(listener, folder, config.model, storage)
            note_changes(listener, config, aside)
            config = with_optimum_default(config, listener.note)
            with (
                quiet_optuna(),
                open_study(folder, storage, dict(config.objectives), fresh=fresh) as study,
                open_sharing(study, storage) as sharing,
            ):
                check_study(study, str(folder))
                check_config(study, folder, own_fingerprints(config), config.as_dict())
                remove_checksums(study)
                search = Search(
                    config,
                    study,
                    folder,
                    listener,
                    sharing,
                    budget=budget,
                    earlier_front=front,
                    callbacks=callbacks,
                    forecast=forecast,
                )
                reason = reason_without_worker(search)
                if reason is None:
                    with open_pool(config, open_session, listener) as pool, stop_signals(pool):
                        reason = search.run(pool, limit)
                        if reason != "interrupted":
                            reason = finish(search, listener, reason)
                history = History(study.get_trials(deepcopy=False))
                if storage is None:  # other processes may still write to a shared one
                    study.set_user_attr(CHECKSUM, study_checksums(study, history.trials))
            listener.stage("writing the report")
            written = (report or default_report(storage))(folder)
            message = search.summary(reason, history)
            listener.finished(message)
    finally:
        listener.close()
    return replace(outcome_of(search, history, reason, message, started), moved_aside=aside, report=written)


def note_changes(listener: Listener, config: Config, aside: Path | None) -> None:
    """Note where the old study now is, and what was changed in the model when it was read."""
    if aside is not None:
        listener.note(f"the old study is now in {aside}")
    if intake := read_intake(config.model):
        listener.note("\n".join(intake.lines()))


def reason_without_worker(search: Search) -> Reason | None:
    """Return why a finished study needs no worker; None if it needs one.

    It has no trial to run, its front is scored, and its configuration is the stored one.
    """
    stored = search.study.user_attrs
    config, now = dict(stored.get("config") or {}), search.config.as_dict()
    if any(config.get(key) != now.get(key) for key in {*config, *now} - {"study"}):
        return None
    front = front_trials(search.history(), search.directions)
    if front and not is_scored(stored, front, report=search.config.report is not False):
        return None
    if not is_deployed(stored, front, search.config.runtime):
        return None
    return search.reason_without_work()


def finish(search: Search, listener: Listener, reason: Reason) -> Reason:
    """Score the front; after a stop signal the next run continues with it."""
    try:
        assert search.description is not None
        front = front_trials(search.history(), search.directions)
        score_front(search.study, search.pool, search.description, front, listener)
        if search.config.runtime.deployed:
            score_as_deployed(search.study, search.pool, front, listener.stage)
        if search.config.runtime.search:
            search_runtime(search.study, search.pool, front, search.config.runtime, listener.stage)
    except KeyboardInterrupt as stop:
        search.signal = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        return "interrupted"
    return reason


def outcome_of(search: Search, history: History, reason: Reason, message: str, started: float) -> StudyOutcome:
    """Make the outcome of a search, without its report."""
    return StudyOutcome(
        folder=search.folder,
        reason=reason,
        message=message,
        finished=len(history.finished),
        failed=sum(trial.state.name == "FAIL" for trial in history.finished),
        duplicates=sum("duplicate_of" in trial.user_attrs for trial in history.current),
        ran=search.ran,
        seconds=time.monotonic() - started,
        signal=search.signal,
    )


def run_worker(
    config: Config,
    storage: str,
    *,
    listener: Listener | None = None,
    open_session: OpenSession = Session,
) -> StudyOutcome:
    """Join a study that is being searched, from another process or machine, until it has its trials.

    Args:
        config: the study's model.yaml; its folder receives the plans of the trials that run here.
        storage: the Optuna storage URL of the search.
        listener: as `run_search`.
        open_session: as `run_search`.

    Raises:
        StudyError: there is no such study, or it has other inputs than this model.yaml.
        Stopped: a signal before the first trial.
    """
    started = time.monotonic()
    listener = make_listener() if listener is None else listener
    folder = Path(config.output)
    config = with_optimum_default(config, listener.note)
    try:
        with (
            quiet_optuna(),
            open_study(folder, storage, dict(config.objectives), joins=True) as study,
            open_sharing(study, storage) as sharing,
        ):
            check_config(study, folder, own_fingerprints(config), config.as_dict())
            remove_checksums(study)
            budget = study.user_attrs["config"].get("study", {}).get("trials", config.study.trials)
            search = Search(config, study, folder, listener, sharing, budget=budget)
            with open_pool(config, open_session, listener) as pool, stop_signals(pool):
                reason = search.run(pool, config.study.timeout, joins=True)
            history = History(study.get_trials(deepcopy=False))
        message = search.summary(reason, history)
        listener.finished(message)
    finally:
        listener.close()
    return outcome_of(search, history, reason, message, started)


def front_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Read the front of a finished or stopped study: label -> settings.

    Raises:
        StudyError: there is no study, or it has no front.
    """
    from autotune.results.load import load_results

    results = load_results(folder)
    if not results.front:
        raise StudyError(f"{folder}: no trial of this study is on a front yet, so there is nothing to start from")
    return {f"trial {n} of {folder.name}": dict(results.records[n].settings) for n in results.front}


def default_report(storage: str | None) -> Callable[[Path], Any]:
    """Make the function that writes the report of a study at this storage."""

    def write(folder: Path) -> Any:
        from autotune.reporting.folder import rebuild_report

        return rebuild_report(folder, storage)

    return write


@contextmanager
def open_pool(config: Config, open_session: OpenSession, listener: Listener) -> Iterator[Pool]:
    """Start the configured workers, and end them on exit."""
    options = config.study
    listener.stage("starting the first worker" if options.workers else "loading the model")
    pool: Pool
    if options.workers == 0:
        pool = InProcessPool(open_session(config, listener.stage), listener)
    else:
        limits = Limits(options.trial_timeout, options.memory_limit)
        pool = WorkerPool(config, open_session, listener, limits=limits)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def open_sharing(study: optuna.Study, storage: str | None) -> Iterator[Sharing]:
    """Coordinate with other processes if the storage is at a URL; the folder's storage is not shared."""
    sharing: Sharing = Alone() if storage is None else Shared(study)
    try:
        yield sharing
    finally:
        sharing.close()


@contextmanager
def stop_signals(pool: Pool) -> Iterator[None]:
    """Pass stop signals on to the pool; a second one raises `Stopped` at once."""
    received: list[int] = []

    def handle(number: int, _: Any) -> None:
        received.append(number)
        if len(received) > 1:
            raise Stopped(number)
        pool.stop(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # Python allows handlers in the main thread only
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        # Ignored signals (nohup) stay ignored.
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
