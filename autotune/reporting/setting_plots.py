"""Each objective against each setting that varied, as small multiples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.reporting.effects import applicable, varying_settings
from autotune.reporting.formatting import label
from autotune.reporting.scales import Scale, axis_scale, axis_text
from autotune.reporting.style import INK, MUTED, log_axis, mode_style, new_figure, plain_axis, tidy
from autotune.reporting.view import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["settings_figure"]

COLUMNS = 4
MOST_CATEGORIES = 7
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


def settings_figure(results: StudyResults, objective: str) -> Figure | None:
    """One panel for each setting that varied: every scored trial, and the median of each value as a bar.

    None where nothing varied, or fewer than three trials have the objective.
    """
    names = [name for name in varying_settings(results) if applicable(results, name)[objective].notna().any()]
    if not names:
        return None
    # A mode without any further setting (int8) stands so far apart that it would flatten every other panel.
    others = [applicable(results, name).index for name in names if name != "mode"]
    alone = len(others) and not applicable(results, "mode").index.isin(sorted(set().union(*others))).all()
    scored = applicable(results, "mode").dropna(subset=[objective])
    scored = scored[scored.index.isin(sorted(set().union(*others)))] if alone else scored
    if len(scored) < 3:
        return None
    left_out = sorted(set(applicable(results, "mode")["mode"]) - set(scored["mode"]))
    scale = axis_scale(results, objective, scored)
    columns = min(COLUMNS, len(names)) if len(names) > 2 else 3
    rows = math.ceil(len(names) / columns)
    inches = 0.85 + 2.3 * rows
    figure = new_figure(9.6, inches)
    figure.text(
        0.02,
        1 - 0.25 / inches,
        f"What each setting did to {label(objective)}",
        fontsize=13.5,
        fontweight="bold",
        va="center",
    )
    note = f"{axis_text(scale, vertical=True)}  ·  bar: median  ·  hollow: outside the limits"
    note += f"  ·  without {', '.join(left_out)}" if left_out else ""
    figure.text(0.02, 1 - 0.53 / inches, note, fontsize=9, color=MUTED, va="center")
    left, right, gap = 0.075, 0.985, 0.025
    width = (right - left - gap * (columns - 1)) / columns
    for position, name in enumerate(names):
        row, column = divmod(position, columns)
        bottom = (inches - 0.95 - 2.3 * row - 1.6) / inches
        axes = figure.add_axes((left + column * (width + gap), bottom, width, 1.55 / inches))
        _panel(
            axes, applicable(results, name).loc[lambda t: t.index.isin(scored.index)], name, scale, first=column == 0
        )
    return figure


def _panel(axes: Axes, trials: pd.DataFrame, name: str, scale: Scale, *, first: bool) -> None:
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
        medians = [float(np.median(heights[(trials[name] == value).to_numpy(dtype=bool)])) for value in categories]
        axes.hlines(
            medians,
            np.arange(len(categories)) - 0.32,
            np.arange(len(categories)) + 0.32,
            color=INK,
            linewidth=1.6,
            zorder=5,
        )
        texts = [SHORT.get(_text(value), _text(value).replace("_", "\n")) for value in categories]
        axes.set_xticks(range(len(categories)), [""] * len(categories))
        for position, text in enumerate(texts):
            _under(axes, position, text)
        axes.set_xlim(-0.6, len(categories) - 0.4)
    _dots(axes, trials, across, heights)
    if scale.log:
        log_axis(axes.yaxis, *scale.limits)
    else:
        plain_axis(axes.yaxis, 7)
    axes.set_ylim(*scale.limits)
    axes.set_title(label(name), loc="left", fontsize=10, fontweight="bold", pad=6)
    tidy(axes, grid="y")
    if not first:
        axes.tick_params(labelleft=False)


def _under(axes: Axes, position: int, text: str) -> None:
    """A tick label, line by line: matplotlib aligns a label's ink, and neighbours would stand at different heights."""
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
        axes.scatter(
            across[inside], heights[inside], s=26 * weight, c=color, marker=marker, alpha=0.75, linewidths=0, zorder=3
        )
        axes.scatter(
            across[outside],
            heights[outside],
            s=24 * weight,
            facecolors="none",
            edgecolors=color,
            marker=marker,
            lw=0.9,
            zorder=3,
        )


def _spread(trials: pd.DataFrame, name: str, categories: list[Any]) -> Any:
    """Category positions with a fixed fan-out, so that trials of one value stand side by side."""
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
