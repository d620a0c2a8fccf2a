"""Recommend one trial of the front: the tie rule, the acceptance limit, and the choice."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise
from weakref import WeakKeyDictionary

from autotune.common.formatting import label
from autotune.common.units import Constraint
from autotune.evaluation.sequential import FEWEST, are_separated
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.records import StudyResults

PREFERRED = (
    *("kl_divergence", "answer_kl_divergence", "similarity"),
    *("perplexity_increase", "perplexity", "top1_agreement"),
)
"""Metrics of accuracy if no objective is one; the first that was scored is used."""

GUARDS = ("similarity", "embedding_similarity", "rerank_similarity")
ACCEPTED = Constraint(">=", 0.9, ">= 0.9")
"""Least similarity of a recommended model, as is usual with WhoWhatBench. A constraint of the study replaces it."""


def accuracy_metric(results: StudyResults) -> str | None:
    """Return the metric of accuracy: the first objective that is no size, else the first of `PREFERRED`."""
    for name in results.objectives:
        if name not in SIZE_COLUMNS:
            return name
    names = [name for name in (*PREFERRED, *results.metrics) if name in results.metrics and name not in SIZE_COLUMNS]
    return next((name for name in names if results.has_scores(name)), None)


def is_tied(results: StudyResults, a: int, b: int, metric: str) -> bool:
    """Return True if two trials have the same score within the errors.

    They are compared on their common windows by the test that racing uses, `evaluation.sequential`. Without values of
    windows (metrics that are no objective), they are tied within two standard errors of the difference, added as if
    independent. Scores that differ by less than the original's own noise (its difference to itself in another batch)
    are always tied.
    """
    values = [value for n in (a, b) if (value := results.value(n, metric)) is not None]
    if len(values) < 2:
        return False
    scores = [score for n in (a, b) if (score := results.records[n].metrics.get(metric)) is not None]
    if abs(values[0] - values[1]) < max((score.noise for score in scores), default=0.0):
        return True
    windows = [results.records[n].sequences.get(metric, ()) for n in (a, b)]
    if min(map(len, windows)) >= FEWEST:
        return not are_separated(*windows)
    errors = [error for n in (a, b) if (error := results.stderr(n, metric)) is not None]
    return len(errors) == 2 and abs(values[0] - values[1]) < 2 * math.hypot(*errors)


def ties(results: StudyResults) -> list[tuple[int, int]]:
    """Return neighbours on the front that are tied in accuracy; the second is the smaller model."""
    metric = accuracy_metric(results)
    return [] if metric is None else [pair for pair in pairwise(results.front) if is_tied(results, *pair, metric)]


def smallest_tied(results: StudyResults, trial: int, among: Collection[int]) -> int:
    """Return the smallest model of `among` that is tied with `trial` in accuracy; `trial` itself without any.

    If an objective is neither the accuracy nor a size, the models differ in more than these, and `trial` is returned.
    """
    metric = accuracy_metric(results)
    if metric is None or set(results.objectives) - {metric, *SIZE_COLUMNS}:
        return trial
    sizes = {n: size for n in {trial, *among} if (size := results.value(n, "footprint")) is not None}
    if trial not in sizes:
        return trial
    tied = [n for n in sizes if n == trial or is_tied(results, trial, n, metric)]
    return min(tied, key=lambda n: (sizes[n], n != trial, n))


def most_accurate(results: StudyResults, among: Sequence[int]) -> int | None:
    """Return the most accurate trial of `among`; of those that are tied with it, the smallest."""
    metric = accuracy_metric(results)
    if metric is None:
        return None
    costs = {n: cost for n in among if (cost := results.cost(n, metric)) is not None}
    if not costs:
        return None
    best = min(costs, key=lambda n: (costs[n], results.value(n, "footprint") or math.inf, n))
    return smallest_tied(results, best, costs)


@dataclass(frozen=True, slots=True)
class Recommendation:
    """The recommended trial.

    Attributes:
        trial: its number; None if no trial of the front is accepted, or the front is empty.
        reason: why this trial, as a sentence; or why none.
        nearest: the trial that is nearest to being accepted; None if one is.
    """

    trial: int | None
    reason: str
    nearest: int | None = None


def guard(results: StudyResults) -> str:
    """Return the similarity that was scored; "similarity" if none was."""
    return next((name for name in GUARDS if results.has_scores(name)), GUARDS[0])


def acceptance(results: StudyResults) -> Constraint | None:
    """Return the least similarity of a recommended model.

    None if the study has a constraint on accuracy, which all of the front keeps, or if similarity was not scored.
    """
    has_own = any(name not in SIZE_COLUMNS for name in results.constraints)
    return None if has_own or not results.has_scores(guard(results)) else ACCEPTED


_recommended: WeakKeyDictionary[StudyResults, Recommendation] = WeakKeyDictionary()


def recommend(results: StudyResults) -> Recommendation:
    """Recommend the knee, or a smaller model that is tied with it; if the knee is not accepted, the smallest that is.

    See `acceptance`. Each row of a table needs it, so it is determined once for each study.
    """
    if results not in _recommended:
        _recommended[results] = _recommend(results)
    return _recommended[results]


def _recommend(results: StudyResults) -> Recommendation:
    if results.knee is None:
        return Recommendation(None, "No trial is on the front.", results.least_infeasible)
    limit, name = acceptance(results), guard(results)
    scores = {n: value for n in results.front if (value := results.value(n, name)) is not None} if limit else {}
    accepted = [n for n in results.front if limit is None or (n in scores and limit.violation(scores[n]) <= 0)]
    if limit is not None and not accepted:
        nearest = max(scores, key=lambda n: (scores[n], -n), default=results.front[0])
        return Recommendation(
            None,
            f"No model on the front has a similarity of at least {limit.value:g} to the original; nearest is "
            f"trial {nearest} with {results.score_text(nearest, name)}.",
            nearest,
        )
    knee = results.knee
    if limit is not None and knee not in accepted:
        smallest = min(accepted, key=lambda n: (results.value(n, "footprint") or math.inf, n))
        return Recommendation(
            smallest,
            f"It is the smallest model on the front with a similarity of at least {limit.value:g}; the knee, "
            f"trial {knee}, has {results.score_text(knee, name)}.",
        )
    chosen = smallest_tied(results, knee, accepted)
    if chosen != knee:
        metric = label(accuracy_metric(results) or "")
        return Recommendation(
            chosen,
            f"It is smaller than the knee, trial {knee}, and the same in {metric} within two standard errors.",
        )
    return Recommendation(knee, _knee_sentence(results))


def _knee_sentence(results: StudyResults) -> str:
    if len(results.front) == 1:
        return "It is the only point on the front: no other trial within the limits is better in any objective."
    names = [label(name) for name in results.objectives]
    if len(names) == 1:
        return f"It is the best trial in {names[0]}."
    if len(results.front) == 2:
        return f"The front has only its two ends; this is the better one in {names[0]}."
    return f"It is the knee of the front, the best balance of {', '.join(names[:-1])} and {names[-1]}."
