"""AWQ: input channels are scaled before the weight is quantized, and the activation is divided by the same scale.

After Lin et al., "AWQ: Activation-aware Weight Quantization" (2023), section 3.2, with another search. In one group of
channels with the scale c, the step of a row is proportional to max_j |w_rj| c_j, and an error of the channel j counts
h_j / c_j², h the channel's mean square. With a p-norm for the maximum the output error is proportional to

    F(c) = Σ_r (Σ_j |w_rj c_j|^p)^(2/p) · Σ_j h_j / c_j²,

whose logarithm is convex in log c (sums of exponentials), so that there is one best scale and no need to try powers of
the activation's magnitude. Setting the gradient to zero says that every channel must have the same share in the steps
as in the errors; each iteration moves c_j by the ratio of the two. The scale found, and steps on the way to it, are
then judged by the error of the format itself; a group of channels stays as it is where none is better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from autotune.compression.algorithms.awq.groups import ChannelGroup, Merge
from autotune.compression.algorithms.awq.propagation import FREE, Labels
from autotune.compression.algorithms.scale_estimation import blocks_of, estimate_scale, output_error
from autotune.compression.formats.encoding import Array
from autotune.compression.formats.quantize import initial_scale, round_trip, stored_value
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.model_weights import Rows

Doubles = npt.NDArray[np.float64]

POWER = 6
"""Exponent of the norm that approximates the largest magnitude of a group."""

ITERATIONS = 12
STEPS = (0.5, 0.75, 1.0)
"""Powers of the scale that are judged, one by one for every group of channels."""

SHRINK_FACTORS = (1.0, 0.925, 0.85, 0.775)
"""Ranges tried for each scale if scale estimation follows; they rank scales as well as the finer search."""

ROWS = 256
"""Rows of each weight that the search looks at."""

RUN = 16
"""Rows in succession; reading single ones takes longer than the search."""

LARGEST = 32.0
"""Bound of c and 1 / c."""

FARTHEST = 12.0
"""Bound of |log c| during the iterations: channels that no row uses or no token reaches drift away without end, and the
sixth power of c must stay a float32. The sums of 10^6 such powers do."""

LEAST_GAIN = 0.01
"""Smallest relative gain of a scale; a smaller one is within the sampling error of the rows."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The part of a plan that scales one group.

    Attributes:
        group: the group.
        weights: names of those of its weights that are scaled.
        merge: where the inverse goes; None inserts a Multiply before `weights`.
    """

    group: ChannelGroup
    weights: tuple[str, ...]
    merge: Merge | None


@dataclass(frozen=True, slots=True)
class Member:
    """One weight of a group: its rows and the variant that it will have."""

    rows: Rows
    variant: Variant

    @property
    def group_size(self) -> int:
        """Channels that share a scale."""
        return self.rows.weight.columns // self.variant.groups(self.rows.weight)


def by_label(scale: Array, labels: Labels) -> Array:
    """Return the divisor of each labelled element: its channel's scale, or one."""
    return np.where(labels == FREE, np.float32(1), scale[labels])


def search_scale(
    members: Sequence[Member],
    moment: Array,
    *,
    shared: Labels | None = None,
    largest: Doubles | None = None,
    least_gain: float = LEAST_GAIN,
) -> Array:
    """Search the channel scale with the least output error over all members.

    Args:
        members: the weights of a group in the variants that they will have.
        moment: second moments of the shared activation, float32 [K, K], or their diagonal alone, [K].
        shared: for each channel the first one that must have the same scale, int64 [K].
        largest: bound of c and 1 / c for each channel, at least one, float64 [K].
        least_gain: share of the output error of all members that the scale must save to be used at all.

    Returns:
        Float32 [K]; all ones if no scale saves enough.
    """
    width = members[0].rows.weight.columns
    ones = np.ones(width, np.float32)
    energy = (np.diagonal(moment) if moment.ndim == 2 else moment).astype(np.float64)
    if not (energy > 0).any():
        return ones
    block = _block(members)
    ties = np.arange(width) if shared is None else shared
    linked = _linked_blocks(ties, block)
    sampled = [(member, _sampled_rows(member.rows)) for member in members]
    best = _balanced_scale([rows for _, rows in sampled], energy, ties, block)
    bound = np.full(width, LARGEST) if largest is None else np.minimum(largest, LARGEST)
    bound = _least(bound, ties)
    candidates = [ones] + [np.clip(best**step, 1 / bound, bound).astype(np.float32) for step in STEPS]
    losses = np.array([_losses(sampled, scale, moment, block) for scale in candidates])  # [candidates, blocks]
    # Blocks that share a channel's scale are decided together.
    together = np.zeros((len(candidates), linked.max() + 1))
    np.add.at(together.T, linked, losses.T)
    choice = together.argmin(axis=0)[linked]
    if losses[choice, np.arange(len(choice))].sum() > (1 - least_gain) * losses[0].sum():
        return ones
    return np.concatenate([candidates[c][i * block : (i + 1) * block] for i, c in enumerate(choice)])


def _block(members: Sequence[Member]) -> int:
    """Channels that share scales in some member: the largest group size, where it is a multiple of the others."""
    sizes = [member.group_size for member in members]
    return max(sizes) if all(max(sizes) % size == 0 for size in sizes) else members[0].rows.weight.columns


def _linked_blocks(ties: Labels, block: int) -> Labels:
    """Number the blocks; blocks whose channels are tied have one number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    count = len(ties) // block
    links = coo_array((np.ones(len(ties), np.int8), (np.arange(len(ties)) // block, ties // block)), (count, count))
    return np.asarray(connected_components(links, directed=False)[1])


def _least(values: Doubles, ties: Labels) -> Doubles:
    least = np.full(len(values), np.inf)
    np.minimum.at(least, ties, values)
    return np.asarray(least[ties])


def _sampled_rows(rows: Rows) -> Array:
    """Read up to `ROWS` rows in runs that are spread evenly, float32 [n, K]."""
    count = rows.weight.rows
    if count <= ROWS:
        return rows.whole()
    starts = np.linspace(0, count - RUN, ROWS // RUN).astype(np.int64)
    return np.concatenate([rows.read(int(start), int(start) + RUN) for start in starts])


def _balanced_scale(sampled: Sequence[Array], energy: Doubles, ties: Labels, block: int) -> Doubles:
    """Solve for the scale with equal shares of every channel in the steps and in the errors, float64 [K]."""
    magnitudes = np.abs(np.concatenate(sampled))
    powers = magnitudes / max(float(magnitudes.max()), np.finfo(np.float32).tiny)
    powers = (powers * powers * powers) ** (POWER / 3)
    rows, width = powers.shape
    count = width // block
    by_block = np.ascontiguousarray(powers.reshape(rows, count, block).transpose(1, 0, 2))  # [blocks, rows, block]
    energy = np.maximum(energy, energy[energy > 0].min()).reshape(count, block)
    logs = np.zeros((count, block))
    for _ in range(ITERATIONS):
        scaled_powers = np.exp(POWER * logs)
        norms = np.einsum("brk,bk->br", by_block, scaled_powers.astype(np.float32)).astype(np.float64)
        norms = np.maximum(norms, np.finfo(np.float32).tiny)
        squares = norms ** (2 / POWER)
        weights = (squares / norms).astype(np.float32)
        in_steps = scaled_powers * np.einsum("brk,br->bk", by_block, weights)
        in_errors = energy * np.exp(-2 * logs)
        # Both as parts of F: a tied channel has parts in several blocks.
        steps = _summed(in_steps * in_errors.sum(axis=1, keepdims=True), ties)
        errors = _summed(in_errors * squares.sum(axis=1, keepdims=True), ties)
        logs += np.log(np.maximum(errors, 1e-30) / np.maximum(steps, 1e-30)).reshape(logs.shape) / (POWER + 2)
        logs = np.clip(logs, -FARTHEST, FARTHEST)
        # A factor of a whole block changes nothing; where blocks are tied it is theirs together.
        logs -= logs.mean(axis=1, keepdims=True) if np.array_equal(ties, np.arange(width)) else logs.mean()
    return np.asarray(np.exp(logs).reshape(-1))


def _summed(values: Doubles, ties: Labels) -> Doubles:
    return np.asarray(np.bincount(ties, values.reshape(-1), minlength=len(ties))[ties], np.float64)


def _losses(sampled: Sequence[tuple[Member, Array]], scale: Array, moment: Array, block: int) -> Doubles:
    """Output error of all members by block of channels, float64 [blocks]."""
    losses = np.zeros(len(scale) // block)
    for member, rows in sampled:
        fmt = member.variant.format
        group = member.group_size
        scaled = (rows * scale).reshape(len(rows), -1, group)
        step, zero = initial_scale(scaled, fmt)
        if member.variant.scale_estimation:
            blocks = blocks_of(moment, group, divisor=scale)
            step, zero = estimate_scale(scaled, step, zero, blocks, fmt, shrink_factors=SHRINK_FACTORS, finer=())
        restored = round_trip(scaled, stored_value(step, fmt), zero, fmt).reshape(rows.shape) / scale
        error = (restored - rows).reshape(scaled.shape)
        by_group = output_error(error, blocks_of(moment, group)).sum(axis=(0, 2), dtype=np.float64)
        losses += by_group.reshape(len(losses), -1).sum(axis=1) * (member.rows.weight.rows / len(rows))
    return losses
