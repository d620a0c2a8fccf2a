"""Scale estimation: scales and zero points with the least output error on the calibration activations.

For one row the output error of a quantized weight is e H eᵀ, with e the weight's error and H the second moments of
its input over all calibration tokens. Within a group (blocks of at most 128 channels of it) H is used in full,
between blocks it is neglected. The stored scale's precision is inside the loop: every candidate is rounded to
float16 before it is judged.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import Array, Codes
from autotune.compression.formats.quantize import decode, round_trip, stored_value, zero_point
from autotune.compression.formats.table import Format

SHRINK_FACTORS = (1.0, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6)
"""Ranges tried, as shares of the full range of the group: clipping a little often costs less than a coarse step."""

FINER = (0.025, 0.0125)
"""Then the shares next to the best so far, at these distances."""

REFINEMENTS = 2
MAX_BLOCK = 128

SLAB_ELEMENTS = 1 << 18
"""Elements of the groups that are searched at a time: what a candidate takes stays in the caches."""


def blocks_of(moment: Array, group: int, divisor: Array | None = None) -> Array:
    """Extract the diagonal blocks of a second-moment matrix.

    Args:
        moment: float32 [K, K], or its diagonal alone, [K].
        group: group size g, a divisor of K.
        divisor: float32 [K], by which the channels are divided; None leaves them.

    Returns:
        float32 [K / b, b, b], b the largest divisor of g that is at most 128, scaled to a mean diagonal of one; for a
        diagonal [K / g, g].
    """
    diagonal = moment if moment.ndim == 1 else np.diagonal(moment)
    diagonal = diagonal if divisor is None else diagonal / (divisor * divisor)
    mean = float(diagonal.mean())
    if moment.ndim == 1:
        return np.asarray(diagonal.reshape(-1, group) / np.float32(mean if mean > 0 else 1))
    block = max(d for d in range(1, min(group, MAX_BLOCK) + 1) if group % d == 0)
    count = moment.shape[0] // block
    # Axes (i, p, j, q) of the matrix; its diagonal blocks are those with i == j.
    blocks: Array = np.einsum("ipiq->ipq", moment.reshape(count, block, count, block)).astype(np.float32)
    if divisor is not None:
        parts = divisor.reshape(count, block)
        blocks /= parts[:, :, None] * parts[:, None, :]
    return blocks / np.float32(mean) if mean > 0 else blocks


def output_error(error: Array, blocks: Array) -> Array:
    """Compute e H eᵀ of every group.

    Args:
        error: float32 [R, G, g].
        blocks: from `blocks_of`.

    Returns:
        float32 [R, G, 1].
    """
    rows, groups, _ = error.shape
    if blocks.ndim == 2:
        return np.asarray(np.vecdot(error * blocks, error)[..., None])
    count, block, _ = blocks.shape
    by_block = np.ascontiguousarray(error.reshape(rows, count, block).transpose(1, 0, 2))
    products = np.vecdot(np.matmul(by_block, blocks), by_block)
    return np.asarray(products.T.reshape(rows, groups, -1).sum(axis=-1, keepdims=True))


def estimate_scale(
    rows: Array,
    scale: Array,
    zero: Array | None,
    blocks: Array,
    fmt: Format,
    *,
    shrink_factors: Sequence[float] = SHRINK_FACTORS,
    finer: Sequence[float] = FINER,
) -> tuple[Array, Array | None]:
    """Search each group's scale (and zero point) for the least output error; never worse than the start.

    First shares of the range, coarse and then finer, then zero points next to the best one, then the scale that is best
    in closed form for the integers at hand, s = (t H w) / (t H t), requantizing after each step and accepting what
    lowers the error.

    Args:
        rows: float32 [R, G, g].
        scale, zero: the start, from `initial_scale`; [R, G, 1].
        blocks: second moments of the input, from `blocks_of`.
        fmt: a format whose scales are free numbers.
        shrink_factors: shares of the full range that are tried; the first is the start, 1.
        finer: distances from the best share, one after the other, at which both sides are tried as well.

    Returns:
        Scale (float32 values that float16 holds exactly) and zero point, [R, G, 1].
    """
    count, groups, group = rows.shape
    per_group = len(blocks) // groups
    step = max(1, SLAB_ELEMENTS // (count * group))
    found = []
    for start in range(0, groups, step):
        slab, part = slice(start, start + step), slice(start * per_group, (start + step) * per_group)
        search = _Search(rows[:, slab], scale[:, slab], None if zero is None else zero[:, slab], blocks[part], fmt)
        search.run(shrink_factors, finer)
        found.append(search)
    zeros = [_by_row(search.zero) for search in found if search.zero is not None]
    return np.concatenate([_by_row(search.scale) for search in found], axis=1), (
        np.concatenate(zeros, axis=1) if zeros else None
    )


def _by_channel(values: Array) -> Array:
    """Transpose [R, G, n] to [G, 1, n, R], so that the rows of a group are contiguous."""
    return np.ascontiguousarray(values.transpose(1, 2, 0))[:, None]


def _by_row(values: Array) -> Array:
    """Invert `_by_channel` for n = 1, [R, G, 1]."""
    return np.ascontiguousarray(values[:, 0].transpose(2, 0, 1))


class _Search:
    """The best scales so far, with buffers to evaluate others.

    Attributes:
        scale, zero: the best so far, [G, 1, 1, R], as stored.
        share: of the start's range in the best so far, by shares alone, [G, 1, 1, R].
    """

    def __init__(self, rows: Array, scale: Array, zero: Array | None, blocks: Array, fmt: Format) -> None:
        """Start from a scale and zero point; shapes as for `estimate_scale`, blocks from `blocks_of`."""
        count, groups, group = rows.shape
        block = blocks.shape[-1]
        shape = (groups, group // block, block, count)
        self._rows = _by_channel(rows).reshape(shape)
        self._blocks = blocks[:, None, :, None] if blocks.ndim == 2 else blocks.reshape(*shape[:2], block, block)
        self._error, self._weighted = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._units = np.empty(shape, np.float32)
        self._fmt = fmt
        self._full = _by_channel(scale)
        self.scale = stored_value(self._full, fmt)
        self.share = np.ones_like(self.scale)
        # A copy: with one group a row, `_by_channel` returns a view of the caller's array.
        self.zero = None if zero is None else _by_channel(zero).copy()
        if self.zero is not None:
            self._low = np.minimum(self._rows.min(axis=(1, 2), keepdims=True), 0)
        self._loss = self._judge(self.scale, self.zero)

    def run(self, shrink_factors: Sequence[float], finer: Sequence[float]) -> None:
        """Run the search that `estimate_scale` describes."""
        for share in shrink_factors[1:]:
            self.offer_share(np.float32(share))
        for distance in finer:
            best = self.share.copy()
            for side in (-distance, distance):
                self.offer_share(best + np.float32(side))
        if self.zero is not None:
            for step in (-1, 1):
                moved = np.clip(self.zero + np.float32(step), self._fmt.lowest, self._fmt.highest)
                self.offer(self.scale, moved)
        for _ in range(REFINEMENTS):
            self.offer(self.closed_form(), self.zero)

    def _product(self, left: Array, right: Array) -> Array:
        """Compute a H bᵀ of every group, [G, 1, 1, R]; `left` may be the buffer of the result."""
        if self._blocks.shape[-1] == 1:
            np.multiply(left, self._blocks, out=self._weighted)
        else:
            np.matmul(self._blocks, left, out=self._weighted)
        return np.asarray(np.einsum("gnkr,gnkr->gr", self._weighted, right))[:, None, None]

    def _quantized(self, scale: Array, zero: Array | None) -> Array:
        """Round the rows, in units of the scale; the exact values are left in `_units`."""
        np.divide(self._rows, scale, out=self._units)
        if self._fmt.family in ("levels", "minifloat"):
            return round_trip(self._units, np.ones_like(scale), None, self._fmt)
        # A zero point is an integer: it moves the bounds and leaves the rounding alone.
        shift = np.float32(0) if zero is None else zero
        quantized = np.rint(self._units, out=self._error)
        np.maximum(quantized, np.float32(self._fmt.lowest) - shift, out=quantized)
        return np.minimum(quantized, np.float32(self._fmt.highest) - shift, out=quantized)

    def _judge(self, scale: Array, zero: Array | None) -> Array:
        error = self._quantized(scale, zero)
        error -= self._units
        return self._product(error, error) * np.square(scale)

    def offer_share(self, share: Array | np.float32) -> None:
        """Accept the scale and zero point of a share of the range, [G, 1, 1, R], if they lower a group's error."""
        scale = self._full * share
        zero = None if self.zero is None else zero_point(self._low * share, scale, self._fmt)
        np.copyto(self.share, share, where=self.offer(scale, zero))

    def offer(self, scale: Array, zero: Array | None) -> npt.NDArray[np.bool_]:
        """Accept another scale and zero point in the groups whose error they lower; return a mask of these groups."""
        scale = stored_value(scale, self._fmt)
        usable = scale != 0
        scale = np.where(usable, scale, self.scale)
        loss = self._judge(scale, zero)
        better = usable & (loss < self._loss)
        np.copyto(self.scale, scale, where=better)
        np.copyto(self._loss, loss, where=better)
        if self.zero is not None and zero is not None:
            np.copyto(self.zero, zero, where=better)
        return np.asarray(better)

    def closed_form(self) -> Array:
        """Compute the scale with the least output error for the current integers; keep the current one if undefined."""
        levels = self._quantized(self.scale, self.zero)
        own = self._product(levels, levels)
        cross = np.einsum("gnkr,gnkr->gr", self._weighted, self._rows)[:, None, None]
        safe = np.where(own > 0, own, 1)
        return np.where((own > 0) & (cross * self.scale > 0), cross / safe, self.scale)


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
    weighted = (error.reshape(count, -1) @ moment).reshape(rows.shape) + np.float32(damping) * error
    right = np.einsum("rgk,rgk->rg", weighted, levels).astype(np.float64)
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
