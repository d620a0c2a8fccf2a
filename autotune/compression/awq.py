"""Activation-aware scaling of input channels, merged into what produces the activation.

After Lin et al., "AWQ: Activation-aware Weight Quantization" (2023), section 3.2: channels that carry large activations
are multiplied by c before the weight is quantized, and the activation is divided by c. Weights that share an input
share one c. Only places where the division costs nothing and cannot change anything else are used: every consumer of
the activation is one of these weights, and the producer is a norm's gain (which takes 1 / c) or a gated product, one
factor of which comes straight from another weight (whose output rows take 1 / c).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.compression.formats import Array, initial_scale, round_trip, stored_value
from autotune.compression.parallel import in_parallel
from autotune.compression.scale_estimation import blocks_of, output_error
from autotune.compression.variants import RowReader, Variant
from autotune.compression.weights import Weight

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["AwqGroup", "Member", "find_groups", "search_scale"]

ALPHAS = tuple(np.linspace(0.0, 1.0, 11).tolist())
ROWS = 256
"""Rows of each weight that the search looks at, evenly spread."""

LARGEST = 100.0
"""Bound of c and 1 / c: keeps gains and scales within float16."""


@dataclass(frozen=True, slots=True)
class AwqGroup:
    """Weights that share an input and can take a scale together.

    Attributes:
        activation: ``name:port`` of the shared input.
        weights: names of all weights that it feeds.
        gain: name of the Constant that takes 1 / c (a norm's gain), or None.
        producer: name of the weight whose output rows take 1 / c, or None.
    """

    activation: str
    weights: tuple[str, ...]
    gain: str | None = None
    producer: str | None = None


def _computing_consumers(output: ov.Output) -> set[str]:
    """Names of the operations that use an output's values (not only its shape)."""
    consumers = (target.get_node() for target in output.get_target_inputs())
    return {node.get_friendly_name() for node in consumers if node.get_type_name() != "ShapeOf"}


def _gain(product: ov.Node, width: int) -> str | None:
    """The constant factor of a product, if it has one value a channel and no other use."""
    for port in (0, 1):
        node = product.input_value(port).get_node()
        while node.get_type_name() == "Convert" and len(node.output(0).get_target_inputs()) == 1:
            node = node.input_value(0).get_node()
        if node.get_type_name() != "Constant" or len(node.output(0).get_target_inputs()) != 1:
            continue
        shape = tuple(node.get_output_shape(0))
        if shape and shape[-1] == width == int(np.prod(shape)):
            return str(node.get_friendly_name())
    return None


def _producer(product: ov.Node, by_node: dict[str, Weight], width: int) -> str | None:
    """The weight whose MatMul gives one factor of a product and nothing else."""
    for port in (0, 1):
        factor = product.input_value(port)
        weight = by_node.get(factor.get_node().get_friendly_name())
        if (
            weight is not None
            and len(weight.uses) == 1
            and len(weight.shape) == 2
            and weight.rows == width
            and _computing_consumers(factor) == {product.get_friendly_name()}
        ):
            return weight.name
    return None


def find_groups(model: ov.Model, weights: Sequence[Weight]) -> tuple[AwqGroup, ...]:
    """All groups that can be scaled without any change of the uncompressed function."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    counts = Counter(node.get_friendly_name() for node in model.get_ordered_ops())
    by_node = {use.node: weight for weight in weights for use in weight.uses if use.kind == "matmul"}
    by_activation: dict[str, list[Weight]] = {}
    for weight in weights:
        for activation in weight.activations:
            by_activation.setdefault(activation, []).append(weight)
    groups = []
    for activation, members in by_activation.items():
        name, _, port = activation.rpartition(":")
        product = nodes[name]
        used_by = {use.node for weight in members for use in weight.uses}
        if any(len(weight.uses) > 1 for weight in members) or product.get_type_name() != "Multiply":
            continue
        if _computing_consumers(product.output(int(port))) != used_by:
            continue
        width = members[0].columns
        gain = _gain(product, width)
        if gain is not None and counts[gain] > 1:
            continue  # its name does not tell it apart
        producer = None if gain else _producer(product, by_node, width)
        if gain or producer:
            groups.append(AwqGroup(activation, tuple(weight.name for weight in members), gain, producer))
    return tuple(groups)


@dataclass(frozen=True, slots=True)
class Member:
    """One weight of a group, ready to be searched."""

    weight: Weight
    variant: Variant
    read: RowReader


def search_scale(members: Sequence[Member], moment: Array) -> Array:
    """The channel scale with the least output error over all members, float32 [K]; all ones if none helps.

    Candidates are c = m^(alpha / 2) with m the mean square of each channel, normalised around one. The error of a
    candidate is measured as the scaled weight would be stored, with plain rounding.

    Args:
        members: the weights of a group in the variants that they will have.
        moment: float32 [K, K], second moments of the shared activation.
    """
    energy = np.diagonal(moment).astype(np.float64)
    positive = energy[energy > 0]
    if positive.size == 0:
        return np.ones(energy.size, np.float32)
    magnitude = np.sqrt(np.maximum(energy, positive.min()))
    sampled = [(member, _sampled_rows(member)) for member in members]
    scales: list[Array] = []
    for alpha in ALPHAS:
        scale = magnitude**alpha
        scale /= np.sqrt(scale.max() * scale.min())
        scales.append(np.clip(scale, 1 / LARGEST, LARGEST).astype(np.float32))
    losses = in_parallel(
        lambda scale: sum(_loss(rows, scale, member.variant, moment) for member, rows in sampled), scales
    )
    return scales[int(np.argmin(losses))]


def _sampled_rows(member: Member) -> Array:
    rows = member.weight.rows
    picks = np.unique(np.linspace(0, rows - 1, min(rows, ROWS), dtype=np.int64))
    sampled: Array = np.concatenate([member.read(int(row), int(row) + 1) for row in picks])
    return sampled


def _loss(rows: Array, scale: Array, variant: Variant, moment: Array) -> float:
    fmt = variant.format
    group = rows.shape[1] if variant.group_size == -1 else variant.group_size
    scaled = (rows * scale).reshape(len(rows), -1, group)
    step, zero = initial_scale(scaled, fmt)
    restored = round_trip(scaled, stored_value(step, fmt), zero, fmt).reshape(rows.shape) / scale
    error = (restored - rows).reshape(scaled.shape)
    return float(output_error(error, blocks_of(moment, group)).sum(dtype=np.float64))
