"""The tables of a study: trials.csv, front.csv and front.md."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.common.formatting import DASH, is_missing, label, latex_table, markdown_table, percent, score, size, times
from autotune.compression.describe import default_backup, describe_algorithms
from autotune.results.decision import measured
from autotune.results.types import StudyResults

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "front_csv",
    "front_frame",
    "front_latex",
    "front_markdown",
    "front_rows",
    "front_table_markdown",
    "legend",
    "metric_rows",
    "option_cells",
    "original_cells",
    "trials_csv",
]

STAR = "★"


def trials_csv(results: StudyResults) -> str:
    """All trials; numbers as the shortest text that reads back as the same float, missing ones empty."""
    return _csv(results.trials)


def front_csv(results: StudyResults) -> str:
    """The front's trials in the order of the tables, with the columns of trials.csv."""
    return _csv(front_frame(results))


def front_frame(results: StudyResults) -> pd.DataFrame:
    """The front's rows, largest model first."""
    return results.trials.loc[list(results.front)]


def _csv(frame: pd.DataFrame) -> str:
    text = frame.to_csv(index=False, lineterminator="\n")
    assert isinstance(text, str)
    return text


def shown_metrics(results: StudyResults) -> list[str]:
    """The objectives that have no column of their own in the form of NNCF's table."""
    return [name for name in results.objectives if name not in ("footprint", "compression_rate", "relative_error")]


def options_text(settings: dict[str, object]) -> str:
    """Toggles and whatever else is not a default, e.g. ``AWQ + SE, all layers, backup none``."""
    parts = [describe_algorithms(settings)]
    if not is_missing(settings.get("all_layers")) and settings.get("all_layers"):
        parts.append("all layers")
    backup = settings.get("backup_mode")
    if not is_missing(backup) and backup != default_backup(str(settings.get("mode"))):
        parts.append(f"backup {backup}")
    if settings.get("ignored_scope"):
        parts.append("ignored scope")
    return ", ".join(part for part in parts if part) or DASH


def front_table_markdown(results: StudyResults) -> str:
    """`front_rows` as Markdown."""
    header, rows, align = front_rows(results)
    if results.knee is not None:
        star = next(row for row in rows if row[0].endswith(STAR))
        star[0] = f"**{star[0].removesuffix(STAR).strip()}** {STAR}"
    return markdown_table(header, rows, align)


def front_latex(results: StudyResults) -> str:
    """front.tex: `front_rows` as a tabular of the package booktabs, to be read by ``\\input``."""
    return f"% {results.model}: the front. Needs \\usepackage{{booktabs}}.\n" + latex_table(*front_rows(results))


def front_rows(results: StudyResults, metrics: list[str] | None = None) -> tuple[list[str], list[list[str]], str]:
    """Header, rows and alignment of the front as NNCF's accuracy/footprint tables print it.

    The original model comes first; the knee's mode is followed by a star. `metrics` are further columns; None is
    the objectives that have none of their own.
    """
    metrics = shown_metrics(results) if metrics is None else metrics
    header = ["mode", "%int4", "%int8", "lora rank", "average relative error", "compression rate"]
    header += ["trial", "group size", "ratio", "options", "footprint"]
    for name in metrics:
        unit = results.metrics[name].unit
        header.append(f"{label(name)} ({unit})" if unit and unit != "%" else label(name))
    numbers = list(results.front)
    if not numbers and results.least_infeasible is not None:
        numbers = [results.least_infeasible]
    rows = [] if results.original is None else [original_cells(results, metrics)]
    rows += [option_cells(results, number, metrics) for number in numbers]
    return header, rows, "lrrrrrrrrlr" + "r" * len(metrics)


def original_cells(results: StudyResults, metrics: list[str]) -> list[str]:
    """The original's row under the header of `front_rows`."""
    original = results.original
    assert original is not None
    cells = ["original", "0%", "0%", DASH, percent(0.0, 1), times(original.compression_rate), DASH, DASH, DASH, DASH]
    cells.append(size(original.footprint))
    for name in metrics:
        found = results.original_score(name)
        stderr = None if found is None or not found.stderr else found.stderr
        cells.append(DASH if found is None else score(found.value, stderr, name=name, metric=results.metrics[name]))
    return cells


def option_cells(results: StudyResults, number: int, metrics: list[str]) -> list[str]:
    """A trial's row under the header of `front_rows`."""
    settings = dict(results.records[number].settings)
    group, rank, ratio = settings.get("group_size"), settings.get("lora_rank"), settings.get("ratio")
    mode = str(settings.get("mode", DASH))
    cells = [
        f"{mode} {STAR}" if number == results.knee else mode,
        percent(results.value(number, "int4_percent")),
        percent(results.value(number, "int8_percent")),
        DASH if is_missing(rank) or not settings.get("lora_correction") else str(rank),
        percent(results.value(number, "relative_error"), 1),
        times(results.value(number, "compression_rate")),
        str(number),
        DASH if group is None or is_missing(group) else "per channel" if group == -1 else str(group),
        DASH if ratio is None or is_missing(ratio) else f"{float(ratio):g}",
        options_text(settings),
        size(results.value(number, "footprint")),
    ]
    return cells + [measured(results, number, name) for name in metrics]


def front_markdown(results: StudyResults) -> str:
    """front.md: the table and what its words mean."""
    lines = [f"# {results.model}: the front", ""]
    if results.front:
        ways = ", ".join(f"{label(name)} ({way}d)" for name, way in results.objectives.items())
        lines.append(f"The {len(results.front)} trials that no other trial beats in {ways}.")
    elif results.least_infeasible is not None:
        lines.append("No trial keeps the limits; below, the one nearest to them.")
    else:
        lines.append("No trial was completed.")
    lines += ["", front_table_markdown(results), "", *legend(results), ""]
    return "\n".join(lines)


def legend(results: StudyResults) -> list[str]:
    """What the front table's columns mean, one line each."""
    lines = []
    if results.knee is not None:
        how = {
            1: "the best trial",
            2: "the knee: the point farthest from the line between the front's ends, towards the better",
        }
        where = how.get(len(results.objectives), "the knee: the point nearest to the best of every objective at once")
        lines.append(f"- {STAR} {where} (each objective scaled to its range).")
    lines.append("- %int4, %int8: share of the compressed weights' elements in 4 and 8 bits.")
    lines.append("- average relative error: mean of the scored metrics' relative differences to the original.")
    lines.append(
        "- footprint: size of `openvino_model.bin`, 1 MB = 1,000,000 bytes; compression rate: fp32 size over that."
    )
    if any(f"{name}_stderr" in results.trials.columns for name in results.objectives):
        lines.append("- ±: one standard error, from the differences to the original on the same texts.")
    for name, limit in results.constraints.items():
        lines.append(f"- limit: {label(name)} {limit.text}.")
    return lines


def metric_rows(results: StudyResults) -> list[list[str]]:
    """Name, unit, better way, the original's value and meaning of every metric that was scored."""
    rows = []
    for name, metric in results.metrics.items():
        if name in results.trials.columns and results.trials[name].notna().any():
            better = "lower" if metric.direction == "minimize" else "higher"
            original = results.original_score(name)
            value = DASH if original is None else score(original.value, original.stderr, name=name, metric=metric)
            rows.append([name, metric.unit or DASH, better, value, metric.description or DASH])
    return rows
