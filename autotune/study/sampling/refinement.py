"""Order of the trials with distillation: it costs minutes a trial, so the front's points come first, at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from autotune.config.space.space import SearchSpace
from autotune.evaluation import Direction
from autotune.results.front.pareto import costs, nondominated
from autotune.study.storage.history import History, point_key

SHARE = 4
"""One trial of so many, the last ones, distils a point of the front."""


def chooses_distillation(space: SearchSpace) -> bool:
    """Return True if the space has points with and without distillation."""
    return len(space.values("distillation")) > 1


def is_late(history: History, budget: int) -> bool:
    """Return True for the last trials of a study with so many."""
    return history.position >= budget - budget // SHARE


def distilled_front(history: History, directions: Sequence[Direction]) -> Iterator[Mapping[str, Any]]:
    """Yield the front's points with distillation, untried ones only; the middle of the front first.

    Args:
        history: of the study.
        directions: of the objectives.
    """
    trials = [t for t in history.finished if t.values is not None and all(v <= 0 for v in t.constraints.values())]
    if not trials:
        return
    front = nondominated(costs(np.array([trial.values for trial in trials]), directions))
    kept = [trial for trial, best in zip(trials, front, strict=True) if best]
    kept.sort(key=lambda trial: trial.values)
    middle = (len(kept) - 1) / 2
    for _, trial in sorted(enumerate(kept), key=lambda item: abs(item[0] - middle)):
        params = {**trial.params, "distillation": True}
        if trial.params.get("distillation") is False and point_key(params) not in history.points:
            yield params
