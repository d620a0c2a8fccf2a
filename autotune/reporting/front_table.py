"""The front as a table of text cells, and the files trials.csv, front.csv, front.md and front.tex."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from autotune.common.formatting import (
    DASH,
    csv_cell,
    is_missing,
    label,
    latex_table,
    latex_text,
    markdown_table,
    markdown_text,
    percent,
    times,
)
from autotune.results.frame import MEASURE_COLUMNS, SIZE_COLUMNS, front_frame
from autotune.results.front.recommendation import recommend
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd

STAR = "★"
LEADING = {"trial": "trial", "settings": "settings", "footprint": "footprint"}
"""Columns that every table of the front begins with; the scores follow."""

OPTIONAL = {
    "compression_rate": "compression rate",
    "int4_percent": "%int4",
    "int8_percent": "%int8",
    "lora_rank": "lora rank",
    "relative_error": "average relative error",
}
"""Columns of NNCF's accuracy/footprint tables, which follow the scores; left out if all trials have the same cell."""


class Table(NamedTuple):
    """Text cells; `align` holds one of ``l`` and ``r`` a column."""

    header: list[str]
    rows: list[list[str]]
    align: str


def trials_csv(results: StudyResults) -> str:
    """Write all trials; numbers as the shortest text that reads back as the same float, missing ones empty."""
    return _csv(results, results.trials)


def front_csv(results: StudyResults) -> str:
    """Write the front's trials in the order of the tables, with the columns of trials.csv."""
    return _csv(results, front_frame(results))


def _csv(results: StudyResults, frame: pd.DataFrame) -> str:
    labels = [results.records[int(trial)].describe() for trial in frame["trial"]]
    cells = frame.assign(settings=labels)[csv_columns(results)].copy()
    for name in cells.select_dtypes(["object", "string"]):
        cells[name] = cells[name].map(csv_cell)
    text = cells.rename(columns=csv_cell).to_csv(index=False, lineterminator="\n")
    assert isinstance(text, str)
    return text


def csv_columns(results: StudyResults) -> list[str]:
    """Return the columns of trials.csv: what a reader compares first, each standard error beside its metric."""
    names = list(results.trials.columns)
    first = ["trial", "settings", "state", "on_front", "knee", "feasible", *SIZE_COLUMNS, *results.deciding]
    metrics = [name for name in (*MEASURE_COLUMNS, *results.metrics) if name in names]
    ordered: dict[str, None] = {}
    for name in (*first, *metrics, *names):
        error = f"{name}_stderr"
        ordered |= {name: None} if name in names or name == "settings" else {}
        ordered |= {error: None} if error in names else {}
    return list(ordered)


def front_table(results: StudyResults, metrics: list[str] | None = None, columns: Sequence[str] | None = None) -> Table:
    """Return the front as a table, the original model first.

    Args:
        results: the study; without a front its least infeasible trial is shown.
        metrics: the scores; None is those of `front_metrics`.
        columns: some of `OPTIONAL`; None is those that differ.
    """
    metrics = front_metrics(results) if metrics is None else metrics
    columns = optional_columns([(results, trial) for trial in results.shown]) if columns is None else columns
    header = [*LEADING.values(), *(results.heading(name) for name in metrics)]
    header += [OPTIONAL[name] for name in columns]
    trials = [*([] if results.original is None else [None]), *results.shown]
    rows = [front_row(results, trial, metrics, columns) for trial in trials]
    return Table(header, rows, "rlr" + "r" * (len(metrics) + len(columns)))


def front_metrics(results: StudyResults) -> list[str]:
    """Return the scores that a table of the front shows: objectives, limited metrics, and the similarity, if scored."""
    names = [name for name in results.deciding if name not in {**LEADING, **OPTIONAL}]
    names = [name for name in names if name in results.objectives or results.has_scores(name)]
    return names + ["similarity"] * ("similarity" not in names and results.has_scores("similarity"))


def optional_columns(shown: Sequence[tuple[StudyResults, int]]) -> list[str]:
    """Return the columns of `OPTIONAL` in which the trials differ; for a single trial those that are not empty."""
    cells = {name: {front_cell(results, trial, name) for results, trial in shown} for name in OPTIONAL}
    return [name for name, found in cells.items() if len(found) > 1 or (len(shown) == 1 and found != {DASH})]


def front_row(results: StudyResults, trial: int | None, metrics: Sequence[str], columns: Sequence[str]) -> list[str]:
    """Return a row under the header of `front_table`; `trial` None is the original; the recommended one has a star."""
    row = [front_cell(results, trial, column) for column in LEADING]
    if trial is not None and trial == recommend(results).trial:
        row[0] = f"{row[0]} {STAR}"
    row += [results.score_text(trial, name) for name in metrics]
    return row + [front_cell(results, trial, column) for column in columns]


def front_cell(results: StudyResults, trial: int | None, column: str) -> str:
    """Return one cell of a column of `LEADING` or `OPTIONAL`; `trial` None is the original model."""
    if column == "footprint":
        return results.score_text(trial, column)
    if trial is None:
        if column == "compression_rate":
            return times(None if results.original is None else results.original.compression_rate)
        fixed = {"settings": "original", "int4_percent": "0%", "int8_percent": "0%", "relative_error": "0.0%"}
        return fixed.get(column, DASH)
    settings = results.records[trial].settings
    match column:
        case "trial":
            return str(trial)
        case "settings":
            return results.records[trial].describe(short=True)
        case "int4_percent" | "int8_percent":
            return percent(results.value(trial, column))
        case "relative_error":
            return percent(results.value(trial, column), 1)
        case "compression_rate":
            return times(results.value(trial, column))
        case "lora_rank" if not settings.get("lora_correction"):
            return DASH
    value = settings.get(column)
    return DASH if is_missing(value) else str(value)


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
    table, legend = front_table(results), [f"- {markdown_text(line)}" for line in front_legend(results)]
    lines = [
        f"# {markdown_text(results.model)}: the front",
        "",
        front_heading(results),
        "",
        markdown_table(*starred(table)),
    ]
    return "\n".join([*lines, "", *legend, ""])


def starred(table: Table) -> Table:
    """Return the front's table with the recommended trial's number in bold, for Markdown."""
    rows = [
        [f"**{row[0].removesuffix(STAR).strip()}** {STAR}" if row[0].endswith(STAR) else row[0], *row[1:]]
        for row in table.rows
    ]
    return table._replace(rows=rows)


POINTS = 345.0
"""Width of the text of an article of one column in points; the text of two columns is wider."""

POINTS_A_CHARACTER, POINTS_A_COLUMN = 4.25, 6.0
"""Width of a digit of Computer Modern at 8 points, and the space of a column at a \\tabcolsep of 3 points."""


def front_latex(results: StudyResults) -> str:
    r"""Write front.tex: a table environment of the package booktabs, to be read by ``\input``.

    Columns are left out from the right until the table fits the text of an article, of one or of two columns.
    """
    table = fitting(units_in_header(front_table(results)))
    front = f"{len(results.front)} models on the front" if results.front else "no model keeps the limits"
    caption = f"{results.model}: {front}, the original first."
    if any(row[0].endswith(STAR) for row in table.rows):
        caption += f" {STAR}: recommended."
    if any("±" in cell for row in table.rows for cell in row):
        caption += " ±: one standard error."
    return latex_float(table, caption, f"tab:front-{slug(results.model)}")


def latex_float(table: Table, caption: str, name: str, groups: Mapping[int, str] | None = None) -> str:
    """Wrap a table in an environment with caption and label; over both columns of an article that has two.

    Args:
        table: fits the text.
        caption, name: of the float.
        groups: index of a row -> heading of the rows from there on.
    """
    start, rule, _, middle, *rest = latex_table(*table).splitlines()
    for index, heading in sorted((groups or {}).items(), reverse=True):
        rest.insert(index, rf"\multicolumn{{{len(table.header)}}}{{l}}{{\emph{{{latex_text(heading)}}}}} \\")
    cells = []
    for header, end in zip(table.header, table.align, strict=True):
        parts = [latex_text(part).replace("1e-3 nats", "$10^{-3}$ nats") for part in stacked(header)]
        cells.append(parts[0] if len(parts) == 1 else rf"\shortstack[{end}]{{" + r" \\ ".join(parts) + "}")
    body = [start, rule, " & ".join(cells) + r" \\", middle, *rest]
    lines = ["% Needs \\usepackage{booktabs}.", r"\begin{table*}[t]", r"\centering\footnotesize"]
    lines += [r"\setlength{\tabcolsep}{3pt}", f"\\caption{{{latex_text(caption)}}}", f"\\label{{{name}}}"]
    return "\n".join([*lines, *body, r"\end{table*}"]) + "\n"


def stacked(header: str) -> list[str]:
    """Break a long header into two lines: before its unit, or at the space nearest to its middle."""
    name, bracket, unit = header.partition(" (")
    if bracket:
        return [name, f"({unit}"]
    spaces = [position for position, character in enumerate(header) if character == " "]
    if len(header) <= 9 or not spaces:
        return [header]
    middle = min(spaces, key=lambda position: abs(position - len(header) / 2))
    return [header[:middle], header[middle + 1 :]]


def slug(text: str) -> str:
    """Return a name that LaTeX takes as a label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def units_in_header(table: Table) -> Table:
    """Move a unit that all cells of a column share from the cells to the header."""
    header, rows = list(table.header), [list(row) for row in table.rows]
    for position in range(len(header)):
        cells = [row[position] for row in rows if row[position] not in (DASH, "0")]
        for unit in (" GB", " MB", " kB", "%", "x"):
            if cells and all(re.fullmatch(rf"[\d.± -]+{unit}", cell) for cell in cells):
                for row in rows:
                    row[position] = row[position].removesuffix(unit)
                if unit.strip() not in header[position]:
                    header[position] += f" ({unit.strip()})" if unit != "x" else ""
    return Table(header, rows, table.align)


def points(table: Table) -> float:
    """Return the width of a table in LaTeX in points."""
    heads = [max(map(len, stacked(header))) for header in table.header]
    widths = [max(head, *(len(row[i]) for row in table.rows)) for i, head in enumerate(heads)]
    return POINTS_A_CHARACTER * sum(widths) + POINTS_A_COLUMN * len(widths)


def fitting(table: Table, width: float = POINTS, *, least: int = 4) -> Table:
    """Leave out columns from the right until the table has this width; `least` columns stay."""
    while points(table) > width and len(table.header) > least:
        table = Table(table.header[:-1], [row[:-1] for row in table.rows], table.align[:-1])
    return table


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
    lines.append("%int4, %int8: share of the weights' elements in 4 and 8 bits. 1e-3 nats: thousandths of a nat.")
    if any(record.settings.get("allocation") == "budget" for record in results.records.values()):
        lines.append("bits: stored bits per weight, scales and zero points included, over all compressible weights.")
    lines.append("average relative error: mean of the scored metrics' relative differences to the original.")
    lines.append(
        "footprint: size of the weight files (.bin), 1 MB = 1,000,000 bytes; compression rate: fp32 size over that."
    )
    if any(f"{name}_stderr" in results.trials.columns for name in results.objectives):
        lines.append("±: one standard error, from the differences to the original on the same texts.")
    lines += [f"limit: {label(name)} {limit.text}." for name, limit in results.constraints.items()]
    return lines
