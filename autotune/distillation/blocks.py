"""Blocks of a graph that are computed one after the other, so that few weights are in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from autotune.common.threads import cores
from autotune.compression.calibration.segments import places_to_cut

if TYPE_CHECKING:
    import openvino as ov
    from torch import Tensor

    from autotune.distillation.graph import Graph

VIEWS = frozenset({"Assign", "Broadcast", "Convert", "ReadValue", "Reshape", "Result", "Split", "Squeeze", "Transpose"})
"""Operations whose outputs usually take no memory of their own."""

BLOCK_BYTES = 1 << 30
"""Size of a block where there are several: it makes few of them, in little memory."""

NOTHING: Mapping[int, int] = MappingProxyType({})


def prepare(
    graph: Graph,
    parameters: Mapping[int, Tensor],
    windows: int,
    length: int,
    limit: float,
    held: Mapping[int, int] = NOTHING,
) -> None:
    """Prepare a graph that is divided into blocks of a limited size; see `Graph.prepare` and `cut`."""
    parts = cut(graph, windows * length, limit, trained=bool(parameters), held=held)
    graph.prepare(parameters, windows, length, [steps for steps, _ in parts])


def cut(
    graph: Graph, tokens: int, limit: float, *, trained: bool, held: Mapping[int, int] = NOTHING
) -> list[tuple[list[int], int]]:
    """Divide the steps before the head that depend on tokens into parts of a limited size.

    Args:
        graph: of a model.
        tokens: tokens on one thread at a time.
        limit: bytes of a part; more where the graph cannot be cut.
        trained: each thread has its own dequantized weights.
        held: other bytes that are in memory with a step.

    Returns:
        The steps and the bytes of each part: its constants in float32, and the activations with their gradients.
    """
    order = graph.inside
    sizes = nbytes(graph, tokens)
    threads, copies = cores(), 1 + trained * cores()
    costs = []
    for index in order:
        fixed, each = sizes[index]
        shared = graph.steps[index].kind == "Gather"  # embeddings are not trained
        costs.append((1 if shared else copies) * fixed + threads * each + held.get(index, 0))
    if limit == math.inf:
        return [(order, sum(costs))]
    widths = _widths(graph, order)

    def parts(limit: float) -> list[tuple[list[int], int]]:
        bounds = pairwise([0, *(end + 1 for end in places_to_cut(costs, widths, limit)), len(order)])
        return [(order[start:stop], sum(costs[start:stop])) for start, stop in bounds]

    least = max(nbytes for _, nbytes in parts(0))
    return parts(max(limit, least))


def passed_between(graph: Graph, parts: Sequence[tuple[list[int], int]]) -> list[int]:
    """Return the bytes for one token that each part from `cut` passes on to the next ones."""
    widths = dict(zip(graph.inside, _widths(graph, graph.inside), strict=True))
    return [4 * (widths[steps[-1]] or 0) for steps, _ in parts[:-1]]


def nbytes(graph: Graph, tokens: int) -> dict[int, tuple[int, int]]:
    """Estimate the memory of each step that depends on tokens, from shapes.

    Returns:
        Bytes of the constants that no step before reads, and of activations and their gradients for `tokens`.
    """
    found, covered = {}, set[int]()
    outside = set(range(len(graph.steps))) - graph.dynamic
    for index in sorted(graph.dynamic):
        step = graph.steps[index]
        if step.apply is None:
            continue
        read = graph.sources((source for source, _ in step.inputs), outside) - covered
        covered |= read
        constants = [graph.nodes[i] for i in read if graph.steps[i].kind == "Constant"]
        fixed = sum(4 * int(np.prod(node.get_output_shape(0), dtype=np.int64)) for node in constants)
        found[index] = fixed, 0 if step.kind in VIEWS else 2 * 4 * tokens * elements(graph.nodes[index])
    return found


def _widths(graph: Graph, order: Sequence[int]) -> list[int | None]:
    """Return the numbers for one token that a cut behind each step keeps; None where it may not be cut."""
    last = {source: index for index in order for source, _ in graph.steps[index].inputs}
    last[graph.hidden] = order[-1]
    live: set[int] = {graph.tokens}
    widths: list[int | None] = []
    for index in order:
        live = {step for step in live | {index} if last.get(step, -1) > index}
        nodes = [graph.nodes[step] for step in live]
        floats = any(node.get_output_element_type(0).is_real() for node in nodes)
        single = floats and all(node.get_output_size() == 1 for node in nodes)
        widths.append(sum(map(elements, nodes)) if single else None)
    return widths


def elements(node: ov.Node) -> int:
    """Return the numbers of a node's first output for one token: dynamic dimensions count as one."""
    shape = node.get_output_partial_shape(0)
    sizes = [dim.get_length() for dim in shape if dim.is_static] if shape.rank.is_static else []
    return int(np.prod(sizes, dtype=np.int64))
