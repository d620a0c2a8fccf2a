"""Trials without scores: the reason, and the remedy."""

from __future__ import annotations

import re

from autotune.results.decision import broken_limits
from autotune.results.records import StudyResults, TrialRecord

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
    repeated = {record.retry_of for record in results.records.values()}
    without = (record for record in results.records.values() if not record.complete and record.duplicate_of is None)
    return [r for r in without if r.scored_sequences is None and not (r.interrupted and r.number in repeated)]


def reason(results: StudyResults, record: TrialRecord) -> str:
    """Return why a trial has no scores, in one line."""
    if record.error_text and not record.interrupted:
        return record.error_text
    if "beaten_by" in record.numbers:
        rival, count = (int(record.numbers[name]) for name in ("beaten_by", "beaten_after"))
        return f"stopped: dominated by trial {rival} after the first {count} sequences"
    if record.state == "PRUNED":
        broken = "; ".join(broken_limits(results, record.number))
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
    again = [other.number for other in results.records.values() if other.retry_of == record.number]
    if again:
        return f"None needed: done again as trial {again[-1]}."
    text = reason(results, record).lower()
    return next((advice for pattern, advice in REMEDIES if re.search(pattern, text)), OTHERWISE)
