"""`run_search`: one study from its first trial, or from wherever it stopped, to its report. `run_worker` helps it.

The end of a search: its front is scored once more, on texts that decided nothing.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.compression.settings import Settings
from autotune.errors import AutotuneError, StudyError
from autotune.study.loop import Reason, Search
from autotune.study.progress import Listener, front_trials, make_listener
from autotune.study.storage.coordination import Alone, Shared, Sharing
from autotune.study.storage.database import folder_lock, open_study
from autotune.study.storage.history import History
from autotune.study.workers.pool import Here, Pool, Stopped
from autotune.study.workers.process_pool import Limits, WorkerPool

if TYPE_CHECKING:
    import optuna

    from autotune.config.config import Config
    from autotune.study.progress import Listener
    from autotune.study.storage.history import History
    from autotune.study.workers.pool import Pool
    from autotune.study.workers.prepared import Prepared

__all__ = ["ATTRIBUTE", "StudyOutcome", "rescore_front", "run_search", "run_worker"]

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)
"""What ends a search with its report."""


@dataclass(frozen=True, slots=True)
class StudyOutcome:
    """How a search ended.

    Attributes:
        folder: the study's folder, report included.
        reason: why no further trial was begun.
        message: the same as a sentence.
        finished: trials of the whole study that did work of their own; failed: those of them that failed.
        duplicates: trials that only repeated another's plan.
        ran: trials of this run that did work of their own.
        seconds: what this run took, preparation and report included.
        moved_aside: where `--fresh` put the old study.
        report: what the reporting room returned.
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
        """Whether a signal stopped the search."""
        return self.reason == "interrupted"

    @property
    def exit_code(self) -> int:
        """As shells have it: 0, or 128 and the signal's number (130 after Ctrl-C, 143 after SIGTERM)."""
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
    prepare: Callable[[Config, Callable[[str], None]], Prepared] | None = None,
    report: Callable[[Path], Any] | None = None,
) -> StudyOutcome:
    """Search until the study has its trials; continue it where it exists.

    Args:
        config: the resolved model.yaml.
        listener: is told how it goes; by default a live display or plain lines on stderr.
        trials: trials the whole study is to have, duplicates not counted; default `config.study.trials`.
        timeout: seconds after which no further trial begins in this run; default `config.study.timeout`.
        fresh: move an existing study aside and start anew.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        start_from: the folder of another study, whose front is tried first.
        prepare: builds what trials work with, where they do it: with workers it must survive pickling; for tests.
        report: writes the report of a folder; for tests.

    Raises:
        StudyError: the folder is in use or cannot be written, or the study was started with something else.
        ConfigError: an objective or constraint that no evaluator measures.
        Stopped: a signal before the first trial. Later, a signal ends the search with its report and an outcome.
    """
    started = time.monotonic()
    listener = make_listener() if listener is None else listener
    folder = Path(config.output)
    budget = config.study.trials if trials is None else trials
    limit = config.study.timeout if timeout is None else timeout
    front = None if start_from is None else front_of(start_from)
    try:
        with folder_lock(folder, fresh=fresh) as aside:
            if aside is not None:
                listener.note(f"the old study is now in {aside}")
            with (
                open_pool(config, prepare or default_prepare, listener) as pool,
                stop_signals(pool),
                quiet_optuna(),
                open_study(folder, storage, dict(config.objectives), fresh=fresh) as study,
            ):
                with open_sharing(study, storage) as sharing:
                    search = Search(config, study, folder, listener, pool, sharing, budget=budget, earlier_front=front)
                    reason = search.run(limit)
                    if reason != "interrupted":
                        reason = finish(search, listener, reason)
                history = History(study.get_trials(deepcopy=False))
            listener.stage("writing the report")
            written = (report or default_report(storage))(folder)
            message = search.summary(reason, history)
            listener.finished(message)
    finally:
        listener.close()
    return replace(outcome_of(search, history, reason, message, started), moved_aside=aside, report=written)


def finish(search: Search, listener: Listener, reason: Reason) -> Reason:
    """Score the front on the report texts; a stop signal ends that, and the next run takes it up again."""
    try:
        rescore_front(search.study, search.config, search.history(), search.pool, listener)
    except KeyboardInterrupt as stop:
        search.signal = stop.signal if isinstance(stop, Stopped) else signal.SIGINT
        return "interrupted"
    return reason


def outcome_of(search: Search, history: History, reason: Reason, message: str, started: float) -> StudyOutcome:
    """How a search ended, without its report."""
    return StudyOutcome(
        folder=search.folder,
        reason=reason,
        message=message,
        finished=len(history.finished),
        failed=sum(trial.state.name == "FAIL" for trial in history.finished),
        duplicates=sum("duplicate_of" in trial.user_attrs for trial in history.standing),
        ran=search.ran,
        seconds=time.monotonic() - started,
        signal=search.signal,
    )


def run_worker(
    config: Config,
    storage: str,
    *,
    listener: Listener | None = None,
    prepare: Callable[[Config, Callable[[str], None]], Prepared] | None = None,
) -> StudyOutcome:
    """Join a study that is being searched, from another process or machine, until it has its trials.

    Args:
        config: the study's model.yaml; its folder gets the plans of the trials that are done here.
        storage: the Optuna storage URL of the search.
        listener: as `run_search`.
        prepare: as `run_search`.

    Raises:
        StudyError: there is no such study, or it is one of something else than this model.yaml.
        Stopped: a signal before the first trial.
    """
    started = time.monotonic()
    listener = make_listener() if listener is None else listener
    folder = Path(config.output)
    try:
        with (
            quiet_optuna(),
            open_study(folder, storage, dict(config.objectives), joins=True) as study,
            open_pool(config, prepare or default_prepare, listener) as pool,
            stop_signals(pool),
            open_sharing(study, storage) as sharing,
        ):
            budget = study.user_attrs["config"].get("study", {}).get("trials", config.study.trials)
            search = Search(config, study, folder, listener, pool, sharing, budget=budget)
            reason = search.run(config.study.timeout, joins=True)
            history = History(study.get_trials(deepcopy=False))
        message = search.summary(reason, history)
        listener.finished(message)
    finally:
        listener.close()
    return outcome_of(search, history, reason, message, started)


def front_of(folder: Path) -> dict[str, dict[str, Any]]:
    """Label -> settings of the front of a finished (or stopped) study.

    Raises:
        StudyError: there is no study, or it has no front.
    """
    from autotune.results.load import load_results

    results = load_results(folder)
    if not results.front:
        raise StudyError(f"{folder}: no trial of this study is on a front yet, so there is nothing to start from")
    return {f"trial {n} of {folder.name}": dict(results.records[n].settings) for n in results.front}


def default_prepare(config: Config, stage: Callable[[str], None]) -> Prepared:
    """The real model, engine and evaluators."""
    from autotune.study.session import prepare

    return prepare(config, stage)


def default_report(storage: str | None) -> Callable[[Path], Any]:
    """The reporting room."""

    def write(folder: Path) -> Any:
        from autotune.reporting.folder import rebuild_report

        return rebuild_report(folder, storage)

    return write


@contextmanager
def open_pool(config: Config, prepare: Callable[..., Prepared], listener: Listener) -> Iterator[Pool]:
    """The workers that the configuration asks for, ended whatever happens."""
    options = config.study
    pool: Pool
    if options.workers == 0:
        pool = Here(prepare(config, listener.stage), listener)
    else:
        limits = Limits(options.trial_timeout, options.memory_limit)
        pool = WorkerPool(config, prepare, listener, limits=limits)
    try:
        yield pool
    finally:
        pool.close()


@contextmanager
def open_sharing(study: optuna.Study, storage: str | None) -> Iterator[Sharing]:
    """A storage at a URL may be shared; that of the folder is the search's own."""
    sharing: Sharing = Alone() if storage is None else Shared(study)
    try:
        yield sharing
    finally:
        sharing.close()


@contextmanager
def stop_signals(pool: Pool) -> Iterator[None]:
    """Pass stop signals on to the pool; a second one raises `Stopped` wherever it finds the search."""
    told: list[int] = []

    def handle(number: int, _: Any) -> None:
        told.append(number)
        if len(told) > 1:
            raise Stopped(number)
        pool.stop(number)

    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # elsewhere signals are somebody else's business
        before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        # What is ignored (by nohup, say) stays ignored.
        before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Keep Optuna's own log lines off the terminal; warnings and errors of ours take their place."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


ATTRIBUTE = "report"
"""The study's attribute: ``fingerprint``, ``original``, ``overlaps``, ``notes``, and ``trials``, number as text ->
``metrics`` or ``error``. A finished trial takes no more attributes, so the scores stand here."""

TOLD = 0.01
"""The share of a text that two sets may have in common before that is told."""


def rescore_front(study: optuna.Study, config: Config, history: History, pool: Pool, listener: Listener) -> None:
    """Score the front's models on the report texts; what was scored on the same ones before is kept.

    Each model's scores are in the storage as soon as they are there, so that little is lost by a kill.
    """
    prepared = pool.prepared()
    front = front_trials(history, list(config.objectives.values()))
    text = prepared.report_fingerprint() if front else None
    if text is None:
        return
    known = study.user_attrs.get(ATTRIBUTE, {})
    if known.get("fingerprint") != text:
        known = {"fingerprint": text, "trials": {}}
    missing = [trial for trial in front if str(trial.number) not in known["trials"]]
    if not missing:
        return
    try:
        listener.stage("preparing the report texts")
        known = {**known, **prepared.report_texts()}
        for pair, share in known["overlaps"].items():
            if share > TOLD:
                listener.note(f"the texts of {pair} are not disjoint: {100 * share:.0f}% of the second is in the first")
        for note in known["notes"]:
            listener.note(f"no report text for {note}")
        models = [settings_from(trial.user_attrs["settings"]) for trial in (missing if known["original"] else ())]
        if models:
            listener.stage(f"scoring the front on the report texts: {len(models)} models")
        for done, (index, scores) in enumerate(pool.report_scores(models), 1):
            known["trials"] = {**known["trials"], str(missing[index].number): scores}
            study.set_user_attr(ATTRIBUTE, known)
            listener.stage(f"scoring the front on the report texts: {done} of {len(models)} models")
    except AutotuneError as error:  # a worker that died of it, say: the search's own results are none the worse
        listener.note(f"the front could not be scored on the report texts: {error}")
    study.set_user_attr(ATTRIBUTE, known)


def settings_from(data: Mapping[str, Any]) -> Settings:
    """The settings that `Settings.as_dict` wrote."""
    lists = {name: tuple(data.get(name) or ()) for name in ("ignored_scope", "codebook")}
    return Settings(**{**data, **lists})
