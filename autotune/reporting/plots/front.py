"""Plot of the front of one pair of metrics."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from autotune.common.formatting import is_missing, label
from autotune.reporting.plots.labels import draw_labels, ring_text
from autotune.reporting.plots.style import (
    DPI,
    INK,
    LIMIT,
    MUTED,
    PICTURE,
    Scales,
    Sheet,
    axis_scale,
    axis_text,
    draw_grid,
    in_units,
    limit_text,
    log_axis,
    mode_style,
    new_figure,
    plain_axis,
    sentence,
    styled,
    tint,
    top_heading,
)
from autotune.results.front.decision import objective_pairs
from autotune.results.front.pareto import front_indices
from autotune.results.front.recommendation import accuracy_metric, ties
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from autotune.evaluation import Direction
    from autotune.reporting.plots.figure import NotebookFigure


@styled
def front_figure(
    results: StudyResults, x: str | None = None, y: str | None = None, sheet: Sheet = PICTURE
) -> NotebookFigure | None:
    """Draw all complete trials in the plane of two metrics; None if no trial has both.

    The front of the pair is a step line through solid points with error bars of ± 1 standard error. Dominated trials
    are small, those outside the constraints hollow; a linked sheet has only those that its page lists. The knee is
    ringed. Neighbours with the same accuracy within the errors share one band. If the original is out of view, a note
    at the edge names it. In an SVG file the mark of each listed trial has the id ``trial-NUMBER``.

    Args:
        results: the study.
        x, y: two metrics; without them the first of `objective_pairs`.
        sheet: size and parts of the figure.
    """
    if x is None or y is None:
        x, y = next(iter(objective_pairs(results)), (None, None))
    if x is None or y is None:
        return None
    drawn = results.unique.dropna(subset=[x, y])
    if not len(drawn):
        return None
    feasible = drawn[drawn["feasible"].fillna(False).astype(bool)]
    scales = axis_scale(results, x, drawn), axis_scale(results, y, drawn)
    below = 0.75 if sheet.legend and not sheet.headed else 0.0
    height = 5.8 if sheet.headed else 4.7 if not sheet.small else 3.9 if not below else 2.9 + below
    figure = new_figure(sheet.width, height)
    box = (0.07, 0.11, 0.72, 0.705) if sheet.headed else sheet.axes_box(height, 0.6, 0.12, 0.58 + below, 0.4)
    axes = figure.add_axes(box)
    _set_up(axes, results, scales, sheet, heading=-0.07 if sheet.headed else -0.5 / sheet.width / box[2])
    line = _pair_front(feasible, x, y, scales[0].direction, scales[1].direction)
    members = [number for number in results.front if number in drawn.index]
    if len(results.objectives) == 1:
        line = []
    shown = set(members) | set(line)
    figure.note = _draw_trials(axes, drawn, scales, shown, listed=results.listed, linked=sheet.linked)
    path = _draw_line(axes, drawn.loc[line], scales)
    tied = _draw_ties(axes, results, drawn, scales)
    _draw_limits(axes, results, scales)
    draw_labels(axes, results, drawn, scales, line or members, path, small=sheet.small, boxed=sheet.headed)
    if sheet.headed:
        _headings(figure, results, drawn, scales)
    if sheet.legend:
        _legend(figure, drawn, shown, has_line=len(line) > 1, ringed=ring_text(results), tied=tied, beside=sheet.headed)
    return figure


def _pair_front(feasible: pd.DataFrame, x: str, y: str, x_way: Direction, y_way: Direction) -> list[int]:
    values = feasible[[x, y]].to_numpy(dtype=float, na_value=float("nan"))
    keys = [None if is_missing(key) else str(key) for key in feasible["plan"]]
    rows = front_indices(values, [x_way, y_way], feasible=[True] * len(values), keys=keys)
    return [int(feasible.index[row]) for row in sorted(rows, key=lambda row: (values[row][0], values[row][1]))]


def _set_up(axes: Axes, results: StudyResults, scales: Scales, sheet: Sheet, *, heading: float) -> None:
    for scale, axis, set_scale, set_limits in (
        (scales[0], axes.xaxis, axes.set_xscale, axes.set_xlim),
        (scales[1], axes.yaxis, axes.set_yscale, axes.set_ylim),
    ):
        low, high = scale.limits
        original = results.original_score(scale.name)
        if original is not None and (not scale.log or original.value > 0):
            # Extend the axis to the original if that takes at most a quarter of its length.
            at, room = original.value / scale.factor, (high - low) * 0.25
            if not scale.log and low - room <= at <= high + room:
                low, high = min(low, at - room * 0.15), max(high, at + room * 0.15)
        if scale.log:
            set_scale("log")
            log_axis(axis, low, high)
        else:
            plain_axis(axis)
        set_limits(low, high)
    axes.set_xlabel(axis_text(scales[0], vertical=False, small=sheet.small), labelpad=8)
    top_heading(axes, axis_text(scales[1], vertical=True, small=sheet.small), x=heading)
    draw_grid(axes)


def _draw_trials(
    axes: Axes, drawn: pd.DataFrame, scales: Scales, members: set[int], *, listed: Collection[int], linked: bool
) -> str:
    """Draw the listed trials as marks of their own and the others together; return the note on the error bars."""
    bars: list[bool] = []
    styles = mode_style(drawn["mode"].fillna("unknown"))
    allowed = drawn["feasible"].fillna(False).astype(bool)
    on = drawn.index.isin(sorted(members))
    for mode, group in drawn.groupby(drawn["mode"].fillna("unknown"), sort=True):
        color, marker = styles[str(mode)]
        weight = 1.3 if marker in "^v" else 1.0  # triangles look smaller than discs of one area
        looks: dict[str, dict[str, Any]] = {
            "faint": {"s": 24 * weight, "c": tint(color), "linewidths": 0, "zorder": 3},
            "hollow": {"s": 30 * weight, "facecolors": "none", "edgecolors": tint(color), "zorder": 3},
            "solid": {"s": MARK * weight, "c": color, "edgecolors": "white", "linewidths": 0.9, "zorder": 6},
        }
        feasible, member = allowed.loc[group.index], on[drawn.index.get_indexer(group.index)]
        states = {"faint": group[feasible & ~member], "hollow": group[~feasible], "solid": group[member]}
        bars += _error_bars(axes, states["solid"], scales, color)
        for state, trials in states.items():
            alone = trials.index.isin(list(listed))
            if not linked and not alone.all():
                axes.scatter(*in_units(trials[~alone], scales), marker=marker, **looks[state])
            trials = trials[alone]
            for number, x, y in zip(trials.index, *in_units(trials, scales), strict=True):
                mark = axes.scatter([x], [y], marker=marker, gid=f"trial-{number}", **looks[state])
                if linked:
                    mark.set_urls([f"#t{number}"])
    if not any(bars):
        return "± 1 standard error is smaller than the marks" if bars else ""
    return "bars: ± 1 standard error" + ("" if all(bars) else ", where it is larger than the mark")


MARK = 74
"""Area of the marks on the front in square points."""


def _error_bars(axes: Axes, solid: pd.DataFrame, scales: Scales, color: str) -> list[bool]:
    """Draw the error bars; return for each trial with a standard error whether its bar is longer than its mark."""
    errors = []
    for scale in scales:
        name = f"{scale.name}_stderr"
        has_errors = name in solid.columns and bool(solid[name].notna().any())
        errors.append(solid[name].fillna(0).to_numpy(dtype=float) / scale.factor if has_errors else None)
    if len(solid) and any(error is not None for error in errors):
        x, y = in_units(solid, scales)
        axes.errorbar(
            x, y, xerr=errors[0], yerr=errors[1], fmt="none", ecolor=color, elinewidth=1.1, capsize=2.5, zorder=5
        )
        at = axes.transData.transform(np.column_stack([x, y]))
        radius = math.sqrt(MARK / math.pi) * DPI / 72
        longer = np.zeros(len(solid), bool)
        for side, error in enumerate(errors):
            if error is not None:
                ends = np.column_stack([x + error, y] if side == 0 else [x, y + error])
                longer |= np.abs(axes.transData.transform(ends) - at)[:, side] > radius
        return [bool(each) for each in longer]
    return []


def _draw_line(axes: Axes, line: pd.DataFrame, scales: Scales) -> list[tuple[float, float]]:
    """Draw the best y for each limit on x as a step line; return its corners in data coordinates."""
    if len(line) < 2:
        return []
    x, y = in_units(line, scales)
    where: Literal["pre", "post"] = "post" if scales[0].direction == "minimize" else "pre"
    axes.step(x, y, where=where, color="#57606a", linewidth=1.3, zorder=4, solid_joinstyle="miter")
    corners = [(float(x[0]), float(y[0]))]
    for i in range(1, len(x)):
        turn = (x[i], y[i - 1]) if where == "post" else (x[i - 1], y[i])
        corners += [(float(turn[0]), float(turn[1])), (float(x[i]), float(y[i]))]
    return corners


def _draw_ties(axes: Axes, results: StudyResults, drawn: pd.DataFrame, scales: Scales) -> bool:
    """Draw a band behind neighbours on the front that differ by less than their errors; return True if any do."""
    if accuracy_metric(results) not in (scales[0].name, scales[1].name):
        return False
    pairs = [pair for pair in ties(results) if set(pair) <= set(drawn.index)]
    for pair in pairs:
        x, y = in_units(drawn.loc[list(pair)], scales)
        axes.plot(x, y, color=INK, alpha=0.13, linewidth=17, solid_capstyle="round", zorder=2)
    return bool(pairs)


def _draw_limits(axes: Axes, results: StudyResults, scales: Scales) -> None:
    (x0, x1), (y0, y1) = axes.get_xlim(), axes.get_ylim()
    for scale, low, high, vertical in ((scales[0], x0, x1, True), (scales[1], y0, y1, False)):
        limit = results.constraints.get(scale.name)
        if limit is None or not low < limit.value / scale.factor < high:
            continue
        at = limit.value / scale.factor
        (axes.axvline if vertical else axes.axhline)(at, color=LIMIT, linewidth=1.0, linestyle=(0, (4, 3)), zorder=2)
        beyond = (at, high) if limit.op == "<=" else (low, at)
        (axes.axvspan if vertical else axes.axhspan)(*beyond, color=LIMIT, alpha=0.045, linewidth=0, zorder=0)


def _headings(figure: NotebookFigure, results: StudyResults, drawn: pd.DataFrame, scales: Scales) -> None:
    title = f"{sentence(label(scales[1].name))} against {label(scales[0].name)}"
    figure.text(0.02, 0.955, title, fontsize=13.5, fontweight="bold", color=INK, va="center")
    parts = [results.model, f"{len(drawn)} model{'s' if len(drawn) > 1 else ''} scored"]
    parts += [figure.note] if figure.note else []
    parts += [f"limit: {label(name)} {limit_text(limit)}" for name, limit in results.constraints.items()]
    figure.text(0.02, 0.905, "  ·  ".join(parts), fontsize=9, color=MUTED, va="center")


def _legend(
    figure: Figure,
    drawn: pd.DataFrame,
    members: set[int],
    *,
    has_line: bool,
    ringed: str,
    tied: bool,
    beside: bool,
) -> None:
    from matplotlib.lines import Line2D

    drawn_modes = set(drawn["mode"].fillna("unknown"))
    styles = {mode: style for mode, style in mode_style(drawn_modes).items() if mode in drawn_modes}
    dot: dict[str, Any] = {"linestyle": "", "marker": "o", "markersize": 7.5, "color": "#57606a"}
    modes = [
        Line2D([], [], markeredgecolor="white", label=mode, **{**dot, "marker": marker, "color": color})
        for mode, (color, marker) in styles.items()
    ]
    style = "-" if has_line else ""
    allowed = drawn["feasible"].fillna(False).astype(bool)
    states = []
    if members:
        states.append(Line2D([], [], markeredgecolor="white", label="on the front", **{**dot, "linestyle": style}))
    if (allowed & ~drawn.index.isin(sorted(members))).any():
        small: dict[str, Any] = {**dot, "markersize": 4.5, "color": tint("#57606a")}
        states.append(Line2D([], [], markeredgewidth=0, label="dominated", **small))
    if not allowed.all():
        states.append(Line2D([], [], markerfacecolor="none", label="outside the limits", **{**dot, "markersize": 5.5}))
    if ringed:
        states.append(Line2D([], [], **{**dot, "color": INK, "markersize": 12}, mfc="none", mew=1.4, label=ringed))
    if tied:
        states.append(Line2D([], [], color=INK, alpha=0.13, linewidth=11, solid_capstyle="round", label="tied"))
    if not beside:
        # Below the axes, filled row by row.
        handles, columns = [*modes, *states], 3
        by_column = [handle for column in range(columns) for handle in handles[column::columns]]
        figure.legend(
            handles=by_column, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=columns, fontsize=8,
            columnspacing=1.2, handletextpad=0.4,
        )  # fmt: skip
        return
    place: dict[str, Any] = {"loc": "upper left", "alignment": "left"}
    first = figure.legend(handles=modes, bbox_to_anchor=(0.815, 0.835), title="mode", **place)
    below = 0.76 - 0.0355 * len(modes)
    second = figure.legend(handles=states, bbox_to_anchor=(0.815, below), title="trial", **place)
    for legend in (first, second):
        legend.get_title().set_color(MUTED)
        legend.get_title().set_fontsize(9)
