"""Learnt codebooks: the levels with the least weighted square error for one weight."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from autotune.common.threads import in_parallel
from autotune.compression.formats.encoding import Array
from autotune.compression.formats.quantize import initial_scale
from autotune.compression.formats.table import Format
from autotune.compression.ir.model_weights import Rows

BINS = 512
"""Bins between -1 and 1. A bin counts as its weighted mean; 512 bins take 12 ms a weight, 1024 four times as long."""

Doubles = npt.NDArray[np.float64]


def fit_levels(rows: Rows, groups: int, fmt: Format, energy: Array | None) -> tuple[float, ...]:
    """Choose the levels of one weight.

    An element errs by its scale times the distance to the nearest level, and the output by that times its input. The
    levels minimise the sum of these squares over all elements, the inputs by their second moments.

    Args:
        rows: the weight.
        groups: groups a row, each divided by its largest magnitude.
        fmt: the format; it has as many levels as the result.
        energy: float32 [K], second moments of the input channels; None for equal ones.

    Returns:
        Rising numbers between -1 and 1, rounded to float16.
    """
    columns = rows.weight.columns
    of_inputs = (np.ones(columns) if energy is None else energy.astype(np.float64)).reshape(1, groups, -1)

    def histogram(start: int) -> Doubles:
        values = rows.block(start)
        values = values.reshape(len(values), groups, -1)
        scale, _ = initial_scale(values, fmt)
        numbers = (values / scale).reshape(-1).astype(np.float64)
        importance = (np.square(scale, dtype=np.float64) * of_inputs).reshape(-1)
        bins = np.clip((numbers + 1) * (BINS / 2), 0, BINS - 1).astype(np.intp)
        return np.stack([np.bincount(bins, weight, BINS) for weight in (importance, importance * numbers)])

    mass, moment = sum(in_parallel(histogram, rows.starts), np.zeros((2, BINS)))
    kept = mass > 0
    found = _means_of_least_error(mass[kept], moment[kept], len(fmt.levels)) if kept.any() else np.zeros(1)
    padded = np.pad(found, (0, len(fmt.levels) - len(found)), mode="edge")
    return tuple(padded.astype(np.float16).tolist())


def _means_of_least_error(mass: Doubles, moment: Doubles, count: int) -> Doubles:
    """Cut sorted numbers into at most `count` runs of least weighted square error; return the mean of each.

    By dynamic programming, as in Wang and Song, "Ckmeans.1d.dp" (2011): a run saves the square of its moment over its
    mass, compared with levels of zero.
    """
    masses, moments = (np.concatenate([[0.0], np.cumsum(values)]) for values in (mass, moment))
    size = len(mass)
    width = masses[None, :] - masses[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        saved = np.square(moments[None, :] - moments[:, None]) / width
    saved[~np.triu(np.ones((size + 1, size + 1), bool), 1)] = -np.inf  # a run from i to j > i
    best, starts = saved[0], []
    for _ in range(min(count, size) - 1):
        totals = best[:, None] + saved
        starts.append(totals.argmax(axis=0))
        best = totals.max(axis=0)
    ends = [size]
    for start in reversed(starts):
        ends.append(int(start[ends[-1]]))
    cuts = np.array([0, *reversed(ends)])
    return np.asarray(np.diff(moments[cuts]) / np.diff(masses[cuts]))
