"""Compare several studies, e.g. of other models or spaces, in one table and one plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import csv_cell, is_missing, markdown_table, markdown_text
from autotune.errors import UsageError
from autotune.reporting.folder import check_formats, write_text
from autotune.reporting.front_table import (
    STAR,
    Table,
    fitting,
    front_row,
    front_table,
    latex_float,
    optional_columns,
    units_in_header,
)
from autotune.results.frame import SIZE_COLUMNS, front_frame
from autotune.results.front.decision import baseline, choices
from autotune.results.front.recommendation import accuracy_metric
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True)
class Comparison:
    """Studies side by side.

    Attributes:
        names: one for each study, all different.
        metric: an accuracy metric that all studies scored; None if they share none.
        whole: show all trials of the fronts, not only those worth choosing.
    """

    names: tuple[str, ...]
    studies: tuple[StudyResults, ...]
    metric: str | None
    whole: bool = False

    def trials(self, study: StudyResults) -> list[int]:
        """Return the trials of one study that the table shows, the largest first."""
        shown = [pick.trial for pick in choices(study)] if not self.whole else list(study.front)
        other = baseline(study)
        shown += [other] if other is not None and study.records[other].complete and other not in shown else []
        return sorted(shown, key=lambda number: (-(study.value(number, "footprint") or 0.0), number))

    def table(self) -> Table:
        """Return the table of the front of all studies, each with its original, and the study in front."""
        metrics = [self.metric] if self.metric is not None else []
        chosen = [(study, trial) for study in self.studies for trial in self.trials(study)]
        optional = [name for name in optional_columns(chosen) if name not in metrics]
        header, _, align = front_table(self.studies[0], metrics, optional)
        rows: list[list[str]] = []
        for name, study in zip(self.names, self.studies, strict=True):
            trials = [*([] if study.original is None else [None]), *self.trials(study)]
            rows += [[name, *front_row(study, trial, metrics, optional)] for trial in trials]
        return Table(["study", *header], rows, "l" + align)

    @property
    def frame(self) -> pd.DataFrame:
        """The same rows with every column of trials.csv, study and model in front; the originals have no trial."""
        import pandas as pd

        frames = []
        for name, study in zip(self.names, self.studies, strict=True):
            shown = front_frame(replace(study, front=tuple(self.trials(study))), original=True)
            frames.append(shown.assign(study=name, model=study.model))
        first = ("study", "model")
        columns = list(dict.fromkeys(column for frame in frames for column in frame.columns if column not in first))
        return pd.concat([frame.astype(object) for frame in frames])[[*first, *columns]].reset_index(drop=True)

    def csv(self) -> str:
        """Write `frame` as CSV."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(map(csv_cell, self.frame.columns))
        writer.writerows([_text(csv_cell(value)) for value in row] for row in self.frame.itertuples(index=False))
        return stream.getvalue()


@dataclass(frozen=True, slots=True)
class ComparisonPaths:
    """The paths of all files; `plot` is None if the studies share no accuracy metric."""

    markdown: Path
    latex: Path
    csv: Path
    plot: Path | None


def compare(studies: Sequence[StudyResults], *, whole: bool = False, names: Sequence[str] = ()) -> Comparison:
    """Collect studies for a comparison; `names` replace those of `study_names`.

    Raises:
        UsageError: there are no studies, or not one name of its own for each.
    """
    if not studies:
        raise UsageError("name at least one study's folder")
    if names and (len(names) != len(studies) or len(set(names)) != len(names)):
        raise UsageError(
            f"{len(studies)} studies need {len(studies)} different names, got {', '.join(names)}: give one for each "
            "study in the order of the folders, or none"
        )
    return Comparison(tuple(names) or study_names(studies), tuple(studies), _common_metric(studies), whole)


def study_names(studies: Sequence[StudyResults]) -> tuple[str, ...]:
    """Name each study by its model; studies of one model also by their folder, else by their search space."""
    models = [study.model for study in studies]
    names: list[str] = []
    for study in studies:
        name = study.model
        if models.count(name) > 1:
            space = study.config.get("space")
            space = space.get("name") if isinstance(space, Mapping) else space
            name = f"{name}, {study.folder.name if study.folder is not None else space}"
        plain, count = name, 2
        while name in names:
            name, count = f"{plain} ({count})", count + 1
        names.append(name)
    return tuple(names)


def differing_texts(studies: Sequence[StudyResults]) -> list[str]:
    """Return the evaluators whose texts or options differ between the studies, so that scores do not compare."""
    hashes = [study.manifest.get("hashes") or {} for study in studies]
    names = [name for name in dict.fromkeys(key for each in hashes for key in each) if name.startswith("evaluators.")]
    return [n.removeprefix("evaluators.") for n in names if len({each[n] for each in hashes if n in each}) > 1]


def _common_metric(studies: Sequence[StudyResults]) -> str | None:
    names = [metric for study in studies if (metric := accuracy_metric(study)) is not None]
    names += [name for name in studies[0].metrics if name not in SIZE_COLUMNS]
    return next((name for name in names if all(study.has_scores(name) for study in studies)), None)


def write_comparison(comparison: Comparison, folder: Path, figure_formats: Sequence[str] = ()) -> ComparisonPaths:
    """Write compare.md, compare.tex, compare.csv and compare.png; the same studies give the same bytes.

    Args:
        comparison: the studies.
        folder: receives the files.
        figure_formats: ``svg``, ``pdf``: also write the plot for one column of a paper, without a title.

    Raises:
        UsageError: an unknown format.
    """
    from autotune.reporting.plots.compare import comparison_figure
    from autotune.reporting.plots.style import COLUMN, save_figure

    check_formats(figure_formats)
    table = comparison.table()
    text = f"# {markdown_text(', '.join(comparison.names))}\n\n{markdown_table(*table)}\n"
    drawn = (comparison.names, comparison.studies, comparison.metric)
    figure = comparison_figure(*drawn)
    plot = None if figure is None else save_figure(figure, folder / "compare.png")
    for kind in figure_formats if plot is not None else ():
        small = comparison_figure(*drawn, sheet=COLUMN)
        assert small is not None
        save_figure(small, folder / f"compare.{kind}")
    differing = differing_texts(comparison.studies)
    if differing:
        text += (
            f"\nThe texts or options of {', '.join(differing)} differ: these scores do not compare across studies.\n"
        )
    text += "" if plot is None else "\n![Accuracy against compression](compare.png)\n"
    return ComparisonPaths(
        write_text(folder / "compare.md", text),
        write_text(folder / "compare.tex", comparison_latex(table)),
        write_text(folder / "compare.csv", comparison.csv()),
        plot,
    )


def comparison_latex(table: Table) -> str:
    """Write compare.tex: the study is a heading above its rows, which would not fit beside it."""
    names = [row[0] for row in table.rows]
    groups = {names.index(name): name for name in names}
    plain = Table(table.header[1:], [row[1:] for row in table.rows], table.align[1:])
    caption = f"Models of {len(groups)} studies, the originals included. {STAR}: recommended. ±: one standard error."
    return latex_float(fitting(units_in_header(plain)), caption, "tab:comparison", groups)


def _text(value: Any) -> str:
    return "" if is_missing(value) else repr(value) if isinstance(value, float) else str(value)
