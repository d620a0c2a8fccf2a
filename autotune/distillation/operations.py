"""OpenVINO operations as torch functions: those that exported causal language models consist of.

Floats of every type are computed in float32 and integers in int64, as the tensors of a graph that is trained on a CPU.
Semantics follow OpenVINO's operation set 15.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from autotune.compression.formats.encoding import decode_e2m1, decode_e4m3, decode_e8m0, unpack
from autotune.compression.formats.table import BITS, NF4_LEVELS
from autotune.compression.ir.constants import FLOAT_TYPES, raw_bytes, read_f32, type_name

if TYPE_CHECKING:
    import openvino as ov
    from torch import Tensor

Operation = Callable[..., Any]
"""Inputs of a node -> its output, or a sequence of outputs."""

HALVES = {"f16": torch.float16, "bf16": torch.bfloat16}

_DECODED: Mapping[str, Callable[[Any], Any]] = {
    "nf4": lambda codes: np.array(NF4_LEVELS, np.float32)[codes],
    "f4e2m1": decode_e2m1,
    "f8e4m3": decode_e4m3,
    "f8e8m0": decode_e8m0,
    "i4": lambda codes: (codes ^ 8).astype(np.int8) - np.int8(8),
}


def read_constant(node: ov.Node) -> Tensor:
    """Return a Constant's values: float32, bool, int8 and uint8 for numbers of at most 8 bits, else int64."""
    kind, shape = type_name(node), list(node.get_output_shape(0))
    if kind in FLOAT_TYPES:
        return torch.from_numpy(np.array(read_f32(node)))
    if kind in _DECODED or kind in ("u2", "u3", "u4"):
        codes = unpack(raw_bytes(node), BITS[kind], int(np.prod(shape, dtype=np.int64)))
        values = _DECODED[kind](codes) if kind in _DECODED else codes
        return torch.from_numpy(np.array(values)).reshape(shape)
    values = np.array(node.data)
    return torch.from_numpy(values if values.itemsize == 1 else values.astype(np.int64)).reshape(shape)


def operation(node: ov.Node) -> Operation | None:
    """Return the torch function of a node, with its attributes bound; None if there is none for them."""
    kind = node.get_type_name()
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind == "Convert":
        return _convert(node.get_input_element_type(0).get_type_name(), type_name(node))
    return _MAKERS[kind](node.get_attributes()) if kind in _MAKERS else None


def _ints(values: Tensor) -> list[int]:
    return [int(value) for value in values.reshape(-1)]


def _dtype(name: str) -> torch.dtype:
    if name == "boolean":
        return torch.bool
    return torch.float32 if name in FLOAT_TYPES else torch.int64


def _convert(source: str, destination: str) -> Operation:
    kind = _dtype(destination)
    if (source, destination) != ("f32", "f16"):
        return lambda values: values.to(kind)
    # Rounded as in OpenVINO where no gradient passes: the scales of NVFP4 are products in float32.
    return lambda values: (values if values.requires_grad else values.to(HALVES[destination])).to(kind)


def _reshape(attributes: Mapping[str, Any]) -> Operation:
    def apply(values: Tensor, pattern: Tensor) -> Tensor:
        sizes = _ints(pattern)
        if attributes.get("special_zero"):
            sizes = [values.shape[i] if size == 0 else size for i, size in enumerate(sizes)]
        return values.reshape(sizes)

    return apply


def _gather(attributes: Mapping[str, Any]) -> Operation | None:
    if attributes.get("batch_dims", 0):
        return None

    def apply(values: Tensor, indices: Tensor, axis: Tensor) -> Tensor:
        dim = int(axis) % values.ndim
        flat = indices.reshape(-1).to(torch.int64)
        flat = torch.where(flat < 0, flat + values.shape[dim], flat)
        shape = (*values.shape[:dim], *indices.shape, *values.shape[dim + 1 :])
        return values.index_select(dim, flat).reshape(shape)

    return apply


def _slice(values: Tensor, start: Tensor, stop: Tensor, step: Tensor, axes: Tensor | None = None) -> Tensor:
    dims = range(start.numel()) if axes is None else _ints(axes)
    for dim, *bounds in zip(dims, _ints(start), _ints(stop), _ints(step), strict=True):
        part = slice(*bounds)
        if part.step > 0:
            values = values[(slice(None),) * (dim % values.ndim) + (part,)]
        else:  # torch's slices have no negative step
            values = values.index_select(dim, torch.tensor(range(*part.indices(values.shape[dim]))))
    return values


def _broadcast(attributes: Mapping[str, Any]) -> Operation:
    def apply(values: Tensor, shape: Tensor, axes: Tensor | None = None) -> Tensor:
        sizes = _ints(shape)
        if axes is not None:
            own = dict(zip(_ints(axes), values.shape, strict=True))
            values = values.reshape([own.get(dim, 1) for dim in range(len(sizes))])
        if attributes["mode"] == "bidirectional":
            sizes = list(torch.broadcast_shapes(values.shape, sizes))
        return values.broadcast_to(sizes)

    return apply


def _reduce(reduce: Callable[..., Any]) -> Callable[[Mapping[str, Any]], Operation]:
    def make(attributes: Mapping[str, Any]) -> Operation:
        return lambda values, axes: reduce(values, _ints(axes), attributes["keep_dims"])

    return make


def _product(values: Tensor, axes: Sequence[int], keep: bool) -> Tensor:
    for axis in sorted((axis % values.ndim for axis in axes), reverse=True):
        values = values.prod(axis, keepdim=keep)
    return values


def _matmul(attributes: Mapping[str, Any]) -> Operation:
    def apply(left: Tensor, right: Tensor) -> Tensor:
        if attributes["transpose_a"]:
            left = left.transpose(-1, -2)
        return left @ (right.transpose(-1, -2) if attributes["transpose_b"] else right)

    return apply


def _attention(attributes: Mapping[str, Any]) -> Operation:
    def apply(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, scale: Tensor | None = None) -> Tensor:
        factor = None if scale is None else float(scale)
        if attributes["causal"]:
            mask = None
        return functional.scaled_dot_product_attention(q, k, v, mask, is_causal=attributes["causal"], scale=factor)

    return apply


def _mvn(attributes: Mapping[str, Any]) -> Operation:
    inside = attributes["eps_mode"] == "INSIDE_SQRT"

    def apply(values: Tensor, axes: Tensor) -> Tensor:
        dims, eps = _ints(axes), attributes["eps"]
        centred = values - values.mean(dims, keepdim=True)
        if not attributes["normalize_variance"]:
            return centred
        variance = centred.square().mean(dims, keepdim=True)
        return centred / ((variance + eps).sqrt() if inside else variance.sqrt() + eps)

    return apply


def _topk(attributes: Mapping[str, Any]) -> Operation:
    largest = attributes["mode"] == "max"
    return lambda values, k: torch.topk(values, int(k), dim=attributes["axis"], largest=largest, sorted=True)


def _squeeze(values: Tensor, axes: Tensor | None = None) -> Tensor:
    return values.squeeze() if axes is None else values.squeeze(tuple(_ints(axes)))


def _unsqueeze(values: Tensor, axes: Tensor) -> Tensor:
    added = _ints(axes)
    for axis in sorted(axis % (values.ndim + len(added)) for axis in added):
        values = values.unsqueeze(axis)
    return values


def _transpose(values: Tensor, order: Tensor) -> Tensor:
    return values.permute(_ints(order) or list(range(values.ndim))[::-1])


def _split(values: Tensor, axis: Tensor, lengths: Tensor) -> Sequence[Tensor]:
    sizes, dim = _ints(lengths), int(axis)
    if -1 in sizes:
        sizes[sizes.index(-1)] = values.shape[dim] - sum(sizes) - 1
    parts: Sequence[Tensor] = values.split(sizes, dim)
    return parts


def _divide(left: Tensor, right: Tensor) -> Tensor:
    return left / right if left.is_floating_point() else torch.div(left, right, rounding_mode="floor")


def _swish(values: Tensor, beta: Tensor | None = None) -> Tensor:
    return functional.silu(values) if beta is None else values * torch.sigmoid(values * beta)


def _gelu(attributes: Mapping[str, Any]) -> Operation:
    approximate = "tanh" if attributes["approximation_mode"] == "TANH" else "none"
    return lambda values: functional.gelu(values, approximate=approximate)


def _convolution(attributes: Mapping[str, Any]) -> Operation | None:
    """Convolve values [B, groups * C_in, ...] with weights [groups, C_out, C_in, ...]; most are depthwise."""
    if attributes["auto_pad"] != "explicit":
        return None
    pads = _torch_pads(attributes["pads_begin"], attributes["pads_end"])
    convolve = (functional.conv1d, functional.conv2d, functional.conv3d)[len(attributes["strides"]) - 1]

    def apply(values: Tensor, weights: Tensor) -> Tensor:
        found: Tensor = convolve(
            functional.pad(values, pads),
            weights.flatten(0, 1),
            stride=list(attributes["strides"]),
            dilation=list(attributes["dilations"]),
            groups=weights.shape[0],
        )
        return found

    return apply


def _pad(attributes: Mapping[str, Any]) -> Operation | None:
    if attributes["pad_mode"] != "constant":
        return None
    return lambda values, before, after, value=None: functional.pad(
        values, _torch_pads(_ints(before), _ints(after)), value=0 if value is None else value.item()
    )


def _torch_pads(before: Sequence[int], after: Sequence[int]) -> list[int]:
    """Return the sizes in the order of torch, which begins with the last axis."""
    pairs = reversed(list(zip(before, after, strict=True)))
    return [size for pair in pairs for size in pair]


def _cumulative_sum(attributes: Mapping[str, Any]) -> Operation | None:
    if attributes["exclusive"] or attributes["reverse"]:
        return None
    return lambda values, axis: values.cumsum(int(axis))


def _scatter(attributes: Mapping[str, Any]) -> Operation | None:
    put = {"none": torch.scatter, "sum": torch.scatter_add}.get(attributes["reduction"])
    if put is None or not attributes["use_init_val"]:
        return None
    return lambda values, indices, updates, axis: put(values, int(axis), indices, updates)


def _scatter_slices(attributes: Mapping[str, Any]) -> Operation | None:
    if attributes.get("reduction", "none") != "none":
        return None
    return lambda values, indices, updates: values.index_put(indices.unbind(-1), updates)


_PLAIN: Mapping[str, Operation] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "Assign": lambda values: values,
    "BitwiseAnd": torch.bitwise_and,
    "BitwiseNot": torch.bitwise_not,
    "BitwiseOr": torch.bitwise_or,
    "Ceiling": torch.ceil,
    "Cos": torch.cos,
    "Divide": _divide,
    "Equal": torch.eq,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "FloorMod": torch.remainder,
    "Greater": torch.gt,
    "GreaterEqual": torch.ge,
    "Less": torch.lt,
    "LessEqual": torch.le,
    "Log": torch.log,
    "LogicalAnd": torch.logical_and,
    "LogicalNot": torch.logical_not,
    "LogicalOr": torch.logical_or,
    "Maximum": torch.maximum,
    "Minimum": torch.minimum,
    "Mod": torch.fmod,
    "Multiply": torch.mul,
    "Negative": torch.neg,
    "NotEqual": torch.ne,
    "Power": torch.pow,
    "Range": lambda start, stop, step: torch.arange(start.item(), stop.item(), step.item(), dtype=start.dtype),
    "ReadValue": lambda initial: initial,
    "Relu": torch.relu,
    "Result": lambda values: values,
    "Roll": lambda values, shifts, axes: values.roll(_ints(shifts), _ints(axes)),
    "Select": torch.where,
    "ShapeOf": lambda values: torch.tensor(values.shape, dtype=torch.int64),
    "Sigmoid": torch.sigmoid,
    "Sin": torch.sin,
    "Slice": _slice,
    "SoftPlus": functional.softplus,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Subtract": torch.sub,
    "Swish": _swish,
    "Tanh": torch.tanh,
    "Tile": lambda values, repeats: values.tile(_ints(repeats)),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "VariadicSplit": _split,
}

_MAKERS: Mapping[str, Callable[[Mapping[str, Any]], Operation | None]] = {
    "Broadcast": _broadcast,
    "Clamp": lambda a: lambda values: values.clamp(a["min"], a["max"]),
    "Concat": lambda a: lambda *values: torch.cat(values, a["axis"]),
    "CumSum": _cumulative_sum,
    "Gather": _gather,
    "Gelu": _gelu,
    "GroupConvolution": _convolution,
    "MVN": _mvn,
    "MatMul": _matmul,
    "Pad": _pad,
    "ReduceMax": _reduce(torch.amax),
    "ReduceMean": _reduce(torch.mean),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(torch.sum),
    "Reshape": _reshape,
    "ScaledDotProductAttention": _attention,
    "ScatterElementsUpdate": _scatter,
    "ScatterNDUpdate": _scatter_slices,
    "Softmax": lambda a: lambda values: values.softmax(a["axis"]),
    "Split": lambda a: lambda values, axis: values.chunk(a["num_splits"], int(axis)),
    "TopK": _topk,
}
