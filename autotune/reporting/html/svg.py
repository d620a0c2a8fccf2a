"""A matplotlib figure as SVG inside an HTML page: the page's font and colours, ids that meet no other figure's.

Every plot of the page, drawn twice: for a screen and for a phone.

Colours in the light and in the dark: the plots' palette and the page's follow one table.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from autotune.common.formatting import label
from autotune.compression.describe import describe_settings
from autotune.reporting.plots.style import PHONE, SCREEN, Sheet
from autotune.results.decision import measured, objective_pairs
from autotune.results.types import StudyResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["DARK", "Drawing", "front_drawings", "inline_svg", "progress_drawing", "setting_drawings", "theme_css"]

_HEX = re.compile(r"#([0-9a-f]{6})\b")
_FONT = re.compile(r"font: (?:(bold|\d{3}) )?([\d.]+)px [^;\"]*")
_ID = re.compile(r'(\bid="|xlink:href="#(?!t\d+")|url\(#)')
_TRIAL = re.compile(r'<g id="[^"]*trial-(\d+)">')


def inline_svg(figure: Figure, name: str, *, alternative: str, titles: Mapping[int, str] | None = None) -> str:
    """The figure as one ``<svg>`` element; the same figure gives the same text.

    Every colour becomes ``var(--x-RRGGBB, #RRGGBB)``, so that a style sheet can give it another one in the dark.

    Args:
        figure: drawn inside `style.look()`.
        name: prefix of all ids, unique in the page.
        alternative: what a reader who does not see it is told.
        titles: trial number -> what the pointer shows over its mark, whose group has the id ``trial-NUMBER``.
    """
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    stream = io.StringIO()
    figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"\s*<style type=\"text/css\">.*?</style>", "", text, count=1, flags=re.DOTALL)  # meant for a file
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)[0]
    text = _ID.sub(rf"\g<1>{name}-", text)
    text = _FONT.sub(lambda found: f"font-size: {found[2]}px; font-weight: {found[1] or 'normal'}", text)
    text = _HEX.sub(r"var(--x-\1, #\1)", text)
    text = _TRIAL.sub(lambda found: _mark(int(found[1]), titles or {}), text)
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alternative)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip()


def _mark(number: int, titles: Mapping[int, str]) -> str:
    title = f"<title>{escape(titles[number])}</title>" if number in titles else ""
    return f'<g class="trial">{title}'


@dataclass(frozen=True, slots=True)
class Drawing:
    """One plot as inline SVG for both widths, with its title and the line below it."""

    name: str
    title: str
    note: str
    wide: str
    narrow: str


def front_drawings(results: StudyResults) -> list[Drawing]:
    """The front of every pair of objectives; pointing at a mark tells its trial."""
    from autotune.reporting.plots.front import front_figure

    titles = {number: _tip(results, number) for number in results.records if results.records[number].complete}
    drawings = []
    for x, y in objective_pairs(results):
        title = f"{label(y)[0].upper()}{label(y)[1:]} against {label(x)}"

        def draw(sheet: Sheet, x: str = x, y: str = y) -> Figure | None:
            return front_figure(results, x, y, sheet)

        drawings.append(_drawing(f"front-{x}-{y}", title, "", draw, titles))
    return [drawing for drawing in drawings if drawing is not None]


def setting_drawings(results: StudyResults) -> list[Drawing]:
    """What each setting did to each objective."""
    from autotune.reporting.plots.settings import settings_figure, settings_note

    drawings = []
    for name in results.objectives:

        def draw(sheet: Sheet, name: str = name) -> Figure | None:
            return settings_figure(results, name, sheet)

        drawing = _drawing(f"settings-{name}", f"{label(name)[0].upper()}{label(name)[1:]}", "", draw)
        if drawing is not None:
            note = settings_note(results, name)
            drawings.append(Drawing(drawing.name, drawing.title, note, drawing.wide, drawing.narrow))
    return drawings


def progress_drawing(results: StudyResults) -> Drawing | None:
    """The worth of the front over time."""
    from autotune.reporting.plots.progress import progress_figure, progress_note

    def draw(sheet: Sheet) -> Figure | None:
        return progress_figure(results, sheet)

    return _drawing("progress", "How the front grew", progress_note(results), draw)


def _drawing(
    name: str, title: str, note: str, draw: Callable[[Sheet], Figure | None], titles: dict[int, str] | None = None
) -> Drawing | None:
    from autotune.reporting.plots.style import look

    parts = []
    with look():
        for sheet, suffix in ((SCREEN, "w"), (PHONE, "n")):
            figure = draw(sheet)
            if figure is None:
                return None
            parts.append(inline_svg(figure, f"{name}-{suffix}", alternative=title, titles=titles))
    return Drawing(name, title, note, parts[0], parts[1])


def _tip(results: StudyResults, number: int) -> str:
    names = ["footprint", *(name for name in results.objectives if name != "footprint")]
    lines = [f"trial {number}: {describe_settings(results.records[number].settings)}"]
    lines += [
        f"{label(name)} {measured(results, number, name)}" for name in names if results.value(number, name) is not None
    ]
    return "\n".join(lines)


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
    # Okabe and Ito's palette, lighter where it would drown in the dark
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
"""Colour of a plot in the light -> the same in the dark, both as RRGGBB."""


def theme_css() -> str:
    """Style rules that turn the plots' colours over where the reader prefers the dark, on screen only."""
    dark = "".join(f"--x-{light}:#{dark};" for light, dark in DARK.items())
    return f"@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"
