"""From a front to a decision: which trials to look at, and what each saves and costs.

Why a trial has no scores, and what to do about it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import combinations

from autotune.common.formatting import DASH, label, score, size
from autotune.compression.describe import describe_settings
from autotune.results.types import StudyResults, TrialRecord

__all__ = [
    "Choice",
    "accuracy_metric",
    "baseline",
    "broken_limits",
    "budgets",
    "choices",
    "context_metrics",
    "decision_sentence",
    "failures",
    "measured",
    "objective_pairs",
    "reason",
    "remedy",
    "saving",
    "ties",
]

SIZES = ("footprint", "bits_per_weight", "compression_rate", "int4_percent", "int8_percent")
PREFERRED = (
    "kl_divergence",
    "answer_kl_divergence",
    "similarity",
    "perplexity_increase",
    "perplexity",
    "top1_agreement",
)


@dataclass(frozen=True, slots=True)
class Choice:
    """A trial worth choosing, and every reason for which it is."""

    trial: int
    roles: tuple[str, ...]


def accuracy_metric(results: StudyResults) -> str | None:
    """The metric that stands for accuracy: the first objective that is no size, else the best known one scored."""
    for name in results.objectives:
        if name not in SIZES:
            return name
    scored = [name for name in (*PREFERRED, *results.metrics) if name in results.metrics and name not in SIZES]
    return next((name for name in scored if results.complete[name].notna().any()), None)


def objective_pairs(results: StudyResults) -> list[tuple[str, str]]:
    """(x, y) of every front plot: the footprint is always x, and the first accuracy against it comes first.

    A single objective is drawn against the footprint, or the footprint against the best known accuracy.
    """
    names = list(results.objectives)
    if len(names) == 1:
        other = accuracy_metric(results) if names[0] == "footprint" else "footprint"
        drawable = other is not None and bool(results.complete[other].notna().any())
        names = [*names, other] if other is not None and drawable else []
    pairs = [(b, a) if a != "footprint" else (a, b) for a, b in combinations(names, 2)]
    return sorted(pairs, key=lambda pair: pair[0] != "footprint")


def context_metrics(results: StudyResults) -> list[str]:
    """The metrics to print beside each choice: the objectives that are no sizes, and what a reader expects to see."""
    names = [name for name in results.objectives if name not in SIZES]
    names += ["similarity", "perplexity_increase", "kl_divergence"]
    known = [name for name in dict.fromkeys(names) if name in results.trials.columns]
    return [name for name in known if results.complete[name].notna().any()]


def baseline(results: StudyResults) -> int | None:
    """The int8 trial that others are compared with, a scored one first, int8_asym before int8_sym; None without any.

    Its size is known, and worth comparing with, even where a limit on the footprint kept it from being scored.
    """
    sized = [record for record in results.records.values() if record.footprint is not None]
    eight = [record for record in sized if record.settings.get("mode") in ("int8_asym", "int8_sym")]
    if not eight:
        return None
    return min(eight, key=lambda r: (not r.complete, r.settings["mode"] != "int8_asym", r.number)).number


def choices(results: StudyResults) -> list[Choice]:
    """The knee, the smallest and the most accurate of the trials within the constraints; one entry a trial.

    Without a feasible trial, the least infeasible one alone.
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
    """The front's best trial in one metric; ties go to the one that is better in the first objective."""
    sign = 1.0 if direction == "minimize" else -1.0
    first, way = next(iter(results.objectives.items()))

    def rank(trial: int) -> tuple[float, float, int]:
        value, tie = results.value(trial, name), results.value(trial, first) or 0.0
        return (math.inf if value is None else sign * value, tie if way == "minimize" else -tie, trial)

    known = [trial for trial in results.front if results.value(trial, name) is not None]
    return min(known, key=rank) if known else None


def budgets(results: StudyResults, most: int = 6) -> list[tuple[int, int]]:
    """(bytes, trial): for round sizes from the largest down, the most accurate trial of the front that fits.

    A size that brings no other trial than the one before is left out.
    """
    metric = accuracy_metric(results)
    sized = {n: int(v) for n in results.front if (v := results.value(n, "footprint")) is not None}
    if metric is None or len(sized) < 3:
        return []
    low, high = min(sized.values()), max(sized.values())
    sign = 1.0 if results.metrics[metric].direction == "minimize" else -1.0
    found: list[tuple[int, int]] = []
    for limit in _round_sizes(low, high, most):
        fitting = [n for n, size_ in sized.items() if size_ <= limit and results.value(n, metric) is not None]
        best = min(fitting, key=lambda n: (sign * (results.value(n, metric) or 0.0), sized[n]), default=None)
        if best is not None and (not found or found[-1][1] != best):
            found.append((limit, best))
    return found


def _round_sizes(low: int, high: int, most: int) -> list[int]:
    """At most so many round numbers of bytes from above `low` to `high`, the largest first."""
    if high <= low:
        return []
    raw = (high - low) / most
    power = 10 ** math.floor(math.log10(raw))
    step = next(int(factor * power) for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw)
    return [limit for limit in range(high // step * step, low - 1, -step) if limit >= low] if step else []


def saving(ours: float | None, theirs: float | None) -> str:
    """``65% smaller`` (or larger) than theirs."""
    if not ours or not theirs:
        return DASH
    change = 100 * (ours - theirs) / theirs
    if abs(change) < 0.05:
        return "same size"
    text = f"{abs(change):.0f}%" if abs(change) >= 9.95 else f"{abs(change):.1f}%"
    return f"{text} {'smaller' if change < 0 else 'larger'}"


def decision_sentence(results: StudyResults) -> str:
    """What to take and why, in two or three sentences."""
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
    sentence = f"**Take trial {trial}** ({what}): {_weight(results, trial)}{_accuracy(results, trial)}."
    if len(results.front) == 1:
        return sentence + " It is the only point on the front: no other trial within the limits is better in anything."
    if len(results.objectives) == 1:
        return sentence
    names = [label(name) for name in results.objectives]
    if len(results.front) == 2:
        return f"{sentence} The front has only its two ends; this is the better one in {names[0]}."
    balance = f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{sentence} It is the knee of the front, the best balance of {balance}."


def _weight(results: StudyResults, trial: int) -> str:
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


def _accuracy(results: StudyResults, trial: int) -> str:
    metric, other = accuracy_metric(results), baseline(results)
    if metric is None or results.value(trial, metric) is None:
        return ""
    meaning = results.metrics[metric]
    unit = f" {meaning.unit}" if meaning.unit not in ("", "%") else ""
    text = f", {label(metric)} {measured(results, trial, metric)}{unit}"
    compared = []
    if other is not None and other != trial and results.value(other, metric) is not None:
        compared.append(f"{results.records[other].settings['mode']}: {measured(results, other, metric)}")
    original = results.original_score(metric)
    if original is not None:
        compared.append(f"original: {score(original.value, metric=meaning)}")
    return text + (f" ({'; '.join(compared)})" if compared else "")


def measured(results: StudyResults, trial: int, name: str) -> str:
    """One trial's score with its standard error, as every table prints it."""
    return score(results.value(trial, name), results.stderr(trial, name), name=name, metric=results.metrics.get(name))


def broken_limits(results: StudyResults, trial: int) -> list[str]:
    """``perplexity increase 1.57% (limit <= 1.2%)`` for every limit that a trial does not keep."""
    return [
        f"{label(name)} {score(results.value(trial, name), name=name, metric=results.metrics.get(name))} "
        f"(limit {results.constraints[name].text if name in results.constraints else '?'})"
        for name, beyond in results.records[trial].violations.items()
        if beyond > 0
    ]


def ties(results: StudyResults) -> list[tuple[int, int]]:
    """Neighbours on the front whose accuracy differs by less than two standard errors of the difference, or by less
    than the original's own noise (how far it is from itself in another batch).

    The errors are added as if independent; on the same texts they are positively correlated, so that this
    declares rather too many ties than too few. The second of each pair is the smaller model.
    """
    metric = accuracy_metric(results)
    if metric is None:
        return []
    found = []
    for a, b in zip(results.front, results.front[1:], strict=False):
        values, errors = (
            (results.value(a, metric), results.value(b, metric)),
            (results.stderr(a, metric), results.stderr(b, metric)),
        )
        if None in values:
            continue
        difference = abs(float(values[0] or 0) - float(values[1] or 0))
        noise = max(_noise(results, a, metric), _noise(results, b, metric))
        unsure = 0.0 if None in errors else 2 * math.hypot(float(errors[0] or 0), float(errors[1] or 0))
        if difference < max(unsure, noise):
            found.append((a, b))
    return found


def _noise(results: StudyResults, trial: int, name: str) -> float:
    measured = results.records[trial].metrics.get(name)
    return 0.0 if measured is None else measured.noise


REMEDIES: tuple[tuple[str, str], ...] = (
    (
        r"memoryerror|bad_alloc|out of memory|cannot allocate|exit code -?9\b|signal 9|sigkill",
        "Out of memory: use fewer `study.workers`, fewer calibration `samples` or a shorter `sequence_length`.",
    ),
    (
        r"no space left|disk full|enospc|errno 28",
        "The disk is full: free some, or set `cache.limit` or `cache.directory` in model.yaml.",
    ),
    (
        r"nan|infinite|\binf\b|not finite|overflow",
        "These settings break the model: leave the outlier layers out with `ignored_scope`, or use a smaller "
        "`group_size` or a lower `ratio`.",
    ),
    (r"timeout|timed out", "It took too long: raise `study.timeout`, or take the slow setting out of the space."),
    (r"planerror", "The space allows a combination that this model does not: fix the setting that is named."),
    (
        r"prerequisiteerror|modulenotfounderror|importerror|connectionerror|offline",
        "Something is missing: install or download what is named, then run `autotune search` again.",
    ),
    (
        r"keyboardinterrupt|interrupted|sigterm|signal 15|worker died|workerdied",
        "It was interrupted: run `autotune search` again, which continues the study.",
    ),
    (
        r"signal 11|segmentation|exit code -?(11|6)\b|sigabrt",
        "The process crashed, which is a defect of OpenVINO or of autotune: please report it with the settings.",
    ),
)
OTHERWISE = "Run these settings alone with `autotune compress ... --debug` to see where it fails."


def reason(results: StudyResults, record: TrialRecord) -> str:
    """What ended a trial without scores, in one line."""
    if record.error_text and not record.interrupted:
        return record.error_text
    if "beaten_by" in record.numbers:
        rival, count = (int(record.numbers[name]) for name in ("beaten_by", "beaten_after"))
        return f"stopped: trial {rival} beats it by the first {count} sequences"
    if record.state == "PRUNED":
        broken = "; ".join(broken_limits(results, record.number))
        return f"stopped before scoring: {broken}" if broken else "stopped before scoring"
    if record.state in ("RUNNING", "WAITING"):
        return "unfinished when this report was written"
    return "interrupted: its process ended before it did"


def remedy(results: StudyResults, record: TrialRecord) -> str:
    """What to do about it, in one line."""
    if record.state == "PRUNED":
        return "None needed."
    if record.state in ("RUNNING", "WAITING"):
        return "If no search is running, run `autotune search` again."
    again = [other.number for other in results.records.values() if other.retry_of == record.number]
    if again:
        return f"None needed: done again as trial {again[-1]}."
    text = reason(results, record).lower()
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, text)), OTHERWISE)


def failures(results: StudyResults) -> list[TrialRecord]:
    """The trials without scores, each plan once; those that the front beat early have some, and are no failures."""
    without = (record for record in results.records.values() if not record.complete and record.duplicate_of is None)
    return [record for record in without if "beaten_by" not in record.numbers]
