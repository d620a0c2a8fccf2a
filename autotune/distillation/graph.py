"""A causal language model's graph in torch: forward passes in which chosen constants are parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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


VIEWS = frozenset({"Assign", "Broadcast", "Convert", "ReadValue", "Reshape", "Result", "Split", "Squeeze", "Transpose"})
"""Operations whose outputs usually take no memory of their own."""


@dataclass(slots=True)
class Step:
    """One operation.

    Attributes:
        name: friendly name of the node.
        kind: its type.
        inputs: (number of a step, its output) for each input.
        apply: its torch function; None for constants and inputs of the model.
        last: steps whose outputs are not needed after this one.
    """

    name: str
    kind: str
    inputs: tuple[tuple[int, int], ...]
    apply: Operation | None
    last: tuple[int, ...] = ()


class Graph:
    """A model whose operations are computed in torch, for windows of one length.

    Operations that depend on neither tokens nor parameters are computed once.

    Attributes:
        steps: all operations in topological order.
        nodes: the nodes of the model, one for each step.
        hidden: the step whose output is the input of the last MatMul.
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
        self.hidden = self._hidden()
        self._parameters: tuple[int, ...] = ()
        self._constants: dict[int, Any] = {}
        self._length: tuple[int, int] = (0, 0)

    def _logits(self) -> int:
        results = [i for i, step in enumerate(self.steps) if step.kind == "Result"]
        named = [i for i in results if "logits" in self._names[self.steps[i].inputs[0][0]] + self._names[i]]
        if len(named or results) != 1:
            raise PlanError("distillation: the model has no output named logits; compress it without distillation")
        return (named or results)[0]

    def _hidden(self) -> int:
        dynamic = self.dependent([i for i, names in enumerate(self._names) if "input_ids" in names])
        index = self.result
        while self.steps[index].kind != "MatMul":
            before = [source for source, _ in self.steps[index].inputs if source in dynamic]
            if len(before) != 1:
                raise PlanError("distillation: the logits do not come from a MatMul; compress it without distillation")
            index = before[0]
        return next(source for source, _ in self.steps[index].inputs if source in dynamic)

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
        return self.dependent([i for i, names in enumerate(self._names) if "input_ids" in names])

    def constant(self, index: int) -> Tensor:
        """Return the values of a Constant."""
        return read_constant(self.nodes[index])

    def prepare(self, parameters: Mapping[int, Tensor], windows: int, length: int) -> None:
        """Compute everything that depends on neither tokens nor parameters.

        Args:
            parameters: values of the constants that are trained, by step.
            windows: windows of one forward pass.
            length: their tokens.
        """
        if self._length == (windows, length) and self._parameters == tuple(parameters):
            return
        self._length, self._parameters = (windows, length), tuple(parameters)
        variable = self.dependent(parameters) | self.dynamic
        needed = {self.result}
        for index in range(self.result, -1, -1):
            if index in needed:
                needed.update(source for source, _ in self.steps[index].inputs)
        after = self.dependent([self.hidden]) - {self.hidden}
        body = [i for i in sorted(variable & needed) if i not in after and self.steps[i].apply is not None]
        self._head = sorted(after & needed)
        read = {source for i in (*body, *self._head) for source, _ in self.steps[i].inputs}
        self._head_inputs = sorted(
            {source for i in self._head for source, _ in self.steps[i].inputs} & variable - after - {self.hidden}
        )
        self.chunkable = all(self.steps[i].kind in POINTWISE for i in self._head)
        kept = {self.hidden, *self._head_inputs}
        self._body = [(i, tuple(unused - kept)) for i, unused in self._last_uses(body, variable)]
        self._constants = self._evaluate(needed, read - variable, parameters, windows, length)

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
        """Run the whole graph once and return the outputs of the steps that are kept."""
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

    def keep_head(self) -> None:
        """Forget what only `body` needs; `prepare` computes it again."""
        read = {source for index in self._head for source, _ in self.steps[index].inputs}
        self._constants = {index: values for index, values in self._constants.items() if index in read}
        self._length = (0, 0)

    @property
    def width(self) -> int:
        """Channels of the input of the last MatMul."""
        return int(self.nodes[self.hidden].get_output_partial_shape(0)[2].get_length())

    @property
    def vocabulary(self) -> int:
        """Number of logits of a token."""
        return int(self.nodes[self.result].get_output_partial_shape(0)[2].get_length())

    def nbytes(self, tokens: int) -> tuple[int, int]:
        """Estimate memory from shapes: bytes of the constants, and of the activations for the gradient of `tokens`."""
        fixed = each = 0
        for index, (node, step) in enumerate(zip(self.nodes, self.steps, strict=True)):
            if step.kind == "Constant":
                fixed += 4 * int(np.prod(node.get_output_shape(0), dtype=np.int64))
            elif index in self.dynamic and step.kind not in VIEWS and step.apply is not None:
                shape = node.get_output_partial_shape(0)
                sizes = [dim.get_length() for dim in shape if dim.is_static] if shape.rank.is_static else []
                each += 4 * tokens * int(np.prod(sizes, dtype=np.int64))
        return fixed, each

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

    def body(
        self, tokens: Tensor, parameters: Mapping[int, Tensor], tap: Callable[[int, Any, Any], Any] | None = None
    ) -> dict[int, Tensor]:
        """Compute the input of the head, float32 [B, T, K], and what else the head needs of the parameters.

        Args:
            tokens: int64 [B, T], as prepared.
            parameters: values of the parameters, by step.
            tap: called with each step, its first input and its output; returns the output that the others read.
        """
        values: dict[int, Any] = {**self._constants, **parameters}
        for index, names in enumerate(self._names):
            if "input_ids" in names and self.steps[index].kind == "Parameter":
                values[index] = tokens
        for index, unused in self._body:
            values[index] = self._apply(self.steps[index], values)
            if tap is not None:
                values[index] = tap(index, values.get(self.steps[index].inputs[0][0]), values[index])
            for source in unused:
                values.pop(source, None)
        return {index: values[index] for index in (self.hidden, *self._head_inputs)}

    def head(self, given: Mapping[int, Tensor]) -> Tensor:
        """Compute logits, float32 [B, t, V], from the outputs of `body` for all tokens or some."""
        values: dict[int, Any] = {**self._constants, **given}
        for index in self._head:
            values[index] = self._apply(self.steps[index], values)
        logits: Tensor = values[self.result]
        return logits
