"""A matplotlib figure as SVG inside an HTML page: the page's font and colours, ids that meet no other figure's."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["inline_svg"]

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
