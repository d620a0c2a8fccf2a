"""Scale estimation: scales and zero points with the least error on the activations that the weight really sees.

For one row the output error of a quantized weight is e H eᵀ, with e the weight's error and H the second moments of
its input over all calibration tokens. Within a group (blocks of at most 128 channels of it) H is used in full,
between blocks it is neglected. The stored scale's precision is inside the loop: every candidate is rounded to
float16 before it is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autotune.compression.formats import (
    Array,
    Codes,
    Format,
    decode,
    round_trip,
    stored_value,
    zero_point,
)

__all__ = ["blocks_of", "estimate_scale", "fit_scales", "output_error"]

SHRINK_FACTORS = tuple(np.linspace(1.0, 0.6, 17, dtype=np.float32).tolist())
"""Ranges tried, as shares of the full range of the group: clipping a little often costs less than a coarse step."""

REFINEMENTS = 2
MAX_BLOCK = 128


def blocks_of(moment: Array, group: int) -> Array:
    """Diagonal blocks of a second-moment matrix.

    Args:
        moment: float32 [K, K], or its diagonal alone, [K].
        group: group size g, a divisor of K.

    Returns:
        float32 [K / b, b, b], b the largest divisor of g that is at most 128, scaled to a mean diagonal of one; for a
        diagonal [K / g, g].
    """
    if moment.ndim == 1:
        mean = float(moment.mean())
        return np.asarray(moment.reshape(-1, group) / np.float32(mean if mean > 0 else 1))
    block = max(d for d in range(1, min(group, MAX_BLOCK) + 1) if group % d == 0)
    count = moment.shape[0] // block
    # Axes (i, p, j, q) of the matrix; its diagonal blocks are those with i == j.
    blocks: Array = np.einsum("ipiq->ipq", moment.reshape(count, block, count, block)).astype(np.float32)
    mean = float(np.diagonal(moment).mean())
    return blocks / np.float32(mean) if mean > 0 else blocks


def output_error(error: Array, blocks: Array) -> Array:
    """e H eᵀ of every group.

    Args:
        error: float32 [R, G, g].
        blocks: from `blocks_of`.

    Returns:
        float32 [R, G, 1].
    """
    (own,) = _inner_products(error, (error,), blocks)
    return own


def _inner_products(left: Array, rights: Sequence[Array], blocks: Array) -> list[Array]:
    """a H bᵀ of every group, for one a and several b; all [R, G, g], results [R, G, 1]."""
    rows, groups, _ = left.shape
    if blocks.ndim == 2:
        weighted = left * blocks
        return [np.vecdot(weighted, right)[..., None] for right in rights]
    count, block, _ = blocks.shape

    def by_block(values: Array) -> Array:
        return np.ascontiguousarray(values.reshape(rows, count, block).transpose(1, 0, 2))

    ours = by_block(left)
    weighted = np.matmul(ours, blocks)
    products = [np.vecdot(weighted, ours if right is left else by_block(right)) for right in rights]
    return [product.T.reshape(rows, groups, -1).sum(axis=-1, keepdims=True) for product in products]


def _candidates(
    rows: Array, scale: Array, fmt: Format, shrink_factors: Sequence[float]
) -> list[tuple[Array, Array | None]]:
    """Scale and zero point for each share of the range."""
    if not fmt.has_zero_point:
        return [(scale * np.float32(factor), None) for factor in shrink_factors]
    low = np.minimum(rows.min(axis=-1, keepdims=True), 0)
    pairs: list[tuple[Array, Array | None]] = []
    for factor in shrink_factors:
        shrunk = scale * np.float32(factor)
        pairs.append((shrunk, zero_point(low * np.float32(factor), shrunk, fmt)))
    return pairs


def estimate_scale(
    rows: Array,
    scale: Array,
    zero: Array | None,
    moment: Array,
    fmt: Format,
    *,
    shrink_factors: Sequence[float] = SHRINK_FACTORS,
) -> tuple[Array, Array | None]:
    """Search each group's scale (and zero point) for the least output error; never worse than the start.

    First shares of the range, then zero points beside the best one, then the scale that is best in closed form for
    the integers at hand, s = (t H w) / (t H t), requantizing after each step and accepting what lowers the error.

    Args:
        rows: float32 [R, G, g].
        scale, zero: the start, from `initial_scale`; [R, G, 1].
        moment: float32 [K, K], K = G * g, or a weight for each channel alone, [K].
        fmt: a format whose scales are free numbers.
        shrink_factors: shares of the full range that are tried; the first is the start, 1.

    Returns:
        Scale (float32 values that float16 holds exactly) and zero point, [R, G, 1].
    """
    blocks = blocks_of(moment, rows.shape[-1])
    best_scale = stored_value(scale, fmt)
    best_zero = None if zero is None else zero.copy()
    best_loss = output_error(round_trip(rows, best_scale, best_zero, fmt) - rows, blocks)

    def offer(candidate: Array, candidate_zero: Array | None) -> None:
        candidate = stored_value(candidate, fmt)
        usable = candidate != 0
        candidate = np.where(usable, candidate, best_scale)
        error = round_trip(rows, candidate, candidate_zero, fmt)
        error -= rows
        loss = output_error(error, blocks)
        better = usable & (loss < best_loss)
        np.copyto(best_scale, candidate, where=better)
        np.copyto(best_loss, loss, where=better)
        if best_zero is not None and candidate_zero is not None:
            np.copyto(best_zero, candidate_zero, where=better)

    for candidate, candidate_zero in _candidates(rows, scale, fmt, shrink_factors)[1:]:
        offer(candidate, candidate_zero)
    if best_zero is not None:
        for step in (-1, 1):
            offer(best_scale, np.clip(best_zero + np.float32(step), fmt.lowest, fmt.highest))
    for _ in range(REFINEMENTS):
        offer(_closed_form(rows, best_scale, best_zero, blocks, fmt), best_zero)
    return best_scale, best_zero


def _closed_form(rows: Array, scale: Array, zero: Array | None, blocks: Array, fmt: Format) -> Array:
    """The scale that minimises the output error for the integers that `scale` gives; `scale` where undefined."""
    levels = round_trip(rows, scale, zero, fmt) / scale
    own, cross = _inner_products(levels, (levels, rows), blocks)
    safe = np.where(own > 0, own, 1)
    return np.where((own > 0) & (cross * scale > 0), cross / safe, scale)


def fit_scales(
    rows: Array, codes: Codes, scale: Array, zero: Array | None, moment: Array, fmt: Format, *, damping: float = 0.0
) -> tuple[Array, Array]:
    """Fit all scales of a row together to its codes, by least squares in the metric of the activations.

    With levels t of each group, and the error e of the row as it is, the change d of the scales that leaves the least
    output error solves Σ_h (t_g H t_hᵀ) d_h = t_g H eᵀ for all groups g. It is taken, rounded to what is stored, in the
    rows where it lowers the error.

    Args:
        rows: float32 [R, G, g].
        codes: uint8 [R, G, g].
        scale, zero: those of the codes, as stored, [R, G, 1].
        moment: float32 [K, K], K = G * g.
        fmt: the format.
        damping: added to the diagonal of `moment`.

    Returns:
        The scales, float32 [R, G, 1], and by how much the output error of each row falls, float32 [R], at least 0.
    """
    count, groups, group = rows.shape
    levels = decode(codes, np.ones_like(scale), zero, fmt)
    error = rows - levels * scale
    seen = (error.reshape(count, -1) @ moment).reshape(rows.shape) + np.float32(damping) * error
    right = np.einsum("rgk,rgk->rg", seen, levels).astype(np.float64)
    gram = np.empty((count, groups, groups))
    for g in range(groups):
        channels = slice(g * group, (g + 1) * group)
        # The rest of the symmetric matrix is known already.
        later = (levels[:, g] @ moment[channels, g * group :]).reshape(count, groups - g, group)
        later[:, 0] += np.float32(damping) * levels[:, g]
        gram[:, g, g:] = gram[:, g:, g] = np.einsum("rhk,rhk->rh", later, levels[:, g:])
    # A group without levels is left alone; the ridge is far below what float16 scales resolve.
    diagonal = np.einsum("rgg->rg", gram)
    ridge = 1e-6 * diagonal.mean(axis=1, keepdims=True) + np.finfo(np.float32).tiny
    damped = gram + ridge[..., None] * np.eye(groups)
    change = np.linalg.solve(damped, right[..., None])[..., 0]
    with np.errstate(over="ignore"):
        fitted = stored_value((scale[..., 0] + change).astype(np.float32), fmt)
    usable = np.isfinite(fitted) & (fitted * scale[..., 0] > 0)
    fitted = np.where(usable, fitted, scale[..., 0])
    step = fitted.astype(np.float64) - scale[..., 0]
    gain = 2 * (step * right).sum(axis=1) - np.einsum("rg,rgh,rh->r", step, gram, step)
    better = gain > 0
    chosen = np.where(better[:, None], fitted, scale[..., 0])[..., None]
    return chosen, np.where(better, gain, 0).astype(np.float32)
