"""GPTQ: columns are quantized one after the other, and later columns compensate the error of earlier ones.

Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022), algorithm 1,
from the second moments that one calibration pass collected for all layers. It is computed as Babai's nearest-plane
algorithm, which gives the same codes (Chen et al., "The Geometry of LLM Quantization: GPTQ as Babai's Nearest Plane
Algorithm" (2025)): with H = N D Nᵀ, N unit upper triangular and D diagonal, a row's output error is

    e H eᵀ = Σ_j D_j (e_j + Σ_{i<j} e_i N_ij)²

so that column j is rounded after the errors of the columns before it are added by N. That needs a Cholesky factor of H
but never its inverse, and the sum of the squares is the exact output error, for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.common.threads import one_blas_thread
from autotune.compression.algorithms.scale_estimation import blocks_of, estimate_scale, fit_scales
from autotune.compression.formats.encoding import Array, Codes
from autotune.compression.formats.quantize import encode, round_trip, stored_value
from autotune.compression.formats.table import Format
from autotune.errors import CompressionError

DAMPING = 0.01
"""Share of the mean diagonal that is added to the second moments."""

BLOCK = 128
"""Columns whose errors reach the later ones together, by one product of large matrices."""

STRIP = 16
"""Columns of a block whose errors reach the rest of the block together."""

SHRINK_FACTORS = tuple(np.linspace(1.0, 0.85, 6, dtype=np.float32).tolist())
"""Ranges tried, as shares of the full one: errors that are carried on widen the range, so little can be clipped."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """Propagation of a column's error to the later ones; the same for all rows of all weights of one input.

    Attributes:
        order: columns in the order in which they are quantized, int64 [K].
        factor: float32 [K, K], the unit upper triangular N with H = N D Nᵀ, H damped and in that order.
        cost: float32 [K], the diagonal of D: what an error of a column costs once all later ones have made up for it.
        damping: what was added to the diagonal of H.
    """

    order: npt.NDArray[np.int64]
    factor: Array
    cost: Array
    damping: float

    @property
    def importance(self) -> Array:
        """`cost` in the order of the channels, float32 [K]."""
        values = np.empty_like(self.cost)
        values[self.order] = self.cost
        return values


def propagation(moment: Array, *, damping: float = DAMPING, activation_order: bool = True) -> Propagation:
    """Factor the second moments of an input.

    Args:
        moment: float32 [K, K].
        damping: share of the mean diagonal added to the diagonal; doubled until the matrix can be factored.
        activation_order: columns in the order of falling activation energy, not in their own order.

    Raises:
        CompressionError: the second moments are not those of finite activations.
    """
    from scipy.linalg import LinAlgError, cholesky

    diagonal = np.diagonal(moment).astype(np.float64)
    mean = float(diagonal.mean())
    if not np.isfinite(mean):
        raise CompressionError("the second moments of an activation are not finite; calibrate again on another text")
    order = np.argsort(-diagonal, kind="stable") if activation_order else np.arange(len(diagonal))
    if mean == 0:
        return Propagation(order, np.eye(len(order), dtype=np.float32), np.ones(len(order), np.float32), 0.0)
    # An upper triangular factor is the lower one of the matrix with rows and columns reversed, reversed again.
    backwards = order[::-1]
    while True:
        matrix = moment[np.ix_(backwards, backwards)].astype(np.float64)
        matrix.flat[:: len(matrix) + 1] += damping * mean
        try:
            with one_blas_thread():
                # LAPACK stores by columns: the transpose of a symmetric matrix is itself, and needs no copy.
                lower = cholesky(matrix.T, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            damping = max(2 * damping, DAMPING)  # 0 would stay 0
            continue
        pivots = np.diagonal(lower)
        factor = np.ascontiguousarray((lower / pivots)[::-1, ::-1], dtype=np.float32)
        return Propagation(order, factor, np.square(pivots[::-1]).astype(np.float32), damping * mean)


@dataclass(frozen=True, slots=True)
class Quantized:
    """Some rows as they would be stored.

    Attributes:
        codes: uint8 [R, G, g], as `formats.encode`.
        scale, zero: [R, G, 1], with the decoded values.
        loss: float32 [R], e H eᵀ with the damped second moments.
    """

    codes: Codes
    scale: Array
    zero: Array | None
    loss: Array

    def or_better(self, other: Quantized) -> Quantized:
        """Choose the version with less loss for each row."""
        better = other.loss < self.loss
        there = better[:, None, None]
        zero = self.zero if other.zero is None or self.zero is None else np.where(there, other.zero, self.zero)
        return Quantized(
            np.where(there, other.codes, self.codes),
            np.where(there, other.scale, self.scale),
            zero,
            np.where(better, other.loss, self.loss),
        )


def quantize_columns(rows: Array, scale: Array, zero: Array | None, spread: Propagation, fmt: Format) -> Quantized:
    """Quantize some rows, each column's error carried on to the later ones.

    Args:
        rows: float32 [R, G, g].
        scale, zero: [R, G, 1], with the decoded values.
        spread: of the input of these rows.
        fmt: the format.
    """
    count, groups, group = rows.shape
    columns = groups * group
    order, factor = spread.order, spread.factor
    # One column of all rows is contiguous here: [K, R].
    weights = np.ascontiguousarray(rows.reshape(count, columns).T[order])
    targets = weights.copy()
    of_group = order // group
    scales = np.ascontiguousarray(scale[..., 0].T)  # [G, R]
    zeros = None if zero is None else np.ascontiguousarray(zero[..., 0].T)
    codes = np.empty((columns, count), np.uint8)
    errors = np.empty((BLOCK, count), np.float32)
    loss = np.zeros(count, np.float32)
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        for start in range(begin, end, STRIP):
            stop = min(start + STRIP, end)
            for j in range(start, stop):
                target, at = targets[j], of_group[j]
                target += factor[start:j, j] @ errors[start - begin : j - begin]
                restored = round_trip(target, scales[at], None if zeros is None else zeros[at], fmt)
                np.subtract(weights[j], restored, out=errors[j - begin])
            targets[stop:end] += factor[start:stop, stop:end].T @ errors[start - begin : stop - begin]
        block, made = slice(begin, end), errors[: end - begin]
        block_groups = of_group[block]
        codes[block] = encode(targets[block], scales[block_groups], None if zeros is None else zeros[block_groups], fmt)
        lost = targets[block] - (weights[block] - made)
        loss += spread.cost[block] @ np.square(lost, out=lost)
        targets[end:] += factor[block, end:].T @ made
    in_channel_order = np.empty((count, columns), np.uint8)
    in_channel_order[:, order] = codes.T
    return Quantized(in_channel_order.reshape(rows.shape), scale, zero, loss)


def quantize_with_best_scales(
    rows: Array, scale: Array, zero: Array | None, moment: Array, spread: Propagation, fmt: Format
) -> Quantized:
    """GPTQ with scale estimation; no row loses more than with the scales given.

    The columns are quantized with the given scales and again with estimated ones, for which an error costs what is left
    of it once the later columns have made up for it. Of each row the better version is taken, and its scales are fitted
    to its codes by least squares.

    Args:
        rows: float32 [R, G, g].
        scale, zero: from `initial_scale`, [R, G, 1].
        moment: float32 [K, K], second moments of the input.
        spread: of the same input.
        fmt: a format whose scales are free numbers.
    """
    stored = quantize_columns(rows, stored_value(scale, fmt), zero, spread, fmt)
    weights = blocks_of(spread.importance, rows.shape[-1])
    estimated = estimate_scale(rows, scale, zero, weights, fmt, shrink_factors=SHRINK_FACTORS, finer=())
    best = stored.or_better(quantize_columns(rows, *estimated, spread, fmt))
    fitted, gain = fit_scales(rows, best.codes, best.scale, best.zero, moment, fmt, damping=spread.damping)
    return Quantized(best.codes, fitted, best.zero, best.loss - gain)
