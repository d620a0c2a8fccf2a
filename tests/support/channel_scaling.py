"""Scales a model's channels without rounding anything, to see whether its function changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import openvino as ov
from builders import FloatArray, constants
from openvino import opset15 as ops

from autotune.compression.algorithms.awq.groups import ChannelGroup, find_groups
from autotune.compression.algorithms.awq.search import by_label
from autotune.compression.ir.assemble import assemble
from autotune.compression.ir.constants import read_f32
from autotune.compression.ir.weights import find_weights, rows_view


def random_scale(group: ChannelGroup, *, merged: bool, seed: int = 0, spread: float = 0.5) -> FloatArray:
    """Positive numbers that are equal where the group needs it, float32 [K]."""
    scale = np.exp(np.random.default_rng(seed).normal(0, spread, group.width)).astype(np.float32)
    if not merged:
        return 1 / (1 / scale).astype(np.float16).astype(np.float32)
    assert group.merge is not None
    return np.asarray(scale[group.merge.shared])


def scaled_without_rounding(model: ov.Model, *, merged: bool, groups: Sequence[ChannelGroup] | None = None) -> ov.Model:
    """Every weight of every group times a random scale, its inverse merged, or inserted where it cannot be."""
    weights = find_weights(model)
    by_name = {weight.name: weight for weight in weights}
    inputs: dict[str, FloatArray] = {}
    outputs: dict[str, FloatArray] = {}
    divided: dict[str, FloatArray] = {}
    inserted = []
    for seed, group in enumerate(find_groups(model, weights) if groups is None else groups):
        merging = merged and group.merge is not None
        scale = random_scale(group, merged=merging, seed=seed)
        inputs |= dict.fromkeys(group.weights, scale)
        if merging and group.merge is not None:
            outputs |= {name: by_label(scale, labels) for name, labels in group.merge.producers.items()}
            divided |= {name: by_label(scale, labels) for name, labels in group.merge.constants.items()}
        else:
            inserted.append(([by_name[name].uses[0] for name in group.weights], scale))
    copy = assemble(model, [], divided, inserted, {})
    for name in {*inputs, *outputs}:
        old = constants(copy)[name]
        values = read_f32(old).copy()
        rows = rows_view(values, by_name[name])
        rows *= inputs.get(name, np.float32(1))
        rows /= outputs.get(name, np.ones(1, np.float32))[:, None]
        new = ops.constant(values, dtype=old.get_element_type())
        for target in old.output(0).get_target_inputs():
            target.replace_source_output(new.output(0))
    return copy
