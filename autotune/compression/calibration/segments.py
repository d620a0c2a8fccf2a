"""Segments of a model that run one after the other, so that only one has to be in memory at a time.

A cut may lie anywhere between two operations: what was computed before it and is needed behind it is kept, and enters
the next segment as an input. In a decoder the cheapest places are between the layers, where only the residual stream
crosses. Masks, positions and all else that depends on no weight are computed in each segment instead of kept.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.compression.ir.constants import FLOAT_TYPES, type_name
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

BYTES_PER_ELEMENT = 4
"""Upper bound for a float weight in a compiled model."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a model between two cuts.

    Attributes:
        activations: ``name:port`` of the outputs that are looked at, computed in this segment.
        kept: ``name:port`` of what later segments need of this one.
    """

    activations: tuple[str, ...]
    kept: tuple[str, ...] = ()


def output_of(nodes: Mapping[str, ov.Node], name: str) -> ov.Output:
    """Return the output named ``name:port``."""
    node, _, port = name.rpartition(":")
    return nodes[node].output(int(port))


def cut(model: ov.Model, cost: Mapping[str, int], limit: int) -> list[Segment]:
    """Cut a model so that each segment stays under a limit where it can.

    The result depends on shapes alone, so every process cuts a model at the same places.

    Args:
        model: the model; not changed.
        cost: bytes that looking at an activation takes, by ``name:port``.
        limit: bytes for the weights of a segment and for its activations together.

    Returns:
        The segments in their order; every activation is in one of them.
    """
    steps = _steps(model, cost)
    widths = [None if step.crossing is None else sum(step.crossing.values()) for step in steps]
    ends = places_to_cut([step.nbytes for step in steps], widths, limit)
    segments = []
    crossed: set[str] = set()
    start = 0
    for end in (*ends, len(steps) - 1):
        crossing = steps[end].crossing or {} if end in ends else {}
        kept = tuple(name for name in crossing if name not in crossed)
        crossed.update(kept)
        segments.append(Segment(tuple(name for step in steps[start : end + 1] for name in step.activations), kept))
        start = end + 1
    return segments


def places_to_cut(nbytes: Sequence[int], widths: Sequence[int | None], limit: float) -> list[int]:
    """Choose the operations behind which a sequence of them is cut, so that each part stays under a limit if it can.

    Args:
        nbytes: memory of each operation.
        widths: elements that a cut behind each operation keeps; None where none may be made.
        limit: for the bytes of a part.
    """
    ends: list[int] = []
    position, used, best, narrowest = 0, 0, None, 0.0
    while position < len(nbytes):
        if used + nbytes[position] > limit and best is not None:
            ends.append(best)
            # Operations after the cut are counted again, for the next part.
            position, used, best = best + 1, 0, None
            continue
        used += nbytes[position]
        width = widths[position]
        # The last of the cheap places; shapes that cross as well do not matter.
        if width is not None and (best is None or width <= 1.1 * narrowest):
            narrowest = width if best is None else min(width, narrowest)
            best = position
        position += 1
    return ends


@dataclass(slots=True)
class _Step:
    """One operation.

    Attributes:
        nbytes: what it takes.
        activations: its outputs that are looked at.
        crossing: outputs that cross a cut right behind it, with their elements a token; None where none may be made.
    """

    nbytes: int
    activations: list[str]
    crossing: dict[str, int] | None = None


def _steps(model: ov.Model, cost: Mapping[str, int]) -> list[_Step]:
    """List the operations that the activations depend on, in topological order."""
    nodes = model.get_ordered_ops()
    names = Counter(node.get_friendly_name() for node in nodes)
    by_name = {node.get_friendly_name(): node for node in nodes}
    reached = _reached(nodes, [by_name[name.rpartition(":")[0]] for name in cost])
    position = {node.get_name(): index for index, node in enumerate(reached)}
    steps = [_Step(_constant_bytes(node), []) for node in reached]
    for name, nbytes in cost.items():
        step = steps[position[by_name[name.rpartition(":")[0]].get_name()]]
        step.nbytes += nbytes
        step.activations.append(name)
    live: dict[str, int] = {}
    last_use = _last_uses(reached)
    for index, node in enumerate(reached):
        for output in node.outputs():
            name = f"{node.get_friendly_name()}:{output.get_index()}"
            if last_use.get(name, -1) > index:
                live[name] = _elements(output)
        live = {name: elements for name, elements in live.items() if last_use[name] > index}
        if live and all(names[name.rpartition(":")[0]] == 1 for name in live):
            steps[index].crossing = dict(live)
    return steps


def _reached(nodes: Sequence[ov.Node], ends: Sequence[ov.Node]) -> list[ov.Node]:
    """Return the nodes that some of the ends depend on, and the ends."""
    needed: set[str] = set()
    pending = list(ends)
    while pending:
        node = pending.pop()
        if node.get_name() not in needed:
            needed.add(node.get_name())
            pending += [value.get_node() for value in node.input_values()]
    return [node for node in nodes if node.get_name() in needed]


def _last_uses(reached: Sequence[ov.Node]) -> dict[str, int]:
    """Position of the last operation that uses an output, for all outputs that are worth keeping.

    These depend on a weight and on an input. What depends on constants alone (a table read through Convert, Transpose
    or Multiply) belongs to every segment that reads it, as the constant itself does.
    """
    constant: set[str] = set()
    weights: set[str] = set()
    dependent: set[str] = set()
    last: dict[str, int] = {}
    for index, node in enumerate(reached):
        name = node.get_name()
        values = node.input_values()
        sources = [value.get_node().get_name() for value in values]
        if node.get_type_name() == "Constant" or (sources and constant.issuperset(sources)):
            constant.add(name)
            if _is_weight(node) or not weights.isdisjoint(sources):
                weights.add(name)
            continue
        for value, source in zip(values, sources, strict=True):
            if source in dependent:
                dependent.add(name)
                last[f"{value.get_node().get_friendly_name()}:{value.get_index()}"] = index
        if not weights.isdisjoint(sources):
            dependent.add(name)
    return last


def _constant_bytes(node: ov.Node) -> int:
    if node.get_type_name() != "Constant" or type_name(node) not in FLOAT_TYPES:
        return 0
    return BYTES_PER_ELEMENT * int(np.prod(node.get_output_shape(0), dtype=np.int64))


def _is_weight(node: ov.Node) -> bool:
    """Return True for a constant so large that what is computed with it is not worth computing again."""
    return _constant_bytes(node) > 1 << 12


def _elements(value: ov.Output) -> int:
    """Elements of an output for one token: dynamic dimensions count as one."""
    shape = value.get_partial_shape()
    if shape.rank.is_dynamic:
        return 1
    return int(np.prod([dim.get_length() for dim in shape if dim.is_static], dtype=np.int64))


def _is_float(output: ov.Output) -> bool:
    return bool(output.get_element_type().is_real())


def extract(
    model: ov.Model, segment: Segment, before: Sequence[str], heads: Callable[[ov.Output], list[ov.Output]]
) -> ov.Model:
    """Extract a model of one segment: its inputs are the model's own and the outputs kept by earlier segments.

    Args:
        model: the model; not changed, its constants are shared.
        segment: from `cut`.
        before: ``name:port`` of everything that earlier segments kept; what is needed of it is an input here, with
            that friendly name, float32 where it is a float.
        heads: called with an activation in the copy; gives the outputs wanted in its place.

    Returns:
        A model without states, for whole texts at a time: the heads of each activation in turn, then what is kept.
    """
    import openvino as ov
    from openvino import opset15 as ops

    copy = model.clone()
    nodes = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
    outputs = [head for name in segment.activations for head in heads(output_of(nodes, name))]
    for name in segment.kept:
        output = output_of(nodes, name)
        outputs.append(ops.convert(output, np.float32).output(0) if _is_float(output) else output)
    results = [ops.result(output) for output in outputs]
    for node in nodes.values():
        if node.get_type_name() == "ReadValue":
            _start_empty(node)
    parameters = list(copy.get_parameters())
    for name in before:
        output = output_of(nodes, name)
        targets = output.get_target_inputs()
        kept_type = ov.Type.f32 if _is_float(output) else output.get_element_type()
        parameter = ops.parameter(output.get_partial_shape(), kept_type)
        parameter.set_friendly_name(name)
        parameters.append(parameter)
        entry = ops.convert(parameter, output.get_element_type())
        for target in targets:
            target.replace_source_output(entry.output(0))
    ends = [result.input_value(0).get_node() for result in results]
    everything = ov.Model(results, parameters, "").get_ordered_ops()
    reached = {node.get_name() for node in _reached(everything, ends)}
    used = [parameter for parameter in parameters if parameter.get_name() in reached]
    return ov.Model(results, used, f"{model.get_friendly_name()}_segment")


def text_inputs(tokens: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs of a language model or encoder for whole windows, int64 [B, T], by name; caches are empty."""
    windows, length = tokens.shape
    return {
        "input_ids": tokens,
        "attention_mask": np.ones((windows, length), np.int64),
        "position_ids": np.tile(np.arange(length, dtype=np.int64), (windows, 1)),
        "beam_idx": np.arange(windows, dtype=np.int32),
        "cache_position": np.arange(length, dtype=np.int64),
        "token_type_ids": np.zeros((windows, length), np.int64),
    }


def _start_empty(read: ov.Node) -> None:
    """Replace the reading of a state (the key-value cache) by its initial value."""
    if not read.input_values():
        raise CompressionError(
            f"the state {read.get_attributes()['variable_id']} of the model has no initial value; export "
            "the model again with a current optimum-intel"
        )
    for target in read.output(0).get_target_inputs():
        target.replace_source_output(read.input_value(0))
