"""From a front to a decision: the trials worth choosing, and what each saves and costs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations, pairwise

from autotune.common.formatting import DASH, label, size
from autotune.compression.describe import describe_settings
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.records import StudyResults

PREFERRED = (
    *("kl_divergence", "answer_kl_divergence", "similarity"),
    *("perplexity_increase", "perplexity", "top1_agreement"),
)
"""Metrics that stand for accuracy if no objective does, the first that was scored."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A trial worth choosing, and the reasons."""

    trial: int
    roles: tuple[str, ...]


def accuracy_metric(results: StudyResults) -> str | None:
    """Return the metric that stands for accuracy: the first objective that is no size, else the best known one."""
    for name in results.objectives:
        if name not in SIZE_COLUMNS:
            return name
    names = [name for name in (*PREFERRED, *results.metrics) if name in results.metrics and name not in SIZE_COLUMNS]
    return next((name for name in names if results.has_scores(name)), None)


def objective_pairs(results: StudyResults) -> list[tuple[str, str]]:
    """Return (x, y) of every front plot: the footprint is always x, and the first accuracy against it comes first.

    A single objective is drawn against the footprint, or the footprint against the best known accuracy.
    """
    names = list(results.objectives)
    if len(names) == 1:
        other = accuracy_metric(results) if names[0] == "footprint" else "footprint"
        names = [*names, other] if other is not None and results.has_scores(other) else []
    pairs = [(b, a) if a != "footprint" else (a, b) for a, b in combinations(names, 2)]
    return sorted(pairs, key=lambda pair: pair[0] != "footprint")


def context_metrics(results: StudyResults) -> list[str]:
    """Return the metrics to print with each choice: the objectives that are no sizes, and the usual ones."""
    names = [name for name in results.objectives if name not in SIZE_COLUMNS]
    names += ["similarity", "perplexity_increase", "kl_divergence"]
    return [name for name in dict.fromkeys(names) if results.has_scores(name)]


def baseline(results: StudyResults) -> int | None:
    """Return the int8 trial to compare with, a scored one first, int8_asym before int8_sym; None without any.

    A trial whose size was over a limit counts: its size is known although it was not scored.
    """
    sized = [record for record in results.records.values() if record.footprint is not None]
    eight = [record for record in sized if record.settings.get("mode") in ("int8_asym", "int8_sym")]
    if not eight:
        return None
    return min(eight, key=lambda r: (not r.complete, r.settings["mode"] != "int8_asym", r.number)).number


def choices(results: StudyResults) -> list[Choice]:
    """Return the knee, the smallest and the most accurate feasible trial; one entry a trial.

    Without a feasible trial, return the least infeasible one alone.
    """
    if not results.front:
        nearest = results.least_infeasible
        return [] if nearest is None else [Choice(nearest, ("nearest to the limits, but outside",))]
    limits = " within the limits" if results.constraints else ""
    roles = {results.knee: ["the knee" if len(results.objectives) > 1 else "the best"]}
    smallest = _extreme(results, "footprint", "minimize")
    if smallest is not None:
        roles.setdefault(smallest, []).append(f"the smallest{limits}")
    metric = accuracy_metric(results)
    if metric is not None and len(results.objectives) > 1:
        most = _extreme(results, metric, results.metrics[metric].direction)
        if most is not None:
            roles.setdefault(most, []).append("the most accurate")
    return [Choice(trial, tuple(why)) for trial, why in roles.items() if trial is not None]


def _extreme(results: StudyResults, name: str, direction: str) -> int | None:
    """Return the front's best trial in one metric; ties go to the one that is better in the first objective."""
    sign = 1.0 if direction == "minimize" else -1.0
    first, way = next(iter(results.objectives.items()))

    def rank(trial: int) -> tuple[float, float, int]:
        value, tie = results.value(trial, name), results.value(trial, first) or 0.0
        return (math.inf if value is None else sign * value, tie if way == "minimize" else -tie, trial)

    scored = [trial for trial in results.front if results.value(trial, name) is not None]
    return min(scored, key=rank, default=None)


def choices_by_size(results: StudyResults, most: int = 6) -> list[tuple[int, int]]:
    """Return (bytes, trial): for round sizes from the largest down, the most accurate trial of the front that fits.

    A size with the same trial as the one before is left out.
    """
    metric = accuracy_metric(results)
    sizes = {n: int(bytes_) for n in results.front if (bytes_ := results.value(n, "footprint")) is not None}
    if metric is None or len(sizes) < 3:
        return []
    costs = {n: cost for n in sizes if (cost := results.cost(n, metric)) is not None}
    found: list[tuple[int, int]] = []
    for limit in _round_sizes(min(sizes.values()), max(sizes.values()), most):
        fitting = [n for n in costs if sizes[n] <= limit]
        best = min(fitting, key=lambda n: (costs[n], sizes[n]), default=None)
        if best is not None and (not found or found[-1][1] != best):
            found.append((limit, best))
    return found


def _round_sizes(low: int, high: int, most: int) -> list[int]:
    """Return about `most` round numbers of bytes from `high` down to `low`."""
    if high <= low:
        return []
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(int(factor * power) for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return [limit for limit in range(high // step * step, low - 1, -step) if limit >= low] if step else []


def saving(ours: float | None, theirs: float | None) -> str:
    """Return ``65% smaller``, or larger, of one size against another."""
    if not ours or not theirs:
        return DASH
    change = 100 * (ours - theirs) / theirs
    if abs(change) < 0.05:
        return "same size"
    text = f"{abs(change):.0f}%" if abs(change) >= 9.95 else f"{abs(change):.1f}%"
    return f"{text} {'smaller' if change < 0 else 'larger'}"


def decision_sentence(results: StudyResults) -> str:
    """Recommend a trial, and say why, in two or three sentences."""
    picks = choices(results)
    if not picks:
        return "No trial was completed, so there is nothing to choose from."
    trial = picks[0].trial
    what = describe_settings(results.records[trial].settings)
    if not results.front:
        broken = "; ".join(broken_limits(results, trial))
        return (
            f"**No trial keeps the limits.** Nearest is trial {trial} ({what}): {broken}. Loosen the limit, widen "
            "the search space, or search longer."
        )
    sentence = f"**Take trial {trial}** ({what}): {_sizes_text(results, trial)}{_accuracy_text(results, trial)}."
    if len(results.front) == 1:
        return sentence + " It is the only point on the front: no other trial within the limits is better in anything."
    if len(results.objectives) == 1:
        return sentence
    names = [label(name) for name in results.objectives]
    if len(results.front) == 2:
        return f"{sentence} The front has only its two ends; this is the better one in {names[0]}."
    balance = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{sentence} It is the knee of the front, the best balance of {balance}."


def _sizes_text(results: StudyResults, trial: int) -> str:
    ours, other = results.value(trial, "footprint"), baseline(results)
    if ours is None:
        return "size not recorded"
    parts = []
    original = results.original_score("footprint")
    if original is not None:
        parts.append(f"{saving(ours, original.value)} than the original ({size(original.value)})")
    if other is not None and other != trial:
        theirs = results.value(other, "footprint")
        parts.append(f"{saving(ours, theirs)} than {results.records[other].settings['mode']} ({size(theirs)})")
    return ", ".join([size(ours), " and ".join(parts)]) if parts else size(ours)


def _accuracy_text(results: StudyResults, trial: int) -> str:
    metric, other = accuracy_metric(results), baseline(results)
    if metric is None or results.value(trial, metric) is None:
        return ""
    unit = results.metrics[metric].unit
    text = f", {label(metric)} {results.score_text(trial, metric)}{f' {unit}' if unit not in ('', '%') else ''}"
    compared = []
    if other is not None and other != trial and results.value(other, metric) is not None:
        compared.append(f"{results.records[other].settings['mode']}: {results.score_text(other, metric)}")
    if results.original_score(metric) is not None:
        compared.append(f"original: {results.score_text(None, metric, stderr=False)}")
    return text + (f" ({'; '.join(compared)})" if compared else "")


def broken_limits(results: StudyResults, trial: int) -> list[str]:
    """Return ``perplexity increase 1.57% (limit <= 1.2%)`` for every limit that a trial breaks."""
    return [
        f"{label(name)} {results.score_text(trial, name, stderr=False)} "
        f"(limit {results.constraints[name].text if name in results.constraints else '?'})"
        for name, beyond in results.records[trial].violations.items()
        if beyond > 0
    ]


def ties(results: StudyResults) -> list[tuple[int, int]]:
    """Return neighbours on the front with the same accuracy within the errors; the second is the smaller model.

    They differ by less than two standard errors of the difference, or by less than the original's own noise (its
    difference to itself in another batch). The errors are added as if independent. On the same texts they are
    positively correlated, so this gives rather too many ties than too few.
    """
    metric = accuracy_metric(results)
    if metric is None:
        return []
    found = []
    for a, b in pairwise(results.front):
        values = [value for n in (a, b) if (value := results.value(n, metric)) is not None]
        errors = [error for n in (a, b) if (error := results.stderr(n, metric)) is not None]
        scores = [score for n in (a, b) if (score := results.records[n].metrics.get(metric)) is not None]
        if len(values) == 2:
            margin = 2 * math.hypot(*errors) if len(errors) == 2 else 0.0
            if abs(values[0] - values[1]) < max(margin, *(score.noise for score in scores), 0.0):
                found.append((a, b))
    return found
