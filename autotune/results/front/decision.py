"""From a front to a decision: the trials worth choosing with their savings and costs, and the remedies for failures."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import combinations

from autotune.common.formatting import DASH, label, score, size
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.front.recommendation import acceptance, accuracy_metric, guard, most_accurate, recommend
from autotune.results.records import StudyResults, TrialRecord


@dataclass(frozen=True, slots=True)
class Choice:
    """A trial worth choosing, and the reasons."""

    trial: int
    roles: tuple[str, ...]


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
    """Return the metrics to print with each choice: those of objectives and constraints, no sizes; the usual ones."""
    names = [name for name in results.deciding if name not in SIZE_COLUMNS]
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
    """Return the recommended trial, the knee, the smallest and the most accurate feasible trial; one entry a trial.

    Without a feasible trial, return the least infeasible one alone.
    """
    if not results.front:
        nearest = results.least_infeasible
        return [] if nearest is None else [Choice(nearest, ("nearest to the limits, but outside",))]
    limits = " within the limits" if results.constraints else ""
    roles: dict[int | None, list[str]] = {}
    roles.setdefault(recommend(results).trial, []).append("recommended")
    roles.setdefault(results.knee, []).append("the knee" if len(results.objectives) > 1 else "the best")
    sized = [trial for trial in results.front if results.value(trial, "footprint") is not None]
    if sized:
        # The front is sorted by size; of equal sizes the first is no less accurate.
        smallest = min(sized, key=lambda trial: results.value(trial, "footprint") or 0.0)
        roles.setdefault(smallest, []).append(f"the smallest{limits}")
    most = most_accurate(results, results.front) if len(results.objectives) > 1 else None
    roles.setdefault(most, []).append("the most accurate")
    return [Choice(trial, tuple(why)) for trial, why in roles.items() if trial is not None]


def choices_by_size(results: StudyResults, most: int = 6) -> list[tuple[int, int]]:
    """Return (bytes, trial): for round sizes from the largest down, the most accurate trial of the front that fits.

    Of trials that are tied with it, it is the smallest. A size with the same trial as the one before is left out.
    """
    sizes = {n: int(bytes_) for n in results.front if (bytes_ := results.value(n, "footprint")) is not None}
    if len(sizes) < 3:
        return []
    found: list[tuple[int, int]] = []
    for limit in _round_sizes(min(sizes.values()), max(sizes.values()), most):
        best = most_accurate(results, [n for n in sizes if sizes[n] <= limit])
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


def saving(ours: float | None, reference: float | None) -> str:
    """Return ``65% smaller``, or larger, of one size against another."""
    if not ours or not reference:
        return DASH
    change = 100 * (ours - reference) / reference
    if abs(change) < 0.05:
        return "same size"
    text = f"{abs(change):.0f}%" if abs(change) >= 9.95 else f"{abs(change):.1f}%"
    return f"{text} {'smaller' if change < 0 else 'larger'}"


def decision_sentence(results: StudyResults) -> str:
    """Recommend a trial with the reason, or say why none is recommended, in two or three sentences."""
    picks = choices(results)
    if not picks:
        return "No trial was completed, so there is nothing to choose from."
    if not results.front:
        trial = picks[0].trial
        what = results.records[trial].describe()
        broken = "; ".join(broken_limits(results, trial))
        return (
            f"**No trial keeps the limits.** Nearest is trial {trial} ({what}): {broken}. Loosen the limit, widen "
            "the search space, or search longer."
        )
    found = recommend(results)
    if found.trial is None:
        return (
            f"**No model is recommended.** {found.reason} Search longer, widen the search space towards more bits, or "
            "state your own limit in `constraints`."
        )
    what = results.records[found.trial].describe()
    sizes, accuracy = _sizes_text(results, found.trial), _accuracy_text(results, found.trial)
    sentence = f"**Take trial {found.trial}** ({what}): {sizes}{accuracy}. {found.reason}"
    limit = acceptance(results)
    if limit is not None:
        sentence += f" Its similarity to the original is {results.score_text(found.trial, guard(results))}."
        languages = languages_sentence(results.records[found.trial])
        sentence += f" {languages}" if languages else ""
    elif not any(name not in SIZE_COLUMNS for name in results.constraints):
        sentence += " Similarity was not scored and no constraint limits the accuracy: check its answers."
    return sentence


def languages_sentence(record: TrialRecord) -> str:
    """Return the similarity on English prompts and on the others; empty if all prompts are of one kind."""
    found = (record.answers or {}).get("other_languages")
    if not found:
        return ""
    return (
        f"Of the {(record.answers or {})['count']} prompts {found['count']} are not in English: their mean is "
        f"{found['score']:.3f}, that of the others {found['english']:.3f}. For a model of one language, name prompts "
        "in it with `evaluators.similarity.prompts`."
    )


def _sizes_text(results: StudyResults, trial: int) -> str:
    ours, other = results.value(trial, "footprint"), baseline(results)
    if ours is None:
        return "size not recorded"
    parts = []
    original = results.original_score("footprint")
    if original is not None:
        parts.append(f"{saving(ours, original.value)} than the original ({size(original.value)})")
    if other is not None and other != trial:
        reference = results.value(other, "footprint")
        parts.append(f"{saving(ours, reference)} than {results.records[other].settings['mode']} ({size(reference)})")
    return ", ".join([size(ours), " and ".join(parts)]) if parts else size(ours)


def _accuracy_text(results: StudyResults, trial: int) -> str:
    metric, other = accuracy_metric(results), baseline(results)
    if metric is None or results.value(trial, metric) is None:
        return ""
    text = f", {label(metric)} {results.score_text(trial, metric)}"
    compared = [f"in {results.unit(metric)}"] if results.unit(metric) else []
    if other is not None and other != trial and results.value(other, metric) is not None:
        compared.append(f"{results.records[other].settings['mode']}: {results.score_text(other, metric)}")
    if results.original_score(metric) is not None:
        compared.append(f"original: {results.score_text(None, metric, stderr=False)}")
    return text + (f" ({'; '.join(compared)})" if compared else "")


def broken_limits(results: StudyResults, trial: int) -> list[str]:
    """Return ``perplexity increase 1.57% (limit <= 1.2%)`` for every limit that a trial breaks, in the limit's unit.

    If the value is not known, because the model's size alone breaks the limit, its bound is given.
    """
    found = []
    for name, beyond in results.records[trial].violations.items():
        if beyond <= 0:
            continue
        limit, value, bound = results.constraints.get(name), results.value(trial, name), ""
        if value is None and limit is not None:
            value = limit.value + (beyond if limit.op == "<=" else -beyond)
            bound = "at least " if limit.op == "<=" else "at most "
        text = score(value, name=name, metric=results.metrics.get(name))
        found.append(f"{label(name)} {bound}{text} (limit {'?' if limit is None else limit.text})")
    return found


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
"""Pattern of the reason -> remedy."""

OTHERWISE = "Run these settings alone with `autotune compress ... --debug` to see where it fails."


def failures(results: StudyResults) -> list[TrialRecord]:
    """Return the trials without scores, each plan once, without those that racing stopped or that were repeated."""
    without = (record for record in results.records.values() if not record.complete and record.duplicate_of is None)
    return [r for r in without if r.scored_sequences is None and not (r.interrupted and r.number in results.retries)]


def reason(results: StudyResults, record: TrialRecord) -> str:
    """Return why a trial has no scores, in one line."""
    if record.error_text and not record.interrupted:
        return record.error_text
    if "beaten_by" in record.numbers:
        rival, count = (int(record.numbers[name]) for name in ("beaten_by", "beaten_after"))
        return f"stopped: dominated by trial {rival} after the first {count} sequences"
    if record.state == "PRUNED":
        broken = "; ".join(broken_limits(results, record.number))
        if record.scored_sequences is not None:
            return f"stopped after the first {record.scored_sequences} sequences: {broken}"
        return f"stopped before scoring: {broken}" if broken else "stopped before scoring"
    if record.state in ("RUNNING", "WAITING"):
        return "unfinished when this report was written"
    return "interrupted: its process ended before it did"


def remedy(results: StudyResults, record: TrialRecord) -> str:
    """Return what to do about it, in one line."""
    if record.state == "PRUNED":
        return "None needed."
    if record.state in ("RUNNING", "WAITING"):
        return "If no search is running, run `autotune search` again."
    if record.number in results.retries:
        return f"None needed: done again as trial {results.retries[record.number]}."
    text = reason(results, record).lower()
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, text)), OTHERWISE)
