"""Training of a compressed model's constants on KL(original || compressed), token by token.

A step computes the gradient of a batch of windows. Windows are divided into shares of fixed size that run in parallel,
one thread each, and the gradients are added in their order: the bits do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autotune.distillation.blocks import prepare
from autotune.distillation.graph import Graph
from autotune.distillation.parameters import Trainable
from autotune.distillation.sweeps import Sweep, Values, forward, in_threads

if TYPE_CHECKING:
    import numpy.typing as npt
    from torch import Tensor

SHARE_TOKENS = 256
"""Tokens of a share, at least one window."""

LOGITS_BYTES = 32 << 20
"""Limit on the float32 logits that a thread computes at a time."""


class Divergence(torch.autograd.Function):  # type: ignore[misc]
    """KL(reference || logits) of each token, with the gradient by the logits computed in the same pass."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, reference: Tensor) -> Tensor:
        """Compute the divergence, float32 [...], of logits [..., V]."""
        q, r = logits.log_softmax(-1), reference.log_softmax(-1)
        p = r.exp()
        divergence = (p * (r - q)).sum(-1)
        ctx.save_for_backward(q.exp_().sub_(p))
        return divergence

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Scale the gradient by the one of each token."""
        (difference,) = ctx.saved_tensors
        return difference * gradients[0][..., None], None


class Student:
    """A compressed model with trainable constants, and the original's answers that it is compared with.

    Attributes:
        size: numbers in all trained constants.
        share: windows that run on one thread at a time.
        windows: windows that are used, a multiple of `share`.
        length: tokens of a window.
    """

    def __init__(
        self,
        original: Graph,
        graph: Graph,
        trainables: Sequence[Trainable],
        tokens: Tensor,
        limit: float = math.inf,
    ) -> None:
        """Compute nothing yet; see `prepare`.

        Args:
            original: graph of the model before compression.
            graph: of the compressed model.
            trainables: its trained constants.
            tokens: int64 [n, T].
            limit: bytes of a block of the graphs.
        """
        self._original, self._graph, self._trainables, self._limit = original, graph, trainables, limit
        self._sizes = [trainable.start.numel() for trainable in trainables]
        self.size = sum(self._sizes)
        self.length = int(tokens.shape[1])
        self.share = max(1, SHARE_TOKENS // self.length)
        self.windows = len(tokens) // self.share * self.share
        self._tokens = tokens[: self.windows]
        self._hidden = torch.empty(0)

    def prepare(self) -> None:
        """Compute the original's activations before its last MatMul on all windows."""
        with torch.no_grad():
            values = self._values(torch.zeros(self.size))
            prepare(self._graph, values, self.share, self.length, self._limit)
            prepare(self._original, {}, self.share, self.length, self._limit)
        self._hidden = torch.empty(self.windows, self.length, self._original.width)
        shares = self._shares()

        def keep(share: int, given: Values) -> None:
            self._hidden[shares[share]] = given[self._original.hidden]

        forward(self._original, [self._tokens[share] for share in shares], {}, keep)
        self._original.keep_head()

    def _shares(self, windows: Sequence[int] | None = None) -> list[list[int]]:
        chosen = range(self.windows) if windows is None else windows
        return [list(chosen[i : i + self.share]) for i in range(0, len(chosen), self.share)]

    def _values(self, deltas: Tensor) -> dict[int, Tensor]:
        """Return the values of all trained constants, by step."""
        found = {}
        for trainable, delta in zip(self._trainables, deltas.split(self._sizes), strict=True):
            value = trainable.value(delta)
            for step in trainable.steps:
                found[step] = value.view(list(self._graph.nodes[step].get_output_shape(0)))
        return found

    def stored(self, deltas: Tensor) -> list[npt.NDArray[np.generic]]:
        """Return the new bytes of all trained constants for changes float32 [size]."""
        return [t.stored(delta) for t, delta in zip(self._trainables, deltas.split(self._sizes), strict=True)]

    def divergences(self, deltas: Tensor, windows: Sequence[int]) -> npt.NDArray[np.float64]:
        """Compute the mean divergence of each of these windows, a multiple of `share`, for changes float32 [size]."""
        shares = self._shares(windows)
        with torch.no_grad():
            values = self._values(deltas)
        texts = [self._tokens[share] for share in shares]
        found = forward(self._graph, texts, values, lambda share, given: self._divergence(shares[share], given))
        return np.concatenate([each.double().numpy() for each in found])

    def gradient(self, deltas: Tensor, windows: Sequence[int]) -> Tensor:
        """Compute the gradient of the mean divergence of these windows, float32 [size]."""
        shares = self._shares(windows)
        leaf = deltas.detach().clone().requires_grad_()
        values = self._values(leaf)

        def end(share: int, leaves: Values) -> None:
            self._divergence(shares[share], leaves)

        sweep = Sweep(self._graph, [self._tokens[share] for share in shares], values, end)
        sweep.forward()
        total: dict[int, Tensor] = {}
        for block in range(len(self._graph.blocks))[::-1]:
            self._graph.load(block)
            for found in in_threads(partial(sweep.back, block), range(len(shares))):
                for step, gradient in found.items():
                    total[step] = total[step].add_(gradient) if step in total else gradient
            sweep.leave(block)
        torch.autograd.backward([values[step] for step in total], list(total.values()))
        assert leaf.grad is not None
        return leaf.grad / len(windows)

    def _divergence(self, windows: Sequence[int], leaves: Values) -> Tensor:
        """Compute the mean divergence of some windows; if gradients are enabled, add that of their sum to the leaves.

        The head runs for some tokens at a time, forward and backward, so that few logits are in memory.
        """
        graph, reference, trained = self._graph, self._original, torch.is_grad_enabled()
        hidden, total = self._hidden[windows], torch.zeros(len(windows))
        chunk = self._chunk()
        for start in range(0, self.length, chunk):
            part = slice(start, start + chunk)
            with torch.no_grad():
                answers = reference.head({reference.hidden: hidden[:, part]})
            logits = graph.head({**leaves, graph.hidden: leaves[graph.hidden][:, part]})
            found = Divergence.apply(logits, answers).sum(-1) / self.length
            total += found.detach()
            if trained:
                found.sum().backward()
        return total

    def _chunk(self) -> int:
        """Choose the tokens of each window whose logits are computed at a time."""
        if not (self._graph.chunkable and self._original.chunkable):
            return self.length
        return max(1, min(self.length, LOGITS_BYTES // (4 * self._original.vocabulary * self.share)))


@dataclass
class State:
    """The state of a training, all of it: a run that continues from it ends with the same bytes.

    Attributes:
        step: steps done.
        deltas: changes of all constants, float32 [size].
        mean, square: Adam's moments of the gradient.
        best: the changes with the least divergence on the held-out windows so far.
        held_out: divergence of each held-out window, float64: at the start, and with `best`.
    """

    step: int
    deltas: Tensor
    mean: Tensor
    square: Tensor
    best: Tensor
    held_out: npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Recipe:
    """Length and speed of a training.

    Attributes:
        most_tokens: tokens of all steps, repeated ones included.
        epochs: most passes over the training windows.
        batch_tokens: least and most tokens of a step.
        steps: as many as possible up to this number, by smaller batches.
        rate: largest learning rate, in relative changes of a step.
        checks: how often the held-out windows are scored.
    """

    most_tokens: int = 200_000
    epochs: int = 8
    batch_tokens: tuple[int, int] = (512, 2048)
    steps: int = 100
    rate: float = 1e-3
    checks: int = 8

    def tokens(self, distinct: int) -> int:
        """Return the tokens of all steps where the training windows have so many distinct ones."""
        return min(self.most_tokens, self.epochs * distinct)


def train(
    student: Student,
    windows: Sequence[int],
    held_out: Sequence[int],
    recipe: Recipe,
    state: State | None = None,
    report: Callable[[State, int], None] = lambda state, steps: None,
) -> State:
    """Train by Adam, with a learning rate that falls as a cosine; keep the changes that are best on held-out windows.

    Args:
        student: prepared with all windows.
        windows, held_out: numbers of the windows.
        recipe: length and rates.
        state: continue from here.
        report: called after each step with the state and the number of steps in all.
    """
    total = recipe.tokens(len(windows) * student.length)
    least, most = recipe.batch_tokens
    batch_tokens = max(least, min(most, total // recipe.steps))
    shares = min(len(windows) // student.share, max(1, batch_tokens // (student.share * student.length)))
    batch = shares * student.share
    per_epoch = len(windows) // batch
    steps = max(1, total // (batch * student.length))
    checks = {round(steps * (i + 1) / recipe.checks) for i in range(recipe.checks)}
    if state is None:
        zeros = torch.zeros(student.size)
        first = student.divergences(zeros, held_out)
        state = State(0, zeros, zeros.clone(), zeros.clone(), zeros.clone(), np.stack([first, first]))
    while state.step < steps:
        epoch, position = divmod(state.step, per_epoch)
        order = np.random.default_rng([0, epoch]).permutation(len(windows))
        chosen = sorted(windows[i] for i in order[position * batch : (position + 1) * batch])
        gradient = student.gradient(state.deltas, chosen)
        _adam(state, gradient, recipe.rate * _share_of_rate(state.step, steps))
        state.step += 1
        if state.step in checks:
            now = student.divergences(state.deltas, held_out)
            if now.mean() < state.held_out[1].mean():
                state.held_out[1] = now
                state.best = state.deltas.clone()
        report(state, steps)
    return state


def _share_of_rate(step: int, steps: int) -> float:
    warm_up = min(20, max(1, steps // 5))
    return min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _adam(state: State, gradient: Tensor, rate: float) -> None:
    """Change the state by one step of Adam (Kingma and Ba, 2015) with moments of 0.9 and 0.99."""
    first, second = 0.9, 0.99
    state.mean.mul_(first).add_(gradient, alpha=1 - first)
    state.square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
    count = state.step + 1
    root = (state.square / (1 - second**count)).sqrt_().add_(1e-12)
    state.deltas.addcdiv_(state.mean, root, value=-rate / (1 - first**count))


def is_better(held_out: npt.NDArray[np.float64], confidence: float) -> bool:
    """Return True if the second row of divergences is below the first by so many standard errors of the difference."""
    gain = held_out[0] - held_out[1]
    return bool(gain.mean() > confidence * gain.std(ddof=1) / math.sqrt(len(gain)))
