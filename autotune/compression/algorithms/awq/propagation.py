"""Propagation of a channel scale: rules that move the division of an operation's output to its inputs.

An output's channels are given as *labels*: an integer array of the output's rank, of size 1 along axes that all
elements share (and along those whose size is not known), that says which channel's scale divides an element; `FREE`
where nothing does. A step turns the labels of an output into those that inputs must have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import openvino as ov

Labels = npt.NDArray[np.int64]

FREE = -1


@dataclass(frozen=True, slots=True)
class Step:
    """One way to divide an operation's output.

    Attributes:
        inputs: port -> labels; the output is divided where all of these inputs are.
        equal: pairs of labels whose scales must be equal, element by element.
    """

    inputs: Mapping[int, Labels]
    equal: list[tuple[Labels, Labels]] = field(default_factory=list)


Steps = Callable[["ov.Node", int, Labels], Iterator[Step]]


def _sizes(output: ov.Output) -> tuple[int | None, ...]:
    """Return the shape, with None for unknown sizes."""
    shape = output.get_partial_shape()
    return tuple(d.get_length() if d.is_static else None for d in shape) if shape.rank.is_static else ()


def _constant(node: ov.Node, port: int) -> npt.NDArray[np.int64] | None:
    """Return the integers of a constant input, or None."""
    source = node.input_value(port).get_node()
    return np.asarray(source.data).reshape(-1).astype(np.int64) if source.get_type_name() == "Constant" else None


def _spread(labels: Labels, sizes: Sequence[int | None]) -> Step | None:
    """Labels of an input of these sizes that NumPy's rules broadcast to the output; as input 0 of a `Step`.

    One element that becomes many has one scale, so the many must have equal ones.
    """
    surplus = labels.ndim - len(sizes)
    if surplus < 0:
        return None
    repeated = (*range(surplus), *(surplus + axis for axis, size in enumerate(sizes) if size == 1))
    first = labels[tuple(slice(0, 1) if axis in repeated else slice(None) for axis in range(labels.ndim))]
    equal = [] if first.shape == labels.shape else [(labels, first)]
    return Step({0: first.reshape(first.shape[surplus:])}, equal)


def _own(labels: Labels, sizes: Sequence[int | None]) -> Labels | None:
    """As `_spread`, for an input that has an element for each label; None where it has not."""
    step = _spread(labels, sizes)
    return None if step is None or step.equal else step.inputs[0]


def _same(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    """f(x / c) = f(x) / c for c > 0."""
    yield Step({0: labels})


def _conversion(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    if node.get_output_element_type(0).is_real():
        yield Step({0: labels})


def _product(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    """Divide one factor, preferably a constant."""
    ports = sorted((0, 1), key=lambda port: not _is_constant(node.input_value(port)))
    for port in ports:
        input_labels = _own(labels, _sizes(node.input_value(port)))
        if input_labels is not None:
            yield Step({port: input_labels})


def _is_constant(output: ov.Output) -> bool:
    node = output.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")


def _quotient(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    input_labels = _own(labels, _sizes(node.input_value(0)))
    if input_labels is not None:
        yield Step({0: input_labels})


def _sum(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    input_labels = [_own(labels, _sizes(node.input_value(port))) for port in (0, 1)]
    if input_labels[0] is not None and input_labels[1] is not None:
        yield Step({0: input_labels[0], 1: input_labels[1]})


def _reshape(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    before, after = _sizes(node.input_value(0)), _sizes(node.output(0))
    if not before or not after:
        return
    if after[-1] is None and labels.shape[-1] > 1:  # [batch, tokens, -1], as long as the weight that reads it
        after = (*after[:-1], labels.shape[-1])
    if None not in (*before, *after):
        yield Step({0: _regrouped([size or 0 for size in before], [size or 0 for size in after], labels)})
        return
    # Dimensions after the last unknown size keep their order.
    tail_before, tail_after = _tail(before), _tail(after)
    own = labels.shape[labels.ndim - len(tail_after) :]
    if labels.size == np.prod(own, dtype=np.int64):
        tail = np.broadcast_to(labels.reshape(own), tail_after)
        while tail_before and np.prod(tail_before) > tail.size:
            tail_before = tail_before[1:]
        if np.prod(tail_before) == tail.size:
            yield Step({0: tail.reshape(*[1] * (len(before) - len(tail_before)), *tail_before)})
            return
    # Unknown sizes (batch, tokens) stay where they are, and the known ones between two of them are regrouped.
    if _segments(before) == _segments(after):
        full = np.broadcast_to(labels, [size or 1 for size in after])
        yield Step({0: full.reshape([size or 1 for size in before])})


def _regrouped(before: Sequence[int], after: Sequence[int], labels: Labels) -> Labels:
    """Labels through a reshape of known sizes: runs of axes that hold the same elements, each for itself.

    A run whose elements share their labels stays of size 1; so tokens and heads are distinguished.
    """
    pieces: list[tuple[int, ...]] = []
    kept: list[tuple[int, ...]] = []
    old = new = 0
    while old < len(before) or new < len(after):
        ends = [min(old + 1, len(before)), min(new + 1, len(after))]
        while True:
            products = (np.prod(before[old : ends[0]]), np.prod(after[new : ends[1]]))
            if products[0] == products[1]:
                break
            ends[int(products[0] > products[1])] += 1
        have = labels.shape[new : ends[1]]
        whole = all(size == 1 for size in have)
        kept.append(have if whole else tuple(after[new : ends[1]]))
        pieces.append((1,) * (ends[0] - old) if whole else tuple(before[old : ends[0]]))
        old, new = ends
    full = np.broadcast_to(labels, tuple(size for run in kept for size in run))
    return full.reshape(tuple(size for run in pieces for size in run))


def _tail(sizes: Sequence[int | None]) -> tuple[int, ...]:
    """Return the known sizes after the last unknown one."""
    tail: list[int] = []
    for size in sizes:
        if size is None:
            tail.clear()
        else:
            tail.append(size)
    return tuple(tail)


def _segments(sizes: Sequence[int | None]) -> list[int]:
    """Products of the known sizes between the unknown ones."""
    products = [1]
    for size in sizes:
        if size is None:
            products.append(1)
        else:
            products[-1] *= size
    return products


def _transpose(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    order = _constant(node, 1)
    if order is not None and len(order) == labels.ndim:
        yield Step({0: labels.transpose(np.argsort(order))})


def _repetition(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    """Broadcast and Tile, where only axes of size 1 grow."""
    before, after = _sizes(node.input_value(0)), _sizes(node.output(0))
    if node.get_attributes().get("mode", "numpy") not in ("numpy", "bidirectional"):
        return
    axes = zip(reversed(before), reversed(after), reversed(labels.shape), strict=False)
    step = _spread(labels, before)
    if before and step is not None and all(old in (1, new) or have == 1 for old, new, have in axes):
        yield step


def _attention(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    """Softmax(Q K) V is linear in V, and mixes its tokens, but no channels and no heads."""
    step = _spread(labels, _sizes(node.input_value(2)))
    if labels.ndim >= 2 and labels.shape[-2] == 1 and step is not None:
        yield Step({2: step.inputs[0]}, step.equal)


def _mixing(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    """Divide V in a product P V of two activations that mixes tokens."""
    sizes = _sizes(node.input_value(1))
    if labels.ndim < 2 or labels.shape[-2] != 1 or len(sizes) != labels.ndim:
        return
    transposed = node.get_attributes()["transpose_b"]
    if transposed:
        sizes = (*sizes[:-2], sizes[-1], sizes[-2])
    step = _spread(labels, sizes)
    if step is not None:
        input_labels = step.inputs[0]
        yield Step({1: input_labels.swapaxes(-1, -2) if transposed else input_labels}, step.equal)


def _split(node: ov.Node, index: int, labels: Labels) -> Iterator[Step]:
    """Divide one part; the others do not change."""
    axis = _constant(node, 1)
    widths = [_sizes(node.output(i)) for i in range(node.get_output_size())]
    if axis is None or any(not sizes or sizes[axis[0]] is None for sizes in widths):
        return
    parts = [np.full(_resized(labels, axis[0], sizes[axis[0]]), FREE) for sizes in widths]
    parts[index] = np.broadcast_to(labels, parts[index].shape)
    yield Step({0: np.concatenate(parts, axis=axis[0])})


def _resized(labels: Labels, axis: int, size: int | None) -> tuple[int, ...]:
    shape = list(labels.shape)
    shape[axis] = size or 1
    return tuple(shape)


def _slices(node: ov.Node) -> list[slice] | None:
    """Return the slice of each axis that a Slice takes of its input."""
    sizes = _sizes(node.input_value(0))
    values = [_constant(node, port) for port in range(1, node.get_input_size())]
    if not sizes or any(value is None for value in values):
        return None
    start, stop, step, *axes = (value for value in values if value is not None)
    taken = [slice(None)] * len(sizes)
    for position, axis in enumerate(axes[0] if axes else range(len(start))):
        taken[axis] = slice(int(start[position]), int(stop[position]), int(step[position]))
    return taken if (step > 0).all() else None


def sliced_labels(node: ov.Node, labels: Labels) -> Labels | None:
    """Apply a Slice to the labels of its input; None if the slice is not constant."""
    taken = _slices(node)
    if taken is None:
        return None
    return labels[tuple(slice(None) if size == 1 else part for size, part in zip(labels.shape, taken, strict=True))]


def _slice(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    taken, sizes = _slices(node), _sizes(node.input_value(0))
    if taken is None:
        return
    # Along an axis of unknown size (tokens) all labels are equal, and what is left out may be divided as well.
    whole = [slice(None) if size is None else part for size, part in zip(sizes, taken, strict=True)]
    cut = [size is not None and part != slice(None) for size, part in zip(sizes, taken, strict=True)]
    shape = [size if c else have for size, c, have in zip(sizes, cut, labels.shape, strict=True)]
    input_labels = np.full([size or 1 for size in shape], FREE)
    input_labels[tuple(part if c else slice(None) for part, c in zip(whole, cut, strict=True))] = labels
    yield Step({0: input_labels})


def _lookup(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    """Divide the data of a Gather that reorders the batch (of the key-value cache, for beam search)."""
    axis, indices = _constant(node, 2), _sizes(node.input_value(1))
    if axis is not None and len(indices) == 1 and labels.shape[axis[0]] == 1:
        yield Step({0: labels})


def _concatenation(node: ov.Node, _: int, labels: Labels) -> Iterator[Step]:
    axis = node.get_attributes()["axis"]
    count = node.get_input_size()
    if labels.shape[axis] == 1:
        yield Step(dict.fromkeys(range(count), labels))
        return
    widths = [_sizes(node.input_value(port))[axis] for port in range(count)]
    if None not in widths:
        ends = np.cumsum([width or 0 for width in widths])[:-1]
        yield Step(dict(enumerate(np.split(labels, ends, axis=axis))))


STEPS: Mapping[str, Steps] = {
    "Convert": _conversion,
    "Relu": _same,
    "PRelu": _same,
    "Multiply": _product,
    "Divide": _quotient,
    "Add": _sum,
    "Subtract": _sum,
    "Reshape": _reshape,
    "Squeeze": _reshape,
    "Unsqueeze": _reshape,
    "Transpose": _transpose,
    "Broadcast": _repetition,
    "Tile": _repetition,
    "ScaledDotProductAttention": _attention,
    "MatMul": _mixing,
    "VariadicSplit": _split,
    "Split": _split,
    "Slice": _slice,
    "Gather": _lookup,
    "Concat": _concatenation,
}
"""Operations that a division by positive numbers passes through."""
