"""Rows: finished trials as progress shows them, and the front that they form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.evaluation import Direction
from autotune.results.frame import effective_settings
from autotune.results.front.pareto import front_indices
from autotune.study.storage.history import History

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True, slots=True)
class Row:
    """Finished trial, as progress shows it.

    Attributes:
        number: the trial's number in the study's storage.
        count: number of finished trials so far, without duplicates.
        settings: as `Settings.as_dict` (empty where the trial never got any).
        state: ``complete``, ``pruned`` or ``fail``.
        values: objective name -> value (empty unless complete); errors: objective name -> standard error.
        footprint: bytes, None where planning failed.
        seconds: of this trial, all included.
        feasible: keeps every constraint.
        on_front: no earlier trial dominates it.
        reason: why it has no values, or the trial it repeats.
        duplicate: it repeats an earlier trial's plan.
    """

    number: int
    count: int
    settings: Mapping[str, Any]
    state: str
    values: Mapping[str, float]
    errors: Mapping[str, float | None]
    footprint: int | None
    seconds: float
    feasible: bool
    on_front: bool
    reason: str = ""
    duplicate: bool = False


def row_of(
    trial: FrozenTrial,
    objectives: Sequence[str],
    *,
    count: int = 0,
    seconds: float | None = None,
    on_front: bool = False,
) -> Row:
    """Convert a finished trial to a row; `seconds` defaults to the trial's duration in the storage."""
    attrs = trial.user_attrs
    values = dict(zip(objectives, trial.values or (), strict=False))
    metrics = attrs.get("metrics", {})
    if seconds is None:
        seconds = trial.duration.total_seconds() if trial.duration else 0.0
    return Row(
        number=trial.number,
        count=count,
        settings=effective_settings(attrs["settings"]) if "settings" in attrs else {},
        state=trial.state.name.lower(),
        values=values,
        errors={name: metrics.get(name, {}).get("stderr") for name in values},
        footprint=attrs.get("footprint"),
        seconds=seconds,
        feasible=is_feasible(trial),
        on_front=on_front,
        reason=reason_of(trial),
        duplicate="duplicate_of" in attrs,
    )


def reason_of(trial: FrozenTrial) -> str:
    """Explain in a few words why a trial has no values of its own; empty if it has."""
    attrs = trial.user_attrs
    if "duplicate_of" in attrs:
        return f"same plan as trial {attrs['duplicate_of']}"
    if "beaten_by" in attrs:
        return f"stopped: dominated by trial {attrs['beaten_by']} after the first {attrs['beaten_after']} sequences"
    if trial.state.name == "PRUNED":
        limits = ", ".join(n for n, over in trial.constraints.items() if over > 0)
        if "beaten_after" in attrs:
            return f"stopped: over the limit of {limits} after the first {attrs['beaten_after']} sequences"
        return f"not tried: over the limit of {limits}"
    if trial.state.name == "FAIL":
        error = attrs.get("error", {})
        message = " ".join(f"{error.get('type', 'Error')}: {error.get('message', '')}".split())
        return "failed: " + (message if len(message) <= 160 else f"{message[:157]}...")
    return ""


def is_feasible(trial: FrozenTrial) -> bool:
    """Test if the trial keeps every constraint."""
    return all(violation <= 0 for violation in trial.constraints.values())


def front_trials(history: History, directions: Sequence[Direction]) -> list[FrozenTrial]:
    """Find the front of all complete trials so far, each plan once, best in the first objective first."""
    ways, settled = tuple(directions), history.settled
    count, front = settled.fronts.get(ways, (0, []))
    if count > history.count:  # the settled trials are of a later history
        return best_of(history.finished, directions)
    if count < history.count:
        front = best_of([*front, *settled.finished[count : history.count]], directions)
        settled.fronts[ways] = history.count, front
    return best_of([*front, *history.finished[history.count :]], directions)


def best_of(trials: Sequence[FrozenTrial], directions: Sequence[Direction]) -> list[FrozenTrial]:
    """Find the front of the complete trials among these, as `front_trials`."""
    complete = [trial for trial in trials if trial.state.name == "COMPLETE"]
    if not complete:
        return []
    complete.sort(key=lambda trial: trial.number)
    chosen = front_indices(
        np.array([trial.values for trial in complete], dtype=np.float64),
        directions,
        feasible=[is_feasible(trial) for trial in complete],
        keys=[trial.user_attrs.get("plan") for trial in complete],
    )
    sign = 1 if directions[0] == "minimize" else -1
    return sorted((complete[index] for index in chosen), key=lambda trial: (sign * trial.values[0], trial.number))


def front_rows(history: History, objectives: Sequence[str], directions: Sequence[Direction]) -> list[Row]:
    """Find the front and convert it to rows."""
    return [row_of(trial, objectives, on_front=True) for trial in front_trials(history, directions)]
