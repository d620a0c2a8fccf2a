"""A causal language model's graph in torch: forward passes in which chosen constants are parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from autotune.compression.calibration.segments import text_inputs
from autotune.distillation.operations import Operation, operation, read_constant
from autotune.errors import PlanError

if TYPE_CHECKING:
    import openvino as ov
    from torch import Tensor

POINTWISE = frozenset({"Add", "Convert", "Divide", "MatMul", "Multiply", "Result", "Subtract", "Tanh"})
"""Operations behind the last MatMul that can be computed for some tokens at a time."""


@dataclass(slots=True)
class Step:
    """One operation.

    Attributes:
        name: friendly name of the node.
        kind: its type.
        inputs: (number of a step, its output) for each input.
        apply: its torch function; None for constants and inputs of the model.
    """

    name: str
    kind: str
    inputs: tuple[tuple[int, int], ...]
    apply: Operation | None


@dataclass(slots=True)
class Block:
    """Consecutive operations before the last MatMul.

    Attributes:
        steps: (number of a step, steps whose outputs are not needed after it), in topological order.
        outputs: steps that later blocks or the head need.
        constants: steps that are computed from constants when the block is loaded, and dropped with it.
    """

    steps: list[tuple[int, set[int]]]
    outputs: tuple[int, ...]
    constants: list[int] = field(default_factory=list)


class Graph:
    """A model whose operations are computed in torch, for windows of one length.

    Operations that depend on neither tokens nor parameters are computed once. If there are several blocks, those that
    depend on constants alone, such as dequantized weights, are in memory for one block at a time.

    Attributes:
        steps: all operations in topological order.
        nodes: the nodes of the model, one for each step.
        tokens: the step that is the input of tokens.
        hidden: the step whose output is the input of the last MatMul.
        blocks: the operations before the last MatMul, divided by `prepare`.
    """

    def __init__(self, model: ov.Model) -> None:
        """Translate the graph.

        Raises:
            PlanError: it has an operation or an input that is not supported.
        """
        self.nodes: list[ov.Node] = list(model.get_ordered_ops())
        position = {node.get_name(): index for index, node in enumerate(self.nodes)}
        self.steps = []
        for node in self.nodes:
            sources = [value.get_source_output() for value in node.inputs()]
            inputs = tuple((position[s.get_node().get_name()], s.get_index()) for s in sources)
            kind = node.get_type_name()
            apply = operation(node)
            if apply is None and kind not in ("Constant", "Parameter"):
                raise PlanError(
                    f"distillation: the model has the operation {kind} ({node.get_friendly_name()}), which training "
                    "does not support; compress it without distillation"
                )
            self.steps.append(Step(node.get_friendly_name(), kind, inputs, apply))
        self._names = [sorted(n.output(0).get_names()) if n.get_output_size() else [] for n in self.nodes]
        self.result = self._logits()
        self.tokens = next((i for i, names in enumerate(self._names) if "input_ids" in names), -1)
        self.hidden = self._hidden()
        self.blocks: list[Block] = []
        self._prepared: tuple[Any, ...] = ()
        self._constants: dict[int, Any] = {}
        self._loaded: tuple[int, dict[int, Any]] = (0, {})

    def _logits(self) -> int:
        results = [i for i, step in enumerate(self.steps) if step.kind == "Result"]
        named = [i for i in results if "logits" in self._names[self.steps[i].inputs[0][0]] + self._names[i]]
        if len(named or results) != 1:
            raise PlanError("distillation: the model has no output named logits; compress it without distillation")
        return (named or results)[0]

    def _hidden(self) -> int:
        index = self.result
        while self.steps[index].kind != "MatMul":
            before = [source for source, _ in self.steps[index].inputs if source in self.dynamic]
            if len(before) != 1:
                raise PlanError("distillation: the logits do not come from a MatMul; compress it without distillation")
            index = before[0]
        return next(source for source, _ in self.steps[index].inputs if source in self.dynamic)

    def dependent(self, starts: Iterable[int]) -> set[int]:
        """Return the steps whose values depend on these ones, themselves included; shapes do not count."""
        found = set(starts)
        for index, step in enumerate(self.steps):
            if step.kind != "ShapeOf" and any(source in found for source, _ in step.inputs):
                found.add(index)
        return found

    @cached_property
    def dynamic(self) -> set[int]:
        """The steps that depend on tokens."""
        return self.dependent([self.tokens])

    def constant(self, index: int) -> Tensor:
        """Return the values of a Constant."""
        return read_constant(self.nodes[index])

    @cached_property
    def needed(self) -> set[int]:
        """The steps that the logits depend on."""
        return self.sources({self.result}, range(len(self.steps)))

    @cached_property
    def after(self) -> set[int]:
        """The last MatMul and the steps that depend on it."""
        return self.dependent([self.hidden]) - {self.hidden}

    @cached_property
    def inside(self) -> list[int]:
        """The steps before the last MatMul that depend on tokens, in topological order."""
        return [i for i in sorted(self.dynamic & self.needed - self.after) if self.steps[i].apply is not None]

    def sources(self, ends: Iterable[int], among: Container[int]) -> set[int]:
        """Return the steps that some steps depend on by way of steps that are `among` these; those ends included."""
        found = {step for step in ends if step in among}
        pending = list(found)
        while pending:
            for source, _ in self.steps[pending.pop()].inputs:
                if source in among and source not in found:
                    found.add(source)
                    pending.append(source)
        return found

    def prepare(
        self,
        parameters: Mapping[int, Tensor],
        windows: int,
        length: int,
        parts: Sequence[Sequence[int]] = (),
    ) -> None:
        """Compute everything that depends on neither tokens nor parameters, and divide the graph into blocks.

        Args:
            parameters: values of the constants that are trained, by step.
            windows: windows of one forward pass.
            length: their tokens.
            parts: the steps of `inside`, divided into blocks; one block if empty.
        """
        parts = parts or [self.inside]
        prepared = (windows, length, tuple(parameters), tuple(map(tuple, parts)))
        if self._prepared == prepared:
            return
        self._prepared = prepared
        variable = self.dependent(parameters) | self.dynamic
        self._head = sorted(self.after & self.needed)
        self.chunkable = all(self.steps[i].kind in POINTWISE for i in self._head)
        of_head = {source for i in self._head for source, _ in self.steps[i].inputs}
        self._head_inputs = sorted(of_head & variable - self.after - {self.hidden})
        self._divide(parts, variable)
        read = {source for block in self.blocks for i, _ in block.steps for source, _ in self.steps[i].inputs}
        kept = (read | of_head) - variable
        if len(parts) > 1:
            fixed = self._fixed(parameters)
            for block in self.blocks:
                inputs = {source for i, _ in block.steps for source, _ in self.steps[i].inputs}
                block.constants = sorted(inputs & fixed)
            kept -= fixed - of_head
        self._loaded = (0, {}) if len(parts) == 1 else (-1, {})
        self._constants = self._evaluate(self.needed, kept, parameters, windows, length)

    def _fixed(self, parameters: Container[int]) -> set[int]:
        """Return the steps that depend on constants alone."""
        found: set[int] = set()
        for index, step in enumerate(self.steps):
            computed = step.apply is not None and step.inputs and all(source in found for source, _ in step.inputs)
            if computed or (step.kind == "Constant" and index not in parameters):
                found.add(index)
        return found

    def _divide(self, parts: Sequence[Sequence[int]], variable: Collection[int]) -> None:
        """Make a block of each part, with what else of the parameters it needs."""
        kept = {self.hidden, *self._head_inputs}
        last = {source: number for number, part in enumerate(parts) for i in part for source, _ in self.steps[i].inputs}
        last |= dict.fromkeys(kept, len(parts))
        outside = set(variable) - self.dynamic
        self.blocks, there = [], {self.tokens}
        for number, part in enumerate(parts):
            there.update(part)
            final = number == len(parts) - 1
            outputs = kept if final else {step for step in there if last.get(step, -1) > number}
            ends = {source for i in part for source, _ in self.steps[i].inputs} | (kept if final else set())
            order = sorted({*part, *(i for i in self.sources(ends, outside) if self.steps[i].apply is not None)})
            steps = [(i, unused - outputs) for i, unused in self._last_uses(order, variable)]
            self.blocks.append(Block(steps, tuple(sorted(outputs))))

    def _last_uses(self, order: Sequence[int], sources: Container[int]) -> Iterator[tuple[int, set[int]]]:
        """Yield each of these steps with the sources that no later one of them reads."""
        last: dict[int, int] = {}
        for index in order:
            last.update({source: index for source, _ in self.steps[index].inputs if source in sources})
        unused: dict[int, set[int]] = {}
        for source, index in last.items():
            unused.setdefault(index, set()).add(source)
        for index in order:
            yield index, unused.get(index, set())

    def _evaluate(
        self, needed: Collection[int], kept: Container[int], parameters: Mapping[int, Tensor], windows: int, length: int
    ) -> dict[int, Any]:
        """Run some steps once and return the outputs of those that are kept."""
        values: dict[int, Any] = dict(parameters)
        inputs = text_inputs(np.zeros((windows, length), np.int64))
        with torch.no_grad():
            for index, unused in self._last_uses(sorted(needed), needed):
                step = self.steps[index]
                if step.kind == "Parameter":
                    values[index] = self._input(index, inputs)
                elif step.kind == "Constant" and index not in parameters:
                    values[index] = self.constant(index)
                elif step.apply is not None:
                    values[index] = self._apply(step, values)
                for source in unused:
                    if source not in kept:
                        del values[source]
        return {index: value for index, value in values.items() if index in kept}

    def load(self, number: int) -> None:
        """Compute the constants of a block, and drop those of the one before."""
        if self._loaded[0] != number:
            self._loaded = (-1, {})
            kept = self.blocks[number].constants
            needed = self.sources(kept, range(len(self.steps)))
            self._loaded = (number, self._evaluate(needed, kept, {}, 1, 1))

    def keep_head(self) -> None:
        """Forget what only `run` needs; `prepare` computes it again."""
        read = {source for index in self._head for source, _ in self.steps[index].inputs}
        self._constants = {index: values for index, values in self._constants.items() if index in read}
        self._prepared, self._loaded = (), (-1, {})

    @property
    def width(self) -> int:
        """Channels of the input of the last MatMul."""
        return int(self.nodes[self.hidden].get_output_partial_shape(0)[2].get_length())

    @property
    def vocabulary(self) -> int:
        """Number of logits of a token."""
        return int(self.nodes[self.result].get_output_partial_shape(0)[2].get_length())

    def _input(self, index: int, inputs: Mapping[str, Any]) -> Tensor:
        name = next((name for name in self._names[index] if name in inputs), None)
        if name is None:
            raise PlanError(
                f"distillation: the model has an input named {self.steps[index].name}, which a text-only causal "
                "language model does not have; compress it without distillation"
            )
        return torch.from_numpy(inputs[name]).to(torch.int64)

    def _apply(self, step: Step, values: Mapping[int, Any]) -> Any:
        given = [values[i][port] if isinstance(values[i], (tuple, list)) else values[i] for i, port in step.inputs]
        assert step.apply is not None
        return step.apply(*given)

    def run(
        self,
        number: int,
        given: Mapping[int, Any],
        parameters: Mapping[int, Tensor],
        tap: Callable[[int, Any, Any], Any] | None = None,
    ) -> dict[int, Tensor]:
        """Run the block that is loaded.

        Args:
            number: of the block.
            given: the tokens, int64 [B, T], as prepared, by their step for the first block; then the outputs of the one
                before.
            parameters: values of the parameters, by step.
            tap: called with each step, its first input and its output; returns the output that the others read.

        Returns:
            Outputs by step. The last block's are the input of the head, float32 [B, T, K], and what else of the
            parameters the head needs.
        """
        block = self.blocks[number]
        assert self._loaded[0] == number
        values: dict[int, Any] = {**self._constants, **self._loaded[1], **parameters, **given}
        for index, unused in block.steps:
            values[index] = self._apply(self.steps[index], values)
            if tap is not None:
                values[index] = tap(index, values.get(self.steps[index].inputs[0][0]), values[index])
            for source in unused:
                values.pop(source, None)
        return {index: values[index] for index in block.outputs}

    def head(self, given: Mapping[int, Tensor]) -> Tensor:
        """Compute logits, float32 [B, t, V], from the outputs of the last block for all tokens or some."""
        values: dict[int, Any] = {**self._constants, **given}
        for index in self._head:
            values[index] = self._apply(self.steps[index], values)
        logits: Tensor = values[self.result]
        return logits
