"""Which trial of a study a person asks for: by number, the knee, or the best within limits given afterwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from autotune.common.formatting import label, score, size
from autotune.errors import StudyError, UsageError
from autotune.results.decision import SIZES, accuracy_metric
from autotune.results.types import StudyResults

__all__ = ["DROP_METRICS", "Wish", "choose"]

DROP_METRICS = ("perplexity_increase", "similarity", "top1_agreement", "answer_top1_agreement", "perplexity")
"""Metrics that a drop in percent means something for, the one taken without a name first."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for; all None is the knee.

    Attributes:
        trial: a number.
        max_drop: how much worse than the original `metric` may be: percent of the original's value where `relative`
            (for a metric that is itself in percent: percentage points), else in the metric's unit.
        metric: for `max_drop`, and what the most accurate is by; None is the first of `DROP_METRICS` that was scored,
            and without `max_drop` the study's own accuracy.
        max_size: bytes of openvino_model.bin.
    """

    trial: int | None = None
    max_drop: float | None = None
    relative: bool = True
    metric: str | None = None
    max_size: int | None = None


def choose(results: StudyResults, wish: Wish, *, where: str = "this study") -> int:
    """The trial that is asked for.

    With `max_drop` the smallest model that keeps it (and `max_size`); with `max_size` alone the most accurate that
    fits. Trials outside the study's own limits are no candidates, unless they are named.

    Raises:
        UsageError: there is no such trial or metric, or nothing keeps the wish; the nearest is named.
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
    candidates = [
        int(str(number)) for number in results.feasible.index if results.records[int(str(number))].duplicate_of is None
    ]
    sizes = {number: value for number in candidates if (value := results.value(number, "footprint")) is not None}
    metric = _metric(results, wish, where)
    if wish.max_drop is None:
        assert wish.max_size is not None
        fitting = {n: _badness(results, metric)(n) for n, bytes_ in sizes.items() if bytes_ <= wish.max_size}
        known = {number: value for number, value in fitting.items() if value is not None}
        if not known:
            least = min(sizes, key=lambda number: sizes[number])
            smallest = f"trial {least} with {size(sizes[least])}"
            raise UsageError(f"no model of {where} fits {size(wish.max_size)}; the smallest is {smallest}")
        return min(known, key=lambda number: (known[number], sizes[number], number))
    drops = {n: drop for n in sizes if (drop := _drop(results, metric, n, relative=wish.relative)) is not None}
    fitting = {n: drop for n, drop in drops.items() if drop <= wish.max_drop}
    fitting = {n: d for n, d in fitting.items() if wish.max_size is None or sizes[n] <= wish.max_size}
    if not fitting:
        least = min(drops, key=lambda number: drops[number])
        within = "" if wish.max_size is None else f" within {size(wish.max_size)}"
        raise UsageError(
            f"no model of {where} keeps {label(metric)} that close to the original{within}; nearest is trial {least} "
            f"({score(results.value(least, metric), name=metric, metric=results.metrics.get(metric))}, "
            f"{size(sizes[least])}). Allow more, or search longer"
        )
    return min(fitting, key=lambda number: (sizes[number], drops[number], number))


def _metric(results: StudyResults, wish: Wish, where: str) -> str:
    scored = [
        n for n in results.metrics if n not in SIZES and n in results.trials and results.complete[n].notna().any()
    ]
    if wish.metric is not None:
        if wish.metric not in scored:
            raise UsageError(f"{where} has no scores of {wish.metric!r}; there are {', '.join(scored) or 'none'}")
        return wish.metric
    found = accuracy_metric(results) if wish.max_drop is None else None
    found = found or next((name for name in DROP_METRICS if name in scored), None)
    if found is None:
        raise UsageError(f"{where} measured nothing that --max-drop means something for; name a --metric")
    return found


def _badness(results: StudyResults, metric: str) -> Callable[[int], float | None]:
    sign = 1.0 if results.metrics[metric].direction == "minimize" else -1.0

    def of(trial: int) -> float | None:
        value = results.value(trial, metric)
        return None if value is None else sign * value

    return of


def _drop(results: StudyResults, metric: str, trial: int, *, relative: bool) -> float | None:
    """How much worse than the original, at least 0."""
    value, original = _badness(results, metric)(trial), results.original_score(metric)
    if value is None or original is None:
        return None
    meaning = results.metrics[metric]
    sign = 1.0 if meaning.direction == "minimize" else -1.0
    worse = max(0.0, value - sign * original.value)
    if not relative or meaning.unit == "%":
        return worse
    if original.value == 0:
        raise UsageError(
            f"the original's {label(metric)} is 0, of which no percentage can be taken; give --max-drop in "
            f"{meaning.unit or 'the unit of the metric'}, without %"
        )
    return 100 * worse / abs(original.value)
