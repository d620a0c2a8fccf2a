"""Second moments on both sides of weights: of their inputs, and of the gradients at their outputs.

The Hessian of KL(original || changed model) at the original is the Fisher information of its distributions. A vector
with the covariance diag(p) - p pᵀ at the logits of each token, propagated back, has the covariance of the gradients at
every output on the way. Normal noise z gives it as √p z - p Σ √p z. Gradients of sampled tokens have the same
covariance, with larger fourth moments where tokens of low probability are drawn.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from autotune.common.files import fingerprint
from autotune.common.threads import cores
from autotune.compression.formats.encoding import Array
from autotune.distillation.blocks import BLOCK_BYTES, prepare
from autotune.distillation.graph import Graph
from autotune.distillation.sweeps import Store, Sweep, Values, in_threads
from autotune.distillation.training import LOGITS_BYTES

if TYPE_CHECKING:
    import openvino as ov

    from autotune.compression.ir.weights import Weight

GRADIENT_TOKENS = 2048
"""Tokens that the mean squares of gradients are measured on."""

MOMENT_BYTES = 1 << 30
"""Limit on the second moments that are in memory at once; for the others a block is computed again."""

SAVED_EVERY = 60.0
"""Seconds between two checkpoints of second moments: to write `MOMENT_BYTES` takes some of them."""

MOST_SHRUNK = 0.999
"""Largest share of the identity in shrunk second moments."""

Pair = tuple["torch.Tensor", "torch.Tensor"]
"""Inputs [n, K] and gradients of the outputs [n, R] of one product, for the same n tokens."""

Sums = tuple["torch.Tensor", "torch.Tensor", "torch.Tensor"]
"""The first three values of a `Curvature`, as far as they are added up."""


class Curvature(NamedTuple):
    """Second moments of one weight, summed over tokens.

    The Hessian of the weight is about their Kronecker product divided by their trace, which they share.

    Attributes:
        inputs: float32 [K, K], of the inputs; each token weighted by the square of its gradient.
        outputs: float32 [R, R], of the gradients; each token weighted by the square of its input.
        squares: sum of the squared Frobenius norms of the tokens' terms, which are the same in both sums.
        tokens: number of terms.
    """

    inputs: Array
    outputs: Array
    squares: float
    tokens: int


def measure_curvature(
    graph: Graph,
    products: Mapping[str, int],
    tokens: torch.Tensor,
    share: int,
    report: Callable[[str], None] = lambda text: None,
    *,
    limit: float = math.inf,
    folder: Path | None = None,
    finished: Container[str] = (),
) -> Iterator[tuple[str, Curvature]]:
    """Measure the second moments of weights, and yield them with the weight's name; the last layers come first.

    The windows run back through the graph once if the second moments of each block take at most `MOMENT_BYTES`.
    Otherwise the block is computed once more for each `MOMENT_BYTES`. The bits do not depend on the blocks or the
    number of threads.

    Args:
        graph: of the original model.
        products: name of a weight -> the step of its only MatMul, before the head.
        tokens: int64 [n, T].
        share: windows that run on one thread at a time.
        report: receives progress messages.
        limit: bytes of a block; see `blocks.cut`.
        folder: activations between blocks, and second moments of a part of the windows, are kept in a temporary folder
            beside this one. It is left behind if the process ends before, and a later call continues from it. None:
            they are kept in memory.
        finished: names of weights whose second moments are not needed any more.
    """
    windows, length = tokens.shape
    held = {step: moment_bytes(graph, step) for step in products.values()}
    if sum(held.values()) > MOMENT_BYTES:
        limit = min(limit, BLOCK_BYTES)
    prepare(graph, {}, share, length, limit, held if limit < math.inf else {})
    starts = range(0, windows - share + 1, share)
    texts = [tokens[start : start + share] for start in starts]

    def end(number: int, leaves: Values) -> None:
        propagate_noise(graph, leaves, starts[number])

    count, left = len(graph.blocks), {name: step for name, step in products.items() if name not in finished}
    if not left:
        remove_between(folder)
        return
    store = Store(None if folder is None else _between(folder, graph))
    sweep = Sweep(graph, texts, {}, end, store)
    place_of = {step: number for number, block in enumerate(graph.blocks) for step, _ in block.steps}
    last = max(place_of[step] for step in left.values())
    start = sweep.forward(last, lambda block: report(f"activations, block {block + 1} of {count}"))
    for block in range(start + 1)[::-1]:
        of_block = {name: step for name, step in left.items() if place_of[step] == block}
        graph.load(block)
        for names in _passes(of_block, held):
            place = f", block {block + 1} of {count}" if count > 1 else ""

            def done(shares: int, place: str = place) -> None:
                report(f"gradients of {shares * share} of {len(starts) * share} windows{place}")

            of_pass = {name: products[name] for name in names}
            found = _moments(graph, sweep, block, of_pass, len(starts), store, done)
            while found:
                name, (inputs, outputs, squares) = found.popitem()
                yield name, Curvature(inputs.numpy(), outputs.numpy(), float(squares), len(starts) * share * length)
                store.drop(f"moments-{left.pop(name)}")
        if not left:
            break
        sweep.leave(block)
    remove_between(folder)


def _between(folder: Path, graph: Graph) -> Path:
    """Name the temporary folder of a graph that is divided into these blocks; delete those of other divisions."""
    division = fingerprint([[step for step, _ in block.steps] for block in graph.blocks])
    chosen = folder.with_name(f".{folder.name}-{division}.tmp")
    remove_between(folder, chosen)
    return chosen


def remove_between(folder: Path | None, kept: Path | None = None) -> None:
    """Delete what `measure_curvature` has left for a folder, except one temporary folder."""
    for path in [] if folder is None else folder.parent.glob(f".{folder.name}-*.tmp"):
        if path != kept:
            shutil.rmtree(path, ignore_errors=True)


def moment_bytes(graph: Graph, product: int) -> int:
    """Return the bytes of the second moments of the weight of a MatMul with activations."""
    return 4 * sum(int(size) ** 2 for size in graph.nodes[product].input_value(1).get_shape())


def input_axis(product: ov.Node) -> int:
    """Return the axis of a MatMul's activations that the product sums over; it is not the last one in some hybrids."""
    return -2 if product.get_attributes()["transpose_a"] else -1


def products_of(graph: Graph) -> list[int]:
    """Return the MatMuls of activations and a matrix before the head, by step."""
    inside = graph.dynamic - graph.after
    found = []
    for index in sorted(inside):
        step = graph.steps[index]
        if step.kind == "MatMul" and step.inputs[1][0] not in graph.dynamic:
            shape = graph.nodes[index].input_value(1).get_partial_shape()
            if shape.is_static and len(shape) == 2:
                found.append(index)
    return found


def _passes(products: Mapping[str, int], held: Mapping[int, int]) -> Iterator[list[str]]:
    """Divide weights into lists whose second moments fit into `MOMENT_BYTES`; the last layers come first.

    Without weights, there is one list of none: the gradients are wanted by the blocks before.
    """
    names: list[str] = []
    used = 0
    for name in sorted(products, key=lambda name: -products[name]):
        if names and used + held[products[name]] > MOMENT_BYTES:
            yield names
            names, used = [], 0
        names.append(name)
        used += held[products[name]]
    yield names


def _moments(
    graph: Graph,
    sweep: Sweep,
    block: int,
    products: Mapping[str, int],
    shares: int,
    store: Store,
    report: Callable[[int], None],
) -> dict[str, Sums]:
    """Add up the second moments of some weights of the block that is loaded; continue from those in the store."""
    found: dict[str, Sums] = {}
    added = dict.fromkeys(products, 0)
    for name, step in products.items():
        if store.has(f"moments-{step}"):
            kept = store.get(f"moments-{step}")
            found[name], added[name] = (kept[0], kept[1], kept[2]), int(kept[3])
    start = min([sweep.passed(block), *added.values()])
    report(start)
    saved = time.monotonic()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            for first in range(start, shares, cores()):
                some = range(first, min(first + cores(), shares))
                pairs = dict(zip(some, pool.map(partial(_pairs, graph, sweep, block, products), some), strict=True))
                by_weight = [[pairs[i][name] for i in some if i >= added[name]] for name in products]
                sums = pool.map(_add, [found.get(name) for name in products], by_weight)
                found = dict(zip(products, sums, strict=True))
                added = {name: max(count, some[-1] + 1) for name, count in added.items()}
                if store.folder is not None and time.monotonic() - saved > SAVED_EVERY:
                    for name, step in products.items():
                        store.put(f"moments-{step}", dict(enumerate((*found[name], torch.tensor(added[name])))))
                    saved = time.monotonic()
                report(some[-1] + 1)
    finally:
        torch.set_num_threads(threads)
    return found


def _add(total: Sums | None, pairs: Sequence[Pair]) -> Sums:
    for x, gradient in pairs:
        of_inputs, of_gradients = x.square().sum(1, keepdim=True), gradient.square().sum(1, keepdim=True)
        inputs = x.T @ (x * of_gradients)
        outputs = gradient.T @ (gradient * of_inputs)
        squares = (of_inputs.double() * of_gradients.double()).square().sum()
        terms = (inputs, outputs, squares)
        total = terms if total is None else (total[0] + inputs, total[1] + outputs, total[2] + squares)
    assert total is not None
    return total


def _pairs(graph: Graph, sweep: Sweep, block: int, products: Mapping[str, int], share: int) -> dict[str, Pair]:
    """Return the pairs of one share of windows."""
    found: dict[str, Pair] = {}
    names = {step: name for name, step in products.items()}

    def keep(step: int, x: torch.Tensor, gradient: torch.Tensor) -> None:
        x = x.detach().movedim(input_axis(graph.nodes[step]), -1)
        found[names[step]] = x.reshape(-1, x.shape[-1]), gradient.reshape(-1, gradient.shape[-1])

    sweep.back(block, share, tapped(names, keep))
    return found


def tapped(
    steps: Container[int], keep: Callable[[int, Any, torch.Tensor], None]
) -> Callable[[int, Any, torch.Tensor], torch.Tensor]:
    """Return a tap that calls `keep` with each of some steps, its first input, and the gradient at its output."""

    def tap(step: int, x: Any, output: Any) -> Any:
        if step in steps:
            output = output if output.requires_grad else output.detach().requires_grad_()
            output.register_hook(partial(keep, step, x))
        return output

    return tap


def propagate_noise(graph: Graph, leaves: Values, seed: int) -> torch.Tensor:
    """Propagate noise with the covariance of the divergence back from the logits to the outputs of the last block.

    Args:
        graph: prepared.
        leaves: outputs of the last block for windows of T tokens, whose gradients are added.
        seed: of the noise.

    Returns:
        Sum of the squared noise over all tokens, float32 [V].
    """
    generator = torch.Generator().manual_seed(seed)
    windows, length = leaves[graph.hidden].shape[:2]
    chunk = length
    if graph.chunkable:
        chunk = max(1, min(length, LOGITS_BYTES // (4 * graph.vocabulary * windows)))
    squares = torch.zeros(graph.vocabulary)
    for start in range(0, length, chunk):
        logits = graph.head({**leaves, graph.hidden: leaves[graph.hidden][:, start : start + chunk]})
        p = logits.detach().softmax(-1)
        noise = p.sqrt() * torch.randn(p.shape, generator=generator)
        noise -= p * noise.sum(-1, keepdim=True)
        squares += noise.square().sum((0, 1))
        logits.backward(noise)
    return squares


def mean_square_gradients(
    model: ov.Model, weights: Iterable[Weight], tokens: Any, limit: float = math.inf
) -> dict[str, Array]:
    """Measure how much the divergence depends on each output channel of the operations that use weights.

    Noise of variance v in a channel costs v / 2 times this many nats per token.

    Args:
        model: the original.
        weights: its weights; those whose operations have other channels than the weight has rows are left out.
        tokens: int64 [n, T]; the first `GRADIENT_TOKENS` count.
        limit: bytes of a block; see `blocks.cut`.

    Returns:
        Mean square of the gradients by the operation's name, float32 [R]; [K] for an embedding.

    Raises:
        PlanError: the graph is not supported.
    """
    graph = Graph(model)
    windows, length = tokens.shape
    count = max(1, min(windows, GRADIENT_TOKENS // length))
    prepare(graph, {}, 1, length, limit)
    steps = {step.name: index for index, step in enumerate(graph.steps)}
    channels = {
        steps[use.node]: weight.columns if use.kind == "embedding" else weight.rows
        for weight in weights
        for use in weight.uses
        if use.node in steps
    }
    inside = {step for step in channels if step in graph.dynamic and step not in graph.after}
    texts = torch.from_numpy(np.ascontiguousarray(tokens[:count]))

    total: dict[int, torch.Tensor] = {}
    ends: dict[int, torch.Tensor] = {}

    def end(window: int, leaves: Values) -> None:
        ends[window] = propagate_noise(graph, leaves, window)

    sweep = Sweep(graph, texts.split(1), {}, end)

    def of_window(block: int, window: int) -> dict[int, torch.Tensor]:
        found: dict[int, torch.Tensor] = {}

        def keep(step: int, _: Any, gradient: torch.Tensor) -> None:
            tokens_apart = [axis for axis in range(gradient.ndim - 1) if gradient.shape[axis] == length]
            for axes in (list(range(gradient.ndim - 1)), tokens_apart):
                squares = gradient.square().sum(axes).reshape(-1)
                if len(squares) == channels[step]:
                    found[step] = squares
                    return

        sweep.back(block, window, tapped(inside, keep))
        logits = ends.pop(window, None)
        if logits is not None:
            found |= {step: logits for step in channels if step in graph.after and channels[step] == len(logits)}
        return found

    sweep.forward()
    for block in range(len(graph.blocks))[::-1]:
        graph.load(block)
        for first in range(0, count, cores()):
            windows_of = range(first, min(first + cores(), count))
            for found in in_threads(partial(of_window, block), windows_of):
                total |= {step: total[step] + squares if step in total else squares for step, squares in found.items()}
        sweep.leave(block)
    return {graph.steps[step].name: (squares / (count * length)).numpy() for step, squares in total.items()}


def shrunk(curvature: Curvature) -> Curvature:
    """Shrink both second moments towards multiples of the identity, by as much as few tokens make them uncertain.

    The share of the identity is the estimate of Ledoit and Wolf, "A well-conditioned estimator for large-dimensional
    covariance matrices" (2004): the variance of the mean of the tokens' terms, divided by the squared distance of that
    mean from the identity. The sum is not scaled down, since factors do not change what is rounded.
    """

    def one(moment: Array) -> Array:
        square, mean = float(np.einsum("ij,ij->", moment, moment, dtype=np.float64)), float(np.diagonal(moment).mean())
        variance = max(0.0, curvature.squares - square / curvature.tokens)
        distance = square - len(moment) * mean**2
        share = min(MOST_SHRUNK, variance / distance) if distance > 0 else MOST_SHRUNK
        moment = moment.copy()
        moment.flat[:: len(moment) + 1] += share / (1 - share) * mean
        return moment

    return curvature._replace(inputs=one(curvature.inputs), outputs=one(curvature.outputs))


def scaled(curvature: Curvature, columns: Array | None, rows: Array | None) -> Curvature:
    """Return the second moments of a weight whose columns are multiplied by [K] and rows divided by [R]; None: not."""
    inputs, outputs = curvature.inputs, curvature.outputs
    if columns is not None:
        inputs = inputs / np.outer(columns, columns)
    if rows is not None:
        outputs = outputs * np.outer(rows, rows)
    return curvature._replace(inputs=inputs, outputs=outputs)
