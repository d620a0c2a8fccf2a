"""What stands beside the points of a front plot: the knee, the original, int8, and the trials' numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from autotune.reporting.formatting import label, score, settings_text, size
from autotune.reporting.labels import LabelPlacer
from autotune.reporting.scales import Scales, in_units
from autotune.reporting.style import GRID, INK, LIMIT, MUTED
from autotune.reporting.view import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

__all__ = ["draw_labels", "ring_text"]


def draw_labels(
    axes: Axes,
    results: StudyResults,
    drawn: pd.DataFrame,
    scales: Scales,
    members: Sequence[int],
    path: list[tuple[float, float]],
    *,
    small: bool = False,
    boxed: bool = True,
) -> None:
    """Write every text of a front plot, the important ones first, so that these get the good places.

    Args:
        axes: with final limits and everything drawn but the texts.
        results: the study.
        drawn: the trials that are drawn.
        scales: of x and y.
        members: the trials whose numbers are written where there is room.
        path: corners of the step line in data coordinates.
        small: leave out what a small figure has no room for.
        boxed: frame the note on the original; not where another font will be used than the one measured here.
    """
    x, y = in_units(drawn, scales)
    at = {int(n): (float(a), float(b)) for n, a, b in zip(drawn.index, x, y, strict=True)}
    placer = LabelPlacer(axes)
    placer.avoid_points(at.values())
    placer.avoid_path(path)
    for number in members:
        for bar in _bars(results, number, at[number], scales):
            placer.avoid_path(bar)
    for written in axes.texts:
        placer.avoid_text(written)
    ringed = results.knee if results.knee is not None else results.least_infeasible
    if ringed in at:
        axes.scatter(*at[ringed], s=250, facecolors="none", edgecolors=INK, linewidths=1.5, zorder=7)
        placer.avoid_points([at[ringed]], 17)
    _name_limits(axes, results, scales, placer)
    _mark_original(axes, results, scales, placer, small=small, boxed=boxed)
    across, up = (-1 if scale.direction == "minimize" else 1 for scale in scales)
    around = [(across, up), (0, up), (across, 0), (-across, up), (across, -up), (0, -up), (-across, 0), (-across, -up)]
    if ringed in at:
        text = _point_text(results, ringed, scales, small=small)
        placer.place(*at[ringed], text, around, must=True, fontsize=9, fontweight="bold", color=INK, linespacing=1.35)
    eight = drawn["mode"].fillna("").astype(str)
    anchors = {int(str(n)): mode for n, mode in eight[eight.str.startswith("int8")].drop_duplicates().items()}
    anchors = {number: mode for number, mode in anchors.items() if number != ringed}
    for number, mode in anchors.items():
        placer.place(*at[number], f"{mode} ({number})", around, must=True, fontsize=8.5, color=INK)
    for number in members:
        if number != ringed and number not in anchors:
            placer.place(*at[number], f"{number}", around[:5], fontsize=8, color=MUTED)


def ring_text(results: StudyResults) -> str:
    """What the ringed trial is called; empty where none is ringed."""
    if results.knee is None:
        return "nearest" if results.least_infeasible is not None else ""
    return "knee" if len(results.objectives) > 1 else "best"


def _name_limits(axes: Axes, results: StudyResults, scales: Scales, placer: LabelPlacer) -> None:
    """The limits' values beside their lines, at whichever end is free."""
    for scale, (low, high), vertical in ((scales[0], axes.get_xlim(), True), (scales[1], axes.get_ylim(), False)):
        limit = results.constraints.get(scale.name)
        if limit is not None and low < limit.value / scale.factor < high:
            text = f"limit {limit.text.replace('<=', '≤').replace('>=', '≥')}"
            at = limit.value / scale.factor
            ends: tuple[float, float] = axes.get_ylim() if vertical else axes.get_xlim()
            placer.place_on_line(at, text, vertical=vertical, fontsize=8, color=LIMIT)
            placer.avoid_path([(at, end) if vertical else (end, at) for end in ends])


def _bars(
    results: StudyResults, number: int, at: tuple[float, float], scales: Scales
) -> list[list[tuple[float, float]]]:
    """The error bars of one trial as lines in data coordinates."""
    across, up = ((results.stderr(number, scale.name) or 0.0) / scale.factor for scale in scales)
    (x, y), bars = at, []
    if across:
        bars.append([(x - across if not scales[0].log else max(x - across, x * 0.5), y), (x + across, y)])
    if up:
        bars.append([(x, y - up if not scales[1].log else max(y - up, y * 0.5)), (x, y + up)])
    return bars


def _point_text(results: StudyResults, number: int, scales: Scales, *, small: bool) -> str:
    settings = settings_text(results.records[number].settings, short=True)
    if small:
        return f"{ring_text(results)}: trial {number}\n{settings}"
    return f"{ring_text(results)}: trial {number}\n{settings}\n{_values(results, number, scales)}"


def _values(results: StudyResults, number: int, scales: Scales) -> str:
    shown = []
    for scale in scales:
        text = score(results.value(number, scale.name), name=scale.name, metric=results.metrics[scale.name])
        shown.append(text if scale.name == "footprint" else f"{label(scale.name)} {text}")
    return " · ".join(shown)


def _mark_original(
    axes: Axes, results: StudyResults, scales: Scales, placer: LabelPlacer, *, small: bool, boxed: bool
) -> None:
    """A star where the original is in view, else its name and numbers at the edge beyond which it lies."""
    scores = [results.original_score(scale.name) for scale in scales]
    if scores[0] is None or scores[1] is None:
        return
    limits = (axes.get_xlim(), axes.get_ylim())
    place, beyond = [], []
    for scale, measured, (low, high) in zip(scales, scores, limits, strict=True):
        assert measured is not None
        value = measured.value / scale.factor
        place.append(min(max(value, low), high))
        beyond.append(-1 if value < low else 1 if value > high else 0)
    words = []
    for scale, measured in zip(scales, scores, strict=True):
        assert measured is not None
        words.append(
            size(measured.value) if scale.name == "footprint" else f"{label(scale.name)} {score(measured.value)}"
        )
    text = "original: " + " · ".join(words[:1] if small else words)
    x, y = place
    if beyond == [0, 0]:
        axes.scatter([x], [y], s=130, c=INK, marker="*", edgecolors="white", linewidths=0.8, zorder=6)
        placer.avoid_points([(x, y)], 9)
        placer.place(
            x, y, text, [(-1, 1), (0, 1), (-1, -1), (1, 1), (0, -1), (1, -1)], must=True, fontsize=8.5, color=INK
        )
        return
    arrow = {
        (1, 0): "→",
        (-1, 0): "←",
        (0, 1): "↑",
        (0, -1): "↓",
        (1, 1): "↗",
        (1, -1): "↘",
        (-1, 1): "↖",
        (-1, -1): "↙",
    }
    sign = arrow[beyond[0], beyond[1]]
    placer.place_at_edge(
        x,
        y,
        f"{text} {sign}",
        f"{sign} {text}",
        fontsize=8.5,
        color=INK,
        bbox={"boxstyle": "round,pad=0.3", "fc": "#f6f8fa", "ec": GRID} if boxed else None,
    )
