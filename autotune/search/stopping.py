"""When a front has stopped becoming better."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.evaluation import Direction
from autotune.reporting.front import costs, hypervolume
from autotune.search.history import History
from autotune.search.rows import is_feasible

__all__ = ["SMALLEST_GAIN", "stands_still"]

SMALLEST_GAIN = 1e-3
"""Share of the hypervolume that counts as a gain."""


def stands_still(history: History, directions: Sequence[Direction], last: int) -> bool:
    """Whether the last so many trials have not added a thousandth to the hypervolume of the feasible front.

    Trials that were stopped or failed count as trials without a gain, copies of others do not count. Each objective is
    scaled to [0, 1] over all feasible trials, with the reference point a tenth beyond the worst.
    """
    finished = sorted(history.finished, key=lambda trial: trial.number)
    before = {trial.number for trial in finished[:-last]}
    scored = [trial for trial in finished if trial.state.name == "COMPLETE" and is_feasible(trial)]
    if len(finished) <= last or not any(trial.number in before for trial in scored):
        return False
    cost = costs(np.array([trial.values for trial in scored], np.float64), directions)
    low, high = cost.min(axis=0), cost.max(axis=0)
    unit = (cost - low) / np.where(high > low, high - low, 1.0)
    reference = np.full(len(directions), 1.1)
    old = hypervolume(unit[[trial.number in before for trial in scored]], reference)
    return hypervolume(unit, reference) < (1 + SMALLEST_GAIN) * old
