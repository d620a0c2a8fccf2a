"""Second moments on both sides of weights: of their inputs, and of the gradients at their outputs.

The Hessian of KL(original || changed model) at the original is the Fisher information of its distributions. A vector
with the covariance diag(p) - p pᵀ at the logits of each token, propagated back, has the covariance of the gradients at
every output on the way. Normal noise z gives it as √p z - p Σ √p z. Gradients of sampled tokens have the same
covariance, but many more tokens are needed until it can be estimated from them: on the demo model 5,000 tokens of
sampled gradients made the rounded model worse, and normal noise made it better.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch

from autotune.common.threads import cores
from autotune.compression.formats.encoding import Array
from autotune.distillation.graph import Graph
from autotune.distillation.training import LOGITS_BYTES

Pair = tuple["torch.Tensor", "torch.Tensor"]
"""Inputs [n, K] and gradients of the outputs [n, R] of one product, for the same n tokens."""


class Curvature(NamedTuple):
    """Second moments of one weight, summed over tokens.

    The Hessian of the weight is about their Kronecker product divided by their trace, which they share.

    Attributes:
        inputs: float32 [K, K], of the inputs; each token weighted by the square of its gradient.
        outputs: float32 [R, R], of the gradients; each token weighted by the square of its input.
    """

    inputs: Array
    outputs: Array


def measure_curvature(
    graph: Graph,
    products: Mapping[str, int],
    tokens: torch.Tensor,
    share: int,
    report: Callable[[int], None] = lambda windows: None,
) -> dict[str, Curvature]:
    """Measure the second moments of some weights in one pass over windows of text.

    The bits do not depend on the number of threads.

    Args:
        graph: of the original model.
        products: name of a weight -> the step of its only MatMul, before the head.
        tokens: int64 [n, T].
        share: windows that run on one thread at a time.
        report: called with the number of windows that are done.
    """
    windows, length = tokens.shape
    graph.prepare({}, share, length)
    starts = range(0, windows - share + 1, share)
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for first in range(0, len(starts), cores()):
                some = starts[first : first + cores()]
                texts = [tokens[start : start + share] for start in some]
                pairs = list(pool.map(partial(_pairs, graph, products), texts, some))
                by_weight = [[each[name] for each in pairs] for name in products]
                sums = pool.map(_add, [found.get(name) for name in products], by_weight)
                found = dict(zip(products, sums, strict=True))
                report(some[-1] + share)
    finally:
        torch.set_num_threads(threads)
    return {name: Curvature(inputs.numpy(), outputs.numpy()) for name, (inputs, outputs) in found.items()}


def _add(total: Pair | None, pairs: Sequence[Pair]) -> Pair:
    for x, gradient in pairs:
        inputs = x.T @ (x * gradient.square().sum(1, keepdim=True))
        outputs = gradient.T @ (gradient * x.square().sum(1, keepdim=True))
        total = (inputs, outputs) if total is None else (total[0] + inputs, total[1] + outputs)
    assert total is not None
    return total


def _pairs(graph: Graph, products: Mapping[str, int], tokens: torch.Tensor, seed: int) -> dict[str, Pair]:
    """Propagate noise back through one share of windows."""
    found: dict[str, Pair] = {}
    names = {step: name for name, step in products.items()}

    def keep(name: str, x: torch.Tensor, gradient: torch.Tensor) -> None:
        found[name] = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])

    def tap(step: int, x: Any, output: Any) -> Any:
        if step in names:
            output = output if output.requires_grad else output.detach().requires_grad_()
            output.register_hook(partial(keep, names[step], x.detach()))
        return output

    given = graph.body(tokens, {}, tap)
    leaves = {step: value.detach().requires_grad_(value.requires_grad) for step, value in given.items()}
    generator = torch.Generator().manual_seed(seed)
    length = int(tokens.shape[1])
    chunk = length
    if graph.chunkable:
        chunk = max(1, min(length, LOGITS_BYTES // (4 * graph.vocabulary * len(tokens))))
    for start in range(0, length, chunk):
        logits = graph.head({**leaves, graph.hidden: leaves[graph.hidden][:, start : start + chunk]})
        p = logits.detach().softmax(-1)
        noise = p.sqrt() * torch.randn(p.shape, generator=generator)
        logits.backward(noise - p * noise.sum(-1, keepdim=True))
    outputs = [step for step in given if leaves[step].grad is not None]
    torch.autograd.backward([given[s] for s in outputs], [leaves[s].grad for s in outputs])
    return found


def scaled(curvature: Curvature, columns: Array | None, rows: Array | None) -> Curvature:
    """Return the second moments of a weight whose columns are multiplied by [K] and rows divided by [R]; None: not."""
    inputs, outputs = curvature
    if columns is not None:
        inputs = inputs / np.outer(columns, columns)
    if rows is not None:
        outputs = outputs * np.outer(rows, rows)
    return Curvature(inputs, outputs)
