"""Finds the weights of an `ov.Model`: the constants that compression may change, and who uses them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from autotune.compression.arrays import FLOAT_TYPES, type_name
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["Kind", "Use", "Weight", "find_weights", "rows_to_shape", "rows_view"]

Kind = Literal["matmul", "embedding", "convolution"]

_CONVOLUTION_CHANNEL_AXES = {
    "Convolution": (0,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolution": (0, 1),
    "GroupConvolutionBackpropData": (0, 2),
}
_ROTARY = {"Sin", "Cos"}
_TRANSPARENT_TO_ROTARY = {"Transpose", "Concat"}


@dataclass(frozen=True, slots=True)
class Use:
    """One operation that uses a weight.

    Attributes:
        node: friendly name of the operation.
        port: its input port that the weight feeds (through Converts).
        kind: what the operation is.
        channel_axes: axes of the constant with one scale each.
        reduction_axes: the other axes: those that the operation sums over.
        activation: ``name:port`` of the output that feeds the other side of a MatMul, where that is
            [batch, tokens, channels]; None for everything that activation-aware methods cannot look at.
    """

    node: str
    port: int
    kind: Kind
    channel_axes: tuple[int, ...]
    reduction_axes: tuple[int, ...]
    activation: str | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """A compressible constant. The first use in topological order fixes axes and kind, as in NNCF.

    Attributes:
        name: friendly name of the Constant.
        shape: its shape.
        element_type: storage type, e.g. ``f16``.
        uses: all operations that use it; more than one where it is tied.
        is_last: it belongs to the last MatMul of the model, usually the language model's head.
    """

    name: str
    shape: tuple[int, ...]
    element_type: str
    uses: tuple[Use, ...]
    is_last: bool = field(default=False)

    @property
    def kind(self) -> Kind:
        """What the first use is."""
        return self.uses[0].kind

    @property
    def size(self) -> int:
        """Number of elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def reduction_axes(self) -> tuple[int, ...]:
        """Axes that the first use sums over."""
        return self.uses[0].reduction_axes

    @property
    def columns(self) -> int:
        """Elements that one output channel sums over, K."""
        return int(np.prod([self.shape[axis] for axis in self.reduction_axes], dtype=np.int64))

    @property
    def rows(self) -> int:
        """Output channels (times leading axes), R."""
        return self.size // self.columns

    @property
    def can_group(self) -> bool:
        """Whether a group of consecutive input channels can share a scale (a single reduction axis)."""
        return self.kind != "convolution" and len(self.reduction_axes) == 1

    @property
    def activations(self) -> tuple[str, ...]:
        """The outputs that feed its MatMuls, without repetition."""
        return tuple(dict.fromkeys(use.activation for use in self.uses if use.activation is not None))


def rows_view(values: npt.NDArray[Any], weight: Weight) -> npt.NDArray[Any]:
    """The weight as [R, K]: reduction axes last (a view where the layout allows it)."""
    reduction = weight.reduction_axes
    last = tuple(range(-len(reduction), 0))
    return np.moveaxis(values, reduction, last).reshape(weight.rows, weight.columns)


def rows_to_shape(rows: npt.NDArray[Any], weight: Weight) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Put [R, G, g] back into the constant's own axis order.

    With one group a row (G == 1, or several reduction axes) the result has the constant's shape (g == K) or ones on
    its reduction axes (g == 1, a scale); with several groups the reduction axis is split in place into (G, g), as
    OpenVINO's plugins expect it.

    Returns:
        The array and its shape.
    """
    _, groups, group = rows.shape
    reduction = weight.reduction_axes
    kept = [size for axis, size in enumerate(weight.shape) if axis not in reduction]
    if groups > 1:
        (axis,) = reduction
        moved = np.moveaxis(rows.reshape(*kept, groups, group), (-2, -1), (axis, axis + 1))
    else:
        tail = [weight.shape[axis] for axis in reduction] if group == weight.columns else [1] * len(reduction)
        last = tuple(range(-len(reduction), 0))
        moved = np.moveaxis(rows.reshape(*kept, *tail), last, reduction)
    return moved, moved.shape


def _constant_behind(output: ov.Output) -> ov.Node | None:
    """The float Constant that an input traces back to through Converts, or None."""
    node = output.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or type_name(node) not in FLOAT_TYPES:
        return None
    return node


def _feeds_rotary_embedding(node: ov.Node) -> bool:
    """Whether a MatMul's result only becomes the angle of a sine or cosine: positions, not weights."""
    pending = [node]
    while pending:
        for target in pending.pop().output(0).get_target_inputs():
            consumer = target.get_node()
            if consumer.get_type_name() in _ROTARY:
                return True
            if consumer.get_type_name() in _TRANSPARENT_TO_ROTARY:
                pending.append(consumer)
    return False


def _is_sequence(output: ov.Output) -> bool:
    """Whether an output is [batch, tokens, channels] with a known number of channels: what a calibration looks at."""
    shape = output.get_partial_shape()
    return bool(shape.rank.is_static and len(shape) == 3 and shape[2].is_static)


def _matmul_uses(node: ov.Node) -> Iterator[tuple[ov.Node, Use]]:
    constants = [_constant_behind(node.input_value(port)) for port in (0, 1)]
    attributes = node.get_attributes()
    for port, behind in enumerate(constants):
        if behind is None or constants[1 - port] is not None or _feeds_rotary_embedding(node):
            continue
        rank = len(behind.get_output_shape(0))
        if rank == 0:
            continue
        transposed = attributes["transpose_b" if port == 1 else "transpose_a"]
        # The second factor is [K, O] and the first is [O, K] where nothing is transposed.
        axis = rank - 1 if rank == 1 or transposed == (port == 1) else rank - 2
        other = node.input_value(1 - port)
        features_last = not attributes["transpose_a"] if port == 1 else attributes["transpose_b"]
        visible = features_last and rank == 2 and _is_sequence(other)
        yield (
            behind,
            Use(
                node=node.get_friendly_name(),
                port=port,
                kind="matmul",
                channel_axes=tuple(a for a in range(rank) if a != axis),
                reduction_axes=(axis,),
                activation=f"{other.get_node().get_friendly_name()}:{other.get_index()}" if visible else None,
            ),
        )


def _gather_uses(node: ov.Node) -> Iterator[tuple[ov.Node, Use]]:
    behind = _constant_behind(node.input_value(0))
    axis = node.input_value(2).get_node()
    if behind is None or axis.get_type_name() != "Constant" or int(np.asarray(axis.data).reshape(-1)[0]) != 0:
        return
    rank = len(behind.get_output_shape(0))
    if rank >= 2:
        yield behind, Use(node.get_friendly_name(), 0, "embedding", (0,), tuple(range(1, rank)))


def _convolution_uses(node: ov.Node) -> Iterator[tuple[ov.Node, Use]]:
    behind = _constant_behind(node.input_value(1))
    if behind is None:
        return
    channels = _CONVOLUTION_CHANNEL_AXES[node.get_type_name()]
    reduction = tuple(a for a in range(len(behind.get_output_shape(0))) if a not in channels)
    yield behind, Use(node.get_friendly_name(), 1, "convolution", channels, reduction)


def _uses(node: ov.Node) -> Iterator[tuple[ov.Node, Use]]:
    kind = node.get_type_name()
    if kind == "MatMul":
        yield from _matmul_uses(node)
    elif kind == "Gather":
        yield from _gather_uses(node)
    elif kind in _CONVOLUTION_CHANNEL_AXES:
        yield from _convolution_uses(node)


def find_weights(model: ov.Model) -> tuple[Weight, ...]:
    """All weights of a model in topological order of their first use.

    Only float constants (f16, bf16, f32, f64) that feed the operation directly or through Converts count; constants
    that are already compressed are integers and are not found. MatMuls that compute rotary position angles are not
    weights. The last MatMul is marked where it owns its constant; where its constant is tied to an embedding there is
    no last layer, as in NNCF.

    Raises:
        CompressionError: two operations have the name of one that matters here, so that names do not tell them apart.
    """
    constants: dict[str, ov.Node] = {}
    uses: dict[str, list[Use]] = {}
    last_matmul: str | None = None
    for node in model.get_ordered_ops():
        for behind, use in _uses(node):
            name = behind.get_friendly_name()
            constants.setdefault(name, behind)
            uses.setdefault(name, []).append(use)
            if use.kind == "matmul":
                last_matmul = name if len(uses[name]) == 1 else None
    weights = tuple(
        Weight(
            name=name,
            shape=tuple(constants[name].get_output_shape(0)),
            element_type=type_name(constants[name]),
            uses=tuple(uses[name]),
            is_last=name == last_matmul,
        )
        for name in uses
    )
    _check_names(model, weights)
    return weights


def _check_names(model: ov.Model, weights: tuple[Weight, ...]) -> None:
    """Weights and activations are known by name from here on; OpenVINO does not promise that names differ."""
    counts = Counter(node.get_friendly_name() for node in model.get_ordered_ops())
    for weight in weights:
        activations = (activation.rpartition(":")[0] for activation in weight.activations)
        for name in (weight.name, *(use.node for use in weight.uses), *activations):
            if counts[name] > 1:
                raise CompressionError(
                    f"the model has {counts[name]} operations named {name}, and one of them is or feeds the weight "
                    f"{weight.name}; give them different names (set_friendly_name) and save the model anew"
                )
