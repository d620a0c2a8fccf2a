"""Labels of the points of a front plot: the knee, the original, int8, the trials' numbers, without overlaps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.formatting import label
from autotune.reporting.plots.style import DPI, GRID, INK, LIMIT, MUTED, Scale, Scales, in_units, limit_text
from autotune.results.front.recommendation import recommend
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

    Box = tuple[float, float, float, float]

MOST_NUMBERS = 60
"""Most trials whose numbers are written; a plot has no room for more."""

POINT = 72 / DPI
"""Points in a pixel. Places are kept in points, which are right at every resolution."""


class LabelPlacer:
    """Placement of texts in one axes so that they cover neither each other nor the points.

    Limits and layout must be final. Boxes are in pixels: (left, bottom, right, top); `taken` is float [n, 4].
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.taken = np.empty((0, 4))
        frame = axes.get_window_extent()
        self.frame: Box = (frame.x0, frame.y0, frame.x1, frame.y1)

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Convert data coordinates to pixels."""
        across, up = self.axes.transData.transform((x, y))
        return float(across), float(up)

    def avoid_points(self, points: Sequence[tuple[float, float]], radius: float = 11.0) -> None:
        """Keep texts off points, given in data coordinates."""
        if points:
            at = self.axes.transData.transform(np.array(points, dtype=float))
            at = at[np.isfinite(at).all(axis=1)]
            self._take(np.hstack([at - radius, at + radius]))

    def _take(self, boxes: Any) -> None:
        self.taken = np.vstack([self.taken, boxes])

    def avoid_path(self, points: Sequence[tuple[float, float]], width: float = 3.0) -> None:
        """Keep texts off the horizontal and vertical lines between consecutive points."""
        for (x0, y0), (x1, y1) in pairwise(points):
            (a, b), (c, d) = self.pixels(x0, y0), self.pixels(x1, y1)
            self._take((min(a, c) - width, min(b, d) - width, max(a, c) + width, max(b, d) + width))

    def avoid_text(self, text: Any) -> None:
        """Keep further texts off an existing one."""
        self._take(_box(text.get_window_extent()))

    def place(
        self, x: float, y: float, text: str, directions: Sequence[tuple[int, int]], *, must: bool = False, **style: Any
    ) -> Any | None:
        """Write `text` near (x, y) in the first free direction, nearer before farther; return None without room.

        Args:
            directions: (-1 | 0 | 1, -1 | 0 | 1) offsets, the preferred one first.
            must: write the text in any case, where it covers least.
        """
        best: tuple[float, tuple[int, int], float] | None = None
        for distance in (7.0, 12.0, 20.0, 30.0, 44.0, 60.0) if must else (6.0, 9.0, 13.0):
            for direction in directions:
                annotation = self._write(x, y, text, direction, distance, **style)
                cost = self._overlap(_box(annotation.get_window_extent()), 3.0)
                if cost == 0 and not (must and distance > 12.0):
                    self.avoid_text(annotation)
                    return annotation
                annotation.remove()
                if best is None or cost < best[0]:
                    best = (cost, direction, distance)
                if cost == 0:
                    break
            if best is not None and best[0] == 0:
                break
        if not must or best is None:
            return None
        annotation = self._write(x, y, text, best[1], best[2], leader=best[2] > 12.0, **style)
        self.avoid_text(annotation)
        return annotation

    def place_at_edge(self, x: float, y: float, text: str, mirrored: str, **style: Any) -> Any:
        """Write a note about a point beyond the frame at the nearest edge, moved along it to a free place.

        Args:
            x, y: the point, clamped to the frame, in data coordinates.
            text: the note for the right edge; `mirrored` for the left one.
        """
        across, up = self.pixels(x, y)
        right = across > (self.frame[0] + self.frame[2]) / 2
        note = self.axes.annotate(
            text if right else mirrored,
            (0, 0),
            xycoords="figure points",
            ha="right" if right else "left",
            va="center",
            zorder=10,
            **style,
        )
        left, bottom, far, top = self.frame
        edge, inward = (far - 12, -1) if right else (left + 12, 1)
        height = min(max(up, bottom + 24), top - 24)
        slides = [(edge + inward * (far - left) * i / 40, height) for i in range(20)]
        slides += [
            (edge, height + (top - bottom) * i / 40)
            for i in range(-40, 41)
            if bottom + 24 <= height + (top - bottom) * i / 40 <= top - 24
        ]
        slides.sort(key=lambda place: abs(place[0] - edge) + abs(place[1] - height))
        best: tuple[float, tuple[float, float]] | None = None
        for place in slides:
            note.xy = note.xyann = (place[0] * POINT, place[1] * POINT)
            cost = self._overlap(_box(note.get_window_extent()), 9.0)
            if best is None or cost < best[0]:
                best = (cost, place)
            if cost == 0:
                break
        assert best is not None
        note.xy = note.xyann = (best[1][0] * POINT, best[1][1] * POINT)
        self._take(_box(note.get_window_extent()))
        return note

    def place_on_line(self, at: float, text: str, *, vertical: bool, **style: Any) -> Any:
        """Write the name of a line across the frame at the side and the end where it covers least.

        Args:
            at: where the line crosses its axis, in data coordinates.
            vertical: a line at x = `at`; the text is turned along it.
        """
        coords: Any = ("data", "axes fraction") if vertical else ("axes fraction", "data")
        best: tuple[float, Any] | None = None
        for end, side in ((1, -1), (1, 1), (0, -1), (0, 1)):
            along = "top" if vertical and end else "bottom" if vertical else "right" if end else "left"
            across = ("left" if side > 0 else "right") if vertical else ("bottom" if side > 0 else "top")
            note = self.axes.annotate(
                text,
                (at, end) if vertical else (end, at),
                xycoords=coords,
                xytext=(3 * side, -4 if end else 4) if vertical else (-4 if end else 4, 3 * side),
                textcoords="offset points",
                ha=across if vertical else along,
                va=along if vertical else across,
                rotation=90 if vertical else 0,
                **style,
            )
            cost = self._overlap(_box(note.get_window_extent()), 2.0)
            if best is None or cost < best[0]:
                if best is not None:
                    best[1].remove()
                best = (cost, note)
            else:
                note.remove()
        assert best is not None
        self.avoid_text(best[1])
        return best[1]

    def _write(
        self,
        x: float,
        y: float,
        text: str,
        direction: tuple[int, int],
        distance: float,
        leader: bool = False,
        **style: Any,
    ) -> Any:
        across, up = direction
        reach = distance if across and up else distance * 1.25
        arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.7, "shrinkA": 1, "shrinkB": 6} if leader else None
        note = self.axes.annotate(
            text,
            (x, y),
            xytext=(across * reach, up * reach),
            textcoords="offset points",
            ha={-1: "right", 0: "center", 1: "left"}[across],
            va={-1: "top", 0: "center", 1: "bottom"}[up],
            arrowprops=arrow,
            zorder=9,
            multialignment="left",
            **style,
        )
        # Move a wide text near the frame inwards; the caller checks what it covers then.
        left, _, right, _ = _box(note.get_window_extent())
        slide = max(0.0, self.frame[0] + 6 - left) - max(0.0, right - self.frame[2] + 6)
        if slide and right - left < self.frame[2] - self.frame[0] - 12:
            note.xyann = (across * reach + slide * POINT, up * reach)
        return note

    def _overlap(self, box: Box, margin: float) -> float:
        """Return the pixels of `box` that are taken or outside of the frame; the latter count 1000 times."""
        left, bottom, right, top = box
        outside = max(0.0, self.frame[0] - left) + max(0.0, right - self.frame[2])
        outside += max(0.0, self.frame[1] - bottom) + max(0.0, top - self.frame[3])
        width = np.minimum(right + margin, self.taken[:, 2]) - np.maximum(left - margin, self.taken[:, 0])
        height = np.minimum(top + margin, self.taken[:, 3]) - np.maximum(bottom - margin, self.taken[:, 1])
        return outside * 1e3 + float((width.clip(0) * height.clip(0)).sum())


def _box(extent: Bbox) -> Box:
    return float(extent.x0), float(extent.y0), float(extent.x1), float(extent.y1)


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
    """Write every text of a front plot, the important ones first, since they get the best places.

    Args:
        axes: with final limits and everything drawn but the texts.
        results: the study.
        drawn: the trials that are drawn.
        scales: of x and y.
        members: the trials whose numbers are written if there is room; of many, evenly spaced ones.
        path: corners of the step line in data coordinates.
        small: leave out what a small figure has no room for.
        boxed: frame the note on the original; only if the font of the output is the one measured here.
    """
    x, y = in_units(drawn, scales)
    at = {int(n): (float(a), float(b)) for n, a, b in zip(drawn.index, x, y, strict=True)}
    placer = LabelPlacer(axes)
    placer.avoid_points(list(at.values()))
    placer.avoid_path(path)
    for number in members:
        for bar in _bars(results, number, at[number], scales):
            placer.avoid_path(bar)
    for written in axes.texts:
        placer.avoid_text(written)
    ringed = ringed_trial(results)
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
    first = {int(str(n)): mode for n, mode in eight[eight.str.startswith("int8")].drop_duplicates().items()}
    anchors = {number: mode for number, mode in first.items() if number != ringed}
    for number, mode in anchors.items():
        placer.place(*at[number], f"{mode} ({number})", around, must=True, fontsize=8.5, color=INK)
    for number in members[:: math.ceil(len(members) / MOST_NUMBERS) or 1]:
        if number != ringed and number not in anchors:
            placer.place(*at[number], f"{number}", around[:5], fontsize=8, color=MUTED)


def ringed_trial(results: StudyResults) -> int | None:
    """Return the trial that a front plot marks: the recommended one, else the knee, else the nearest to the limits."""
    found = recommend(results).trial
    return found if found is not None else results.knee if results.knee is not None else results.least_infeasible


def ring_text(results: StudyResults) -> str:
    """Return the name of the ringed trial's role; empty if none is ringed."""
    ringed = ringed_trial(results)
    if results.knee is None:
        return "nearest" if ringed is not None else ""
    if ringed != results.knee:
        return "recommended"
    return "knee" if len(results.objectives) > 1 else "best"


def _name_limits(axes: Axes, results: StudyResults, scales: Scales, placer: LabelPlacer) -> None:
    """Write the limits' values at their lines."""
    for scale, (low, high), vertical in ((scales[0], axes.get_xlim(), True), (scales[1], axes.get_ylim(), False)):
        limit = results.constraints.get(scale.name)
        if limit is not None and low < limit.value / scale.factor < high:
            text = f"limit {limit_text(limit)}"
            at = limit.value / scale.factor
            ends: tuple[float, float] = axes.get_ylim() if vertical else axes.get_xlim()
            placer.place_on_line(at, text, vertical=vertical, fontsize=8, color=LIMIT)
            placer.avoid_path([(at, end) if vertical else (end, at) for end in ends])


def _bars(
    results: StudyResults, number: int, at: tuple[float, float], scales: Scales
) -> list[list[tuple[float, float]]]:
    """Return the error bars of one trial as lines in data coordinates."""
    across, up = ((results.stderr(number, scale.name) or 0.0) / scale.factor for scale in scales)
    (x, y), bars = at, []
    if across:
        bars.append([(x - across if not scales[0].log else max(x - across, x * 0.5), y), (x + across, y)])
    if up:
        bars.append([(x, y - up if not scales[1].log else max(y - up, y * 0.5)), (x, y + up)])
    return bars


def _point_text(results: StudyResults, number: int, scales: Scales, *, small: bool) -> str:
    settings = results.records[number].describe(short=True)
    if small:
        return f"{ring_text(results)}: trial {number}\n{settings}"
    return f"{ring_text(results)}: trial {number}\n{settings}\n{_values(results, number, scales)}"


def _values(results: StudyResults, number: int | None, scales: Sequence[Scale]) -> str:
    shown = []
    for scale in scales:
        text = results.score_text(number, scale.name, stderr=False)
        shown.append(text if scale.name == "footprint" else f"{label(scale.name)} {text}")
    return " · ".join(shown)


def _mark_original(
    axes: Axes, results: StudyResults, scales: Scales, placer: LabelPlacer, *, small: bool, boxed: bool
) -> None:
    """Draw a star if the original is in view, else write its name and numbers at the nearest edge."""
    place, beyond = [], []
    for scale, (low, high) in zip(scales, (axes.get_xlim(), axes.get_ylim()), strict=True):
        original = results.original_score(scale.name)
        if original is None:
            return
        value = original.value / scale.factor
        place.append(min(max(value, low), high))
        beyond.append(-1 if value < low else 1 if value > high else 0)
    text = f"original: {_values(results, None, scales[:1] if small else scales)}"
    x, y = place
    if beyond == [0, 0]:
        axes.scatter([x], [y], s=130, c=INK, marker="*", edgecolors="white", linewidths=0.8, zorder=6)
        placer.avoid_points([(x, y)], 9)
        placer.place(
            x, y, text, [(-1, 1), (0, 1), (-1, -1), (1, 1), (0, -1), (1, -1)], must=True, fontsize=8.5, color=INK
        )
        return
    sign = ("↙↓↘", "← →", "↖↑↗")[beyond[1] + 1][beyond[0] + 1]
    placer.place_at_edge(
        x,
        y,
        f"{text} {sign}",
        f"{sign} {text}",
        fontsize=8.5,
        color=INK,
        bbox={"boxstyle": "round,pad=0.3", "fc": "#f6f8fa", "ec": GRID} if boxed else None,
    )
