"""Racing: stop scoring a trial as soon as it is dominated with high confidence.

Each model is compared with the trials on the front, sequence by sequence on the same texts. Paired differences separate
two models long before their own standard errors do. The method follows Hoeffding races (Maron and Moore, NIPS 1993) and
F-Race (Birattari et al., GECCO 2002), with the front in place of the single best candidate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.evaluation import Direction, Measurement

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEWEST = 8
"""Least number of sequences before a trial can count as dominated."""

SURE = 3.0
"""Standard errors by which a mean paired difference must exceed zero."""


class Dominated(Exception):
    """A trial that is dominated with high confidence.

    Attributes:
        rival: number of the trial on the front that dominates it.
        measured: scores so far.
        sequences: number of sequences behind them.
    """

    def __init__(self, rival: int, measured: Mapping[str, Measurement], sequences: int) -> None:
        self.rival, self.measured, self.sequences = rival, measured, sequences
        super().__init__(rival, measured, sequences)


@dataclass(frozen=True)
class Rival:
    """A trial on the front.

    Attributes:
        number: of the trial.
        values: objective -> its value.
        sequences: objective -> its value on each sequence of the texts, where the metric has one.
    """

    number: int
    values: Mapping[str, float]
    sequences: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Race:
    """Race of one trial against the front.

    Attributes:
        objectives: metric -> direction, all of the study's.
        rivals: the front when the trial began.
        of_plan: the objectives that follow from the trial's plan, such as the footprint.
    """

    objectives: Mapping[str, Direction]
    rivals: Sequence[Rival]
    of_plan: Mapping[str, float]

    def check(self, partial: Mapping[str, Measurement]) -> None:
        """Compare the measurements on the first sequences with every rival.

        Raises:
            Dominated: a rival is no worse by the plan, and better with high confidence in everything measured.
        """
        for rival in self.rivals:
            if all(self._surely_worse(name, partial, rival) for name in self.objectives):
                counts = [len(partial[name].values) for name in self.objectives if name in partial]
                raise Dominated(rival.number, partial, max(counts, default=0))

    def is_dominated(self, measured: Mapping[str, Measurement]) -> bool:
        """Test if a rival dominates the final values of all objectives; False while one is missing."""
        own = {**self.of_plan, **{name: m.value for name, m in measured.items()}}
        if any(name not in own for name in self.objectives):
            return False
        for rival in self.rivals:
            losses = [self._loss(name, own[name], rival.values[name]) for name in self.objectives]
            if min(losses) >= 0 and max(losses) > 0:
                return True
        return False

    def _loss(self, name: str, own: float, rival: float) -> float:
        """Return by how much the rival is better."""
        return own - rival if self.objectives[name] == "minimize" else rival - own

    def _surely_worse(self, name: str, partial: Mapping[str, Measurement], rival: Rival) -> bool:
        if name in self.of_plan:
            return self._loss(name, self.of_plan[name], rival.values[name]) >= 0
        measured, rival_values = partial.get(name), rival.sequences.get(name, ())
        if measured is None or not FEWEST <= len(measured.values) < len(rival_values):
            return False
        own = np.asarray(measured.values, np.float64)
        if not math.isclose(own.mean(), measured.value, rel_tol=1e-6, abs_tol=1e-12):
            return False  # not the mean of its sequences (a perplexity, say): their differences would not decide
        sign = 1.0 if self.objectives[name] == "minimize" else -1.0
        differences = sign * (own - np.asarray(rival_values[: len(own)], np.float64))
        return bool(differences.mean() > SURE * differences.std(ddof=1) / math.sqrt(len(own)))


def rivals_of(front: Sequence[FrozenTrial], objectives: Sequence[str]) -> list[Rival]:
    """Convert the trials of the front to rivals."""
    return [
        Rival(
            trial.number,
            dict(zip(objectives, trial.values, strict=True)),
            trial.user_attrs.get("sequences", {}),
        )
        for trial in front
    ]
