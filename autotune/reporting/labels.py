"""Texts beside points that cover neither each other nor what is drawn."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from autotune.reporting.style import DPI, MUTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

    Box = tuple[float, float, float, float]

__all__ = ["LabelPlacer"]

POINT = 72 / DPI
"""Points in a pixel. Places are kept in points, which stay right when a figure is saved at another resolution."""


class LabelPlacer:
    """Places texts beside points of one axes so that they cover neither each other nor what is drawn.

    Call it when limits and layout are final. Boxes are in pixels: (left, bottom, right, top).
    """

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.taken: list[Box] = []
        frame = axes.get_window_extent()
        self.frame: Box = (frame.x0, frame.y0, frame.x1, frame.y1)

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Data to pixels."""
        across, up = self.axes.transData.transform((x, y))
        return float(across), float(up)

    def avoid_points(self, points: Iterable[tuple[float, float]], radius: float = 11.0) -> None:
        """Keep texts off points given in data coordinates."""
        for x, y in points:
            across, up = self.pixels(x, y)
            if math.isfinite(across) and math.isfinite(up):
                self.taken.append((across - radius, up - radius, across + radius, up + radius))

    def avoid_path(self, points: Sequence[tuple[float, float]], width: float = 3.0) -> None:
        """Keep texts off the horizontal and vertical lines between consecutive points."""
        for (x0, y0), (x1, y1) in pairwise(points):
            (a, b), (c, d) = self.pixels(x0, y0), self.pixels(x1, y1)
            self.taken.append((min(a, c) - width, min(b, d) - width, max(a, c) + width, max(b, d) + width))

    def avoid_text(self, text: Any) -> None:
        """Keep further texts off one that stands already."""
        self.taken.append(_box(text.get_window_extent()))

    def place(
        self, x: float, y: float, text: str, directions: Sequence[tuple[int, int]], *, must: bool = False, **style: Any
    ) -> Any | None:
        """Write `text` near (x, y) in the first free direction, nearer before farther; None where there is no room.

        Args:
            directions: (-1 | 0 | 1, -1 | 0 | 1) offsets, the preferred one first; the first also where `must`.
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
        """Write a note about something beyond the frame at the edge where it lies, slid along to a free place.

        Args:
            x, y: the place, clamped to the frame, in data coordinates.
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
        self.taken.append(_box(note.get_window_extent()))
        return note

    def place_on_line(self, at: float, text: str, *, vertical: bool, **style: Any) -> Any:
        """Name a line across the whole frame beside it, on the side and at the end where the least is covered.

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
        # A wide text near the frame slides inwards; whether it then covers anything is the caller's question.
        left, _, right, _ = _box(note.get_window_extent())
        slide = max(0.0, self.frame[0] + 6 - left) - max(0.0, right - self.frame[2] + 6)
        if slide and right - left < self.frame[2] - self.frame[0] - 12:
            note.xyann = (across * reach + slide * POINT, up * reach)
        return note

    def _overlap(self, box: Box, margin: float) -> float:
        """Pixels of `box` that are taken or outside of the frame; inf-like weight on the frame."""
        left, bottom, right, top = box
        outside = max(0.0, self.frame[0] - left) + max(0.0, right - self.frame[2])
        outside += max(0.0, self.frame[1] - bottom) + max(0.0, top - self.frame[3])
        cost = outside * 1e3
        for other in self.taken:
            width = min(right + margin, other[2]) - max(left - margin, other[0])
            height = min(top + margin, other[3]) - max(bottom - margin, other[1])
            if width > 0 and height > 0:
                cost += width * height
        return cost


def _box(extent: Bbox) -> Box:
    return float(extent.x0), float(extent.y0), float(extent.x1), float(extent.y1)
