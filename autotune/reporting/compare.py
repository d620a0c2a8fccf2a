"""Compare several studies, e.g. of other models or spaces, in one table and one plot."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.formatting import is_missing, label, markdown_table
from autotune.errors import UsageError
from autotune.reporting.folder import write_text
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
from autotune.reporting.plots.style import (
    INK,
    MODES,
    OTHERS,
    log_axis,
    new_figure,
    padded,
    plain_axis,
    save_png,
    sentence,
    styled,
    tidy,
)
from autotune.results.decision import baseline, choices
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.pareto import is_wide
from autotune.results.recommendation import accuracy_metric
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


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
        """The same trials with every column of their trials.csv, the model in front."""
        import pandas as pd

        frames = [
            study.trials.loc[self.trials(study)].assign(model=name)
            for name, study in zip(self.names, self.studies, strict=True)
        ]
        columns = list(dict.fromkeys(column for frame in frames for column in frame.columns if column != "model"))
        return pd.concat([frame.astype(object) for frame in frames])[["model", *columns]].reset_index(drop=True)

    def csv(self) -> str:
        """Write `frame` as CSV."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(self.frame.columns)
        writer.writerows([_text(value) for value in row] for row in self.frame.itertuples(index=False))
        return stream.getvalue()


@dataclass(frozen=True, slots=True)
class ComparisonPaths:
    """The paths of all files; `plot` is None if the studies share no accuracy metric."""

    markdown: Path
    latex: Path
    csv: Path
    plot: Path | None


def compare(studies: Sequence[StudyResults], *, whole: bool = False) -> Comparison:
    """Collect studies for a comparison.

    Raises:
        UsageError: there are none.
    """
    if not studies:
        raise UsageError("name at least one study's folder")
    names: list[str] = []
    for study in studies:
        name, count = study.model, 2
        while name in names:
            name, count = f"{study.model} ({count})", count + 1
        names.append(name)
    return Comparison(tuple(names), tuple(studies), _common_metric(studies), whole)


def _common_metric(studies: Sequence[StudyResults]) -> str | None:
    names = [metric for study in studies if (metric := accuracy_metric(study)) is not None]
    names += [name for name in studies[0].metrics if name not in SIZE_COLUMNS]
    return next((name for name in names if all(study.has_scores(name) for study in studies)), None)


def write_comparison(comparison: Comparison, folder: Path) -> ComparisonPaths:
    """Write compare.md, compare.tex, compare.csv and compare.png; the same studies give the same bytes."""
    table = comparison.table()
    text = f"# {', '.join(comparison.names)}\n\n{markdown_table(*table)}\n"
    figure = comparison_figure(comparison)
    plot = None if figure is None else save_png(figure, folder / "compare.png")
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


@styled
def comparison_figure(comparison: Comparison) -> Figure | None:
    """Draw the fronts over the compression rate, one line a study; None if the studies share no accuracy metric."""
    metric = comparison.metric
    if metric is None:
        return None
    lines = []
    for name, study in zip(comparison.names, comparison.studies, strict=True):
        values = [
            (study.value(n, "compression_rate"), study.value(n, metric), study.stderr(n, metric)) for n in study.front
        ]
        measured = sorted(
            (float(x), float(y), float(e or 0.0)) for x, y, e in values if x is not None and y is not None
        )
        if measured:
            lines.append((name, np.array(measured)))
    if not lines:
        return None
    figure = new_figure(9.6, 5.4)
    axes = figure.add_axes((0.08, 0.11, 0.66, 0.74))
    every = np.concatenate([points for _, points in lines])
    looks = [*MODES.values(), *OTHERS]
    for position, (name, points) in enumerate(lines):
        color, marker = looks[position % len(looks)]
        axes.errorbar(
            points[:, 0], points[:, 1], yerr=points[:, 2], color=color, marker=marker, markersize=6.5, linewidth=1.4,
            elinewidth=1.0, capsize=2, markeredgecolor="white", markeredgewidth=0.7, label=name,
        )  # fmt: skip
    if is_wide(every[:, 1]):
        axes.set_yscale("log")
        low, high = padded(list(every[:, 1]), log=True)
        log_axis(axes.yaxis, low, high)
    else:
        low, high = padded(list(every[:, 1]), log=False)
        plain_axis(axes.yaxis)
    axes.set_ylim(low, high)
    plain_axis(axes.xaxis)
    study = comparison.studies[0]
    meaning = study.metrics[metric]
    arrow = "↓ lower" if meaning.direction == "minimize" else "↑ higher"
    unit = f" ({meaning.unit})" if meaning.unit else ""
    title = f"{sentence(label(metric))}{unit}   {arrow} is better"
    axes.set_title(title, loc="left", fontsize=9.5, color=INK, pad=9)
    axes.set_xlabel("Compression rate, fp32 size over size   → higher is better", labelpad=8)
    tidy(axes)
    figure.text(0.02, 0.955, "The fronts", fontsize=13.5, fontweight="bold", color=INK, va="center")
    figure.legend(loc="upper left", bbox_to_anchor=(0.76, 0.86))
    return figure


def _text(value: Any) -> str:
    return "" if is_missing(value) else repr(value) if isinstance(value, float) else str(value)
