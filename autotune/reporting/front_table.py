"""The front as a table of text cells, and the files trials.csv, front.csv, front.md and front.tex."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from autotune.common.formatting import DASH, is_missing, label, latex_table, markdown_table, percent, times
from autotune.compression.describe import default_backup, describe_algorithms
from autotune.results.frame import front_frame
from autotune.results.recommendation import recommend
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd

STAR = "★"
HEADERS = {
    "mode": "mode",
    "int4_percent": "%int4",
    "int8_percent": "%int8",
    "lora_rank": "lora rank",
    "relative_error": "average relative error",
    "compression_rate": "compression rate",
    "trial": "trial",
    "group_size": "group size",
    "ratio": "ratio",
    "options": "options",
    "footprint": "footprint",
}
"""Columns of the front: first those of NNCF's accuracy/footprint tables."""


class Table(NamedTuple):
    """Text cells; `align` holds one of ``l`` and ``r`` a column."""

    header: list[str]
    rows: list[list[str]]
    align: str


def trials_csv(results: StudyResults) -> str:
    """Write all trials; numbers as the shortest text that reads back as the same float, missing ones empty."""
    return _csv(results.trials)


def front_csv(results: StudyResults) -> str:
    """Write the front's trials in the order of the tables, with the columns of trials.csv."""
    return _csv(front_frame(results))


def _csv(frame: pd.DataFrame) -> str:
    text = frame.to_csv(index=False, lineterminator="\n")
    assert isinstance(text, str)
    return text


def front_table(results: StudyResults, metrics: list[str] | None = None) -> Table:
    """Return the front in the form of NNCF's accuracy/footprint tables, the original model first.

    Args:
        results: the study; without a front its least infeasible trial is shown.
        metrics: further columns; None is the objectives that have no column of their own.
    """
    if metrics is None:
        metrics = [name for name in results.objectives if name not in HEADERS]
    header = list(HEADERS.values())
    for name in metrics:
        unit = results.metrics[name].unit
        header.append(f"{label(name)} ({unit})" if unit and unit != "%" else label(name))
    trials = [*([] if results.original is None else [None]), *results.shown]
    rows = [front_row(results, trial, metrics) for trial in trials]
    return Table(header, rows, "lrrrrrrrrlr" + "r" * len(metrics))


def front_row(results: StudyResults, trial: int | None, metrics: list[str]) -> list[str]:
    """Return a row under the header of `front_table`; `trial` None is the original; the recommended one has a star."""
    row = [front_cell(results, trial, column) for column in HEADERS]
    if trial is not None and trial == recommend(results).trial:
        row[0] = f"{row[0]} {STAR}"
    return row + [results.score_text(trial, name) for name in metrics]


def front_cell(results: StudyResults, trial: int | None, column: str) -> str:
    """Return one cell of a column of `HEADERS` or of ``settings`` (short); `trial` None is the original model."""
    if column == "footprint":
        return results.score_text(trial, column)
    if trial is None:
        if column == "compression_rate":
            return times(None if results.original is None else results.original.compression_rate)
        return {
            "mode": "original",
            "settings": "original",
            "int4_percent": "0%",
            "int8_percent": "0%",
            "relative_error": "0.0%",
        }.get(column, DASH)
    settings = results.records[trial].settings
    value = settings.get(column)
    match column:
        case "int4_percent" | "int8_percent":
            return percent(results.value(trial, column))
        case "relative_error":
            return percent(results.value(trial, column), 1)
        case "compression_rate":
            return times(results.value(trial, column))
        case "settings":
            return results.records[trial].describe(short=True)
        case "options":
            return _options(settings)
        case "trial":
            return str(trial)
        case "lora_rank" if not settings.get("lora_correction"):
            return DASH
        case "group_size" if value == -1:
            return "per channel"
    if is_missing(value):
        return DASH
    return f"{float(value):g}" if column == "ratio" and value is not None else str(value)


def _options(settings: Mapping[str, Any]) -> str:
    """Return algorithms and whatever else is not a default, e.g. ``AWQ + SE, all layers, backup none``."""
    parts = [describe_algorithms(settings)]
    if not is_missing(settings.get("all_layers")) and settings.get("all_layers"):
        parts.append("all layers")
    backup = settings.get("backup_mode")
    if not is_missing(backup) and backup != default_backup(str(settings.get("mode"))):
        parts.append(f"backup {backup}")
    if settings.get("ignored_scope"):
        parts.append("ignored scope")
    return ", ".join(part for part in parts if part) or DASH


def front_heading(results: StudyResults) -> str:
    """Return the sentence above a table of the front."""
    if results.front:
        ways = ", ".join(f"{label(name)} ({way}d)" for name, way in results.objectives.items())
        return f"The {len(results.front)} trials that no other trial dominates in {ways}."
    if results.least_infeasible is not None:
        return "No trial keeps the limits; below, the one nearest to them."
    return "No trial was completed."


def front_markdown(results: StudyResults) -> str:
    """Write front.md: the table and the meaning of its columns."""
    table, legend = front_table(results), [f"- {line}" for line in front_legend(results)]
    lines = [f"# {results.model}: the front", "", front_heading(results), "", markdown_table(*starred(table))]
    return "\n".join([*lines, "", *legend, ""])


def starred(table: Table) -> Table:
    """Return the front's table with the recommended trial's mode in bold, for Markdown."""
    rows = [
        [f"**{row[0].removesuffix(STAR).strip()}** {STAR}" if row[0].endswith(STAR) else row[0], *row[1:]]
        for row in table.rows
    ]
    return table._replace(rows=rows)


def front_latex(results: StudyResults) -> str:
    r"""Write front.tex: a tabular of the package booktabs, to be read by ``\input``."""
    return f"% {results.model}: the front. Needs \\usepackage{{booktabs}}.\n" + latex_table(*front_table(results))


def front_legend(results: StudyResults) -> list[str]:
    """Return the meaning of the front table's columns, one line each."""
    lines = []
    found = recommend(results)
    if found.trial is not None:
        lines.append(f"{STAR} recommended. {found.reason}")
    if results.knee is not None and len(results.objectives) == 2:
        lines.append("knee: the point farthest from the line between the front's ends, each objective scaled.")
    elif results.knee is not None and len(results.objectives) > 2:
        lines.append("knee: the point nearest to the best value of every objective, each scaled to its range.")
    lines.append("%int4, %int8: share of the compressed weights' elements in 4 and 8 bits.")
    if any(record.settings.get("allocation") == "budget" for record in results.records.values()):
        lines.append("bits: stored bits per weight, scales and zero points included, over all compressible weights.")
    lines.append("average relative error: mean of the scored metrics' relative differences to the original.")
    lines.append(
        "footprint: size of `openvino_model.bin`, 1 MB = 1,000,000 bytes; compression rate: fp32 size over that."
    )
    if any(f"{name}_stderr" in results.trials.columns for name in results.objectives):
        lines.append("±: one standard error, from the differences to the original on the same texts.")
    lines += [f"limit: {label(name)} {limit.text}." for name, limit in results.constraints.items()]
    return lines
