"""Choose a trial of a study: by number, the knee, or the best within limits."""

from __future__ import annotations

import re
from dataclasses import dataclass

from autotune.common.formatting import label, size
from autotune.common.units import parse_bytes
from autotune.errors import StudyError, UsageError
from autotune.results.decision import accuracy_metric
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.records import StudyResults

DROP_METRICS = ("perplexity_increase", "similarity", "top1_agreement", "answer_top1_agreement", "perplexity")
"""Metrics for which a drop in percent makes sense; without a name the first that was scored is used."""


@dataclass(frozen=True, slots=True)
class Wish:
    """The criteria of a choice; all None is the knee.

    Attributes:
        trial: a number.
        max_drop: how much worse than the original `metric` may be. If `relative`: in percent of the original's value
            (percentage points for a metric that is itself in percent), else in the metric's unit.
        metric: for `max_drop`, and for the most accurate. None is the first of `DROP_METRICS` that was scored;
            without `max_drop` it is the study's own accuracy.
        max_size: bytes of openvino_model.bin.
    """

    trial: int | None = None
    max_drop: float | None = None
    relative: bool = True
    metric: str | None = None
    max_size: int | None = None


def parse_wish(
    *,
    trial: int | None = None,
    max_drop: float | str | None = None,
    metric: str | None = None,
    max_size: int | str | None = None,
) -> Wish:
    """Read the criteria as commands and the Python API take them.

    Args:
        trial: a number.
        max_drop: ``"2%"``, or a number in the metric's unit.
        metric: for `max_drop`.
        max_size: bytes, or ``"90 MB"``.

    Raises:
        UsageError: a value cannot be read, or the criteria exclude each other.
    """
    criteria = {"trial": trial, "max_drop": max_drop, "max_size": max_size}
    given = [name for name, value in criteria.items() if value is not None]
    if trial is not None and len(given) > 1:
        raise UsageError(f"{' and '.join(given)} each name one model; give one of them")
    drop, relative = None, True
    if max_drop is not None:
        match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", str(max_drop))
        if match is None:
            raise UsageError(f"`max_drop` must be a percentage such as 2% or a number, got {max_drop!r}")
        drop, relative = float(match[1]), match[2] == "%"
    try:
        size_limit = None if max_size is None else parse_bytes(max_size)
    except ValueError as error:
        raise UsageError(f"`max_size` {error}") from error
    return Wish(trial=trial, max_drop=drop, relative=relative, metric=metric, max_size=size_limit)


def choose(results: StudyResults, wish: Wish, *, where: str = "this study") -> int:
    """Return the number of the trial that meets the criteria.

    With `max_drop` it is the smallest model that keeps it (and `max_size`); with `max_size` alone the most accurate
    that fits. Trials outside the study's own limits are chosen only by number.

    Raises:
        UsageError: there is no such trial or metric, or no trial meets the criteria; the nearest is named.
        StudyError: no trial is on a front yet.
    """
    if wish.trial is not None:
        record = results.records.get(wish.trial)
        if record is None or record.plan is None:
            on_front = ", ".join(map(str, results.front)) or "none"
            raise UsageError(f"{where} has no finished trial {wish.trial}; the trials on its front are {on_front}")
        return wish.trial
    if results.knee is None:
        raise StudyError(f"{where}: no trial of this study is on a front yet; run the search again or name a --trial")
    if wish.max_drop is None and wish.max_size is None:
        return results.knee
    feasible = [int(number) for number in results.feasible["trial"] if results.records[int(number)].unique]
    sizes = {number: bytes_ for number in feasible if (bytes_ := results.value(number, "footprint")) is not None}
    fits = {number for number, bytes_ in sizes.items() if wish.max_size is None or bytes_ <= wish.max_size}
    metric = _metric(results, wish, where)
    if wish.max_drop is None:
        costs = {number: cost for number in fits if (cost := results.cost(number, metric)) is not None}
        if not costs:
            least = min(sizes, key=lambda number: sizes[number])
            smallest = f"trial {least} with {size(sizes[least])}"
            raise UsageError(f"no model of {where} fits {size(wish.max_size)}; the smallest is {smallest}")
        return min(costs, key=lambda number: (costs[number], sizes[number], number))
    drops = {n: drop for n in sizes if (drop := _drop(results, metric, n, relative=wish.relative)) is not None}
    close = [number for number in drops if number in fits and drops[number] <= wish.max_drop]
    if not close:
        least = min(drops, key=lambda number: drops[number])
        within = "" if wish.max_size is None else f" within {size(wish.max_size)}"
        raise UsageError(
            f"no model of {where} keeps {label(metric)} that close to the original{within}; nearest is trial {least} "
            f"({results.score_text(least, metric, stderr=False)}, {size(sizes[least])}). Allow more, or search longer"
        )
    return min(close, key=lambda number: (sizes[number], drops[number], number))


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
