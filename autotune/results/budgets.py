"""Trials with a budget: comparison with the other trials, accuracy of the predictions, measured errors of weights."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from autotune.common.formatting import label, size
from autotune.results.recommendation import accuracy_metric
from autotune.results.records import StudyResults

DIVERGENCE = "kl_divergence"

Plans = Mapping[str, Mapping[str, Any]]
"""The study's plans by key, as `plans.read_plans` returns them."""


def _budget_trials(results: StudyResults, *, by_budget: bool = True) -> list[int]:
    """Return the unique complete trials whose plan comes from a budget, or all others."""
    return [
        number
        for number, record in results.records.items()
        if record.unique and record.settings.get("allocation", "ratio") == ("budget" if by_budget else "ratio")
    ]


def budget_sentences(results: StudyResults) -> list[str]:
    """Compare each plan from a budget with the other trials of at most its size; empty without budgets.

    The other trials are the uniform settings, the defaults of optimum-intel and the plans by ratio.
    """
    trials, others = _budget_trials(results), _budget_trials(results, by_budget=False)
    metric = accuracy_metric(results)
    if not trials or metric is None:
        return []
    if not others:
        return [
            "All trials have budgets, so they are not compared with uniform settings or ratios. "
            "`allocation: [budget, ratio]` tries both."
        ]
    if not set(trials) & set(results.front):
        return ["No plan from a budget is on the front: other settings dominate them at every size."]
    lines, compared = [], 0
    for trial in trials:
        bytes_, cost = results.value(trial, "footprint"), results.cost(trial, metric)
        if bytes_ is None or cost is None:
            continue
        rivals = [
            (their_cost, other)
            for other in others
            if (results.value(other, "footprint") or bytes_ + 1) <= bytes_
            and (their_cost := results.cost(other, metric)) is not None
        ]
        compared += bool(rivals)
        if rivals and min(rivals)[0] < cost:
            rival = min(rivals)[1]
            ours, other = (results.records[n].describe() for n in (trial, rival))
            lines.append(
                f"Trial {trial} ({ours}, {size(bytes_)}) is not the best of its size: it has {label(metric)} "
                f"{results.sentence_text(trial, metric)}, and trial {rival} ({other}) has "
                f"{results.sentence_text(rival, metric)}."
            )
    if not compared:
        return ["No other trial is as small as the plans from budgets."]
    return lines or [
        f"{compared} plans from budgets have other trials of at most their size. Each has a better {label(metric)} "
        "than all of those: uniform settings and plans by ratio."
    ]


def prediction_sentence(results: StudyResults, plans: Plans) -> str:
    """Return how far the predicted divergences are from the measured ones; empty without predictions."""
    differences = []
    for trial, plan in _plans_of(results, plans):
        predicted, value = (plan.get("sensitivity") or {}).get("predicted"), results.value(trial, DIVERGENCE)
        if value and predicted is not None:
            differences.append(100 * abs(float(predicted) / value - 1))
    if not differences:
        return ""
    return (
        f"The predicted KL divergence of these plans differs from the measured one by "
        f"{statistics.median(differences):.0f}% (median) and {max(differences):.0f}% (largest) over "
        f"{len(differences)} plans."
    )


def measured_errors(results: StudyResults, plans: Plans) -> Mapping[str, Mapping[str, float]]:
    """Return weight -> format -> KL divergence if this weight alone has it; empty if nothing was measured."""
    for _, plan in _plans_of(results, plans):
        errors = (plan.get("sensitivity") or {}).get("errors")
        if isinstance(errors, Mapping) and errors:
            return {weight: {name: float(error) for name, error in row.items()} for weight, row in errors.items()}
    return {}


def protected_weights(results: StudyResults, plans: Plans) -> list[str]:
    """Return the plans' notes on weights that had to stay uncompressed, each once."""
    notes = [str(note) for _, plan in _plans_of(results, plans) for note in plan.get("notes") or ()]
    return list(dict.fromkeys(note for note in notes if "ruins the model" in note or "times the usual" in note))


def _plans_of(results: StudyResults, plans: Plans) -> list[tuple[int, Mapping[str, Any]]]:
    keys = {trial: results.records[trial].plan or "" for trial in _budget_trials(results)}
    return [(trial, plans[key]) for trial, key in keys.items() if key in plans]
