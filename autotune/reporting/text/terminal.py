"""The front for a terminal, as plain text and as a rich table, and the study's outcome as data for `--json`."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import DASH, is_missing, label
from autotune.evaluation import Measurement
from autotune.reporting.front_table import front_cell
from autotune.results.frame import SIZE_COLUMNS, TIME_COLUMNS
from autotune.results.front.recommendation import recommend
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    from rich.table import Table

NARROW, WIDE = 80, 120


@dataclass(frozen=True, slots=True)
class Column:
    """One column: a header, and a cell for the original and for each trial."""

    header: str
    cells: tuple[str, ...]
    left: bool = False

    @property
    def width(self) -> int:
        """Characters that it needs."""
        return max(len(text) for text in (self.header, *self.cells))


def plain_front(results: StudyResults, width: int | None = None) -> str:
    """Write the front as plain text of at most `width` columns: the original first, the recommended trial starred.

    Args:
        results: the study.
        width: None is the terminal's width, within 80 and 120.
    """
    width = _width(width)
    columns = _columns(results, width)
    if not columns[0].cells:
        return _headline(results)
    widths = [column.width for column in columns]
    over = sum(widths) + 2 * (len(widths) - 1) - width
    if over > 0:
        widths[1] = max(8, widths[1] - over)
    lines = [_headline(results), ""]
    for texts in zip(*((column.header, *column.cells) for column in columns), strict=True):
        cells = []
        for column, space, text in zip(columns, widths, texts, strict=True):
            shown = text if len(text) <= space else text[: space - 1] + "…"
            cells.append(shown.ljust(space) if column.left else shown.rjust(space))
        lines.append("  ".join(cells).rstrip())
    note = _footnote(results)
    return "\n".join([*lines, *(["", note] if note else [])])


def rich_front(results: StudyResults, width: int | None = None) -> Table:
    """Return the same as a table for a rich console."""
    from rich import box
    from rich.table import Table
    from rich.text import Text  # a model's name may hold what rich would take for markup

    columns = _columns(results, _width(width))
    table = Table(
        title=Text(_headline(results)),
        caption=_footnote(results) or None,
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
    for row, texts in enumerate(zip(*(column.cells for column in columns), strict=True)):
        is_chosen, is_original = texts[0].startswith("*"), results.original is not None and row == 0
        style = "bold green" if is_chosen else "dim" if is_original else ""
        table.add_row(*(Text(text) for text in texts), style=style)
    return table


def _width(width: int | None) -> int:
    return width if width is not None else min(WIDE, max(NARROW, shutil.get_terminal_size((NARROW, 24)).columns))


def _columns(results: StudyResults, width: int) -> list[Column]:
    """Return the columns that fit, the optional ones in the order of their value; first drop standard errors."""
    trials = [*([] if results.original is None else [None]), *results.shown]

    def column(header: str, name: str, *, left: bool = False) -> Column:
        return Column(header, tuple(front_cell(results, trial, name) for trial in trials), left)

    def scores(name: str, *, stderr: bool = False) -> Column:
        # The original has no standard error here, as in the tables of the decision.
        cells = (results.score_text(t, name, stderr=stderr and t is not None) for t in trials)
        unit = results.unit(name).partition("/")[0]
        return Column(f"{label(name).replace(' divergence', '')}, {unit}" if unit else label(name), tuple(cells))

    chosen = recommend(results).trial
    marks = (f"{'*' if trial == chosen else ' '}{trial}" for trial in results.shown)
    columns = [
        Column("trial", (*([] if results.original is None else [DASH]), *marks)),
        column("settings", "settings", left=True),
        column("size", "footprint"),
        column("rate", "compression_rate"),
    ]
    objectives = [name for name in results.objectives if name not in ("footprint", "compression_rate")]
    full = [scores(name, stderr=True) for name in objectives]
    columns += full if _fit([*columns, *full], width) else [scores(name) for name in objectives]
    optional = {name: scores(name) for name in results.deciding if name not in SIZE_COLUMNS}
    optional |= {
        "relative_error": column("rel. error", "relative_error"),
        "int4_percent": column("%int4", "int4_percent"),
    }
    optional |= {name: scores(name) for name in ("similarity", "perplexity_increase", "kl_divergence")}
    for name, extra in optional.items():
        present = name == "int4_percent" or any(results.value(trial, name) is not None for trial in results.shown)
        if name not in objectives and present and _fit([*columns, extra], width):
            columns.append(extra)
    return columns


def _fit(columns: Sequence[Column], width: int) -> bool:
    return sum(column.width for column in columns) + 2 * (len(columns) - 1) <= width - 2


def _headline(results: StudyResults) -> str:
    if results.front:
        count = len(results.front)
        return f"{results.model}: {count} model{'s' if count > 1 else ''} on the front"
    if results.least_infeasible is not None:
        return f"{results.model}: no trial keeps the limits; the nearest"
    return f"{results.model}: no trial was completed"


def _footnote(results: StudyResults) -> str:
    if not results.front:
        return ""
    found = recommend(results)
    if found.trial is None:
        return "± one standard error; no model is recommended"
    role = "recommended" if found.trial != results.knee else "the knee" if len(results.objectives) > 1 else "the best"
    return f"* {role}; ± one standard error"


def as_json(results: StudyResults) -> dict[str, Any]:
    """Return the study's outcome as plain data: JSON types only, no NaN, sizes in bytes."""
    records = results.records.values()
    states = ["INTERRUPTED" if record.interrupted else record.state for record in records]
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
            "metrics": _scores(original.metrics),
        },
        "recommended": recommend(results).trial,
        "knee": results.knee,
        "least_infeasible": results.least_infeasible,
        "front": [_trial_json(results, number) for number in results.front],
    }


def _trial_json(results: StudyResults, number: int) -> dict[str, Any]:
    record = results.records[number]
    values = {name: results.value(number, name) for name in (*SIZE_COLUMNS[1:], *TIME_COLUMNS)}
    metrics = _scores(record.metrics)
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


def _scores(metrics: Mapping[str, Measurement]) -> dict[str, dict[str, float | None]]:
    return {name: {"value": score.value, "stderr": score.stderr} for name, score in metrics.items()}
