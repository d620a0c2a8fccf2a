"""Groups of weights that can take a channel scale together, and the places where its inverse can be merged.

A channel scale c multiplies the input channels of every weight that reads an activation; the activation has to be
divided by c in turn. Going back from the activation to what it is made of, the division is free where it ends in
constants (a norm's gain and bias, the bias of a linear layer) and in output rows of other weights, and everything in
between commutes with it: products, sums, reshapes, attention on its way from the values to the output, the key-value
cache, ReLU. Every consumer of everything on the way is checked: nothing else may read what is divided.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from autotune.compression.algorithms.awq.propagation import FREE, STEPS, Labels, sliced_labels
from autotune.compression.ir.weights import Weight

if TYPE_CHECKING:
    import openvino as ov


@dataclass(frozen=True, slots=True, eq=False)
class Merge:
    """Constants and weights that take the inverse of a scale, so that no operation is inserted.

    Attributes:
        constants: name of a Constant -> channel whose scale divides each element, of the Constant's shape; -1 where
            an element stays.
        producers: name of a weight -> channel whose scale divides each of its output rows [R]; -1 where a row stays.
        shared: for each channel the first one that must have the same scale [K]: the heads of an attention that
            repeats its values read the same rows.
    """

    constants: Mapping[str, Labels]
    producers: Mapping[str, Labels]
    shared: Labels


@dataclass(frozen=True, slots=True, eq=False)
class ChannelGroup:
    """Weights that share an input.

    Attributes:
        activation: ``name:port`` of the input.
        weights: names of the weights that read it, each in one place only. Experts of one constant have one scale.
        width: its channels, K.
        merge: places of the inverse scale if all of `weights` are scaled; None if a Multiply is needed.
        experts: whether one of `weights` holds experts.
    """

    activation: str
    weights: tuple[str, ...]
    width: int
    merge: Merge | None = None
    experts: bool = False


def find_groups(model: ov.Model, weights: Sequence[Weight]) -> tuple[ChannelGroup, ...]:
    """Find all groups of a model, in topological order; every weight is in one group at most."""
    finder = _Finder(model, weights)
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    members: dict[str, list[tuple[Weight, ov.Output, ov.Input]]] = {}
    for weight in weights:
        (use,) = weight.uses if len(weight.uses) == 1 else (None,)
        if (
            use is None
            or use.kind != "matmul"
            or len(weight.shape) not in (2, 3)
            or not _features_last(nodes[use.node], use.port)
        ):
            continue
        edge = nodes[use.node].input(1 - use.port)
        source = edge.get_source_output()
        members.setdefault(f"{source.get_node().get_friendly_name()}:{source.get_index()}", []).append(
            (weight, source, edge)
        )
    groups = []
    for activation, found in members.items():
        if finder.names[activation.rpartition(":")[0]] > 1:
            continue  # its name is not unique
        width = found[0][0].columns
        merge = finder.merge(found[0][1], width, [edge for _, _, edge in found])
        names = tuple(weight.name for weight, _, _ in found)
        experts = any(len(weight.shape) == 3 for weight, _, _ in found)
        groups.append(ChannelGroup(activation, names, width, merge, experts))
    return tuple(groups)


def _features_last(node: ov.Node, port: int) -> bool:
    """Return True if the MatMul's other input has its channels on the last axis."""
    if node.get_type_name() == "GroupedMatMul":
        return True
    attributes = node.get_attributes()
    return not attributes["transpose_a"] if port == 1 else bool(attributes["transpose_b"])


Edge = tuple[str, int]


def _edge(target: ov.Input) -> Edge:
    # get_name() is unique in a model, a friendly name need not be.
    return target.get_node().get_name(), target.get_index()


@dataclass(slots=True)
class _Found:
    """The parts of one way of dividing an activation."""

    constants: dict[str, Labels] = field(default_factory=dict)
    producers: dict[str, Labels] = field(default_factory=dict)
    equal: list[tuple[Labels, Labels]] = field(default_factory=list)
    read: dict[str, Labels] = field(default_factory=dict)
    assigned: dict[str, Labels] = field(default_factory=dict)

    @classmethod
    def joined(cls, parts: Iterable[_Found]) -> _Found | None:
        """Join the parts; None if two divide the same thing in different ways."""
        whole = cls()
        for part in parts:
            for name in ("constants", "producers", "read", "assigned"):
                merged, own = getattr(whole, name), getattr(part, name)
                if any(key in merged and not np.array_equal(merged[key], own[key]) for key in own):
                    return None
                merged.update(own)
            whole.equal += part.equal
        return whole


class _Finder:
    def __init__(self, model: ov.Model, weights: Sequence[Weight]) -> None:
        self.names = Counter(node.get_friendly_name() for node in model.get_ordered_ops())
        self._by_node = {use.node: weight for weight in weights for use in weight.uses if use.kind == "matmul"}

    def merge(self, activation: ov.Output, width: int, edges: Sequence[ov.Input]) -> Merge | None:
        """Find the first way of dividing an activation that ends in constants and weights only."""
        rank = len(activation.get_partial_shape())
        labels = np.arange(width).reshape(*[1] * (rank - 1), width)
        for found in self._ways(activation, labels, {_edge(edge) for edge in edges}):
            states = found.read.keys() | found.assigned.keys()
            if all(np.array_equal(found.read.get(s, ()), found.assigned.get(s, ())) for s in states):
                return Merge(found.constants, found.producers, _classes(width, found.equal))
        return None

    def _ways(self, output: ov.Output, labels: Labels, by: set[Edge]) -> Iterator[_Found]:
        """Yield every way of dividing an output by the scales of its channels, if only the edges `by` use it."""
        if (labels == FREE).all():
            yield _Found()
            return
        assigned = self._assigned(output, labels, by)
        if assigned is None:
            return
        node = output.get_node()
        kind, name = node.get_type_name(), node.get_friendly_name()
        found = _Found(assigned=assigned)
        if kind == "Constant":
            shape = tuple(output.get_shape())
            if self.names[name] == 1 and _fits(labels, shape):
                found.constants[name] = np.broadcast_to(labels, shape)
                yield found
        elif kind == "ReadValue":
            if _starts_at_zero(node):
                found.read[node.get_attributes()["variable_id"]] = labels
                yield found
        elif name in self._by_node:
            weight = self._by_node[name]
            rows = labels.reshape(-1)
            if rows.size == labels.shape[-1] and _takes_rows(weight, rows.size):
                found.producers[weight.name] = np.tile(rows, weight.rows // rows.size)
                yield found
        elif kind in STEPS:
            for step in STEPS[kind](node, output.get_index(), labels):
                found.equal = step.equal
                demands = [
                    self._ways(node.input_value(port), input_labels, {(node.get_name(), port)})
                    for port, input_labels in step.inputs.items()
                ]
                for parts in product(*demands):
                    whole = _Found.joined((found, *parts))
                    if whole is not None:
                        yield whole

    def _assigned(self, output: ov.Output, labels: Labels, by: set[Edge]) -> dict[str, Labels] | None:
        """Return the states that keep an output; None if anything else but the edges `by` uses the divided channels."""
        states: dict[str, Labels] = {}
        for target in output.get_target_inputs():
            node = target.get_node()
            kind = node.get_type_name()
            if _edge(target) in by or kind == "ShapeOf":
                continue
            if kind == "Assign":
                states[node.get_attributes()["variable_id"]] = labels
                continue
            read = sliced_labels(node, labels) if kind == "Slice" and target.get_index() == 0 else None
            if read is None or (read != FREE).any():
                return None
        return states


def _fits(labels: Labels, shape: tuple[int, ...]) -> bool:
    """Return True if a constant has an element for each label."""
    return labels.ndim == len(shape) and all(have in (1, size) for have, size in zip(labels.shape, shape, strict=True))


def _takes_rows(weight: Weight, count: int) -> bool:
    """Return True if the outputs of a weight, or of each of its experts, are `count` channels on the last axis."""
    (use,) = weight.uses if len(weight.uses) == 1 else (None,)
    if use is None or use.port != 1 or len(weight.shape) not in (2, 3):
        return False
    return weight.shape[use.channel_axes[-1]] == count


def _starts_at_zero(read: ov.Node) -> bool:
    """Return True if a state's first value is empty or zero, so that a scale does not change it."""
    if read.get_input_size() == 0:
        return True
    node = read.input_value(0).get_node()
    while node.get_type_name() in ("Broadcast", "Convert"):
        node = node.input_value(0).get_node()
    return node.get_type_name() == "Constant" and not np.asarray(node.data).any()


def _classes(width: int, equal: Sequence[tuple[Labels, Labels]]) -> Labels:
    """Return for each channel the smallest one that must have the same scale."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [np.broadcast_arrays(*pair) for pair in equal]
    first = np.concatenate([np.arange(width), *(a.reshape(-1) for a, _ in pairs)])
    second = np.concatenate([np.arange(width), *(b.reshape(-1) for _, b in pairs)])
    kept = (first != FREE) & (second != FREE)
    links = coo_array((np.ones(kept.sum(), np.int8), (first[kept], second[kept])), shape=(width, width))
    _, component = connected_components(links, directed=False)
    smallest = np.full(width, width)
    np.minimum.at(smallest, component, np.arange(width))
    return np.asarray(smallest[component])
