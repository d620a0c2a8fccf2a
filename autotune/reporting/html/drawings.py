"""The plots of report.html: matplotlib figures as inline SVG, for wide and narrow screens, light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from typing import TYPE_CHECKING

from autotune.common.formatting import label
from autotune.common.paths import file_name
from autotune.reporting.plots.labels import ring_text
from autotune.reporting.plots.style import PHONE, SCREEN, Sheet, look, mode_style, sentence
from autotune.results.decision import objective_pairs
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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

    titles = {number: _tooltip(results, number) for number, record in results.records.items() if record.complete}
    drawings = []
    for x, y in objective_pairs(results):
        title = f"{sentence(label(y))} against {label(x)}"
        drawings.append(_drawing(f"front-{x}-{y}", title, partial(front_figure, results, x, y), titles=titles))
    return [drawing for drawing in drawings if drawing is not None]


def setting_drawings(results: StudyResults) -> list[Drawing]:
    """Draw every objective against every setting."""
    from autotune.reporting.plots.settings import settings_figure, settings_note

    drawings = []
    for name in results.objectives:
        drawing = _drawing(f"settings-{name}", sentence(label(name)), partial(settings_figure, results, name))
        if drawing is not None:
            drawings.append(replace(drawing, note=settings_note(results, name)))
    return drawings


def progress_drawing(results: StudyResults) -> Drawing | None:
    """Draw the hypervolume of the front over time."""
    from autotune.reporting.plots.progress import progress_figure, progress_note

    drawing = _drawing("progress", "Progress", partial(progress_figure, results))
    return None if drawing is None else replace(drawing, note=progress_note(results))


def _drawing(
    name: str, title: str, draw: Callable[[Sheet], Figure | None], titles: Mapping[int, str] | None = None
) -> Drawing | None:
    parts = []
    for sheet, suffix in ((SCREEN, "w"), (PHONE, "n")):
        figure = draw(sheet)
        if figure is None:
            return None
        parts.append(inline_svg(figure, f"{file_name(name)}-{suffix}", alternative=title, titles=titles))
    return Drawing(title, "", parts[0], parts[1])


def _tooltip(results: StudyResults, number: int) -> str:
    names = ["footprint", *(name for name in results.objectives if name != "footprint")]
    lines = [f"trial {number}: {results.records[number].describe()}"]
    lines += [
        f"{label(name)} {results.score_text(number, name)}" for name in names if results.value(number, name) is not None
    ]
    return "\n".join(lines)


COLOR = re.compile(r"#([0-9a-f]{6})\b")
FONT = re.compile(r"font: (?:(bold|\d{3}) )?([\d.]+)px [^;\"]*")
ID = re.compile(r'(\bid="|xlink:href="#(?!t\d+")|url\(#)')
LINK = re.compile(r'<a xlink:href="(#t\d+)"[^>]*>')
TRIAL = re.compile(r'<g id="[^"]*trial-(\d+)">')


def inline_svg(figure: Figure, name: str, *, alternative: str, titles: Mapping[int, str] | None = None) -> str:
    """Convert a figure to one ``<svg>`` element; the same figure gives the same text.

    Every colour becomes ``var(--x-RRGGBB, #RRGGBB)``, so that a style sheet can replace it in dark mode.

    Args:
        figure: with marks whose groups have the ids ``trial-NUMBER``.
        name: prefix of all ids, unique in the page.
        alternative: text for screen readers.
        titles: trial number -> tooltip of its mark.
    """
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    stream = io.StringIO()
    with look():
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<style type=\"text/css\">.*?</style>", "", text, count=1, flags=re.DOTALL)  # meant for a file
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    text = ID.sub(rf"\g<1>{name}-", text)
    text = FONT.sub(lambda found: f"font-size: {found[2]}px; font-weight: {found[1] or 'normal'}", text)
    text = COLOR.sub(r"var(--x-\1, #\1)", text)

    def mark(found: re.Match[str]) -> str:
        title = (titles or {}).get(int(found[1]))
        return '<g class="trial">' + ("" if title is None else f"<title>{escape(title)}</title>")

    text = TRIAL.sub(mark, text)
    text = LINK.sub(r'<a href="\1">', text)  # matplotlib's links open a new window
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alternative)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip()


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
    "56b4e9": "a5d9fa",
    "009e73": "2fc79a",
    "e69f00": "f3bd4a",
    "7f7f7f": "a8a8a8",
    "6a3d9a": "ab7fe0",
    "5b4636": "c7a58c",
    "9a9a00": "d3d34a",
    "444444": "c9c9c9",
}
"""Colour of a plot in light mode -> the same in dark mode, both as RRGGBB."""


def theme_css() -> str:
    """Return style rules that replace the plots' colours in dark mode, on screens only."""
    dark = "".join(f"--x-{light}:#{dark};" for light, dark in DARK.items())
    return f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
