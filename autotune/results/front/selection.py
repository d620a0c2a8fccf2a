"""Choose a trial of a study: by number, the recommended one, the knee, or the best within limits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autotune.common.formatting import label, size
from autotune.common.units import parse_bytes
from autotune.errors import StudyError, UsageError
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.front.decision import broken_limits
from autotune.results.front.pareto import front_indices
from autotune.results.front.recommendation import accuracy_metric, recommend, smallest_tied
from autotune.results.records import StudyResults

DROP_METRICS = (
    *("perplexity_increase", "similarity", "embedding_similarity", "rerank_similarity"),
    *("top1_agreement", "answer_top1_agreement", "perplexity"),
)
"""Metrics for which a drop in percent makes sense; without a name the first that was scored is used."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The criteria of a choice; without any it is the recommended trial.

    Attributes:
        trial: a number.
        max_drop: how much worse than the original `metric` may be. If `relative`: in percent of the original's value
            (percentage points for a metric that is itself in percent), else in the metric's unit.
        metric: for `max_drop`, and for the most accurate. None is the first of `DROP_METRICS` that was scored;
            without `max_drop` it is the study's own accuracy.
        max_size: largest footprint, in bytes.
        knee: the knee, whether it is recommended or not.
    """

    trial: int | None = None
    max_drop: float | None = None
    relative: bool = True
    metric: str | None = None
    max_size: int | None = None
    knee: bool = False


def parse_wish(
    *,
    trial: int | None = None,
    max_drop: float | str | None = None,
    metric: str | None = None,
    max_size: int | str | None = None,
    knee: bool = False,
) -> Wish:
    """Read the criteria as commands and the Python API take them.

    Args:
        trial: a number.
        max_drop: ``"2%"``, or a number in the unit of `metric`, which must then be given.
        metric: for `max_drop`.
        max_size: bytes, or ``"90 MB"``.
        knee: the knee of the front.

    Raises:
        UsageError: a value cannot be read, or the criteria exclude each other.
    """
    criteria = {"trial": trial, "max_drop": max_drop, "max_size": max_size}
    given = [name for name, value in criteria.items() if value is not None] + ["knee"] * knee
    if (trial is not None or knee) and len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each choose a model; give one of them")
    drop, relative = None, True
    if max_drop is not None:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", str(max_drop))
        if match is None:
            raise UsageError(f"`max_drop` must be a percentage such as 2% or a number, got {max_drop!r}")
        drop, relative = float(match[1]), match[2] == "%"
        if not relative and metric is None:
            raise UsageError(
                f"`max_drop` {match[1]}: write {match[1]}% for a percentage of the original's score, or name the "
                "metric whose unit is meant, with `metric`"
            )
    try:
        size_limit = None if max_size is None else parse_bytes(max_size)
    except ValueError as error:
        raise UsageError(f"`max_size` {error}") from error
    return Wish(trial=trial, max_drop=drop, relative=relative, metric=metric, max_size=size_limit, knee=knee)


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen trial, and why in a few words."""

    trial: int
    reason: str


def choose(results: StudyResults, wish: Wish, *, where: str = "this study") -> Selection:
    """Choose the trial that meets the criteria.

    Without criteria it is the recommended trial. With `max_drop` it is the smallest model that keeps it (and
    `max_size`); with `max_size` alone the most accurate that fits, or a smaller one that is tied with it. Only trials
    are chosen that no other feasible trial dominates in the objectives and the footprint; a number names any trial.

    Raises:
        UsageError: there is no such trial or metric, or no trial meets the criteria; the nearest is named.
        StudyError: no trial is on a front yet, or none can be recommended.
    """
    if wish.trial is not None:
        record = results.records.get(wish.trial)
        if record is None or record.plan is None:
            on_front = ", ".join(map(str, results.front)) or "none"
            raise UsageError(f"{where} has no finished trial {wish.trial}; name one of its front: {on_front}")
        return Selection(wish.trial, "named by its number")
    if results.knee is None:
        nearest = results.least_infeasible
        if nearest is None:
            raise StudyError(f"{where}: no trial was completed; run the search again")
        broken = "; ".join(broken_limits(results, nearest))
        raise StudyError(
            f"{where}: no trial keeps the limits, so none is on the front. Nearest is trial {nearest}: {broken}. To "
            f"export it all the same, add --trial {nearest}"
        )
    if wish.knee:
        return Selection(results.knee, "the knee of the front")
    if wish.max_drop is None and wish.max_size is None:
        found = recommend(results)
        if found.trial is None:
            raise StudyError(f"{where}: {found.reason} Name one with --trial, or take the knee with --knee")
        return Selection(found.trial, f"recommended. {found.reason}")
    candidates = nondominated(results)
    sizes = {number: size_ for number in candidates if (size_ := results.value(number, "footprint")) is not None}
    fits = [number for number in sizes if wish.max_size is None or sizes[number] <= wish.max_size]
    if not fits:
        least = min(sizes, key=lambda number: sizes[number])
        smallest = f"trial {least} with {size(sizes[least])}"
        raise UsageError(
            f"no model of {where} fits {size(wish.max_size)}; the smallest is {smallest}. Allow that "
            "size, or search a space with smaller formats"
        )
    metric = _metric(results, wish, where)
    if wish.max_drop is None:
        return _within_size(results, wish, metric, fits)
    return _within_drop(results, wish, metric, sizes, fits, where)


def _within_drop(
    results: StudyResults, wish: Wish, metric: str, sizes: dict[int, float], fits: list[int], where: str
) -> Selection:
    """Choose the smallest of the trials that fit whose metric is at most `max_drop` worse than the original's."""
    drops = {n: drop for n in sizes if (drop := _drop(results, metric, n, relative=wish.relative)) is not None}
    assert wish.max_drop is not None
    close = [number for number in drops if number in fits and drops[number] <= wish.max_drop]
    within = "" if wish.max_size is None else f" of at most {size(wish.max_size)}"
    if not close:
        least = min(drops, key=lambda number: drops[number])
        within = within.replace(" of at most", " within")
        raise UsageError(
            f"no model of {where} keeps {label(metric)} that close to the original{within}; nearest is trial {least} "
            f"({results.sentence_text(least, metric, stderr=False)}, {size(sizes[least])}). Allow "
            "more, or search longer"
        )
    chosen = min(close, key=lambda number: (sizes[number], drops[number], number))
    limit = f"{wish.max_drop:g}{'%' if wish.relative else f' {results.metrics[metric].unit}'.rstrip()}"
    return Selection(
        chosen,
        f"the smallest model on the front{within} whose {label(metric)} is at most {limit} worse than the original: "
        f"{results.sentence_text(chosen, metric)}, the original has "
        f"{results.score_text(None, metric, stderr=False)}",
    )


def _within_size(results: StudyResults, wish: Wish, metric: str, fits: list[int]) -> Selection:
    """Choose the most accurate of `fits`; by the study's own accuracy, the smallest of those that are tied."""
    costs = {number: cost for number in fits if (cost := results.cost(number, metric)) is not None}
    best = min(costs, key=lambda number: (costs[number], results.value(number, "footprint") or 0.0, number))
    chosen = best if wish.metric is not None else smallest_tied(results, best, costs)
    score = f"{label(metric)} {results.sentence_text(chosen, metric)}"
    reason = f"the most accurate model on the front of at most {size(wish.max_size)}: {score}"
    if chosen != best:
        reason += f", tied with trial {best} and smaller"
    return Selection(chosen, reason)


def nondominated(results: StudyResults) -> list[int]:
    """Return the feasible trials that no other one dominates in the objectives and the footprint, in order."""
    feasible = results.feasible
    feasible = feasible[[results.records[int(number)].unique for number in feasible["trial"]]]
    directions = dict(results.objectives)
    if feasible["footprint"].notna().all():
        directions.setdefault("footprint", "minimize")
    values = feasible[list(directions)].to_numpy(dtype=float, na_value=float("nan"))
    keys = [results.records[int(number)].plan for number in feasible["trial"]]
    rows = front_indices(values, list(directions.values()), feasible=[True] * len(values), keys=keys)
    return [int(feasible["trial"].iloc[row]) for row in rows]


def _metric(results: StudyResults, wish: Wish, where: str) -> str:
    scored = [name for name in results.metrics if name not in SIZE_COLUMNS and results.has_scores(name)]
    if wish.metric is not None:
        if wish.metric not in scored:
            raise UsageError(f"{where} has no scores of {wish.metric!r}; there are {', '.join(scored) or 'none'}")
        return wish.metric
    found = accuracy_metric(results) if wish.max_drop is None else None
    found = found or next((name for name in DROP_METRICS if name in scored), None)
    if found is None:
        raise UsageError(
            f"{where}: --max-drop needs an accuracy metric, and none of {', '.join(DROP_METRICS)} was scored. Name one "
            f"with --metric; there are {', '.join(scored) or 'none'}"
        )
    return found


def _drop(results: StudyResults, metric: str, trial: int, *, relative: bool) -> float | None:
    """Return how much worse than the original the trial is, at least 0."""
    cost, original = results.cost(trial, metric), results.original_score(metric)
    if cost is None or original is None:
        return None
    worse = max(0.0, cost - results.sign(metric) * original.value)
    unit = results.metrics[metric].unit
    if not relative or unit == "%":
        return worse
    if original.value == 0:
        raise UsageError(
            f"the original's {label(metric)} is 0, of which no percentage can be taken; give --max-drop in "
            f"{unit or 'the unit of the metric'}, without %"
        )
    return 100 * worse / abs(original.value)
