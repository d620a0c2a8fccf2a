"""Memory that a distillation takes, and its division into blocks where the memory does not suffice otherwise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.common.threads import cores
from autotune.distillation.blocks import BLOCK_BYTES, cut, nbytes, passed_between
from autotune.distillation.codes import MOST_BITS, MOST_TOKENS
from autotune.distillation.curvature import MOMENT_BYTES, moment_bytes, products_of
from autotune.distillation.graph import Graph
from autotune.distillation.training import LOGITS_BYTES, SHARE_TOKENS, Recipe

if TYPE_CHECKING:
    import openvino as ov

BASE_BYTES = 500 << 20
"""Memory of torch and OpenVINO without a model."""

STORED = 1.6
"""Bytes for each number of the model: compressed and new codes; scales, their gradients, and moments of these."""

FACTORING = 6
"""Memory in which second moments are factored, in their largest matrix of float32."""

LIMITS = (*(BLOCK_BYTES >> shift for shift in range(6)), 0)
"""Sizes of a block that are tried; a block of the last one cannot be divided further."""


@dataclass(frozen=True, slots=True)
class Division:
    """Division of a distillation into blocks.

    Attributes:
        limit: bytes of a block; infinite if the graphs are not divided.
        needed: estimate of the memory in all, in bytes.
        disk: estimate of the temporary files, in bytes.
    """

    limit: float
    needed: int
    disk: int


def divide(original: ov.Model, shape: Sequence[int], memory: int) -> Division:
    """Choose the largest blocks with which a distillation takes at most `memory` bytes; the smallest if none do.

    If the graphs are not divided, the constants of both models are held in float32. A thread holds its dequantized
    weights, the activations that its gradient needs, and logits. Otherwise this holds for one block and the last
    MatMul, and the activations between the blocks are held for a batch. The rounding has those of all its tokens in
    files, the gradients behind one block, and checkpoints of codes and second moments.

    Args:
        original: the model before compression.
        shape: windows, and tokens of each, of the training text.
        memory: bytes that may be used.

    Raises:
        PlanError: the graph is not supported.
    """
    windows, length = shape
    graph = Graph(original)
    tokens, threads = max(SHARE_TOKENS, length), cores()
    sizes = nbytes(graph, tokens)
    fixed, each = (sum(column) for column in zip(*sizes.values(), strict=True))
    moments = {step: moment_bytes(graph, step) for step in products_of(graph)}
    held = {step: size for step, size in moments.items() if size <= MOMENT_BYTES}
    factoring = FACTORING * max(held.values(), default=0)
    hidden = 4 * windows * length * graph.width
    always = BASE_BYTES + threads * 4 * LOGITS_BYTES + hidden
    rounding = fixed + threads * each + min(MOMENT_BYTES, sum(held.values())) + factoring
    whole = always + max(2 * fixed + threads * (fixed + each), rounding)
    checkpoints: int = min(MOMENT_BYTES, sum(held.values())) + fixed // 4 * MOST_BITS // 8

    def on_disk(limit: float) -> int:
        parts = cut(graph, tokens, limit, trained=False, held=held)
        passed = passed_between(graph, parts)
        return checkpoints + min(windows * length, MOST_TOKENS) * (sum(passed) + max(passed, default=0))

    if whole <= memory:
        return Division(math.inf, whole, on_disk(BLOCK_BYTES if sum(held.values()) > MOMENT_BYTES else math.inf))
    always += round(STORED * fixed / 4) + (2 + threads) * sum(sizes[step][0] for step in graph.after & sizes.keys())
    between = 4 * graph.width * max(Recipe().batch_tokens[1], tokens)

    def divided(limit: int) -> Division:
        training = [nbytes for _, nbytes in cut(graph, tokens, limit, trained=True)]
        rounding = [nbytes for _, nbytes in cut(graph, tokens, limit, trained=False, held=held)]
        largest = max(len(training) * between + max(training), max(rounding) + factoring)
        return Division(limit, always + largest, on_disk(limit))

    found = []
    for limit in LIMITS:
        found.append(divided(limit))
        if found[-1].needed <= memory:
            return found[-1]
    return min(found, key=lambda one: one.needed)
