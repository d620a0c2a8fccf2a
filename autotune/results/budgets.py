"""What a study with budgets says of them: whether they win, whether predictions held, what each weight costs."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.common.formatting import DASH, label, markdown_table, number, size
from autotune.compression.describe import describe_settings
from autotune.results.decision import accuracy_metric, measured
from autotune.results.types import StudyResults
from autotune.results.weight_map import read_plan

__all__ = ["error_rows", "no_regret", "predictions_held", "protected", "spending_markdown"]

DIVERGENCE = "kl_divergence"

SHOWN = 40
"""Rows of the map in report.md."""


def budget_trials(results: StudyResults) -> list[int]:
    """Complete trials whose plan was bought by a budget, each plan once."""
    return [
        number
        for number, record in results.records.items()
        if record.complete and record.duplicate_of is None and record.settings.get("allocation") == "budget"
    ]


def no_regret(results: StudyResults) -> list[str]:
    """For a study with budgets: whether each of its points on the front is better than everything else of its size.

    The others are the uniform settings, the defaults of optimum-intel and the plans by ratio that the study tried.
    Empty without budgets.
    """
    ours = [n for n in budget_trials(results) if n in results.front]
    metric = accuracy_metric(results)
    if not budget_trials(results) or metric is None:
        return []
    others = [
        n
        for n, record in results.records.items()
        if record.complete and record.duplicate_of is None and record.settings.get("allocation") != "budget"
    ]
    if not others:
        return [
            "Nothing but budgets was tried, so these points are not compared with uniform settings or ratios here: "
            "`allocation: [budget, ratio]` tries both."
        ]
    if not ours:
        return ["No plan by a budget is on the front: what was tried beside them is better at every size."]
    sign = 1.0 if results.metrics[metric].direction == "minimize" else -1.0
    lines, compared = [], 0
    for n in budget_trials(results):
        bytes_, value = results.value(n, "footprint"), results.value(n, metric)
        if bytes_ is None or value is None:
            continue
        rivals = [
            (sign * their, o)
            for o in others
            if (results.value(o, "footprint") or bytes_ + 1) <= bytes_
            and (their := results.value(o, metric)) is not None
        ]
        if not rivals:
            continue
        compared += 1
        best, rival = min(rivals)
        if best < sign * value:
            lines.append(
                f"Trial {n} ({describe_settings(results.records[n].settings)}, {size(bytes_)}) is not the best of its "
                f"size: trial {rival} ({describe_settings(results.records[rival].settings)}) has {label(metric)} "
                f"{measured(results, rival, metric)}, and it {measured(results, n, metric)}."
            )
    if not lines:
        lines = [
            f"Each of the {compared} plans by a budget that something else could be compared with is more accurate, by "
            f"{label(metric)}, than every uniform setting and every plan by a ratio that this study tried at its size "
            "or below."
        ]
    smaller = len([n for n in budget_trials(results) if n in results.front]) - compared
    if smaller > 0 and compared == 0:
        lines = ["Nothing that was tried beside the budgets is as small as their plans."]
    return lines


def predictions_held(results: StudyResults, folder: Path) -> str:
    """How far the table's predictions were from what was measured, as a sentence; empty where there are none."""
    differences = []
    for n in budget_trials(results):
        plan = read_plan(folder, results.records[n].plan)
        found, value = (plan or {}).get("sensitivity") or {}, results.value(n, DIVERGENCE)
        if value and found.get("predicted") is not None:
            differences.append(abs(float(found["predicted"]) / value - 1))
    if not differences:
        return ""
    middle, most = 100 * statistics.median(differences), 100 * max(differences)
    return (
        f"The divergence that was predicted for these plans differs from the measured one by {middle:.0f}% in the "
        f"middle and by {most:.0f}% at most, over {len(differences)} plans."
    )


def error_rows(results: StudyResults, folder: Path) -> tuple[list[str], list[list[str]], str] | None:
    """The map of errors: weights by formats, the divergence that each causes alone; None where nothing was measured."""
    errors: Mapping[str, Mapping[str, Any]] = {}
    for n in budget_trials(results):
        plan = read_plan(folder, results.records[n].plan)
        found = ((plan or {}).get("sensitivity") or {}).get("errors")
        if isinstance(found, Mapping) and found:
            errors = found
            break
    if not errors:
        return None
    formats = list(dict.fromkeys(name for each in errors.values() for name in each))
    totals = {name: sum(float(each[name]) for each in errors.values() if name in each) for name in formats}
    formats.sort(key=lambda name: totals[name])
    rows = [
        [weight, *(number(float(each[name])) if name in each else DASH for name in formats)]
        for weight, each in sorted(errors.items(), key=lambda item: -max(map(float, item[1].values()), default=0.0))
    ]
    return ["weight", *formats], rows, "l" + "r" * len(formats)


def spending_markdown(results: StudyResults, folder: Path) -> list[str]:
    """The section of report.md; empty without budgets."""
    said = no_regret(results)
    if not said:
        return []
    lines = ["## What the budgets bought", "", *said]
    held = predictions_held(results, folder)
    lines += ["", held] if held else []
    notes = protected(results, folder)
    lines += ["", *(f"- {note}" for note in notes)] if notes else []
    rows = error_rows(results, folder)
    if rows is not None:
        header, cells, align = rows
        lines += ["", "The map of errors: KL divergence that a weight alone causes in a format, nats a token.", ""]
        lines += [markdown_table(header, cells[:SHOWN], align)]
        if len(cells) > SHOWN:
            lines += ["", f"The {SHOWN} weights that cost most; report.html has all {len(cells)}."]
    return lines


def protected(results: StudyResults, folder: Path) -> list[str]:
    """What the plans say of weights that had to be left as they are, each sentence once."""
    found: dict[str, None] = {}
    for n in budget_trials(results):
        plan = read_plan(folder, results.records[n].plan) or {}
        for note in plan.get("notes") or ():
            if "ruins the model" in str(note) or "times the usual" in str(note):
                found[str(note)] = None
    return list(found)
