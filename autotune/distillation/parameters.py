"""The trainable constants of a compressed model: which they are, and their values during training."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from autotune.compression.formats.encoding import pack
from autotune.compression.formats.table import BITS
from autotune.compression.ir.constants import FLOAT_TYPES, constant_digest, narrow, type_name
from autotune.distillation.graph import Graph
from autotune.distillation.operations import HALVES

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

ARRANGING = frozenset({"Convert", "Reshape", "Squeeze", "Unsqueeze"})
ADAPTERS = ("_lora_A", "_lora_B")


@dataclass(frozen=True, slots=True)
class Trainable:
    """A constant that is trained: its value is ``start + unit * delta``, rounded to its type.

    Attributes:
        steps: the constants' positions in the graph. Those with equal bytes are one, since the file has them once.
        element_type: OpenVINO's short name.
        start: values before training, float32.
        unit: float32, broadcast to the shape: the size of a relative change.
        lowest, highest: bounds of integers; None for floats.
    """

    steps: tuple[int, ...]
    element_type: str
    start: Tensor
    unit: Tensor
    lowest: int = 0
    highest: int = 0

    def value(self, delta: Tensor) -> Tensor:
        """Return the constant's value; gradients pass through the rounding unchanged."""
        value = self.start + self.unit * delta.view(self.start.shape)
        if self.highest:
            value = value.clamp(self.lowest, self.highest)
        return value + (self.rounded(value.detach()) - value.detach())

    def rounded(self, value: Tensor) -> Tensor:
        """Round a value to the constant's type."""
        if self.highest:
            return value.round()
        return value.to(HALVES.get(self.element_type, torch.float32)).to(torch.float32)

    def stored(self, delta: Tensor) -> npt.NDArray[np.generic]:
        """Return the bytes of the constant for these changes."""
        with torch.no_grad():
            value = self.value(delta).numpy()
        if not self.highest:
            return narrow(value, self.element_type)
        return pack(np.ascontiguousarray(value).astype(np.uint8), BITS[self.element_type])


def find_trainable(graph: Graph, weights: Collection[str]) -> list[Trainable]:
    """Find the constants of a compressed model that are trained.

    These are the float16 scales of compressed weights that a MatMul reads, codes and scales of adapters, and float
    vectors that activations are multiplied by or added to: norm gains, biases, AWQ scales.

    Args:
        graph: of the compressed model.
        weights: names of the weights that have been compressed.
    """
    readers: dict[int, list[int]] = {}
    for index, step in enumerate(graph.steps):
        for source, _ in step.inputs:
            readers.setdefault(source, []).append(index)
    scales = {f"{name}/scale" for name in weights}
    found: dict[tuple[bytes, str, str], list[int]] = {}
    for index, step in enumerate(graph.steps):
        if step.kind != "Constant" or index not in readers:
            continue
        kind = _kind(graph, index, scales, readers)
        if kind:
            digest = constant_digest(graph.nodes[index])
            found.setdefault((digest, type_name(graph.nodes[index]), kind), []).append(index)
    copies = Counter(constant_digest(node) for node in graph.nodes if node.get_type_name() == "Constant")
    return [
        _trainable(graph, steps, element_type, kind)
        for (digest, element_type, kind), steps in found.items()
        if copies[digest] == len(steps)
    ]


def _kind(graph: Graph, index: int, scales: Collection[str], readers: dict[int, list[int]]) -> str:
    """Return ``scale``, ``vector`` or ``codes``, or nothing for a constant that is not trained."""
    name, element_type = graph.steps[index].name, type_name(graph.nodes[index])
    if name.endswith(ADAPTERS) and element_type == "u8":
        return "codes"
    if name.endswith(tuple(f"{adapter}/scale" for adapter in ADAPTERS)):
        return "scale"
    if name in scales:
        return "scale" if element_type == "f16" and _multiplied(graph, index, readers) else ""
    shape = tuple(graph.nodes[index].get_output_shape(0))
    if element_type not in FLOAT_TYPES or element_type == "f64" or max(shape, default=1) != np.prod(shape):
        return ""
    if np.prod(shape) < 2:
        return ""
    ends = _arranged(graph, index, readers)
    applied = ends and all(
        graph.steps[end].kind in ("Multiply", "Add") and any(s in graph.dynamic for s, _ in graph.steps[end].inputs)
        for end in ends
    )
    return "vector" if applied else ""


def _arranged(graph: Graph, index: int, readers: dict[int, list[int]]) -> list[int]:
    """Return the steps that read a constant, behind operations that only arrange its elements."""
    ends = []
    pending = list(readers[index])
    while pending:
        step = pending.pop()
        if graph.steps[step].kind in ARRANGING and step not in graph.dynamic:
            pending += readers.get(step, [])
        else:
            ends.append(step)
    return ends


def _multiplied(graph: Graph, index: int, readers: dict[int, list[int]]) -> bool:
    """Return True if the weight of this scale is read by MatMuls alone.

    An embedding is left alone: each step would decompress and differentiate the whole table for a few rows.
    """
    products = [i for i in _arranged(graph, index, readers) if graph.steps[i].kind == "Multiply"]
    ends = {graph.steps[end].kind for product in products for end in _arranged(graph, product, readers)}
    return ends == {"MatMul"}


def _trainable(graph: Graph, steps: Sequence[int], element_type: str, kind: str) -> Trainable:
    start = graph.constant(steps[0]).float()
    if kind == "scale":
        return Trainable(tuple(steps), element_type, start, start.abs())
    unit = (start - start.mean()).square().mean().sqrt() if kind == "codes" else start.square().mean().sqrt()
    bounds = (0, 255) if kind == "codes" else (0, 0)
    return Trainable(tuple(steps), element_type, start, unit.clamp(min=1e-6), *bounds)
