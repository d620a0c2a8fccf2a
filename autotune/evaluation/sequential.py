"""Sequential paired comparison of scores: the one rule that stops a trial, and that calls two models tied.

Models are compared window by window on the same texts. After each block of windows a test decides whether the mean
difference exceeds zero. It may be applied after every block without losing its error rate (an anytime-valid test).

The evidence is the likelihood ratio of the t-statistic, with a normal prior on the mean in units of the standard
deviation. For normal differences of any variance it is a test martingale under a mean of zero, so by Ville's inequality
it ever reaches 1 / ERROR with a probability of at most ERROR (Lai, "On confidence sequences", Annals of Statistics 4,
1976; Wang and Ramdas, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance",
Sequential Analysis 44, 2025). `benchmarks/racing.py` measures the error for differences that are not normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.evaluation.protocol import IntArray, Measurement

    Floats = npt.NDArray[np.float64]

__all__ = ["ERROR", "Scale", "additive", "are_separated", "is_decided", "log_evidence", "looks", "scoring_order"]

ERROR = 0.01
"""Largest probability that a trial is stopped although it belongs to the front, or that equal models are separated."""

FEWEST = 4
"""Windows of the first block, and least number of windows of a decision."""

PRIOR = 4.0
"""Variance of the prior of the mean in units of the standard deviation. Larger values decide large differences sooner
and small ones later: a difference of 4 standard deviations after 6 windows, one of a half after 62. After 8, 12 and 16
windows it decides differences of 2.00, 1.39 and 1.13; the best values for these numbers 2.00, 1.37 and 1.10. After 4
windows no value decides less than 5.8."""

_GROWTH = 1.25
_SEED = 0


def log_evidence(differences: Sequence[float] | Floats) -> float:
    """Compute the log of the evidence that the mean of the differences is larger than zero.

    Args:
        differences: float [n], one a window, in the order in which the windows were scored.

    Returns:
        Minus infinity if n < `FEWEST` or the mean is not positive; infinity for equal positive differences.
    """
    values = np.asarray(differences, np.float64)
    n = len(values)
    if n < FEWEST or not values.mean() > 0:
        return -math.inf
    variance = float(values.var(ddof=1))
    if variance <= 1e-24 * float(values.mean()) ** 2:  # rounding alone
        return math.inf
    squared = n * float(values.mean()) ** 2 / variance / (n - 1)
    ratio = 1.0 + n * PRIOR
    return -0.5 * math.log(ratio) + 0.5 * n * (math.log1p(squared) - math.log1p(squared / ratio))


def is_decided(log_evidences: Sequence[float]) -> bool:
    """Test if hypotheses are refuted together: those of one trial, that each of them is wrong.

    The mean of the evidences is a test martingale if every hypothesis holds, whatever the dependence between them.
    """
    if not log_evidences:
        return False
    largest = max(log_evidences)
    if math.isinf(largest):
        return largest > 0
    mean = largest + math.log(sum(math.exp(value - largest) for value in log_evidences) / len(log_evidences))
    return mean >= -math.log(ERROR)


def are_separated(first: Sequence[float], second: Sequence[float]) -> bool:
    """Test if two models differ on their common windows, in either direction.

    Args:
        first, second: one additive value a window, in the order of scoring; the longer one is cut.
    """
    count = min(len(first), len(second))
    differences = np.asarray(first[:count], np.float64) - np.asarray(second[:count], np.float64)
    return is_decided([max(log_evidence(differences), log_evidence(-differences))])


class Scale(NamedTuple):
    """A monotone transformation of values, and its inverse."""

    of: Callable[[Any], Any]
    inverse: Callable[[Any], Any]


_SCALES = (
    Scale(lambda values: values, lambda values: values),
    Scale(np.log, np.exp),
    Scale(lambda values: np.log1p(values / 100.0), lambda values: 100.0 * np.expm1(values)),
)


def additive(measurement: Measurement) -> Scale | None:
    """Return the scale on which the value of a measurement is the mean of its values.

    It is the identity for a mean, the logarithm for a perplexity and for an increase in percent. None if there is
    none of these, e.g. for a quantile: then differences of single windows do not decide.
    """
    values = np.asarray(measurement.values, np.float64)
    for scale in _SCALES if len(values) else ():
        with np.errstate(all="ignore"):
            mean, value = float(scale.of(values).mean()), float(scale.of(np.float64(measurement.value)))
        if math.isclose(mean, value, rel_tol=1e-6, abs_tol=1e-12):
            return scale
    return None


def scoring_order(count: int) -> IntArray:
    """Return the order in which windows are scored, int64 [count]: random, and the same for every model and study."""
    return np.random.default_rng(_SEED).permutation(count)


def looks(count: int) -> list[int]:
    """Return the numbers of windows after which a decision is made: blocks of `FEWEST`, later of a quarter more."""
    found, at = [], 0
    while at < count:
        at = min(count, max(at + FEWEST, FEWEST * round(_GROWTH * at / FEWEST)))
        found.append(at)
    return found
