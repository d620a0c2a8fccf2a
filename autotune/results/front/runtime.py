"""Runtime settings of the front's models: scores, speed and KV cache of each, and the setting to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import csv_cell
from autotune.evaluation import SCORING_CONFIG, Measurement
from autotune.results.records import RuntimeScores, RuntimeSearch, StudyResults

if TYPE_CHECKING:
    import pandas as pd


TOLERANCE = 0.1
"""How much larger than with the most accurate setting a model's error may be, as a share of it."""


def read_runtime(
    attribute: Mapping[str, Any] | None, scores: Callable[[Mapping[str, Any] | None], dict[str, Measurement]]
) -> RuntimeSearch | None:
    """Read the study's attribute ``runtime``; None if no model has scores.

    Args:
        attribute: see `study.workers.deployment.RUNTIME`.
        scores: converts metrics as data to measurements.
    """
    trials: dict[int, list[RuntimeScores]] = {}
    for number, entry in (attribute or {}).get("trials", {}).items():
        found = entry.get("settings") or ()
        times = entry.get("times") or [None] * len(found)
        if found:
            trials[int(number)] = [
                RuntimeScores(error=str(each["error"].get("message", "")))
                if "error" in each
                else RuntimeScores(each["properties"], scores(each["metrics"]), each["cache_bytes"], **(speed or {}))
                for each, speed in zip(found, times, strict=True)
            ]
    if attribute is None or not trials:
        return None
    cpu = attribute.get("cpu")
    return RuntimeSearch(attribute["settings"], trials, None if cpu is None else tuple(cpu))


def recommended_setting(results: StudyResults, trial: int) -> int | None:
    """Choose a setting for a trial: the smallest KV cache, then the fastest, of those that are accurate enough.

    A setting is accurate enough if the error of the first objective that was scored, the distance to the original's
    score, is at most 1 + `TOLERANCE` times that of the most accurate setting, and if the constraints hold. If no
    setting keeps the constraints, they are ignored.

    Returns:
        Index into `RuntimeSearch.settings`; None if the trial was not scored, or the original's score is unknown.
    """
    scored = results.runtime.trials.get(trial, ()) if results.runtime is not None else ()
    errors = {index: error for index, each in enumerate(scored) if (error := _error(results, each)) is not None}
    within = {index: error for index, error in errors.items() if _keeps_limits(results, scored[index])} or errors
    if not within:
        return None
    limit = (1 + TOLERANCE) * min(within.values())
    return min(
        (index for index, error in within.items() if error <= limit),
        key=lambda index: (scored[index].cache_bytes, -(scored[index].tokens_per_second or 0.0), index),
    )


def _error(results: StudyResults, scored: RuntimeScores) -> float | None:
    name = next((name for name in results.objectives if name in scored.metrics), None)
    original = None if name is None else results.original_score(name)
    if name is None or original is None or not math.isfinite(scored.metrics[name].value):
        return None
    return abs(scored.metrics[name].value - original.value)


def _keeps_limits(results: StudyResults, scored: RuntimeScores) -> bool:
    limits = results.constraints.items()
    return all(limit.violation(scored.metrics[name].value) <= 0 for name, limit in limits if name in scored.metrics)


def runtime_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row for each trial and setting: properties, scores, KV cache, speed; empty without a search."""
    import pandas as pd

    rows = []
    for trial, scored in results.runtime.trials.items() if results.runtime is not None else ():
        recommended = recommended_setting(results, trial)
        for index, each in enumerate(scored):
            row: dict[str, Any] = {"trial": trial, "setting": index, "recommended": index == recommended}
            row |= {name: each.properties.get(name) for name in SCORING_CONFIG}
            for name, score in each.metrics.items():
                row |= {name: score.value, f"{name}_stderr": score.stderr}
            row |= {"cache_bytes_per_token": each.cache_bytes or None, "first_token": each.first_token}
            rows.append({**row, "tokens_per_second": each.tokens_per_second, "error": csv_cell(each.error)})
    return pd.DataFrame(rows)
