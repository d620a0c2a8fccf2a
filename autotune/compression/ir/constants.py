"""Constants of an `ov.Model` as NumPy arrays, and back, for storage types that NumPy does not have; model digests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import openvino as ov

FLOAT_TYPES = ("f16", "bf16", "f32", "f64")
"""Storage types of weights that can be compressed."""

INFINITY_BITS = {"f16": 0x7C00, "bf16": 0x7F80}
"""Bits of a positive infinity; those of finite numbers without their signs are below."""


def type_name(node: ov.Node) -> str:
    """Return the element type of a constant in OpenVINO's short form, e.g. ``f16``."""
    return str(node.get_element_type().get_type_name())


def raw_bytes(node: ov.Node) -> npt.NDArray[np.uint8]:
    """Return the constant's bytes, uint8 [nbytes], without a copy."""
    data: npt.NDArray[Any] = node.data
    return data.reshape(-1).view(np.uint8)


def all_finite(values: npt.NDArray[Any], kind: str) -> bool:
    """Return True if no number is infinite or NaN as float32.

    Args:
        values: numbers of any shape; those of a bfloat16 constant as their 16 bits.
        kind: their storage type.
    """
    if kind in INFINITY_BITS:
        bits = values.view(np.uint16) & np.uint16(0x7FFF)
        return bool(bits.max(initial=0) < INFINITY_BITS[kind])
    with np.errstate(over="ignore"):
        return bool(np.isfinite(values.astype(np.float32, copy=False)).all())


def widen_bf16(halves: npt.NDArray[np.uint16]) -> npt.NDArray[np.float32]:
    """Convert bfloat16 numbers, given as their 16 bits, to float32: they are the upper halves of its bits."""
    return (halves.astype(np.uint32) << 16).view(np.float32)


def widen_f16(halves: npt.NDArray[np.float16], *, keeps_subnormals: bool | None = None) -> npt.NDArray[np.float32]:
    """Convert finite float16 numbers to float32, several times faster than NumPy.

    Args:
        halves: numbers of any shape.
        keeps_subnormals: False uses NumPy's conversion, for threads that replace subnormal numbers by zero. Some
            libraries switch this on for the whole process. None tests the current thread.
    """
    if keeps_subnormals is None:
        keeps_subnormals = bool(np.float32(2.0**-149) * np.float32(2.0**112) != 0)
    if not keeps_subnormals:
        return halves.astype(np.float32, order="C")
    # Move sign, exponent and fraction to their places in float32, then correct the bias of the exponents.
    wide = halves.view(np.int16).astype(np.int32, order="C")
    wide <<= np.int32(13)
    wide &= np.int32(~0x70001FFF)
    values = wide.view(np.float32)
    values *= np.float32(2.0**112)
    return values


def read_f32(node: ov.Node) -> npt.NDArray[np.float32]:
    """Return the constant's values as float32 in its own shape.

    NumPy has no bfloat16, and `Constant.data` shows such a constant as float16 with meaningless values.
    """
    shape = tuple(node.get_output_shape(0))
    if type_name(node) == "bf16":
        return widen_bf16(raw_bytes(node).view(np.uint16)).reshape(shape)
    return np.asarray(node.data, dtype=np.float32).reshape(shape)


def narrow(values: npt.NDArray[np.float32], kind: str) -> npt.NDArray[Any]:
    """Round float32 numbers to nearest even in another float type; the array's bytes are those of a Constant."""
    if kind == "bf16":
        # The upper half of the float32 bits, rounded.
        bits = np.ascontiguousarray(values).view(np.uint32)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return values.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[kind])


def constant(data: npt.NDArray[Any], shape: tuple[int, ...], element_type: str) -> ov.Node:
    """Make a Constant of packed bytes.

    The bytes are copied: a Constant that shares a tensor's memory does not keep the array behind it alive.

    Args:
        data: any contiguous array whose bytes are the packed constant.
        shape: the constant's shape in elements.
        element_type: OpenVINO's short type name, e.g. ``u4``.
    """
    import openvino as ov

    packed = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    tensor = ov.Tensor(packed, ov.Shape(list(shape)), getattr(ov.Type, element_type))
    return ov.op.Constant(tensor, shared_memory=False)


def constant_digest(node: ov.Node) -> bytes:
    """Hash a constant's bytes, 16 bytes; those with one digest are once in the model's file."""
    import xxhash

    return bytes(xxhash.xxh3_128(raw_bytes(node).data).digest())


def model_digest(model: ov.Model) -> str:
    """Hash all operations in topological order: type, inputs, and every constant's bytes; 32 hex digits.

    Two models with one digest compute the same from the same bytes, those of `openvino_model.bin`. Names are left out:
    OpenVINO numbers operations without a name through the whole process.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    position: dict[str, int] = {}
    for node in model.get_ordered_ops():
        inputs = [value.get_source_output() for value in node.inputs()]
        sources = [(position.get(source.get_node().get_name()), source.get_index()) for source in inputs]
        position[node.get_name()] = len(position)
        digest.update(repr((node.get_type_name(), sources)).encode())
        if node.get_type_name() == "Constant":
            digest.update(repr((type_name(node), tuple(node.get_output_shape(0)))).encode())
            digest.update(raw_bytes(node).data)
    return str(digest.hexdigest())
