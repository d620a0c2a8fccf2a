"""Rounding against the curvature on both sides of a weight: later columns and later rows compensate errors.

With second moments H of a weight's inputs and C of the gradients at its outputs, an error E of the weight costs about

    tr(Eᵀ C E H) / 2

of KL divergence: C ⊗ H approximates the Hessian (Martens and Grosse, "Optimizing Neural Networks with
Kronecker-factored Approximate Curvature" (2015); for quantization Tseng et al., "Model-Preserving Adaptive Rounding"
(2025)). GPTQ has the identity for C. With H = N D Nᵀ and C = M B Mᵀ, both unit upper triangular, the cost is

    Σ_ij B_i D_j F_ij² / 2,   F = Mᵀ E N,

and F_ij is E_ij plus terms of earlier rows and columns. So each element is rounded after these terms are added to it.
"""

from __future__ import annotations

import numpy as np

from autotune.compression.algorithms.gptq import Propagation
from autotune.compression.formats.encoding import Array, Codes
from autotune.compression.formats.quantize import encode, round_trip
from autotune.compression.formats.table import Format

ROWS = 64
"""Rows that are rounded together: one starts a column after the one before it, since it needs that one's error."""


def round_both_sides(
    rows: Array, scale: Array, zero: Array | None, inputs: Propagation, outputs: Propagation, fmt: Format
) -> Codes:
    """Round a weight with given scales, each error carried on to later columns of its row and to later rows.

    Args:
        rows: float32 [R, G, g], what the weight should be.
        scale, zero: [R, G, 1], decoded.
        inputs: factor of H, of K = G * g columns.
        outputs: factor of C, of R rows.
        fmt: the format.

    Returns:
        Codes, uint8 [R, G, g], as `formats.quantize.encode`.
    """
    count, groups, group = rows.shape
    columns = groups * group
    whole = np.ix_(outputs.order, inputs.order)
    targets = np.ascontiguousarray(rows.reshape(count, columns)[whole])
    of_group = np.ix_(outputs.order, inputs.order // group)
    scales = scale[..., 0][of_group]
    zeros = None if zero is None else zero[..., 0][of_group]
    # Row j has what column j takes of the columns before it; rows and columns of zeros stand around it.
    across = np.zeros((columns + 2 * ROWS, columns + 2 * ROWS), np.float32)
    across[ROWS:-ROWS, ROWS:-ROWS] = np.tril(inputs.factor.T, -1)
    errors = np.empty((count, columns), np.float32)
    codes = np.empty((count, columns), np.uint8)
    for start in range(0, count, ROWS):
        block = slice(start, min(start + ROWS, count))
        carried = outputs.factor[:start, block].T @ errors[:start]
        down = np.tril(outputs.factor[block, block].T, -1)
        of_block = None if zeros is None else zeros[block]
        expected = _wavefront(targets[block], carried, scales[block], of_block, across, down, fmt)
        codes[block] = encode(expected, scales[block], of_block, fmt)
        errors[block] = targets[block] - round_trip(expected, scales[block], of_block, fmt)
    found = np.empty_like(codes)
    found[whole] = codes
    return found.reshape(rows.shape)


def _wavefront(
    targets: Array, carried: Array, scales: Array, zeros: Array | None, across: Array, down: Array, fmt: Format
) -> Array:
    """Return what each element of some rows is rounded from, float32 [n, K]; all elements of a diagonal at once.

    In step s, row i is at column s - i: the rows before it are further on, by at least one column.

    Args:
        targets, scales, zeros: [n, K].
        carried: [n, K], from the rows of earlier blocks.
        across: [K + 2 * ROWS, K + 2 * ROWS], shares of the errors of earlier columns.
        down: [n, n], shares of the errors of earlier rows of the block.
        fmt: the format.
    """
    count, columns = targets.shape
    steps = columns + count - 1
    column = np.arange(steps)[:, None] - np.arange(count)
    there = (column >= 0) & (column < columns)

    def skewed(values: Array, other: float) -> Array:
        taken = values[np.arange(count), column.clip(0, columns - 1)]
        return np.where(there, taken, np.float32(other))

    target, offset, scale = skewed(targets, 0), skewed(carried, 0), skewed(scales, 1)
    zero = None if zeros is None else skewed(zeros, 0)
    expected = np.empty((steps, count), np.float32)
    size = columns + 2 * ROWS
    before, above = np.zeros((count, size), np.float32), np.zeros((size, count), np.float32)
    each = np.arange(count)
    for step in range(steps):
        last = ROWS + step - count + 1  # the column of the last row, with zeros before the first
        at = slice(last, last + count)
        pushed = offset[step] + np.vecdot(above[at][::-1], down)
        value = target[step] + pushed + np.vecdot(before[:, : at.stop], across[at, : at.stop][::-1])
        expected[step] = value
        lost = target[step] - round_trip(value, scale[step], None if zero is None else zero[step], fmt)
        lost *= there[step]
        position = ROWS + column[step]
        above[position, each] = lost
        before[each, position] = lost + pushed * there[step]
    rounded_from: Array = expected[np.arange(columns) + each[:, None], each[:, None]]
    return rounded_from
