"""Every plot of the page, drawn twice: for a screen and for a phone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.reporting.decision import measured, objective_pairs
from autotune.reporting.formatting import label, settings_text
from autotune.reporting.html.svg import inline_svg
from autotune.reporting.style import PHONE, SCREEN, Sheet
from autotune.reporting.view import StudyResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "front_drawings", "progress_drawing", "setting_drawings"]


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
    from autotune.reporting.front_plot import front_figure

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
    from autotune.reporting.setting_plots import settings_figure, settings_note

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
    from autotune.reporting.progress_plot import progress_figure, progress_note

    def draw(sheet: Sheet) -> Figure | None:
        return progress_figure(results, sheet)

    return _drawing("progress", "How the front grew", progress_note(results), draw)


def _drawing(
    name: str, title: str, note: str, draw: Callable[[Sheet], Figure | None], titles: dict[int, str] | None = None
) -> Drawing | None:
    from autotune.reporting.style import look

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
    lines = [f"trial {number}: {settings_text(results.records[number].settings)}"]
    lines += [
        f"{label(name)} {measured(results, number, name)}" for name in names if results.value(number, name) is not None
    ]
    return "\n".join(lines)
