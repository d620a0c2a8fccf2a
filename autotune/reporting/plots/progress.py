"""Plot of a search's progress: the hypervolume of the front over time and over trials."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from autotune.common.formatting import label
from autotune.reporting.plots.style import (
    INK,
    LIMIT,
    MUTED,
    PICTURE,
    Sheet,
    axis_unit,
    draw_grid,
    new_figure,
    padded,
    plain_axis,
    styled,
    top_heading,
)
from autotune.results.front.pareto import hypervolume, unit_costs
from autotune.results.records import StudyResults, TrialRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from autotune.reporting.plots.figure import NotebookFigure

REFERENCE = 1.1
"""The reference point in units of each objective's range, a tenth beyond the worst, so that the extremes count too."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The course of a study, one entry a finished trial, in the order of finishing.

    Attributes:
        trials: finished trials so far, 1, 2, ...
        minutes: time so far in which at least one trial was running, without pauses.
        quality: hypervolume of the feasible front so far in percent of the final one; for a single objective the best
            value so far, in the unit of its axis (NaN before the first).
        states: each trial's state.
    """

    trials: tuple[int, ...]
    minutes: tuple[float, ...]
    quality: tuple[float, ...]
    states: tuple[str, ...]


def progress(results: StudyResults) -> Progress:
    """Replay the study. Objectives are scaled as in `pareto.unit_costs` over all feasible trials."""
    finished = [record for record in results.records.values() if record.state in ("COMPLETE", "FAIL", "PRUNED")]
    finished = [record for record in finished if not record.interrupted]
    finished.sort(key=lambda record: (record.finished is None, record.finished, record.number))
    minutes = _busy_minutes(finished)
    names, directions = list(results.objectives), list(results.objectives.values())
    feasible = results.feasible
    values = feasible[names].to_numpy(dtype=float, na_value=float("nan"))
    unit = unit_costs(values, directions) if len(values) else values
    place = {int(number): row for row, number in enumerate(feasible["trial"])}
    reference = np.full(len(names), REFERENCE)
    front = np.empty((0, len(names)))
    quality, last = [], 0.0
    best = float("nan")
    for record in finished:
        row = place.get(record.number)
        if row is not None:
            point = unit[row]
            if not (np.isnan(point).any() or (front <= point).all(axis=1).any()):
                front = np.vstack([front[~(point <= front).all(axis=1)], point])
                last = hypervolume(front, reference)
            if len(names) == 1:
                better = np.nanmin if directions[0] == "minimize" else np.nanmax
                best = float(better([best, values[row][0]]))
        quality.append(best if len(names) == 1 else last)
    total = quality[-1] if quality and len(names) > 1 and quality[-1] > 0 else None
    factor = axis_unit(results, names[0], 1e6)[0] if len(names) == 1 else 1.0
    scaled = tuple(100 * value / total if total else value / factor for value in quality)
    states = tuple(record.state for record in finished)
    return Progress(tuple(range(1, len(finished) + 1)), minutes, scaled, states)


def _busy_minutes(finished: list[TrialRecord]) -> tuple[float, ...]:
    """Return the length of the union of the trials' intervals up to each trial's end, in minutes."""
    timed = [record for record in finished if record.started is not None and record.finished is not None]
    if not timed:
        return tuple(0.0 for _ in finished)
    origin = min(record.started for record in timed if record.started is not None)
    spans = sorted(
        ((r.started - origin).total_seconds(), (r.finished - origin).total_seconds())
        for r in timed
        if r.started is not None and r.finished is not None
    )
    merged: list[tuple[float, float]] = []
    for start, end in spans:
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    starts = [start for start, _ in merged]
    before = [0.0, *accumulate(end - start for start, end in merged)]
    minutes, last = [], 0.0
    for record in finished:
        if record.finished is not None:
            now = (record.finished - origin).total_seconds()
            place = bisect_right(starts, now) - 1
            last = (before[place] + min(merged[place][1], now) - starts[place]) / 60 if place >= 0 else 0.0
        minutes.append(last)
    return tuple(minutes)


@styled
def progress_figure(results: StudyResults, sheet: Sheet = PICTURE) -> NotebookFigure | None:
    """Draw the course over time and, on a wide sheet, over trials; None before two trials and a feasible one."""
    course = progress(results)
    if not len(results.feasible) or len(course.trials) < 2:
        return None
    unit, factor = ("minutes", 1.0) if course.minutes[-1] >= 2 else ("seconds", 60.0)
    busy = tuple(minute * factor for minute in course.minutes)
    panels = [(busy, f"{unit} of work"), (course.trials, "trials finished")][: 2 if sheet.columns > 2 else 1]
    height = 3.75 if sheet.headed else 3.0
    figure = new_figure(sheet.width, height)
    figure.note = "dots: trials that moved the front  ·  ticks below: all trials"
    figure.note += ", crosses: failed" if "FAIL" in course.states else ""
    if sheet.headed:
        figure.text(0.02, 0.93, "Progress", fontsize=13.5, fontweight="bold", va="center")
        figure.text(0.02, 0.855, figure.note, fontsize=9, color=MUTED, va="center")
    left, gap, top = 0.62, 0.55, 1.05 if sheet.headed else 0.42
    width = (sheet.width - left - 0.14 - gap * (len(panels) - 1)) / len(panels)
    for position, (across, title) in enumerate(panels):
        box = (
            (left + position * (width + gap)) / sheet.width,
            0.6 / height,
            width / sheet.width,
            1 - (0.6 + top) / height,
        )
        axes = figure.add_axes(box)
        _course(axes, across, course, title)
        if position == 0:
            top_heading(axes, _heading(results), x=-0.43 / width)
    return figure


def _heading(results: StudyResults) -> str:
    """Return the title of the y axis."""
    if len(results.objectives) > 1:
        return "Hypervolume of the front (% of the final one)"
    name = next(iter(results.objectives))
    unit = axis_unit(results, name, 1e6)[1]
    return f"Best {label(name)} so far" + (f" ({unit})" if unit else "")


def _course(axes: Axes, across: tuple[float, ...] | tuple[int, ...], course: Progress, title: str) -> None:
    x, y = np.asarray(across, dtype=float), np.asarray(course.quality, dtype=float)
    moved = np.flatnonzero(np.diff(np.concatenate([[0.0], np.nan_to_num(y)])) != 0)
    corners = np.unique([0, *moved, len(x) - 1])
    axes.step(x[corners], y[corners], where="post", color="#0072B2", linewidth=1.8, zorder=4)
    axes.scatter(x[moved], y[moved], s=26, c="#0072B2", edgecolors="white", linewidths=0.8, zorder=5)
    finite = y[np.isfinite(y)]
    low, high = padded(list(finite), log=False, share=0.1)
    if course.quality[-1] == 100:
        low = min(low, -6.0) if finite.min() < 60 else low
    axes.set_ylim(low - (high - low) * 0.08, high)
    axes.set_xlim(0, max(x[-1] * 1.03, 1e-9))
    base = axes.get_xaxis_transform()
    failed = np.array([state == "FAIL" for state in course.states])
    # One path for all ticks, not one each; those that are closer than a thousandth of the axis are one.
    _, apart = np.unique(np.round(x[~failed] / max(x[-1], 1e-9) * 1000), return_index=True)
    ticks = np.repeat(x[~failed][apart], 3)
    heights = np.tile([0.015, 0.055, np.nan], len(apart))
    axes.plot(ticks, heights, color="#8c959f", lw=0.9, transform=base, zorder=3)
    axes.scatter(
        x[failed], np.full(failed.sum(), 0.035), s=24, marker="x", color=LIMIT, lw=1.3, transform=base, zorder=4
    )
    axes.set_xlabel(title, labelpad=6, color=INK)
    plain_axis(axes.xaxis, 8, whole=isinstance(across[0], int))
    plain_axis(axes.yaxis, 5)
    draw_grid(axes)
