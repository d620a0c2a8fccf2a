"""Passes of many windows through the blocks of a graph, forward and back.

A block is loaded once for all windows. Between blocks, the activations of all windows are kept. On the way back each
block is computed again, with gradients, so that the activations inside are in memory for one block at a time. A graph
of one block is computed once. The bits do not depend on the blocks or the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from autotune.common.files import DAMAGE, read_tensors, write_tensors
from autotune.common.threads import cores
from autotune.distillation.graph import Graph

if TYPE_CHECKING:
    from torch import Tensor

SHARES = 64
"""Shares of windows whose activations between blocks are in memory at once where no gradients are computed."""

T = TypeVar("T")
Values = Mapping[int, Any]
"""Tensors by step."""


def in_threads(work: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
    """Map `work` over `items`, each on one thread; the bits do not depend on the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(cores(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(work, items))
    finally:
        torch.set_num_threads(before)


def forward(graph: Graph, texts: Sequence[Tensor], values: Values, end: Callable[[int, Values], T]) -> list[T]:
    """Run windows through all blocks, without gradients.

    Args:
        graph: prepared.
        texts: tokens of each share of windows, int64 [B, T].
        values: of the parameters, by step.
        end: called with the number of a share and the outputs of the last block; returns its result.
    """
    last = len(graph.blocks) - 1
    given: list[Values] = [{graph.tokens: text} for text in texts]
    found: list[T] = []

    def through(block: int, share: int) -> None:
        with torch.no_grad():
            given[share] = graph.run(block, given[share], values)

    def finish(share: int) -> T:
        through(last, share)
        outputs, given[share] = given[share], {}
        with torch.no_grad():
            return end(share, outputs)

    for first in range(0, len(texts), SHARES):
        some = range(first, min(first + SHARES, len(texts)))
        for block in range(last):
            graph.load(block)
            in_threads(partial(through, block), some)
        graph.load(last)
        found += in_threads(finish, some)
    return found


class Store:
    """Activations, gradients and other tensors, in memory or as files in a folder.

    Files that a killed process left in the folder are there again, unless they are damaged.
    """

    def __init__(self, folder: Path | None = None) -> None:
        """Open the folder, and delete its damaged and temporary files; None for memory."""
        self.folder = folder
        self._kept: dict[str, Values] = {}
        for path in [] if folder is None or not folder.is_dir() else sorted(folder.iterdir()):
            try:
                read_tensors(path)
            except DAMAGE:
                path.unlink()

    def has(self, name: str) -> bool:
        """Return True if tensors of this name were kept."""
        return name in self._kept if self.folder is None else (self.folder / name).is_file()

    def put(self, name: str, values: Values) -> None:
        """Keep tensors by step."""
        if self.folder is None:
            self._kept[name] = values
        else:
            arrays = {str(step): value.numpy() for step, value in values.items()}
            write_tensors(self.folder / name, arrays, durable=False)

    def get(self, name: str) -> Values:
        """Return tensors that were kept."""
        if self.folder is None:
            return self._kept[name]
        arrays = read_tensors(self.folder / name, mapped=False)
        return {int(step): torch.from_numpy(array.copy()) for step, array in arrays.items()}

    def drop(self, name: str) -> None:
        """Forget tensors, if there are any of this name."""
        self._kept.pop(name, None)
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)


class Sweep:
    """Gradients of shares of windows on their way back through the blocks.

    First `forward` is called once. Then, from the block that it returns to the first: the block is loaded, `back` is
    called for each share, on any thread and as often as the gradients in the block are wanted, and `leave` once.
    """

    def __init__(
        self,
        graph: Graph,
        texts: Sequence[Tensor],
        values: Values,
        end: Callable[[int, Values], None],
        store: Store | None = None,
    ) -> None:
        """Compute nothing yet.

        Args:
            graph: prepared.
            texts: tokens of each share of windows, int64 [B, T].
            values: of the parameters, by step.
            end: called with the number of a share and the outputs of the last block as leaves; adds gradients to them.
            store: keeps what passes between blocks, for graphs that are divided in the same way; None for memory.
        """
        self._graph, self._texts, self._values, self._end = graph, texts, values, end
        self._store = store or Store()

    def forward(self, block: int = 0, report: Callable[[int], None] = lambda block: None) -> int:
        """Compute what enters each block, unless the store has it.

        Args:
            block: the last one whose gradients are wanted.
            report: called with the number of a block that is computed.

        Returns:
            The block to start from on the way back: the last one, or one behind which the store has all gradients.
        """
        graph, last = self._graph, len(self._graph.blocks) - 1
        start = next((each for each in range(block, last) if not self._missing("gradients", each)), last)
        for number in range(start):
            if missing := self._missing("inputs", number + 1):
                report(number)
                graph.load(number)
                in_threads(partial(self._through, number), missing)
        return start

    def passed(self, block: int) -> int:
        """Return how many shares, the first ones, have passed back through a block already."""
        return min(self._missing("gradients", block - 1), default=len(self._texts)) if block else len(self._texts)

    def _missing(self, what: str, block: int) -> list[int]:
        return [share for share in range(len(self._texts)) if not self._store.has(f"{what}-{block}-{share}")]

    def _through(self, block: int, share: int) -> None:
        with torch.no_grad():
            found = self._graph.run(block, self._given(block, share), self._values)
        self._store.put(f"inputs-{block + 1}-{share}", found)

    def _given(self, block: int, share: int) -> Values:
        if block == 0:
            return {self._graph.tokens: self._texts[share]}
        return self._store.get(f"inputs-{block}-{share}")

    def back(self, block: int, share: int, tap: Callable[[int, Any, Any], Any] | None = None) -> dict[int, Tensor]:
        """Propagate the gradient of one share back through the block that is loaded.

        Args:
            block: its number.
            share: number of the share.
            tap: see `Graph.run`.

        Returns:
            Gradients of the values that the block reads, by step.
        """
        graph = self._graph
        given = {
            step: value.detach().requires_grad_(block > 0 and value.is_floating_point())
            for step, value in self._given(block, share).items()
        }
        leaves = {step: value.detach().requires_grad_() for step, value in self._values.items()}
        found = graph.run(block, given, leaves, tap)
        if block == len(graph.blocks) - 1:
            ends = {step: value.detach().requires_grad_(value.requires_grad) for step, value in found.items()}
            self._end(share, ends)
            gradients = {step: leaf.grad for step, leaf in ends.items() if leaf.grad is not None}
        else:
            gradients = dict(self._store.get(f"gradients-{block}-{share}"))
        outputs = [step for step in gradients if found[step].requires_grad]
        if outputs:
            torch.autograd.backward([found[step] for step in outputs], [gradients[step] for step in outputs])
        if block > 0:
            passed = {step: leaf.grad for step, leaf in given.items() if leaf.grad is not None}
            self._store.put(f"gradients-{block - 1}-{share}", passed)
        return {step: leaf.grad for step, leaf in leaves.items() if leaf.grad is not None}

    def leave(self, block: int) -> None:
        """Drop what only this block needs."""
        for share in range(len(self._texts)):
            self._store.drop(f"inputs-{block}-{share}")
            self._store.drop(f"gradients-{block}-{share}")
