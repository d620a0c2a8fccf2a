"""report.md: the decision first, then the front, then why, then how to do it again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.common.formatting import DASH, label, markdown_table, score, size
from autotune.compression.describe import describe_settings
from autotune.reporting.text.commands import compress_command, export_command, portable, where_to_run
from autotune.reporting.text.tables import front_table_markdown, legend, metric_rows
from autotune.results.budgets import spending_markdown
from autotune.results.decision import (
    accuracy_metric,
    baseline,
    broken_limits,
    choices,
    context_metrics,
    decision_sentence,
    failures,
    measured,
    reason,
    remedy,
    saving,
    ties,
)
from autotune.results.effects import ABOUT_IMPORTANCES, importance_rows, paired_rows
from autotune.results.held_out import unseen_markdown
from autotune.results.types import StudyResults

__all__ = ["report_markdown"]


def report_markdown(results: StudyResults, plots: list[str], folder: Path | None = None) -> str:
    """The whole page; `plots` are the file names in ``plots/`` to embed, `folder` has the plans in ``plans/``."""
    sections = [
        [f"# {results.model}: what the search found", "", counts(results)],
        _decision(results),
        _front(results, [name for name in plots if name.startswith("front")]),
        unseen_markdown(results),
        [] if folder is None else spending_markdown(results, folder),
        _settings(results, [name for name in plots if name.startswith("settings")]),
        _course(plots),
        _failed(results),
        _again(results),
        _measured(results),
    ]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def counts(results: StudyResults) -> str:
    """How many trials there were and what became of them, as one line."""
    states = ["interrupted" if record.interrupted else record.state for record in results.records.values()]
    complete = states.count("COMPLETE")
    total = f"{len(states)} trials" if len(states) != 1 else "1 trial"
    copies = sum(record.duplicate_of is not None for record in results.records.values())
    outside = complete - len(results.feasible)
    details = [f"{complete} complete" + (f" ({outside} outside the limits)" if outside else "")]
    for state, word in (
        ("FAIL", "failed"),
        ("interrupted", "interrupted"),
        ("PRUNED", "stopped before scoring"),
        ("RUNNING", "running"),
        ("WAITING", "waiting"),
    ):
        if state in states:
            details.append(f"{states.count(state)} {word}")
    ways = " and ".join(f"{label(name)} ({way}d)" for name, way in results.objectives.items())
    details += [f"{copies} of them repeats of an earlier plan"] if copies else []
    return f"{total}: {', '.join(details)}. Objectives: {ways}."


def _image(name: str, text: str) -> str:
    return f"![{text}](plots/{name})"


def _decision(results: StudyResults) -> list[str]:
    lines = ["## The decision", "", decision_sentence(results)]
    picks = choices(results)
    if not picks:
        return lines
    metrics, other = context_metrics(results), baseline(results)
    eight = None if other is None else str(results.records[other].settings["mode"])
    header = ["choice", "trial", "settings", "footprint", "to the original", *([f"to {eight}"] if eight else [])]
    header += [label(name) for name in metrics]
    rows = []
    original, theirs = results.original_score("footprint"), None if other is None else results.value(other, "footprint")
    for pick in picks:
        ours = results.value(pick.trial, "footprint")
        row = [
            ", ".join(pick.roles),
            str(pick.trial),
            describe_settings(results.records[pick.trial].settings),
            size(ours),
        ]
        row.append(saving(ours, original.value) if original else DASH)
        row += [DASH if pick.trial == other else saving(ours, theirs)] if eight else []
        rows.append(row + [measured(results, pick.trial, name) for name in metrics])
    if other is not None and other not in [pick.trial for pick in picks]:
        ours = results.value(other, "footprint")
        row = [f"{eight}, to compare", str(other), eight or DASH, size(ours)]
        row += [saving(ours, original.value) if original else DASH, DASH]
        rows.append(row + [measured(results, other, name) for name in metrics])
    if original is not None:
        row = ["the original, to compare", DASH, DASH, size(original.value), DASH, *([DASH] if eight else [])]
        for name in metrics:
            found = results.original_score(name)
            row.append(DASH if found is None else score(found.value, name=name, metric=results.metrics.get(name)))
        rows.append(row)
    return [*lines, "", markdown_table(header, rows, "lrlrl" + ("l" if eight else "") + "r" * len(metrics))]


def _front(results: StudyResults, plots: list[str]) -> list[str]:
    lines = ["## The front", ""]
    for name in plots:
        lines += [_image(name, "The front"), ""]
    if not results.front and results.least_infeasible is None:
        return []
    lines += [front_table_markdown(results), "", *legend(results)]
    close, metric = ties(results), accuracy_metric(results)
    if close and metric:
        pairs = ", ".join(f"{a} and {b}" for a, b in close)
        lines += [
            "",
            f"By {label(metric)} the neighbours {pairs} cannot be told apart (they differ by less than two standard "
            "errors, or than the original does from itself): of such a pair take the smaller model, the second.",
        ]
    outside = [
        int(n)
        for n in results.complete.index
        if n not in results.feasible.index and results.records[int(n)].duplicate_of is None
    ]
    if results.front and outside:
        lines += ["", "Outside the limits:", ""]
        lines += [
            f"- trial {n} ({describe_settings(results.records[n].settings)}): {'; '.join(broken_limits(results, n))}"
            for n in outside
        ]
    return lines


def _settings(results: StudyResults, plots: list[str]) -> list[str]:
    header, rows = paired_rows(results)
    table = markdown_table(header, rows, "llr" + "r" * len(results.objectives)) if rows else ""
    if not plots and not table:
        return []
    lines = ["## What each setting did", ""]
    for name in plots:
        lines += [
            _image(name, f"What each setting did to {label(name.removesuffix('.png').removeprefix('settings-'))}"),
            "",
        ]
    if table:
        lines += [
            "The plots show all trials, in which other settings vary too. The table compares only trials that are "
            "equal in everything else: the median change over those pairs (and its range).",
            "",
            table,
        ]
    if results.importances:
        header, rows = importance_rows(results)
        lines += [
            "",
            f"Importances ({ABOUT_IMPORTANCES}).",
            "",
            markdown_table(header, rows, "l" + "r" * len(results.importances)),
        ]
    return lines


def _course(plots: list[str]) -> list[str]:
    return ["## How the search went", "", _image("progress.png", "Progress")] if "progress.png" in plots else []


def _failed(results: StudyResults) -> list[str]:
    rows = [
        [str(r.number), describe_settings(r.settings), r.state, reason(results, r), remedy(results, r)]
        for r in failures(results)
    ]
    if not rows:
        return []
    table = markdown_table(["trial", "settings", "state", "reason", "remedy"], rows, "rllll")
    return ["## Trials without scores", "", table]


def _again(results: StudyResults) -> list[str]:
    if not results.front:
        return []
    lines = [
        "## How to reproduce",
        "",
        f"A trial's model from the study, with its own texts and statistics. {where_to_run(results)}".rstrip(),
        "",
        "```sh",
    ]
    lines += [export_command(results, pick.trial) for pick in choices(results)]
    lines += ["```", "", "The front, one model after the other, without the study:", "", "```sh"]
    lines += [compress_command(results, number) for number in results.front]
    return [*lines, "```"]


def _measured(results: StudyResults) -> list[str]:
    lines = ["## What was measured", ""]
    rows = metric_rows(results)
    if rows:
        lines += [markdown_table(["metric", "unit", "better", "original", "what it is"], rows, "lllrl"), ""]
    described = {
        key: portable(results, results.config[key])
        for key in ("calibration", "evaluators", "report", "runtime", "study")
        if results.config.get(key)
    }
    lines += [f"- {key}: {_flat(value)}" for key, value in described.items()]
    lines += [f"- {key.replace('_', ' ')}: {_flat(value)}" for key, value in sorted(results.manifest.items())]
    lacking = "Not measured here unless a metric says so: speed and memory at run time"
    if results.unseen is None:
        lacking += (
            ", and scores on texts that the search has not seen; the best of many trials looks a little better on the "
            "search's own texts than it is (`report` in model.yaml names other texts)"
        )
    return [*lines, "", f"{lacking}."]


def _flat(value: Any) -> str:
    """Nested data on one line: ``a 1, b (c 2, d 3)``."""
    if isinstance(value, Mapping):
        parts = [
            f"{key} ({_flat(item)})" if isinstance(item, Mapping) and item else f"{key} {_flat(item)}"
            for key, item in value.items()
        ]
        return ", ".join(parts) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(item) for item in value) or "none"
    return "none" if value is None else f"`{value}`" if isinstance(value, str) else str(value)
