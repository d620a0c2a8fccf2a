"""GPTQ: columns are quantized one after the other, and what each loses is made up for by those that follow.

After Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers" (2022),
algorithm 1, from the second moments that one calibration pass collected for all layers. Columns go in the order of
falling activation energy; scales and zero points are those of the original groups, fixed beforehand.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.compression.formats import Array, Codes, Format, decode, encode
from autotune.errors import CompressionError

__all__ = ["DAMPING", "Propagation", "propagation", "quantize_columns"]

DAMPING = 0.01
"""Share of the mean diagonal that is added to the second moments."""

BLOCK = 128
"""Columns whose errors are carried on one by one; those behind get them all at once, by a matrix product."""


@dataclass(frozen=True, slots=True)
class Propagation:
    """How the error of one column spreads to the later ones; the same for all rows of all weights of one input.

    Attributes:
        order: columns in the order in which they are quantized, int64 [K].
        factor: float32 [K, K], the upper triangular U with inverse(H) = Uᵀ U, in that order.
    """

    order: npt.NDArray[np.int64]
    factor: Array

    @property
    def importance(self) -> Array:
        """What an error of each column costs once the later ones have made up for it: 1 / U_jj², float32 [K]."""
        values = np.empty(len(self.order), np.float32)
        values[self.order] = 1 / np.square(np.diagonal(self.factor))
        return values


def propagation(moment: Array, *, damping: float = DAMPING) -> Propagation:
    """Factor the second moments of an input.

    Args:
        moment: float32 [K, K].
        damping: share of the mean diagonal added to the diagonal; doubled until the matrix can be factored.

    Raises:
        CompressionError: the second moments are not those of finite activations.
    """
    from scipy.linalg import LinAlgError, cholesky, solve_triangular

    diagonal = np.diagonal(moment).astype(np.float64)
    mean = float(diagonal.mean())
    if not np.isfinite(mean):
        raise CompressionError("the second moments of an activation are not finite; calibrate again on another text")
    if mean == 0:
        return Propagation(np.arange(len(diagonal)), np.eye(len(diagonal), dtype=np.float32))
    order = np.argsort(-diagonal, kind="stable")
    # inverse(H) = Uᵀ U with U upper triangular is U = R⁻¹ for H = R Rᵀ with R upper triangular, and R is the lower
    # Cholesky factor of the matrix with rows and columns reversed, reversed again: one factorization, one inversion.
    backwards = order[::-1]
    matrix = moment[np.ix_(backwards, backwards)].astype(np.float64)
    while True:
        damped = matrix + damping * mean * np.eye(len(matrix))
        try:
            lower = cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            damping = max(2 * damping, DAMPING)  # 0 would stay 0
            continue
        inverse = solve_triangular(lower, np.eye(len(lower)), lower=True, overwrite_b=True, check_finite=False)
        return Propagation(order, np.ascontiguousarray(inverse[::-1, ::-1], dtype=np.float32))


def quantize_columns(rows: Array, scale: Array, zero: Array | None, spread: Propagation, fmt: Format) -> Codes:
    """Codes of some rows, each column's error carried on to the later ones.

    Args:
        rows: float32 [R, G, g].
        scale, zero: [R, G, 1], with the values that the stored ones stand for.
        spread: of the input of these rows.
        fmt: the format.

    Returns:
        uint8 [R, G, g], as `formats.encode`.
    """
    count, groups, group = rows.shape
    columns = groups * group
    # One column of all rows is contiguous here: [K, R].
    rest = np.ascontiguousarray(rows.reshape(count, columns).T[spread.order])
    of_group = spread.order // group
    scales = np.ascontiguousarray(scale[..., 0].T)  # [G, R]
    zeros = None if zero is None else np.ascontiguousarray(zero[..., 0].T)
    codes = np.empty((columns, count), np.uint8)
    errors = np.empty((BLOCK, count), np.float32)
    factor = spread.factor
    for begin in range(0, columns, BLOCK):
        end = min(begin + BLOCK, columns)
        for j in range(begin, end):
            column, s = rest[j], scales[of_group[j]]
            z = None if zeros is None else zeros[of_group[j]]
            code = encode(column, s, z, fmt)
            codes[spread.order[j]] = code
            error = (column - decode(code, s, z, fmt)) / factor[j, j]
            errors[j - begin] = error
            if j + 1 < end:
                rest[j + 1 : end] -= factor[j, j + 1 : end, None] * error
        if end < columns:
            rest[end:] -= factor[begin:end, end:].T @ errors[: end - begin]
    return np.ascontiguousarray(codes.T).reshape(count, groups, group)
