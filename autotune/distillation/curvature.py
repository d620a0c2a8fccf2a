"""Second moments on both sides of weights: of their inputs, and of the gradients at their outputs.

The Hessian of KL(original || changed model) at the original is the Fisher information of its distributions. A vector
with the covariance diag(p) - p pᵀ at the logits of each token, propagated back, has the covariance of the gradients at
every output on the way. Normal noise z gives it as √p z - p Σ √p z. Gradients of sampled tokens have the same
covariance, with larger fourth moments where tokens of low probability are drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from autotune.common.threads import cores
from autotune.compression.formats.encoding import Array
from autotune.distillation.graph import Graph
from autotune.distillation.training import LOGITS_BYTES, in_threads

if TYPE_CHECKING:
    import openvino as ov

    from autotune.compression.ir.weights import Weight

GRADIENT_TOKENS = 2048
"""Tokens that the mean squares of gradients are measured on."""

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
    """Return the pairs of one share of windows."""
    found: dict[str, Pair] = {}
    names = {step: name for name, step in products.items()}

    def keep(step: int, x: torch.Tensor, gradient: torch.Tensor) -> None:
        found[names[step]] = x.detach().reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])

    propagate_noise(graph, names, tokens, seed, keep)
    return found


def propagate_noise(
    graph: Graph,
    steps: Container[int],
    tokens: torch.Tensor,
    seed: int,
    keep: Callable[[int, Any, torch.Tensor], None],
) -> torch.Tensor:
    """Propagate noise with the covariance of the divergence back through one share of windows.

    Args:
        graph: prepared for these windows.
        steps: before the head.
        tokens: int64 [B, T].
        seed: of the noise.
        keep: called with each of the steps, its first input, and the gradient at its output.

    Returns:
        Sum of the squared noise over all tokens, float32 [V].
    """

    def tap(step: int, x: Any, output: Any) -> Any:
        if step in steps:
            output = output if output.requires_grad else output.detach().requires_grad_()
            output.register_hook(partial(keep, step, x))
        return output

    given = graph.body(tokens, {}, tap)
    leaves = {step: value.detach().requires_grad_(value.requires_grad) for step, value in given.items()}
    generator = torch.Generator().manual_seed(seed)
    length = int(tokens.shape[1])
    chunk = length
    if graph.chunkable:
        chunk = max(1, min(length, LOGITS_BYTES // (4 * graph.vocabulary * len(tokens))))
    squares = torch.zeros(graph.vocabulary)
    for start in range(0, length, chunk):
        logits = graph.head({**leaves, graph.hidden: leaves[graph.hidden][:, start : start + chunk]})
        p = logits.detach().softmax(-1)
        noise = p.sqrt() * torch.randn(p.shape, generator=generator)
        noise -= p * noise.sum(-1, keepdim=True)
        squares += noise.square().sum((0, 1))
        logits.backward(noise)
    outputs = [step for step in given if leaves[step].grad is not None]
    torch.autograd.backward([given[s] for s in outputs], [leaves[s].grad for s in outputs])
    return squares


def mean_square_gradients(model: ov.Model, weights: Iterable[Weight], tokens: Any) -> dict[str, Array]:
    """Measure how much the divergence depends on each output channel of the operations that use weights.

    Noise of variance v in a channel costs v / 2 times this many nats per token.

    Args:
        model: the original.
        weights: its weights; those whose operations have other channels than the weight has rows are left out.
        tokens: int64 [n, T]; the first `GRADIENT_TOKENS` count.

    Returns:
        Mean square of the gradients by the operation's name, float32 [R]; [K] for an embedding.

    Raises:
        PlanError: the graph is not supported.
    """
    graph = Graph(model)
    windows, length = tokens.shape
    count = max(1, min(windows, GRADIENT_TOKENS // length))
    graph.prepare({}, 1, length)
    steps = {step.name: index for index, step in enumerate(graph.steps)}
    head = graph.dependent([graph.hidden]) - {graph.hidden}
    channels = {
        steps[use.node]: weight.columns if use.kind == "embedding" else weight.rows
        for weight in weights
        for use in weight.uses
        if use.node in steps
    }
    inside = {step for step in channels if step in graph.dynamic and step not in head}
    texts = torch.from_numpy(np.ascontiguousarray(tokens[:count]))

    def of_window(window: int) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(step: int, _: Any, gradient: torch.Tensor) -> None:
            tokens_apart = [axis for axis in range(gradient.ndim - 1) if gradient.shape[axis] == length]
            for axes in (list(range(gradient.ndim - 1)), tokens_apart):
                squares = gradient.square().sum(axes).reshape(-1)
                if len(squares) == channels[step]:
                    found[step] = squares
                    return

        logits = propagate_noise(graph, inside, texts[window : window + 1], window, keep)
        found |= {step: logits for step in channels if step in head and channels[step] == len(logits)}
        return found

    total: dict[int, torch.Tensor] = {}
    for first in range(0, count, cores()):
        for found in in_threads(of_window, range(first, min(first + cores(), count))):
            total |= {step: total[step] + squares if step in total else squares for step, squares in found.items()}
    return {graph.steps[step].name: (squares / (count * length)).numpy() for step, squares in total.items()}


def scaled(curvature: Curvature, columns: Array | None, rows: Array | None) -> Curvature:
    """Return the second moments of a weight whose columns are multiplied by [K] and rows divided by [R]; None: not."""
    inputs, outputs = curvature
    if columns is not None:
        inputs = inputs / np.outer(columns, columns)
    if rows is not None:
        outputs = outputs * np.outer(rows, rows)
    return Curvature(inputs, outputs)
