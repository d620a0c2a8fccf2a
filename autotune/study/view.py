"""A study as an object for scripts and notebooks: tables, figures, choices, and the models of its trials."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.errors import StudyError, UsageError

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from matplotlib.figure import Figure

    from autotune.reporting.folder import ReportPaths
    from autotune.results.records import StudyResults, TrialRecord
    from autotune.study.export import SavedModel
    from autotune.study.run import StudyOutcome


class Study:
    """A finished or running study: trials, front, plots, and the models of its trials.

    Attributes:
        folder: the study's folder.
        storage: URL of its storage, if it is not the folder's.
        results: the study as read from its storage.
        outcome: how the search of this process ended; None for a study that was loaded.

    Example:
        >>> import autotune
        >>> study = autotune.load_study("reports/demo")
        >>> study.front[["mode", "footprint"]].values.tolist()
        [['int8_asym', 3981701], ['int4_asym', 2501061]]
        >>> study.best(max_size="3 MB")
        1
        >>> figure = study.plot_front()
        >>> saved = study.export("models/demo", trial=1, progress=False)
    """

    def __init__(
        self, results: StudyResults, folder: Path, storage: str | None = None, outcome: StudyOutcome | None = None
    ) -> None:
        self.results = results
        self.folder = folder
        self.storage = storage
        self.outcome = outcome

    @property
    def trials(self) -> pd.DataFrame:
        """All trials: one row a trial, in the order of the numbers, which are the index; the columns of trials.csv."""
        return self.results.trials

    @property
    def front(self) -> pd.DataFrame:
        """The trials of the front, the largest model first; index and columns of `trials`."""
        from autotune.results.frame import front_frame

        return front_frame(self.results)

    @property
    def knee(self) -> int | None:
        """Number of the trial at the knee of the front; None for an empty front."""
        return self.results.knee

    @property
    def optuna(self) -> optuna.Study:
        """The Optuna study."""
        import optuna

        url = self.storage or f"sqlite:///{(self.folder / 'study.db').resolve().as_posix()}"
        return optuna.load_study(study_name="autotune", storage=url)

    def best(
        self, *, max_size: int | str | None = None, max_drop: float | str | None = None, metric: str | None = None
    ) -> int:
        """Choose a trial within limits: the smallest one within `max_drop`, or the most accurate within `max_size`.

        Args:
            max_size: largest footprint, in bytes or as ``"90 MB"``.
            max_drop: how much worse than the original `metric` may be: ``"2%"``, or a number in the unit of `metric`,
                which must then be given.
            metric: for `max_drop`; by default perplexity_increase.

        Returns:
            The trial's number; without a limit the recommended trial.

        Raises:
            UsageError: no trial keeps the limits; the nearest is named.
            StudyError: no trial is recommended.
        """
        from autotune.results.front.selection import choose, parse_wish

        wish = parse_wish(max_drop=max_drop, metric=metric, max_size=max_size)
        return choose(self.results, wish, where=str(self.folder)).trial

    def plan(self, trial: int) -> pd.DataFrame:
        """Return the variant of each weight of a trial's model, one row a weight.

        Raises:
            UsageError: there is no such trial.
            StudyError: its plan is not in the study's folder.
        """
        from autotune.results.plans import plan_frame, read_plan

        plan = read_plan(self.folder, self._record(trial).plan)
        if plan is None:
            raise StudyError(
                f"{self.folder}: the plan of trial {trial} is not in {self.folder / 'plans'}. If another machine "
                "ran the trial, copy its plans into this folder"
            )
        return plan_frame(plan)

    def answers(self, trial: int) -> pd.DataFrame:
        """Return the answers that differ most from the original's; empty without an evaluator that keeps answers.

        Returns:
            ``prompt, original, answer, score``, the least similar answer first.

        Raises:
            UsageError: there is no such trial.
        """
        from autotune.results.frame import answers_frame

        return answers_frame(self._record(trial))

    def effects(self) -> pd.DataFrame:
        """Return the paired effect of each setting on each objective."""
        from autotune.results.effects import effects_frame

        return effects_frame(self.results)

    def profile(self) -> pd.DataFrame:
        """Return where the time went: one row for each stage of each trial.

        Returns:
            ``trial`` (-1 for the preparation), ``stage``, ``start`` (seconds since the epoch), ``seconds``, ``tokens``
            (in forward passes of the trial's model).
        """
        from autotune.reporting.profile import profile_frame

        return profile_frame(self.results)

    def plot_front(self) -> Figure:
        """Draw the front of accuracy against footprint.

        Raises:
            StudyError: no trial has both values.
        """
        from autotune.reporting.plots.front import front_figure

        return _drawn(front_figure(self.results), "a finished trial that has both values")

    def plot_progress(self) -> Figure:
        """Draw the hypervolume over the trials.

        Raises:
            StudyError: fewer than two trials are finished.
        """
        from autotune.reporting.plots.progress import progress_figure

        return _drawn(progress_figure(self.results), "two finished trials, one of them within the limits")

    def plot_settings(self, metric: str | None = None) -> Figure:
        """Draw one metric (by default the first objective) by setting.

        Raises:
            UsageError: the study has no such metric.
            StudyError: no setting varies, or fewer than three trials have the metric.
        """
        from autotune.reporting.plots.settings import settings_figure

        name = metric or next(iter(self.results.objectives))
        if name not in self.results.metrics:
            raise UsageError(f"`metric`: {self.folder} has no {name!r}; there are {', '.join(self.results.metrics)}")
        return _drawn(settings_figure(self.results, name), "three trials with this metric, and a setting that varied")

    def export(
        self,
        folder: str | Path,
        *,
        trial: int | None = None,
        max_size: int | str | None = None,
        max_drop: float | str | None = None,
        metric: str | None = None,
        knee: bool = False,
        upload: str | None = None,
        runtime: int | None = None,
        progress: bool = True,
    ) -> SavedModel:
        """Write the model of one trial as a deployable folder with a model card.

        Args:
            folder: a new folder.
            trial: its number; by default what `best` chooses by the other arguments.
            max_size, max_drop, metric: as for `best`.
            knee: take the knee, whether it is recommended or not.
            upload: a repository of the Hugging Face hub, such as ``"me/model-int4-ov"``: check its name, the card and
                the files by the hub's own rules, without network. `SavedModel.upload_command` then uploads the folder.
            runtime: number of a runtime setting in ``runtime.md``; by default the recommended one, if `runtime.search`
                was set.
            progress: show progress on stderr.

        Raises:
            UsageError: the folder is not empty, no trial keeps the limits, or there is no such trial or setting.
            StudyError: model, texts or engine changed since the search, or the hub would refuse the folder.
        """
        from autotune.results.front.selection import parse_wish
        from autotune.study.export import export
        from autotune.study.progress import listening

        wish = parse_wish(trial=trial, max_drop=max_drop, metric=metric, max_size=max_size, knee=knee)
        with listening(progress) as listener:
            return export(
                self.folder,
                Path(folder),
                wish=wish,
                storage=self.storage,
                upload=upload,
                runtime=runtime,
                stage=listener.stage,
            )

    def write_report(self, *, figure_formats: Sequence[str] = (), open_page: bool = False) -> ReportPaths:
        """Write every table, plot and page of the study's folder again.

        Args:
            figure_formats: ``"svg"``, ``"pdf"``: also write the plots for one column of a paper, without titles.
            open_page: open the page in the browser.

        Raises:
            UsageError: an unknown format.
        """
        from autotune.reporting.folder import write_report
        from autotune.reporting.html.live import open_in_browser

        paths = write_report(self.results, self.folder, figure_formats)
        if open_page and not open_in_browser(paths.report_html):
            logger.warning("no browser was found; open %s yourself", paths.report_html)
        return paths

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one page that works offline; return its path."""
        from autotune.reporting.html.page import report_html
        from autotune.reporting.report import build_report

        target = Path(path)
        target.write_text(report_html(self.results, build_report(self.results, self.folder)), encoding="utf-8")
        return target

    def _record(self, trial: int) -> TrialRecord:
        if trial not in self.results.records:
            raise UsageError(f"{self.folder} has no trial {trial}; use a number from `study.trials`")
        return self.results.records[trial]

    def __repr__(self) -> str:
        front = ", ".join(map(str, self.results.front)) or "empty"
        return f"Study({self.results.model}: {len(self.results.records)} trials; front: {front}; knee: {self.knee})"

    def _repr_html_(self) -> str:
        from autotune.reporting.html.page import notebook_html

        return notebook_html(self.results)


def load_study(folder: str | Path, storage: str | None = None) -> Study:
    """Read a finished or running study. Needs no OpenVINO.

    Args:
        folder: the study's folder.
        storage: an Optuna storage URL instead of the folder's `study.db`.

    Raises:
        StudyError: there is no readable study.

    Example:
        >>> study = autotune.load_study("reports/demo")
        >>> study.trials["mode"].tolist()
        ['int8_asym', 'int4_asym']
    """
    from autotune.results.load import load_results

    return Study(load_results(Path(folder), storage), Path(folder), storage)


def _drawn(figure: Figure | None, needed: str) -> Figure:
    if figure is None:
        raise StudyError(f"there is nothing to draw yet: this plot needs {needed}")
    return figure
