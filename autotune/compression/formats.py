"""Numeric formats: a table of data, and small functions that quantize, dequantize, pack and tell exact sizes.

Arrays have the shape [R, G, g] throughout: output channels, groups, consecutive input channels of one group; scales
and zero points are [R, G, 1]. All arithmetic is float32. Formulas of the integer formats are those of NNCF 3.4.0
(ranges always include zero; the larger side of a symmetric range lands on the lowest level); NF4 is from Dettmers et
al., "QLoRA" (2023), appendix E; MXFP4 from the OCP Microscaling Formats specification 1.0 with the scale rounded up,
so that nothing is clipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = [
    "BITS",
    "FORMATS",
    "Array",
    "Codes",
    "Format",
    "decode",
    "encode",
    "initial_scale",
    "pack",
    "packed_bytes",
    "read_scale",
    "round_trip",
    "store_scale",
    "stored_value",
    "unpack",
]

Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

EPSILON = np.float32(np.finfo(np.float32).eps)
"""Scales below this are replaced by it, as in NNCF."""


@dataclass(frozen=True, slots=True)
class Format:
    """How numbers are stored.

    Attributes:
        name: autotune's and NNCF's name.
        storage: OpenVINO's element type of the packed weight.
        bits: bits of one element.
        family: which formulas apply.
        lowest, highest: integer levels (integer families).
        scale_storage: element type of the stored scale.
    """

    name: str
    storage: str
    bits: int
    family: Literal["asymmetric", "symmetric", "levels", "microscaling"]
    lowest: int = 0
    highest: int = 0
    scale_storage: Literal["f16", "f8e8m0"] = "f16"

    @property
    def has_zero_point(self) -> bool:
        """Whether every group stores a zero point in the element type of the weight."""
        return self.family == "asymmetric"

    @property
    def searchable(self) -> bool:
        """Whether scales can be searched (they are free numbers, not powers of two)."""
        return self.family != "microscaling"


FORMATS = {
    f.name: f
    for f in (
        Format("int8_asym", "u8", 8, "asymmetric", 0, 255),
        Format("int8_sym", "i8", 8, "symmetric", -128, 127),
        Format("int4_asym", "u4", 4, "asymmetric", 0, 15),
        Format("int4_sym", "i4", 4, "symmetric", -8, 7),
        Format("nf4", "nf4", 4, "levels"),
        Format("mxfp4", "f4e2m1", 4, "microscaling", scale_storage="f8e8m0"),
    )
}

BITS = {"u8": 8, "i8": 8, "u4": 4, "i4": 4, "nf4": 4, "f4e2m1": 4, "f8e8m0": 8, "f16": 16}
"""Bits of an element of each storage type."""

NF4_LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    dtype=np.float32,
)
_NF4_MIDPOINTS = ((NF4_LEVELS[1:].astype(np.float64) + NF4_LEVELS[:-1]) / 2).astype(np.float32)

E2M1_LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
E2M1_MAX = np.float32(6)
_E2M1_THRESHOLDS = (E2M1_LEVELS[1:] + E2M1_LEVELS[:-1]) / 2
_E2M1_DECODED = np.concatenate([E2M1_LEVELS, -E2M1_LEVELS])


def initial_scale(rows: Array, fmt: Format) -> tuple[Array, Array | None]:
    """Scale and zero point from each group's range.

    Args:
        rows: float32 [R, G, g].
        fmt: the format.

    Returns:
        Scale float32 [R, G, 1] before it is rounded to its storage type, and zero point float32 [R, G, 1] (whole
        numbers) or None.
    """
    if fmt.family == "asymmetric":
        low = np.minimum(rows.min(axis=-1, keepdims=True), 0)
        high = np.maximum(rows.max(axis=-1, keepdims=True), 0)
        scale = _at_least_epsilon((high - low) / np.float32(fmt.highest))
        return scale, zero_point(low, scale, fmt)
    if fmt.family == "symmetric":
        low = np.abs(rows.min(axis=-1, keepdims=True))
        high = rows.max(axis=-1, keepdims=True)
        signed = np.where(low >= high, low, -high) / np.float32(-fmt.lowest)
        return _at_least_epsilon(signed), None
    largest = np.maximum(rows.max(axis=-1, keepdims=True), -rows.min(axis=-1, keepdims=True))
    if fmt.family == "levels":
        return _at_least_epsilon(largest), None
    mantissa, exponent = np.frexp(_at_least_epsilon(largest / E2M1_MAX))
    # x = mantissa * 2**exponent with mantissa in [0.5, 1): an exact power of two is already rounded up.
    exponent = np.clip(np.where(mantissa == 0.5, exponent - 1, exponent), -127, 127)
    return np.ldexp(np.float32(1), exponent).astype(np.float32), None


def zero_point(low: Array, scale: Array, fmt: Format) -> Array:
    """Zero point of an asymmetric format for ranges that start at `low` (<= 0)."""
    return np.asarray(np.clip(-np.rint(low / scale), fmt.lowest, fmt.highest))


def _at_least_epsilon(scale: Array) -> Array:
    return np.where(np.abs(scale) < EPSILON, EPSILON, scale).astype(np.float32, copy=False)


def store_scale(scale: Array, fmt: Format) -> npt.NDArray[Any]:
    """The scale as it is stored: float16, or the biased exponent byte of a power of two (E8M0)."""
    if fmt.scale_storage == "f8e8m0":
        return (np.frexp(scale)[1] + 126).astype(np.uint8)
    return scale.astype(np.float16)


def read_scale(stored: Codes, fmt: Format) -> Array:
    """Float32 values of stored scales, given as their bytes; flat."""
    if fmt.scale_storage == "f8e8m0":
        return np.ldexp(np.float32(1), stored.astype(np.int32) - 127).astype(np.float32)
    return stored.view(np.float16).astype(np.float32)


def stored_value(scale: Array, fmt: Format) -> Array:
    """The float32 value that the stored scale stands for."""
    return scale if fmt.scale_storage == "f8e8m0" else scale.astype(np.float16).astype(np.float32)


def _levels(rows: Array, scale: Array, zero: Array | None, fmt: Format) -> Array:
    """Nearest integer levels, float32 [R, G, g]; ties to even."""
    levels = rows / scale
    if zero is not None:
        levels += zero
    np.rint(levels, out=levels)
    return np.clip(levels, fmt.lowest, fmt.highest, out=levels)


def _nf4_codes(rows: Array, scale: Array) -> Codes:
    normalised = rows / scale
    codes = np.zeros(rows.shape, np.uint8)
    for midpoint in _NF4_MIDPOINTS:
        codes += normalised > midpoint
    return codes


def _e2m1_codes(rows: Array, scale: Array) -> Codes:
    normalised = rows / scale
    magnitude = np.abs(normalised)
    codes: Codes = np.signbit(normalised).astype(np.uint8) << 3
    for code, threshold in enumerate(_E2M1_THRESHOLDS):
        # Half-way values go to the even code: up from an odd one, down from an even one.
        codes += magnitude >= threshold if code % 2 else magnitude > threshold
    return codes


def encode(rows: Array, scale: Array, zero: Array | None, fmt: Format) -> Codes:
    """Storage codes, uint8 [R, G, g]: one element a byte, negative integers in two's complement of `fmt.bits`."""
    if fmt.family == "levels":
        return _nf4_codes(rows, scale)
    if fmt.family == "microscaling":
        return _e2m1_codes(rows, scale)
    levels = _levels(rows, scale, zero, fmt)
    if fmt.family == "asymmetric":
        return levels.astype(np.uint8)
    codes = levels.astype(np.int8).view(np.uint8)
    return codes if fmt.bits == 8 else codes & np.uint8(0x0F)


def decode(codes: Codes, scale: Array, zero: Array | None, fmt: Format) -> Array:
    """Float32 [R, G, g] that the codes stand for, with the scale's value as given."""
    if fmt.family == "levels":
        return np.asarray(NF4_LEVELS[codes] * scale)
    if fmt.family == "microscaling":
        return np.asarray(_E2M1_DECODED[codes] * scale)
    if fmt.family == "asymmetric":
        assert zero is not None
        return (codes.astype(np.float32) - zero) * scale
    signed = codes.view(np.int8) if fmt.bits == 8 else ((codes ^ 8).astype(np.int8) - np.int8(8))
    return np.asarray(signed.astype(np.float32) * scale)


def round_trip(rows: Array, scale: Array, zero: Array | None, fmt: Format) -> Array:
    """What `rows` become when they are quantized with this scale and read back, float32 [R, G, g]."""
    if fmt.family in ("levels", "microscaling"):
        return decode(encode(rows, scale, zero, fmt), scale, zero, fmt)
    levels = _levels(rows, scale, zero, fmt)
    if zero is not None:
        levels -= zero
    levels *= scale
    return levels


def pack(codes: Codes, bits: int) -> Codes:
    """Bytes of a constant: two 4-bit elements a byte in flat order, the first in the low half; flat uint8."""
    flat = codes.reshape(-1)
    if bits == 8:
        return flat
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return flat[0::2] | (flat[1::2] << np.uint8(4))


def unpack(packed: Codes, bits: int, size: int) -> Codes:
    """Inverse of `pack` for `size` elements: flat uint8, one element a byte."""
    if bits == 8:
        return packed[:size]
    codes = np.empty(packed.size * 2, np.uint8)
    codes[0::2] = packed & np.uint8(0x0F)
    codes[1::2] = packed >> np.uint8(4)
    return codes[:size]


def packed_bytes(elements: int, bits: int) -> int:
    """Bytes of a constant of so many elements."""
    return -(-elements * bits // 8)
