"""report.html: a `Report` and its plots as one HTML page; and a study as HTML for a notebook."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, Literal

from autotune.common.formatting import DASH
from autotune.reporting.front_table import front_heading, front_table
from autotune.reporting.html.drawings import (
    front_drawings,
    front_marks,
    progress_drawing,
    setting_drawings,
    theme_css,
)
from autotune.reporting.html.svg import inline_svg
from autotune.reporting.plots.style import SCREEN, sentence
from autotune.reporting.report import Report
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import jinja2


def report_html(results: StudyResults, report: Report) -> str:
    """Write report.html, self-contained; the same study gives the same text.

    Args:
        results: the study, for its plots.
        report: of the same study.
    """
    return template("page.html").render(
        report=report,
        fronts=front_drawings(results),
        legend=front_marks(results, tied=bool(report.ties)),
        settings=setting_drawings(results),
        progress=progress_drawing(results),
        theme=theme_css(),
    )


def notebook_html(results: StudyResults) -> str:
    """Return the front as a table and a plot, for a notebook's cell."""
    from autotune.reporting.plots.front import front_figure

    table, figure = front_table(results), front_figure(results, sheet=SCREEN)
    # Several studies in one notebook need different ids in their drawings.
    name = f"front-{zlib.crc32(repr((results.model, table)).encode()):08x}"
    drawing = "" if figure is None else inline_svg(figure, name, alternative="The front", styled=False)
    return template("notebook.html").render(
        model=results.model, heading=front_heading(results), table=table, drawing=drawing
    )


def template(name: str) -> jinja2.Template:
    """Return a template of this package; values are escaped, and a missing name is an error."""
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("autotune.reporting.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "sentence": sentence,
        "prose": lambda text: _marked(text, ("**", "strong"), ("`", "code")),
        "code": lambda text: _marked(text, ("`", "code")),
        "leaves": _leaves,
        "compare": compare_words,
    }
    return environment.get_template(name)


def _marked(text: str, *marks: tuple[str, str]) -> Any:
    """Escape a text, and put every second part between each mark into its element."""
    from markupsafe import Markup, escape

    html = str(escape(text))
    for mark, tag in marks:
        html = "".join(f"<{tag}>{part}</{tag}>" if i % 2 else part for i, part in enumerate(html.split(mark)))
    return Markup(html)


def _leaves(mapping: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Return nested data as (dotted key, value), one leaf a row."""
    rows: list[tuple[str, str]] = []
    for key, value in mapping.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            rows += _leaves(value, name)
        elif isinstance(value, (list, tuple)):
            rows.append((name, ", ".join(map(str, value)) or DASH))
        else:
            rows.append((name, DASH if value is None or value == {} else str(value)))
    return rows


Part = tuple[Literal["same", "ours", "theirs"], str]


def compare_words(original: str, answer: str) -> tuple[list[Part], list[Part]]:
    """Split both texts into parts that are the same or only in one of them; the parts of each join to the text."""
    before, after = _words(original), _words(answer)
    left: list[Part] = []
    right: list[Part] = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            left.append(("same", "".join(before[a:b])))
            right.append(("same", "".join(after[c:d])))
            continue
        if b > a:
            left.append(("theirs", "".join(before[a:b])))
        if d > c:
            right.append(("ours", "".join(after[c:d])))
    return left, right


def _words(text: str) -> list[str]:
    """Split a text into words with the white space that follows them."""
    words: list[str] = []
    for character in text:
        if words and (not words[-1][-1].isspace() or character.isspace()):
            words[-1] += character
        else:
            words.append(character)
    return words
