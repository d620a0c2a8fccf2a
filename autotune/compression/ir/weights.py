"""Weights of an `ov.Model`: the constants that compression may change, their uses, and the inputs of their MatMuls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from autotune.compression.ir.constants import FLOAT_TYPES, type_name
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

Kind = Literal["matmul", "embedding", "convolution"]

_CONVOLUTION_CHANNEL_AXES = {
    "Convolution": (0,),
    "ConvolutionBackpropData": (1,),
    "GroupConvolution": (0, 1),
    "GroupConvolutionBackpropData": (0, 2),
}
_ROTARY = {"Sin", "Cos"}
_DECOMPRESSION = {"Convert", "Subtract", "Multiply", "Reshape"}
_TRANSPARENT_TO_ROTARY = {"Transpose", "Concat"}
_ARRANGING = frozenset({"Reshape", "Unsqueeze", "Squeeze"})
_REPEATING = frozenset({"Tile", "Broadcast"})


@dataclass(frozen=True, slots=True)
class Use:
    """One operation that uses a weight.

    Attributes:
        node: friendly name of the operation.
        port: its input port that the weight feeds (through Converts and Reshapes).
        kind: what the operation is.
        channel_axes: axes of the weight with one scale each.
        reduction_axes: the other axes: those that the operation sums over.
        activation: ``name:port`` of the output whose vectors of channels are the other side of a MatMul; None for
            inputs that activation-aware methods cannot use. If tokens are only rearranged before the MatMul
            ([batch, tokens, channels] as [batch * tokens, channels]), or repeated for each expert, it is the output
            before that.
    """

    node: str
    port: int
    kind: Kind
    channel_axes: tuple[int, ...]
    reduction_axes: tuple[int, ...]
    activation: str | None = None

    @property
    def operation(self) -> str:
        """Its kind in the terms of `Format.runtime_compressed`: a stack of matrices are the experts of a layer."""
        return "experts" if self.kind == "matmul" and len(self.channel_axes) > 1 else self.kind


@dataclass(frozen=True, slots=True)
class Weight:
    """A compressible constant. The first use in topological order fixes axes and kind, as in NNCF.

    Attributes:
        name: friendly name of the Constant.
        shape: its shape; if only Reshapes to one shape read it, that shape.
        element_type: storage type, e.g. ``f16``.
        uses: all operations that use it; more than one if it is tied.
        is_last: it belongs to the last MatMul of the model, usually the language model's head.
        reshapes: the Reshapes that give it this shape. They are removed when it is compressed, since the plugins would
            not recognise a compressed weight before them.
    """

    name: str
    shape: tuple[int, ...]
    element_type: str
    uses: tuple[Use, ...]
    is_last: bool = field(default=False)
    reshapes: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """Kind of the first use."""
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
        """True if a group of consecutive input channels can share a scale (a single reduction axis)."""
        return self.kind != "convolution" and len(self.reduction_axes) == 1

    @property
    def activations(self) -> tuple[str, ...]:
        """The outputs that feed its MatMuls, without repetition."""
        return tuple(dict.fromkeys(use.activation for use in self.uses if use.activation is not None))


def rows_view(values: npt.NDArray[Any], weight: Weight) -> npt.NDArray[Any]:
    """Return the weight as [R, K]: reduction axes last (a view if the layout allows it)."""
    reduction = weight.reduction_axes
    last = tuple(range(-len(reduction), 0))
    return np.moveaxis(values, reduction, last).reshape(weight.rows, weight.columns)


def rows_to_shape(rows: npt.NDArray[Any], weight: Weight) -> tuple[npt.NDArray[Any], tuple[int, ...]]:
    """Move [R, G, g] back into the constant's own axis order.

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


def find_weights(model: ov.Model) -> tuple[Weight, ...]:
    """Find all weights of a model, in topological order of their first use.

    Only float constants (f16, bf16, f32, f64) that feed the operation directly or through Converts and Reshapes count;
    constants that are already compressed are integers and are not found. MatMuls that compute rotary position angles
    are not weights. The last MatMul is marked if it owns its constant; if its constant is tied to an embedding there
    is no last layer, as in NNCF.

    Behind a Reshape a weight has the shape of the operation's input, so that a group never crosses the rows that are
    summed over; NNCF applies the operation's axes to the Constant before the Reshape. A Constant that is read in
    several shapes has its own.

    Raises:
        CompressionError: two operations share the name of a weight, of its operation or of its input.
    """
    constants: dict[str, ov.Node] = {}
    view_of: dict[str, tuple[tuple[int, ...], tuple[str, ...]]] = {}
    uses: dict[str, list[Use]] = {}
    last_matmul: str | None = None
    for node in model.get_ordered_ops():
        for constant, shape, use in _uses(node):
            name = constant.get_friendly_name()
            if name not in constants:
                constants[name], view_of[name] = constant, _in_use(constant)
            if shape == view_of[name][0]:
                uses.setdefault(name, []).append(use)
            if use.kind == "matmul":
                last_matmul = name if len(uses.get(name, ())) == 1 else None
    weights = tuple(
        Weight(
            name=name,
            shape=view_of[name][0],
            element_type=type_name(constants[name]),
            uses=tuple(uses[name]),
            is_last=name == last_matmul,
            reshapes=view_of[name][1],
        )
        for name in uses
    )
    _check_names(model, weights)
    return weights


def _check_names(model: ov.Model, weights: tuple[Weight, ...]) -> None:
    """Refuse duplicate names: weights and activations are identified by name, and OpenVINO allows duplicates."""
    counts = Counter(node.get_friendly_name() for node in model.get_ordered_ops())
    for weight in weights:
        activations = (activation.rpartition(":")[0] for activation in weight.activations)
        for name in (weight.name, *(use.node for use in weight.uses), *activations):
            if counts[name] > 1:
                raise CompressionError(
                    f"the model has {counts[name]} operations named {name}, and one of them is or feeds the weight "
                    f"{weight.name}; give them different names (set_friendly_name) and save the model again"
                )


def _in_use(constant: ov.Node) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the shape that Reshapes give to a Constant, and their names.

    If anything but Reshapes to one shape reads it (through Converts), return its own shape, and no names.
    """
    reshapes: dict[str, tuple[int, ...]] = {}
    pending = [constant]
    while pending:
        for target in pending.pop().output(0).get_target_inputs():
            reader = target.get_node()
            if reader.get_type_name() == "Convert":
                pending.append(reader)
            elif reader.get_type_name() == "Reshape" and reader.get_output_partial_shape(0).is_static:
                reshapes[reader.get_friendly_name()] = tuple(reader.get_output_shape(0))
            else:
                return tuple(constant.get_output_shape(0)), ()
    shapes = set(reshapes.values())
    return (shapes.pop(), tuple(reshapes)) if len(shapes) == 1 else (tuple(constant.get_output_shape(0)), ())


Found = tuple["ov.Node", tuple[int, ...], Use]
"""The Constant, its shape at the operation, and the use."""


def _uses(node: ov.Node) -> Iterator[Found]:
    kind = node.get_type_name()
    if kind == "MatMul":
        yield from _matmul_uses(node)
    elif kind == "GroupedMatMul":
        yield from _grouped_uses(node)
    elif kind == "Gather":
        yield from _gather_uses(node)
    elif kind in _CONVOLUTION_CHANNEL_AXES:
        yield from _convolution_uses(node)


def _matmul_uses(node: ov.Node) -> Iterator[Found]:
    behind = [_constant_behind(node.input_value(port)) for port in (0, 1)]
    attributes = node.get_attributes()
    for port, found in enumerate(behind):
        if not (found and found[1]) or behind[1 - port] is not None or _feeds_rotary_embedding(node):
            continue
        constant, shape = found
        axis = _summed_axis(node, port, len(shape))
        other = node.input_value(1 - port)
        features_last = not attributes["transpose_a"] if port == 1 else attributes["transpose_b"]
        use = Use(
            node=node.get_friendly_name(),
            port=port,
            kind="matmul",
            channel_axes=tuple(a for a in range(len(shape)) if a != axis),
            reduction_axes=(axis,),
            activation=_activation_of(other, shape) if features_last else None,
        )
        yield constant, shape, use


def _grouped_uses(node: ov.Node) -> Iterator[Found]:
    """Yield experts that are one constant [experts, O, K]; the other input is [tokens, K] or [experts, tokens, K]."""
    found = _constant_behind(node.input_value(1))
    if found is not None:
        constant, shape = found
        activation = _activation_of(node.input_value(0), shape)
        yield constant, shape, Use(node.get_friendly_name(), 1, "matmul", (0, 1), (2,), activation)


def _feeds_rotary_embedding(node: ov.Node) -> bool:
    """Return True if a MatMul's result becomes the angle of a sine or cosine: positions, not weights."""
    pending = [node]
    while pending:
        for target in pending.pop().output(0).get_target_inputs():
            consumer = target.get_node()
            if consumer.get_type_name() in _ROTARY:
                return True
            if consumer.get_type_name() in _TRANSPARENT_TO_ROTARY:
                pending.append(consumer)
    return False


def _activation_of(output: ov.Output, shape: tuple[int, ...]) -> str | None:
    """Return the name of the output with the vectors that a MatMul multiplies with a weight of this shape.

    Args:
        output: the other input of the MatMul, its channels last.
        shape: of the weight.

    Returns:
        ``name:port``, see `Use`; None if it cannot be calibrated.
    """
    rank = output.get_partial_shape().rank
    if rank.is_dynamic or channels_of(output) is None or not 2 <= rank.get_length() <= 4:
        return None
    source = _before(output, _ARRANGING)
    if len(shape) == 3:
        if source.get_node().get_type_name() in _REPEATING:
            source = _before(source, _ARRANGING | _REPEATING)
        elif rank.get_length() != 2:
            source = output
            if rank.get_length() != 3 or output.get_partial_shape()[0] != shape[0]:
                return None
    elif len(shape) != 2:
        return None
    return f"{source.get_node().get_friendly_name()}:{source.get_index()}"


def _summed_axis(matmul: ov.Node, port: int, rank: int) -> int:
    """Return the axis of the weight at a port of a MatMul that is summed over."""
    transposed = matmul.get_attributes()["transpose_b" if port == 1 else "transpose_a"]
    # The second factor is [K, O] and the first is [O, K] where nothing is transposed.
    return rank - 1 if rank == 1 or transposed == (port == 1) else rank - 2


def channels_of(output: ov.Output) -> int | None:
    """Return the length of the last axis, or None if it is not known.

    Exports reshape heads to [batch, tokens, -1]. Such an axis is as long as that of the weight it is multiplied by.
    """
    shape = output.get_partial_shape()
    if shape.rank.is_static and len(shape) and shape[-1].is_static:
        return int(shape[-1].get_length())
    for node in (target.get_node() for target in output.get_target_inputs() if target.get_index() == 0):
        is_matmul = node.get_type_name() == "MatMul" and not node.get_attributes()["transpose_a"]
        if found := _constant_behind(node.input_value(1)) if is_matmul else None:
            return found[1][_summed_axis(node, 1, len(found[1]))]
    return None


def _before(output: ov.Output, kinds: frozenset[str]) -> ov.Output:
    """Follow an output back through operations of these kinds that keep the vectors of channels."""
    while output.get_node().get_type_name() in kinds:
        source = output.get_node().input_value(0)
        if channels_of(source) != channels_of(output):
            break
        output = source
    return output


def _gather_uses(node: ov.Node) -> Iterator[Found]:
    found = _constant_behind(node.input_value(0))
    axis = node.input_value(2).get_node()
    if found is None or axis.get_type_name() != "Constant" or int(np.asarray(axis.data).reshape(-1)[0]) != 0:
        return
    constant, shape = found
    if len(shape) >= 2:
        use = Use(node.get_friendly_name(), 0, "embedding", (0,), tuple(range(1, len(shape))))
        yield constant, shape, use


def _convolution_uses(node: ov.Node) -> Iterator[Found]:
    found = _constant_behind(node.input_value(1))
    if found is None:
        return
    constant, shape = found
    channels = _CONVOLUTION_CHANNEL_AXES[node.get_type_name()]
    reduction = tuple(a for a in range(len(shape)) if a not in channels)
    yield constant, shape, Use(node.get_friendly_name(), 1, "convolution", channels, reduction)


def _constant_behind(output: ov.Output) -> tuple[ov.Node, tuple[int, ...]] | None:
    """Follow an input back through Converts and Reshapes to a float Constant; return it and its shape at the input."""
    shape = output.get_partial_shape()
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Reshape"):
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant" or type_name(node) not in FLOAT_TYPES or shape.is_dynamic:
        return None
    return node, tuple(shape.to_shape())


def compressed_already(model: ov.Model) -> dict[str, tuple[str, ...]]:
    """Return the compressed constants that matrix products and Gathers use as weights through a decompression.

    Returns:
        Their names, each with the names of the other constants of its decompression: scale, zero point, shape.
    """
    found: dict[str, tuple[str, ...]] = {}
    ports = {"MatMul": (0, 1), "GroupedMatMul": (0, 1), "Gather": (0,)}
    for use in model.get_ordered_ops():
        for port in ports.get(use.get_type_name(), ()):
            node, others = use.input_value(port).get_node(), []
            while node.get_type_name() in _DECOMPRESSION:
                others += [_constant_of(value) for value in node.input_values()[1:]]
                node = node.input_value(0).get_node()
            whole = bool(others) or use.get_type_name() != "Gather"  # a table of integers is no weight
            if whole and node.get_type_name() == "Constant" and type_name(node) not in FLOAT_TYPES:
                found[node.get_friendly_name()] = tuple(name for name in others if name is not None)
    return found


def _constant_of(output: ov.Output) -> str | None:
    node = output.get_node()
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_friendly_name() if node.get_type_name() == "Constant" else None
