"""`run_search`: one study from its first trial, or from wherever it stopped, to its report.

Everything that decides what happens next is read from the storage before each trial. So a study that was killed,
interrupted or given more trials goes on exactly where it was: with one worker, trial by trial the same as if it had
never stopped.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autotune.files import atomic_write
from autotune.search.attributes import all_metrics, describe_study, record_manifest
from autotune.search.history import INTERRUPTED, History
from autotune.search.progress import Listener, Row, StudyInfo, duration, make_listener
from autotune.search.proposing import Proposal, Proposer
from autotune.search.rows import front_rows, row_of
from autotune.search.sampling import draw, make_sampler, point_of, seed_for
from autotune.search.storage import folder_lock, open_study
from autotune.search.trial import Plan, TrialResult, Workplace, describe, run_trial

if TYPE_CHECKING:
    import optuna

    from autotune.compression.settings import Settings
    from autotune.config import Config
    from autotune.evaluation import Metric
    from autotune.search.preparation import Prepared

__all__ = ["StudyOutcome", "run_search"]

Reason = Literal["trials", "timeout", "exhausted", "interrupted"]


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

    @property
    def interrupted(self) -> bool:
        """Whether the user stopped the search; the command then exits with 130."""
        return self.reason == "interrupted"


def run_search(
    config: Config,
    *,
    listener: Listener | None = None,
    trials: int | None = None,
    timeout: float | None = None,
    fresh: bool = False,
    storage: str | None = None,
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
        prepare: builds what trials work with; for tests.
        report: writes the report of a folder; for tests.

    Raises:
        StudyError: the folder is in use or cannot be written, or the study was started with something else.
        ConfigError: an objective or constraint that no evaluator measures.
        KeyboardInterrupt: Ctrl-C before the first trial. Later, Ctrl-C ends the search with its report and an outcome.
    """
    started = time.monotonic()
    listener = make_listener() if listener is None else listener
    folder = Path(config.output)
    budget = config.study.trials if trials is None else trials
    limit = config.study.timeout if timeout is None else timeout
    try:
        with quiet_optuna(), folder_lock(folder, fresh=fresh) as aside:
            if aside is not None:
                listener.note(f"the old study is now in {aside}")
            with open_study(folder, storage, dict(config.objectives), fresh=fresh) as study:
                search = Search(config, study, folder, listener, budget)
                reason = search.run((prepare or default_prepare)(config, listener.stage), limit)
                history = History(study.get_trials(deepcopy=False))
            listener.stage("writing the report")
            written = (report or default_report(storage))(folder)
            message = search.summary(reason, history)
            listener.finished(message)
    finally:
        listener.close()
    return StudyOutcome(
        folder=folder,
        reason=reason,
        message=message,
        finished=len(history.finished),
        failed=sum(trial.state.name == "FAIL" for trial in history.finished),
        duplicates=sum("duplicate_of" in trial.user_attrs for trial in history.standing),
        ran=search.ran,
        seconds=time.monotonic() - started,
        moved_aside=aside,
        report=written,
    )


def default_prepare(config: Config, stage: Callable[[str], None]) -> Prepared:
    """The real model, engine and evaluators."""
    from autotune.search.preparation import prepare

    return prepare(config, stage)


def default_report(storage: str | None) -> Callable[[Path], Any]:
    """The reporting room."""

    def write(folder: Path) -> Any:
        from autotune.reporting.report import report

        return report(folder) if storage is None else report(folder, storage=storage)

    return write


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


class Search:
    """The loop over one open study."""

    def __init__(self, config: Config, study: optuna.Study, folder: Path, listener: Listener, budget: int) -> None:
        self.config = config
        self.study = study
        self.folder = folder
        self.listener = listener
        self.budget = budget
        self.proposer = Proposer(
            config.space,
            directions=list(config.objectives.values()),
            sampler=config.study.sampler,
            budget=budget,
            seed=config.study.seed,
        )
        self.ran = 0
        self.spent = 0.0
        self.counts: Mapping[str, tuple[int, int]] = {}

    def history(self) -> History:
        """The study as its storage has it now."""
        return History(self.study.get_trials(deepcopy=False))

    def run(self, prepared: Prepared, timeout: float | None) -> Reason:
        """Bring the study's attributes up to date, then run trials until there is a reason to stop."""
        started = time.monotonic()
        describe_study(self.study, self.config, prepared, self.folder)
        with atomic_write(self.folder / "model.yaml") as temporary:
            temporary.write_text(self.config.to_yaml(), encoding="utf-8")
        mark_interrupted(self.study)
        info = self.info(prepared.metrics)
        self.listener.started(info)
        place = Workplace(
            engine=prepared.engine,
            score=prepared.score,
            objectives=list(info.objectives),
            limits=self.config.constraints,
            original=info.original,
            save_plan=self.save_plan,
            earlier=lambda key: self.history().earlier(key),
            stage=self.listener.stage,
        )
        gc.collect()
        gc.freeze()  # so that the collection after each trial looks at what trials made, not at every imported module
        try:
            while True:
                history = self.history()
                if len(history.finished) >= self.budget:
                    return "trials"
                if timeout is not None and time.monotonic() - started >= timeout:
                    return "timeout"
                proposal = self.proposer.next(history)
                if proposal is None:
                    return "exhausted"
                self.step(history, proposal, place, info, timeout and timeout - (time.monotonic() - started))
        except KeyboardInterrupt:
            mark_interrupted(self.study)
            return "interrupted"
        except BaseException:
            mark_interrupted(self.study)
            raise
        finally:
            gc.unfreeze()
            self.counts = prepared.counts()
            if self.ran:
                record_manifest(self.study, prepared.manifest())

    def info(self, measured: Mapping[str, Metric]) -> StudyInfo:
        """What stands fixed from here on, for the listener."""
        metrics, history = all_metrics(measured), self.history()
        original = self.study.user_attrs["original"]
        scores = {name: score["value"] for name, score in original["metrics"].items()}
        return StudyInfo(
            folder=str(self.folder),
            total=self.budget,
            done=len(history.finished),
            objectives={name: metrics[name] for name in self.config.objectives},
            original={**scores, "footprint": original["footprint"]},
            front=front_rows(history, list(self.config.objectives), list(self.config.objectives.values())),
        )

    def step(self, history: History, proposal: Proposal, place: Workplace, info: StudyInfo, left: float | None) -> None:
        """Run one trial from its point to its values in the storage."""
        begun = time.monotonic()
        trial, settings = self.begin(history, proposal)
        if isinstance(settings, Exception):
            result = TrialResult("fail", attrs={"error": describe(settings)})
        else:
            self.listener.trial_started(len(history.finished) + 1, settings.as_dict())
            result = run_trial(settings, place)
        tell(self.study, trial, result)
        seconds = time.monotonic() - begun
        if "duplicate_of" not in result.attrs:
            self.ran += 1
            self.spent += seconds
        self.show(trial.number, seconds, info, left)

    def begin(self, history: History, proposal: Proposal) -> tuple[optuna.Trial, Settings | Exception]:
        """Write the trial into the storage as running; a trial queued by hand may turn out to be outside the space."""
        import optuna
        from optuna.trial import TrialState, create_trial

        space, options, draft = self.config.space, self.config.study, proposal.draft
        if draft is None:
            self.study.sampler = make_sampler(options.sampler, seed_for(options.seed, history.position))
            trial = self.study.ask()
            trial.set_user_attr("origin", proposal.origin)
            try:
                settings = space.settings(draw(trial, space))
            except ValueError as error:
                return trial, error
            trial.set_user_attr("settings", settings.as_dict())
            return trial, settings
        settings = space.settings(point_of(space, draft.params))
        attrs: dict[str, Any] = {"origin": proposal.origin, "settings": settings.as_dict()}
        if proposal.retry_of is not None:
            attrs["retry_of"] = proposal.retry_of
        template = create_trial(
            state=TrialState.RUNNING,
            params=dict(draft.params),
            distributions=dict(draft.distributions),
            system_attrs=dict(draft.system_attrs),
            user_attrs=attrs,
        )
        number = self.study._storage.create_new_trial(self.study._study_id, template_trial=template)
        return optuna.Trial(self.study, number), settings

    def save_plan(self, plan: Plan) -> str:
        """Write a plan's file, once; returns its path inside the folder."""
        import json

        name = f"plans/{plan.key}.json"
        path = self.folder / name
        if not path.exists():
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(plan.as_dict(), indent=1) + "\n", encoding="utf-8")
        return name

    def show(self, number: int, seconds: float, info: StudyInfo, left: float | None) -> None:
        """Tell the listener of a finished trial, with the front and the time left."""
        history = self.history()
        directions = [metric.direction for metric in info.objectives.values()]
        front = front_rows(history, list(info.objectives), directions)
        count = len(history.finished)
        trial = next(trial for trial in history.trials if trial.number == number)
        on_front = any(row.number == number for row in front)
        row: Row = row_of(trial, list(info.objectives), count=count, seconds=seconds, on_front=on_front)
        eta = self.spent / self.ran * (self.budget - count) if self.ran else None
        if eta is not None and left is not None:
            eta = max(0.0, min(eta, left - seconds))
        self.listener.trial_finished(row, front, eta)

    def summary(self, reason: Reason, history: History) -> str:
        """Why the search ended, and what it computed and what it found ready: one line each."""
        finished = len(history.finished)
        sentence = {
            "trials": f"the study has its {self.budget} trials",
            "timeout": f"time is up after {finished} of {self.budget} trials; run the same command to continue",
            "exhausted": f"the space is exhausted: {finished} different models are all it holds",
            "interrupted": f"interrupted after {finished} of {self.budget} trials; run the same command to continue",
        }[reason]
        failed = sum(trial.state.name == "FAIL" for trial in history.finished)
        lines = [sentence + (f"; {failed} failed (see trials.csv)" if failed else "")]
        if self.ran:
            lines[0] += f"; {self.ran} trials in {duration(self.spent)} this time"
        if self.counts:
            parts = (f"{what} {new} computed, {reused} reused" for what, (new, reused) in self.counts.items())
            lines.append("; ".join(parts))
        return "\n".join(lines)


def tell(study: optuna.Study, trial: optuna.Trial, result: TrialResult) -> None:
    """Write a trial's result into the storage; its state last, so that a half-written trial is still a running one."""
    from optuna.trial import TrialState

    for key, value in result.attrs.items():
        trial.set_user_attr(key, value)
    for name, violation in result.constraints.items():
        trial.set_constraint(name, violation)
    if result.state == "complete" and result.values is not None:
        study.tell(trial, list(result.values))
    else:
        study.tell(trial, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)


def mark_interrupted(study: optuna.Study) -> None:
    """Fail every trial that still says it is running: its process is gone, and its point will be tried again."""
    from optuna.trial import TrialState

    error = {
        "type": INTERRUPTED,
        "message": "the process ended before the trial did; done again later",
        "traceback": "",
    }
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study._storage.set_trial_user_attr(trial._trial_id, "error", error)
        study.tell(trial.number, state=TrialState.FAIL)
