"""Plots of one objective against each setting that varied, as small multiples."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.formatting import label
from autotune.compression.settings import MIXED
from autotune.reporting.plots.style import (
    INK,
    MUTED,
    PICTURE,
    Scale,
    Sheet,
    axis_scale,
    axis_text,
    draw_grid,
    log_axis,
    mode_style,
    new_figure,
    plain_axis,
    styled,
)
from autotune.results.effects import applicable, varying_settings
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from autotune.reporting.plots.figure import NotebookFigure

PANEL = 2.3
"""Inches from one row of panels to the next."""

MOST_CATEGORIES = 7
FEW_CATEGORIES = 3
"""Most categories for which a panel has room for whole words."""
SHORT = {
    "weight_quantization_error": "weight\nerror",
    "hessian_input_activation": "Hes-\nsian",
    "mean_activation_variance": "mean\nvar.",
    "max_activation_variance": "max\nvar.",
    "mean_activation_magnitude": "mean\nmagn.",
    "True": "on",
    "False": "off",
    "-1": "per\nchannel",
}


@styled
def settings_figure(results: StudyResults, objective: str, sheet: Sheet = PICTURE) -> NotebookFigure | None:
    """Draw a panel for each setting that varied: every scored trial, and the median of each value as a bar.

    A linked sheet has the dots of the trials that its page lists.
    Return None if nothing varied, or fewer than three trials have the objective.
    """
    names = _varied(results, objective)
    scored, left_out = _compared(results, objective)
    if not names or len(scored) < 3:
        return None
    panels = {name: applicable(results, name).loc[lambda t: t.index.isin(scored.index)] for name in names}
    # The front's plot of all trials decides whether the axis is logarithmic.
    every = results.unique.dropna(subset=[objective])
    scale = axis_scale(results, objective, scored, log=axis_scale(results, objective, every).log)
    columns = min(sheet.columns, len(names)) if len(names) > 2 else min(3, sheet.columns)
    cells = _cells([trials[name].nunique() for name, trials in panels.items()], columns, wide=sheet.small)
    head = 1.1 if sheet.headed else 0.35
    inches = head + PANEL * (cells[-1][0] + 1) - (0 if sheet.headed else 0.22)
    figure = new_figure(sheet.width, inches)
    figure.note = "bar: median of two or more" + ("  ·  hollow: outside the limits" if results.constraints else "")
    figure.note += f"  ·  not shown: {', '.join(left_out)}" if left_out else ""
    if sheet.headed:
        title = f"Effect of each setting on {label(objective)}"
        figure.text(0.02, 1 - 0.25 / inches, title, fontsize=13.5, fontweight="bold", va="center")
        figure.text(0.02, 1 - 0.53 / inches, figure.note, fontsize=9, color=MUTED, va="center")
    left, right, gap = 0.72, 0.14, 0.24
    figure.text(
        0.18 / sheet.width,
        1 - (head - 0.2) / inches,
        axis_text(scale, vertical=True, small=sheet.small),
        fontsize=9.5,
        va="center",
    )
    width = (sheet.width - left - right - gap * (columns - 1)) / columns
    for (name, trials), (row, column, span) in zip(panels.items(), cells, strict=True):
        bottom = inches - head - 0.1 - PANEL * row - 1.6
        across = width * span + gap * (span - 1)
        box = (left + column * (width + gap)) / sheet.width, bottom / inches, across / sheet.width, 1.55 / inches
        axes = figure.add_axes(box)
        _panel(axes, trials, name, scale, dots=results.listed if sheet.linked else trials.index, first=column == 0)
        title = "sensitivity" if sheet.small and name == "sensitivity_metric" else label(name)
        axes.set_title(title, loc="left", fontsize=9 if sheet.small else 10, fontweight="bold", pad=6, y=1)
    return figure


def _cells(categories: list[int], columns: int, *, wide: bool) -> list[tuple[int, int, int]]:
    """Return (row, column, columns that it spans) of each panel; with `wide`, more than three categories need a row."""
    cells, row, column = [], 0, 0
    for count in categories:
        span = columns if wide and count > FEW_CATEGORIES else 1
        if column + span > columns:
            row, column = row + 1, 0
        cells.append((row, column, span))
        column += span
    return cells


def _varied(results: StudyResults, objective: str) -> list[str]:
    return [name for name in varying_settings(results) if applicable(results, name)[objective].notna().any()]


def _compared(results: StudyResults, objective: str) -> tuple[pd.DataFrame, list[str]]:
    """Return the trials of the panels, and names of those left out.

    A mode without further settings (int8) has values so different that it would flatten all other panels. A plan from
    a budget has no settings but its budget.
    """
    trials = applicable(results, "mode")
    others = [applicable(results, name).index for name in _varied(results, objective) if name != "mode"]
    scored = trials.dropna(subset=[objective])
    if others:
        scored = scored[scored.index.isin(sorted(set().union(*others)))]
    left_out = sorted(set(trials["mode"]) - set(scored["mode"]) - {MIXED})
    every = results.unique.dropna(subset=[objective])
    budgets = sum(results.records[int(number)].settings.get("allocation") == "budget" for number in every["trial"])
    return scored, left_out + ([f"{budgets} plan{'s' if budgets > 1 else ''} from budgets"] if budgets else [])


def _panel(axes: Axes, trials: pd.DataFrame, name: str, scale: Scale, *, dots: Collection[int], first: bool) -> None:
    """Draw the dots of some of the trials, and the medians of all."""
    categories = sorted(
        trials[name].unique(), key=lambda value: (0, float(value)) if _numeric(value) else (1, str(value))
    )
    numeric = len(categories) > MOST_CATEGORIES and all(_numeric(value) for value in categories)
    if scale.log:
        axes.set_yscale("log")
    heights = trials[scale.name].to_numpy(dtype=float) / scale.factor
    if numeric:
        across = trials[name].to_numpy(dtype=float)
        plain_axis(axes.xaxis, 4)
    else:
        across = _spread(trials, name, categories)
        for position, value in enumerate(categories):
            members = heights[(trials[name] == value).to_numpy(dtype=bool)]
            if len(members) > 1:
                median = float(np.median(members))
                axes.hlines(median, position - 0.32, position + 0.32, color=INK, linewidth=1.6, zorder=5)
        texts = [SHORT.get(_text(value), _text(value).replace("_", "\n")) for value in categories]
        if len(categories) <= FEW_CATEGORIES:
            texts = [text.replace("-\n", "") for text in texts]
        axes.set_xticks(range(len(categories)), [""] * len(categories))
        for position, text in enumerate(texts):
            _under(axes, position, text)
        axes.set_xlim(-0.6, len(categories) - 0.4)
    drawn = trials.index.isin(list(dots))
    _dots(axes, trials[drawn], across[drawn], heights[drawn])
    if scale.log:
        log_axis(axes.yaxis, *scale.limits)
    else:
        plain_axis(axes.yaxis, 7)
    axes.set_ylim(*scale.limits)
    draw_grid(axes, grid="y")
    if not first:
        axes.tick_params(labelleft=False)


def _under(axes: Axes, position: int, text: str) -> None:
    """Write a tick label line by line: matplotlib aligns a label's ink, which puts neighbours at different heights."""
    for line, words in enumerate(text.split("\n")):
        down = -14 - 11 * line
        place: dict[str, Any] = {
            "xycoords": ("data", "axes fraction"),
            "xytext": (0, down),
            "textcoords": "offset points",
        }
        axes.annotate(words, (position, 0), ha="center", va="baseline", fontsize=8.5, annotation_clip=False, **place)


def _dots(axes: Axes, trials: pd.DataFrame, across: Any, heights: Any) -> None:
    styles = mode_style(trials["mode"].fillna("unknown"))
    modes = trials["mode"].fillna("unknown").to_numpy(dtype=object)
    allowed = trials["feasible"].fillna(False).to_numpy(dtype=bool)
    for mode in sorted(set(modes)):
        color, marker = styles[mode]
        inside, outside = (modes == mode) & allowed, (modes == mode) & ~allowed
        weight = 1.3 if marker in "^v" else 1.0
        full: dict[str, Any] = {"s": 26 * weight, "c": color, "linewidths": 0}
        hollow: dict[str, Any] = {"s": 24 * weight, "facecolors": "none", "edgecolors": color, "lw": 0.9}
        for shown, style in ((inside, full), (outside, hollow)):
            if shown.any():
                axes.scatter(across[shown], heights[shown], marker=marker, zorder=3, **style)


def _spread(trials: pd.DataFrame, name: str, categories: list[Any]) -> Any:
    """Return the category positions, spread by a fixed pattern so that equal trials do not cover each other."""
    positions = np.zeros(len(trials))
    values = trials[name].to_numpy(dtype=object)
    for index, category in enumerate(categories):
        members = np.flatnonzero(values == category)
        if len(members) > 1:
            positions[members] = index + 0.22 * (2 * ((np.arange(len(members)) * 0.618034) % 1) - 1)
        else:
            positions[members] = index
    return positions


def _numeric(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating, np.bool_)) or type(value) is bool


def _text(value: Any) -> str:
    return f"{float(value):g}" if _numeric(value) and not isinstance(value, (bool, np.bool_)) else str(value)
