"""Racing: stop scoring a trial as soon as it is certain that it is not on the front.

A trial is compared with the trials on the front and with the limits, window by window on the same texts, by the test of
`autotune.evaluation.sequential`. A trial that is on the front by its complete scores is stopped with a probability of
at most `ERROR`, over all windows, rivals and limits together. The other trials are scored on all texts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from autotune.common.units import Constraint, Precision
from autotune.evaluation import Direction, Measurement
from autotune.evaluation.sequential import additive, is_decided, log_evidence

if TYPE_CHECKING:
    import numpy.typing as npt
    from optuna.trial import FrozenTrial

    Floats = npt.NDArray[np.float64]

FEWEST_PRECISE = 8
"""Least number of windows whose standard error counts."""

ANCHOR_SHARE = 1 / 2
"""Precision of the first trials, in relation to that of the others, whose values on more windows they predict."""


class Dominated(Exception):
    """A trial that is not on the front: dominated, or beyond a limit, with high confidence.

    Attributes:
        cause: number of the trial on the front that dominates it, or the metric whose limit it exceeds.
        measured: scores so far.
        sequences: number of windows behind them.
        estimate: objective -> estimate of its value on all windows.
    """

    def __init__(
        self, cause: int | str, measured: Mapping[str, Measurement], sequences: int, estimate: Mapping[str, float]
    ) -> None:
        self.cause, self.measured, self.sequences, self.estimate = cause, measured, sequences, estimate
        super().__init__(cause, measured, sequences, estimate)


@dataclass(frozen=True)
class Rival:
    """A trial on the front.

    Attributes:
        number: of the trial.
        values: objective -> its value.
        sequences: objective -> its value on each window, where the metric has one, in the order of scoring.
        on_front: False for a trial whose windows alone are used, see `Race.comparable`.
    """

    number: int
    values: Mapping[str, float]
    sequences: Mapping[str, Sequence[float]]
    on_front: bool = True


@dataclass(frozen=True)
class Race:
    """Race of one trial against the front and the limits.

    Attributes:
        objectives: metric -> direction, all of the study's.
        rivals: the front when the trial began.
        of_plan: the objectives that follow from the trial's plan, such as the footprint.
        limits: metric -> constraint.
        precision: of a trial that is not dominated; None scores it on all texts.
        every_metric: measure also what no objective or limit names; otherwise that waits for the final front.
    """

    objectives: Mapping[str, Direction]
    rivals: Sequence[Rival]
    of_plan: Mapping[str, float]
    limits: Mapping[str, Constraint] = field(default_factory=dict)
    precision: Precision | None = None
    every_metric: bool = False

    def check(self, partial: Mapping[str, Measurement]) -> None:
        """Test if the measurements on the first windows decide that the trial is not on the front.

        Raises:
            Dominated: they do.
        """
        raced = self._raced
        if not raced or any(name not in partial for name in raced):
            return
        rivals = self._strongest(raced)
        causes: dict[int | str, float] = {
            rival.number: min(self._domination(name, partial[name], rival) for name in raced) for rival in rivals
        }
        causes |= {name: self._violation(name, partial[name]) for name in self.limits if name in partial}
        if not is_decided(list(causes.values())):
            return
        cause = max(causes, key=lambda each: causes[each])
        estimate = dict(self.of_plan) | {name: partial[name].value for name in raced}
        for rival in rivals:
            if rival.number == cause:
                estimate |= {name: _on_all_windows(name, partial[name], rival) for name in raced}
        raise Dominated(cause, partial, max(len(partial[name].values) for name in raced), estimate)

    def is_settled(self, partial: Mapping[str, Measurement]) -> bool:
        """Test if the scores are precise enough, and decide that the trial is on the front so far and keeps the limits.

        The precision is that of the estimate, see `comparable`. A comparison that the common windows do not decide is
        settled after the last of them. If there is no earlier trial to estimate values on more windows from, the scores
        need half of the precision.
        """
        raced = self._raced
        if self.precision is None or not raced or any(name not in partial for name in raced):
            return False
        main = self._regressed(raced[0], partial[raced[0]])
        share = ANCHOR_SHARE if self._anchor(raced[0]) is None else 1.0
        if len(main.values) < FEWEST_PRECISE or not replace(self.precision, value=share * self.precision.value).is_met(
            main.value, main.stderr
        ):
            return False
        return all(
            any(self._is_better(name, partial[name], rival) for name in raced) for rival in self._strongest(raced)
        ) and all(self._is_within(name, partial[name]) for name in self.limits if name in partial)

    def windows(self, measured: Mapping[str, Measurement]) -> int | None:
        """Return the number of windows of the main score; None without a precision."""
        main = self.main
        return None if self.precision is None or main is None or main not in measured else len(measured[main].values)

    def comparable(self, measured: Mapping[str, Measurement]) -> dict[str, Measurement]:
        """Estimate the values that decide on the windows of the trial that was scored on most, the anchor.

        The estimate is a regression on the anchor's values on the common windows, on the scale on which both are means
        (Cochran, "Sampling Techniques", 1977, chapter 7). Its variance is that of a prediction by the regression, and
        that of the anchor's mean. So the scores of all trials are for the same windows, and differences are nearly as
        precise as paired ones.
        """
        return {
            name: self._regressed(name, m) if name in self.objectives or name in self.limits else m
            for name, m in measured.items()
        }

    def _regressed(self, name: str, measured: Measurement) -> Measurement:
        scale, anchor, count = additive(measured), self._anchor(name), len(measured.values)
        if scale is None or anchor is None or not FEWEST_PRECISE <= count < len(anchor):
            return measured
        own = scale.of(np.asarray(measured.values, np.float64))
        every = scale.of(np.asarray(anchor, np.float64))
        common = every[:count] - every[:count].mean()
        slope = float(common @ own / (common @ common)) if common.any() else 0.0
        mean = own.mean() + slope * (every.mean() - every[:count].mean())
        residuals = own - own.mean() - slope * common
        shift = float(every.mean() - every[:count].mean()) ** 2 / float(common @ common) if common.any() else 0.0
        variance = float(residuals.var(ddof=2)) * (1 / count + shift) + slope**2 * float(every.var(ddof=1)) / len(every)
        share = math.sqrt(variance * count / float(own.var(ddof=1))) if own.std() else 1.0
        stderr = None if measured.stderr is None else share * measured.stderr
        return replace(measured, value=float(scale.inverse(mean)), stderr=stderr)

    @property
    def main(self) -> str | None:
        """The first objective that is scored."""
        return next(iter(self._raced), None)

    @property
    def _raced(self) -> list[str]:
        return [name for name in self.objectives if name not in self.of_plan]

    def _anchor(self, name: str) -> Sequence[float] | None:
        """Return the longest values of a metric among the trials."""
        found: Sequence[float] = max((r.sequences.get(name, ()) for r in self.rivals), key=len, default=())
        return found if len(found) else None

    def _is_better(self, name: str, measured: Measurement, rival: Rival) -> bool:
        """Test if it is certain that the trial is better in one metric, or nothing more can be known."""
        difference = self._difference(name, measured, rival)
        count = len(measured.values)
        return difference is None or is_decided([log_evidence(-difference)]) or count >= len(rival.sequences[name])

    def _is_within(self, name: str, measured: Measurement) -> bool:
        beyond = self._beyond(name, measured)
        return beyond is None or is_decided([log_evidence(-beyond)])

    def _strongest(self, raced: Sequence[str]) -> list[Rival]:
        """Return the rivals that can dominate the trial, without those that another one of them dominates.

        With one measured objective that is one rival, the best of those that are no worse by the plan. If a dropped
        rival dominates the trial, so does one of these. Evidence is divided among as few rivals as possible.
        """
        front = [rival for rival in self.rivals if rival.on_front]
        eligible = [r for r in front if all(self._loss(n, v, r.values[n]) >= 0 for n, v in self.of_plan.items())]
        chosen: list[Rival] = []
        for rival in sorted(eligible, key=lambda r: [self._loss(n, r.values[n], 0.0) for n in raced]):
            if not any(all(self._loss(n, rival.values[n], c.values[n]) >= 0 for n in raced) for c in chosen):
                chosen.append(rival)
        return chosen

    def _loss(self, name: str, own: float, rival: float) -> float:
        """Return by how much the rival is better."""
        return own - rival if self.objectives[name] == "minimize" else rival - own

    def _domination(self, name: str, measured: Measurement, rival: Rival) -> float:
        """Compute the log evidence that the rival is better in one metric, on the common windows."""
        difference = self._difference(name, measured, rival)
        is_last = self.precision is None and len(measured.values) >= len(rival.sequences.get(name, ()))
        return -math.inf if difference is None or is_last else log_evidence(difference)

    def _difference(self, name: str, measured: Measurement, rival: Rival) -> Floats | None:
        """Return by how much the rival is better on each common window; None if windows do not decide."""
        scale, count = additive(measured), min(len(measured.values), len(rival.sequences.get(name, ())))
        if scale is None or not count:
            return None
        own, other = (np.asarray(values[:count], np.float64) for values in (measured.values, rival.sequences[name]))
        difference: Floats = scale.of(own) - scale.of(other)
        return difference if self.objectives[name] == "minimize" else -difference

    def _violation(self, name: str, measured: Measurement) -> float:
        """Compute the log evidence that a metric is beyond its limit."""
        beyond = self._beyond(name, measured)
        anchor = self._anchor(name)
        is_last = self.precision is None and (anchor is None or len(measured.values) >= len(anchor))
        return -math.inf if beyond is None or is_last else log_evidence(beyond)

    def _beyond(self, name: str, measured: Measurement) -> Floats | None:
        """Return by how much each window is beyond the limit; None if windows do not decide."""
        scale, limit = additive(measured), self.limits[name]
        if scale is None:
            return None
        beyond: Floats = scale.of(np.asarray(measured.values, np.float64)) - scale.of(np.float64(limit.value))
        return beyond if limit.op == "<=" else -beyond


def _on_all_windows(name: str, measured: Measurement, rival: Rival) -> float:
    """Estimate a value on all windows: that of the rival, changed by the mean difference on the common windows.

    So the estimate of a dominated trial is dominated, however easy or hard its first windows are.
    """
    scale = additive(measured)
    assert scale is not None
    count = min(len(measured.values), len(rival.sequences[name]))
    own, others = (scale.of(np.asarray(v[:count], np.float64)) for v in (measured.values, rival.sequences[name]))
    return float(scale.inverse(own.mean() - others.mean() + scale.of(np.float64(rival.values[name]))))


def rivals_of(
    front: Sequence[FrozenTrial], objectives: Sequence[str], scored: Sequence[FrozenTrial] = ()
) -> list[Rival]:
    """Convert the trials of the front to rivals; of `scored` the one with most windows follows as an anchor."""

    def rival(trial: FrozenTrial, *, on_front: bool = True) -> Rival:
        values = dict(zip(objectives, trial.values, strict=True))
        return Rival(trial.number, values, trial.user_attrs.get("sequences", {}), on_front)

    complete = [trial for trial in scored if trial.state.name == "COMPLETE"]
    longest = max(complete, key=lambda trial: (trial.user_attrs.get("windows", 0), -trial.number), default=None)
    anchor = [] if longest is None or longest in front else [rival(longest, on_front=False)]
    return [*map(rival, front), *anchor]
