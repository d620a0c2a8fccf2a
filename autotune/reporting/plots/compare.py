"""Plot of the fronts of several studies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.reporting.plots.style import (
    INK,
    MODES,
    OTHERS,
    PICTURE,
    Sheet,
    draw_grid,
    log_axis,
    new_figure,
    padded,
    plain_axis,
    sentence,
    styled,
    top_heading,
)
from autotune.results.front.pareto import is_wide
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    from autotune.reporting.plots.figure import NotebookFigure

LINES = ("-", "--", ":", "-.")
"""Styles of the lines of one model's studies."""


@styled
def comparison_figure(
    names: Sequence[str], studies: Sequence[StudyResults], metric: str | None, sheet: Sheet = PICTURE
) -> NotebookFigure | None:
    """Draw the fronts over the compression rate as step lines: one colour a model, one marker and line style a study.

    Args:
        names, studies: the studies.
        metric: scored by all of them; None if they share none, and then there is no figure.
        sheet: size and parts of the figure.
    """
    lines = [(name, study.model, points) for name, study in zip(names, studies, strict=True)
             if metric is not None and len(points := _points(study, metric))]  # fmt: skip
    if not lines or metric is None:
        return None
    models = list(dict.fromkeys(model for _, model, _ in lines))
    below = 0.25 + 0.17 * len(lines)
    height = 5.4 if sheet.headed else 2.9 + below
    figure = new_figure(sheet.width, height)
    box = (0.08, 0.11, 0.66, 0.74) if sheet.headed else sheet.axes_box(height, 0.6, 0.12, 0.58 + below, 0.4)
    axes = figure.add_axes(box)
    looks = [*MODES.values(), *OTHERS]
    for position, (name, model, points) in enumerate(lines):
        style: dict[str, Any] = {
            "color": looks[models.index(model) % len(looks)][0],
            "marker": looks[position % len(looks)][1],
            "linestyle": LINES[[m for _, m, _ in lines[:position]].count(model) % len(LINES)],
        }
        axes.errorbar(
            points[:, 0], points[:, 1], yerr=points[:, 2], markersize=6.5 if sheet.headed else 4.5, linewidth=1.4,
            elinewidth=1.0, capsize=2, markeredgecolor="white", markeredgewidth=0.7 if sheet.headed else 0.3,
            label=name, drawstyle="steps-pre", **style,
        )  # fmt: skip
    values = list(np.concatenate([points[:, 1] for _, _, points in lines]))
    log = is_wide(np.array(values))
    low, high = padded(values, log=log)
    if log:
        axes.set_yscale("log")
        log_axis(axes.yaxis, low, high)
    else:
        plain_axis(axes.yaxis)
    axes.set_ylim(low, high)
    plain_axis(axes.xaxis)
    arrow = "↓ lower" if studies[0].metrics[metric].direction == "minimize" else "↑ higher"
    way = f"{arrow} is better" if sheet.headed else f"{arrow[0]} better"
    heading = f"{sentence(studies[0].heading(metric))}   {way}"
    top_heading(axes, heading, x=0.0 if sheet.headed else -0.5 / sheet.width / box[2])
    axes.set_xlabel(
        "Compression rate, fp32 size over size   → higher is better" if sheet.headed else "Compression rate   → better",
        labelpad=8,
    )
    draw_grid(axes)
    if sheet.headed:
        figure.text(0.02, 0.955, "The fronts", fontsize=13.5, fontweight="bold", color=INK, va="center")
        figure.legend(loc="upper left", bbox_to_anchor=(0.76, 0.86))
    else:
        figure.legend(loc="lower center", bbox_to_anchor=(0.5, 0.0), fontsize=8)
    return figure


def _points(study: StudyResults, metric: str) -> Any:
    """Return compression rate, score and standard error of the front, by rate; float64 [n, 3]."""
    rows = [(study.value(n, "compression_rate"), study.value(n, metric), study.stderr(n, metric)) for n in study.front]
    scale = study.scale(metric)
    measured = sorted((x, y / scale, (e or 0.0) / scale) for x, y, e in rows if x is not None and y is not None)
    return np.array(measured, np.float64).reshape(-1, 3)
