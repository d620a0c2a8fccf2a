"""Means and quantiles over sequences and their standard errors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autotune.evaluation import Measurement

__all__ = ["mean", "quantile", "ratio", "standard_error"]

Values = npt.NDArray[np.float64] | Sequence[float]


def standard_error(differences: Values) -> float | None:
    """Return the standard error of the mean of [n] paired differences, one a sequence; None for n = 1."""
    values = np.asarray(differences, np.float64)
    if len(values) < 2:
        return None
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def mean(values: Values, original: Values | float = 0.0, noise: float = 0.0) -> Measurement:
    """Return the mean of [n] values, one a sequence; its error is that of the differences to the original's."""
    array = np.asarray(values, np.float64)
    error = standard_error(array - np.asarray(original, np.float64))
    return Measurement(float(array.mean()), error, tuple(array.tolist()), noise)


def ratio(sums: Values, counts: Values, noise: float = 0.0) -> Measurement:
    """Return the mean over all tokens, from the sum and the count of each sequence, both [n].

    The standard error is that of a ratio estimator with sequences as clusters (delta method), because tokens of one
    sequence are not independent of each other.
    """
    total, count = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    value = float(total.sum() / count.sum())
    values = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
    return Measurement(value, standard_error((total - value * count) / count.mean()), tuple(values.tolist()), noise)


def quantile(values: npt.NDArray[np.float64], level: float) -> Measurement:
    """Return the `level` quantile over all positions of [n, T] values, n sequences of T positions.

    The standard error is Woodruff's (1952, "Confidence intervals for medians and other position measures"): the error
    of the share of positions below the quantile, with sequences as clusters, converted into values.
    """
    value = float(np.quantile(values, level))
    share = standard_error((values <= value).mean(axis=1))
    error = None
    if share is not None:
        low, high = np.quantile(values, np.clip([level - share, level + share], 0.0, 1.0))
        error = float(high - low) / 2
    return Measurement(value, error, tuple(np.quantile(values, level, axis=1).tolist()))
