"""A matplotlib figure as one inline ``<svg>`` element of a page."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

from autotune.reporting.plots.style import look

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOR = re.compile(r"#([0-9a-f]{6})\b")
FONT = re.compile(r"font: (?:(bold|\d{3}) )?([\d.]+)px [^;\"]*")
ID = re.compile(r'(\bid="|xlink:href="#(?!t\d+")|url\(#)')
LINK = re.compile(r'<a xlink:href="(#t\d+)"[^>]*>')
TRIAL = re.compile(r'<g id="[^"]*trial-(\d+)">')


def inline_svg(
    figure: Figure, name: str, *, alternative: str, titles: Mapping[int, str] | None = None, styled: bool = True
) -> str:
    """Convert a figure to one ``<svg>`` element; the same figure gives the same text.

    Every colour becomes ``var(--x-RRGGBB, #RRGGBB)``, so that a style sheet can replace it in dark mode.

    Args:
        figure: with marks whose groups have the ids ``trial-NUMBER``.
        name: prefix of all ids, unique in the page.
        alternative: text for screen readers.
        titles: trial number -> tooltip of its mark.
        styled: put styles that occur often into a ``<style>`` element, which viewers of notebooks may remove.
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
    text = _compact(text)
    text = _with_classes(text, name) if styled else text
    opening = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(alternative)}">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1).strip()


GEOMETRY = re.compile(r'\b(d|x|y|transform|x1|x2|y1|y2)="([^"]*)"')
STYLE = re.compile(r' style="([^"]*)"')
MARKER = re.compile(r"<defs>\s*<path.*?</defs>", re.DOTALL)


def _compact(text: str) -> str:
    """Shorten a drawing, to hundredths of a point and one definition a marker: it may have a thousand marks."""
    text = GEOMETRY.sub(lambda found: f'{found[1]}="{_rounded(found[2])}"', text)
    defined: set[str] = set()

    def once(found: re.Match[str]) -> str:
        is_new = found[0] not in defined
        defined.add(found[0])
        return found[0] if is_new else ""

    text = MARKER.sub(once, text)
    return re.sub(r">\s+<", "><", text).replace("<use xlink:href=", "<use href=").replace("<defs></defs>", "")


def _with_classes(text: str, name: str) -> str:
    """Turn each style that occurs more than three times into a class."""
    counts = Counter(STYLE.findall(text))
    classes = {style: f"{name}-s{place}" for place, style in enumerate(s for s, n in counts.items() if n > 3)}
    text = STYLE.sub(lambda found: f' class="{classes[found[1]]}"' if found[1] in classes else found[0], text)
    rules = "".join(f".{name}{{{style}}}" for style, name in classes.items())
    return re.sub(r"(<svg[^>]*>)", lambda found: f"{found[1]}<style>{rules}</style>", text, count=1)


def _rounded(numbers: str) -> str:
    """Round an attribute's numbers down to hundredths."""
    return re.sub(r"[.]0+(?![0-9])", "", re.sub(r"([.][0-9]{2})[0-9]+", r"\1", " ".join(numbers.split())))
