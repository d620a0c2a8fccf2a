"""Scores of the front on held-out texts, and how much worse they are (the winner's curse)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autotune.common.formatting import label
from autotune.evaluation import Measurement
from autotune.results.front.pareto import costs, dominators
from autotune.results.front.recommendation import accuracy_metric
from autotune.results.records import StudyResults


def held_out_metrics(results: StudyResults) -> list[str]:
    """Return the objectives with scores on the report texts; without any, the metric that stands for accuracy."""
    scored = {name for scores in results.held_out.trials.values() for name in scores} if results.held_out else set()
    names = [name for name in results.objectives if name in scored]
    return names or [name for name in [accuracy_metric(results)] if name is not None and name in scored]


def held_out_trials(results: StudyResults) -> list[int]:
    """Return the front's trials with scores on the report texts, in the front's order."""
    return [trial for trial in results.front if results.held_out and results.held_out.trials.get(trial)]


def degradation(results: StudyResults, trial: int, name: str) -> Measurement | None:
    """Return how much worse a metric is on the report texts, in its unit; negative if it is better.

    The standard error takes both scores as independent, since the texts are disjoint.
    """
    scores = results.held_out.trials.get(trial, {}) if results.held_out else {}
    before, after = results.value(trial, name), scores.get(name)
    if before is None or after is None:
        return None
    stderr = results.stderr(trial, name)
    both = None if stderr is None or after.stderr is None else math.hypot(stderr, after.stderr)
    return Measurement(results.sign(name) * (after.value - before), both)


def held_out_sentences(results: StudyResults) -> list[str]:
    """Describe the scores on the report texts, and what they mean; empty without such scores."""
    trials, names = held_out_trials(results), held_out_metrics(results)
    if not trials or not names or results.held_out is None:
        return []
    sentences = [_mean_sentence(results, trials, name) for name in names]
    sentences.append(
        "The best of many trials looks better on the texts that selected it than on others. A change that all trials "
        "share comes from the other text. A change of one trial beyond its error is selection by chance."
    )
    dominated = newly_dominated(results)
    if dominated:
        pairs = "; ".join(f"{trial} is dominated by {other}" for trial, other in dominated.items())
        sentences.append(f"On the report texts these trials are dominated: {pairs}.")
    elif len(trials) > 1:
        sentences.append("On the report texts none of them is dominated either.")
    sentences.append(_overlap_sentence(results.held_out.overlaps))
    return [*sentences, *(f"No report text for {note}." for note in results.held_out.notes)]


def _mean_sentence(results: StudyResults, trials: list[int], name: str) -> str:
    """Return the mean change: in the metric's unit if a perfect score is known and not 0, else in percent."""
    relative = results.metrics[name].perfect in (0.0, None)
    values = []
    for trial in trials:
        change, before = degradation(results, trial, name), results.value(trial, name)
        if change is not None and before:
            values.append(100 * change.value / abs(before) if relative else change.value)
    if not values:
        return f"{label(name)} could not be compared."

    def text(value: float) -> str:
        amount = f"{abs(value):.1f}%" if relative else f"{abs(value):.4f}"
        return f"{amount} {'worse' if value > 0 else 'better'}"

    sentence = f"On the report texts the front's {label(name)} is {text(float(np.mean(values)))} in the mean"
    return f"{sentence} ({text(min(values))} to {text(max(values))})." if len(values) > 1 else f"{sentence}."


def newly_dominated(results: StudyResults) -> dict[int, int]:
    """Return trial of the front -> trial that dominates it by the scores on the report texts."""
    trials, names = held_out_trials(results), list(results.objectives)
    if results.held_out is None or len(trials) < 2:
        return {}
    rows = []
    for trial in trials:
        scores = {name: score.value for name, score in results.held_out.trials[trial].items()}
        # Sizes do not depend on texts, and are not scored again.
        rows.append([scores[name] if name in scores else results.value(trial, name) for name in names])
    if any(value is None for row in rows for value in row):
        return {}
    cost = costs(np.array(rows, np.float64), list(results.objectives.values()))
    first = {trial: next(iter(dominators(cost, index)), None) for index, trial in enumerate(trials)}
    return {trial: trials[other] for trial, other in first.items() if other is not None}


def _overlap_sentence(overlaps: Mapping[str, float]) -> str:
    if not overlaps:
        return "Whether the texts have parts in common was not checked."
    common = [f"{100 * share:.1f}% of the second of {pair}" for pair, share in overlaps.items() if share > 0]
    if not common:
        pairs = ", ".join(overlaps)
        return f"The texts are disjoint ({pairs}): they share no sequence of 64 tokens."
    return f"The texts are not disjoint: {'; '.join(common)} is also in the first. These scores are too good."
