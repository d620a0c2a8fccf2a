"""The front in the terminal, and as data for `--json`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import DASH, is_missing, label, percent, score, size, times
from autotune.compression.describe import describe_settings
from autotune.results.decision import measured
from autotune.results.frame import SIZE_COLUMNS, TIME_COLUMNS
from autotune.results.types import StudyResults

if TYPE_CHECKING:
    from rich.table import Table

__all__ = ["as_json", "front_table", "plain_front"]

NARROW, WIDE = 80, 120


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the terminal's table: a header and a cell for the original and each trial."""

    header: str
    cells: tuple[str, ...]
    left: bool = False

    @property
    def width(self) -> int:
        """Characters that it needs."""
        return max(len(self.header), *(len(cell) for cell in self.cells)) if self.cells else len(self.header)


def _width(width: int | None) -> int:
    """The given width, else the terminal's, within 80 and 120."""
    return width if width is not None else min(WIDE, max(NARROW, shutil.get_terminal_size((NARROW, 24)).columns))


def _columns(results: StudyResults, width: int) -> list[Column]:
    """The columns that fit, the optional ones by what they tell; standard errors go when nothing else can."""
    numbers = list(results.front) or ([] if results.least_infeasible is None else [results.least_infeasible])
    original = results.original
    first = [] if original is None else ["original"]
    gap = [] if original is None else [DASH]

    def column(header: str, ours: str | None, cells: list[str], left: bool = False) -> Column:
        return Column(header, (*([ours or DASH] if original is not None else []), *cells), left)

    mark = [f"{'*' if n == results.knee else ' '}{n}" for n in numbers]
    required = [
        Column("trial", (*gap, *mark)),
        Column(
            "settings",
            (*first, *(describe_settings(results.records[n].settings, short=True) for n in numbers)),
            left=True,
        ),
        column(
            "size",
            size(original.footprint) if original else None,
            [size(results.value(n, "footprint")) for n in numbers],
        ),
        column(
            "rate",
            times(original.compression_rate) if original else None,
            [times(results.value(n, "compression_rate")) for n in numbers],
        ),
    ]
    objectives = [name for name in results.objectives if name not in ("footprint", "compression_rate")]
    full = [
        column(label(name), _of_original(results, name), [measured(results, n, name) for n in numbers])
        for name in objectives
    ]
    short = [
        column(label(name), _of_original(results, name), [_bare(results, n, name) for n in numbers])
        for name in objectives
    ]
    optional = []
    if "relative_error" not in objectives and any(results.value(n, "relative_error") is not None for n in numbers):
        optional.append(column("rel. error", "0.0%", [percent(results.value(n, "relative_error"), 1) for n in numbers]))
    optional.append(column("%int4", "0%", [percent(results.value(n, "int4_percent")) for n in numbers]))
    for name in ("similarity", "perplexity_increase", "kl_divergence"):
        if name not in objectives and any(results.value(n, name) is not None for n in numbers):
            optional.append(
                column(label(name), _of_original(results, name), [_bare(results, n, name) for n in numbers])
            )

    chosen = [*required, *(full if _fits([*required, *full], width) else short)]
    for extra in optional:
        if _fits([*chosen, extra], width):
            chosen.append(extra)
    return chosen


def _fits(columns: list[Column], width: int) -> bool:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1) <= width - 2


def _bare(results: StudyResults, trial: int, name: str) -> str:
    return score(results.value(trial, name), name=name, metric=results.metrics.get(name))


def _of_original(results: StudyResults, name: str) -> str:
    found = results.original_score(name)
    return DASH if found is None else score(found.value, name=name, metric=results.metrics.get(name))


def headline(results: StudyResults) -> str:
    """One line above the table."""
    if results.front:
        count = len(results.front)
        return f"{results.model}: {count} model{'s' if count > 1 else ''} on the front"
    if results.least_infeasible is not None:
        return f"{results.model}: no trial keeps the limits; the nearest"
    return f"{results.model}: no trial was completed"


def footnote(results: StudyResults) -> str:
    """One line below the table; empty where there is nothing to explain."""
    if results.knee is None:
        return ""
    return f"* {'the knee' if len(results.objectives) > 1 else 'the best'}; ± one standard error"


def plain_front(results: StudyResults, width: int | None = None) -> str:
    """The front as plain text of at most `width` columns: the original first, the knee marked with a star.

    Args:
        width: None is the terminal's width, within 80 and 120.
    """
    room = _width(width)
    columns = _columns(results, room)
    if not columns[0].cells:
        return headline(results)
    widths = [column.width for column in columns]
    over = sum(widths) + 2 * (len(widths) - 1) - room
    if over > 0:
        widths[1] = max(8, widths[1] - over)
    lines = [headline(results), ""]
    for row in range(-1, len(columns[0].cells)):
        cells = []
        for column, space in zip(columns, widths, strict=True):
            text = column.header if row < 0 else column.cells[row]
            text = text if len(text) <= space else text[: space - 1] + "…"
            cells.append(text.ljust(space) if column.left else text.rjust(space))
        lines.append("  ".join(cells).rstrip())
    note = footnote(results)
    return "\n".join([*lines, *(["", note] if note else [])])


def front_table(results: StudyResults, width: int | None = None) -> Table:
    """The same for a rich console."""
    from rich import box
    from rich.table import Table
    from rich.text import Text  # a model's name may hold what rich would take for markup

    columns = _columns(results, _width(width))
    table = Table(
        title=Text(headline(results)),
        caption=footnote(results) or None,
        title_justify="left",
        caption_justify="left",
        title_style="bold",
        caption_style="dim",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        show_edge=False,
    )
    for column in columns:
        table.add_column(column.header, justify="left" if column.left else "right", no_wrap=True, overflow="ellipsis")
    for row in range(len(columns[0].cells)):
        is_knee, is_original = columns[0].cells[row].startswith("*"), results.original is not None and row == 0
        table.add_row(
            *(Text(column.cells[row]) for column in columns),
            style="bold green" if is_knee else "dim" if is_original else "",
        )
    return table


def as_json(results: StudyResults) -> dict[str, Any]:
    """The study's outcome as plain data: JSON types only, no NaN, sizes in bytes."""
    states = [record.state for record in results.records.values()]
    original = results.original
    return {
        "model": results.config.get("model"),
        "objectives": dict(results.objectives),
        "constraints": {name: limit.text for name, limit in results.constraints.items()},
        "trials": {state.lower(): states.count(state) for state in sorted(set(states))},
        "original": None
        if original is None
        else {
            "footprint": original.footprint,
            "bits_per_weight": original.bits_per_weight,
            "compression_rate": original.compression_rate,
            "metrics": {
                name: {"value": found.value, "stderr": found.stderr} for name, found in original.metrics.items()
            },
        },
        "knee": results.knee,
        "least_infeasible": results.least_infeasible,
        "front": [_trial_json(results, number) for number in results.front],
    }


def _trial_json(results: StudyResults, number: int) -> dict[str, Any]:
    record = results.records[number]
    values = {name: results.value(number, name) for name in (*SIZE_COLUMNS[1:], *TIME_COLUMNS)}
    metrics = {name: {"value": found.value, "stderr": found.stderr} for name, found in record.metrics.items()}
    for name in results.objectives:
        value = results.value(number, name)
        if name != "footprint" and name not in metrics and value is not None:
            metrics[name] = {"value": value, "stderr": None}
    return {
        "trial": number,
        "knee": number == results.knee,
        "plan": record.plan,
        "settings": {name: value for name, value in record.settings.items() if not is_missing(value)},
        "footprint": record.footprint,
        **values,
        "metrics": metrics,
    }
