"""The plots of report.html: matplotlib figures as inline SVG, for wide and narrow screens, light and dark."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from autotune.common.formatting import label
from autotune.common.paths import file_name
from autotune.reporting.html.svg import inline_svg
from autotune.reporting.plots.labels import ring_text
from autotune.reporting.plots.style import MODES, OTHERS, PHONE, SCREEN, Sheet, mode_style, sentence, tint
from autotune.results.front.decision import objective_pairs
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    from autotune.reporting.plots.figure import NotebookFigure


@dataclass(frozen=True, slots=True)
class Drawing:
    """One plot as inline SVG for both widths, with its title and its caption."""

    title: str
    note: str
    wide: str
    narrow: str


def front_drawings(results: StudyResults) -> list[Drawing]:
    """Draw the front of every pair of objectives; a tooltip on each mark names its trial."""
    from autotune.reporting.plots.front import front_figure

    titles = {number: _tooltip(results, number) for number in results.listed if results.records[number].complete}
    drawings = []
    for place, (x, y) in enumerate(objective_pairs(results)):
        title = f"{sentence(label(y))} against {label(x)}"
        drawings.append(_drawing(f"f{place}", title, partial(front_figure, results, x, y), titles=titles))
    return [drawing for drawing in drawings if drawing is not None]


def setting_drawings(results: StudyResults) -> list[Drawing]:
    """Draw every objective against every setting."""
    from autotune.reporting.plots.settings import settings_figure

    drawings = [
        _drawing(f"e{place}", sentence(label(name)), partial(settings_figure, results, name))
        for place, name in enumerate(results.objectives)
    ]
    return [drawing for drawing in drawings if drawing is not None]


def progress_drawing(results: StudyResults) -> Drawing | None:
    """Draw the hypervolume of the front over time."""
    from autotune.reporting.plots.progress import progress_figure

    return _drawing("p", "Progress", partial(progress_figure, results))


def _drawing(
    name: str, title: str, draw: Callable[[Sheet], NotebookFigure | None], titles: Mapping[int, str] | None = None
) -> Drawing | None:
    wide, narrow = draw(SCREEN), draw(PHONE)
    if wide is None or narrow is None:
        return None
    drawn = (
        inline_svg(figure, f"{file_name(name)}{suffix}", alternative=title, titles=titles)
        for figure, suffix in ((wide, "w"), (narrow, "n"))
    )
    return Drawing(title, wide.note, *drawn)


def _tooltip(results: StudyResults, number: int) -> str:
    names = ["footprint", *(name for name in results.objectives if name != "footprint")]
    lines = [f"trial {number}: {results.records[number].describe()}"]
    lines += [
        f"{results.heading(name)}: {results.score_text(number, name)}"
        for name in names
        if results.value(number, name) is not None
    ]
    return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One entry of a front plot's legend: a mark's path in a box of 20 by 20, its colour and look."""

    text: str
    path: str
    color: str
    look: str = "solid"


MARKS = {
    "o": "M10 4a6 6 0 1 0 0 12a6 6 0 1 0 0-12z",
    "s": "M5 5h10v10h-10z",
    "D": "M10 3l7 7l-7 7l-7-7z",
    "^": "M10 4l7 12h-14z",
    "v": "M10 16l7-12h-14z",
    "<": "M4 10l12-7v14z",
    ">": "M16 10l-12-7v14z",
    "P": "M8 4h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "X": "M5.2 8l2.8-2.8 2 2 2-2 2.8 2.8-2 2 2 2-2.8 2.8-2-2-2 2-2.8-2.8 2-2z",
    "h": "M10 3.5l5.6 3.25v6.5l-5.6 3.25-5.6-3.25v-6.5z",
    "p": "M10 4l6.2 4.5-2.4 7.3h-7.6l-2.4-7.3z",
}
"""Outlines of matplotlib's markers."""


def front_marks(results: StudyResults, *, tied: bool) -> list[LegendEntry]:
    """Return the legend of the front plots: modes first, then the meaning of a mark's look."""
    modes = set(results.complete["mode"].dropna().astype(str))
    found = [
        LegendEntry(mode, MARKS.get(marker, MARKS["o"]), f"var(--x-{color[1:].lower()}, {color})")
        for mode, (color, marker) in mode_style(modes).items()
        if mode in modes
    ]
    found.append(LegendEntry("on the front", MARKS["o"], "var(--muted)", "solid"))
    if set(results.unique["trial"]) & set(results.feasible["trial"]) - set(results.front):
        found.append(LegendEntry("dominated", MARKS["o"], "var(--muted)", "faint"))
    if len(results.feasible) < len(results.complete):
        found.append(LegendEntry("outside the limits", MARKS["o"], "var(--muted)", "hollow"))
    if results.knee is not None:
        found.append(LegendEntry(ring_text(results), "M10 2a8 8 0 1 0 0 16a8 8 0 1 0 0-16z", "var(--ink)", "hollow"))
    if tied:
        found.append(LegendEntry("tied: the errors overlap", "M5 10h10", "var(--ink)", "band"))
    return found


DARK = {
    # ink, muted, grid, axes, lines, limits, notes, white
    "1f2328": "e8eaed",
    "6e7781": "9aa4af",
    "e7e9ec": "2a3038",
    "8c959f": "69737f",
    "57606a": "9aa4af",
    "b3412e": "f0806c",
    "f6f8fa": "20262d",
    "ffffff": "14181d",
    # Okabe and Ito's palette, lighter where it has too little contrast with the dark background
    "d55e00": "f08a3c",
    "cc79a7": "e3a0c6",
    "0072b2": "4aa3df",
    "2f93d6": "a5d9fa",
    "009e73": "2fc79a",
    "c98300": "f3bd4a",
    "7f7f7f": "a8a8a8",
    "6a3d9a": "ab7fe0",
    "5b4636": "c7a58c",
    "8f8f00": "d3d34a",
    "444444": "c9c9c9",
    "b3446c": "e07a9f",
    "1b7837": "6fbf85",
    "2b4c7e": "86a8df",
}
"""Colour of a plot in light mode -> the same in dark mode, both as RRGGBB."""


def theme_css() -> str:
    """Return style rules that replace the plots' colours in dark mode, on screens only."""
    colors = dict(DARK)
    for color in [*(color for color, _ in (*MODES.values(), *OTHERS)), "#57606a"]:
        colors.setdefault(tint(color)[1:], tint("#" + DARK[color[1:].lower()], "#14181d")[1:])
    dark = "".join(f"--x-{light}:#{dark};" for light, dark in colors.items())
    return f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
