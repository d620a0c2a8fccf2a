"""Quantization and dequantization of groups of numbers, and storage of their scales.

Arrays have the shape [R, G, g] throughout: output channels, groups, consecutive input channels of one group; scales
and zero points are [R, G, 1]. All arithmetic is float32. Formulas are those of NNCF 3.4.0: ranges of integer formats
always include zero, the larger side of a symmetric range lands on the lowest level, and powers of two are rounded up
as scales, so that nothing is clipped. The formats themselves are data, in `formats.table`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import (
    E4M3_MAX,
    E4M3_SMALLEST,
    Array,
    Codes,
    decode_e2m1,
    decode_e4m3,
    decode_e8m0,
    encode_e2m1,
    encode_e4m3,
    encode_e8m0,
    power_of_two_above,
)
from autotune.compression.formats.table import Format

EPSILON = np.float32(np.finfo(np.float32).eps)
"""Scales below this are replaced by it, as in NNCF."""

FLOAT16_SMALLEST = np.float32(2.0**-24)
"""The smallest positive number of the type that scales end up in."""

SHORT = 16
HALVED = (16, 32, 64, 128, 256)
"""Sizes of groups whose extremes are found faster by halving than one group after the other."""

FEW_LEVELS = 16
"""Tables up to this length are searched by comparing with every midpoint, longer ones by bisection."""


def initial_scale(rows: Array, fmt: Format) -> tuple[Array, Array | None]:
    """Compute scale and zero point from each group's range.

    Args:
        rows: float32 [R, G, g].
        fmt: the format.

    Returns:
        Scale float32 [R, G, 1] before it is rounded to its storage type, and zero point float32 [R, G, 1] (whole
        numbers) or None.
    """
    if fmt.family == "asymmetric":
        low = np.minimum(_reduce(np.minimum, rows), 0)
        high = np.maximum(_reduce(np.maximum, rows), 0)
        scale = _at_least_epsilon((high - low) / np.float32(fmt.highest))
        return scale, zero_point(low, scale, fmt)
    if fmt.family == "symmetric":
        low = np.abs(_reduce(np.minimum, rows))
        high = _reduce(np.maximum, rows)
        signed = np.where(low >= high, low, -high) / np.float32(-fmt.lowest)
        return _at_least_epsilon(signed), None
    largest = np.maximum(_reduce(np.maximum, rows), -_reduce(np.minimum, rows))
    scale = _at_least_epsilon(largest / np.float32(fmt.largest))
    if fmt.scale_storage == "f8e8m0":
        scale = power_of_two_above(scale)
    return (_of_least_square_error(rows, scale, fmt) if fmt.scale_factors else scale), None


def _of_least_square_error(rows: Array, scale: Array, fmt: Format) -> Array:
    """Choose the multiple of the scale with the least square error, as it will be stored."""
    best = stored_value(scale, fmt)
    least = np.square(round_trip(rows, best, None, fmt) - rows).sum(axis=-1, keepdims=True)
    for factor in fmt.scale_factors:
        other = stored_value(scale * np.float32(factor), fmt)
        error = np.square(round_trip(rows, other, None, fmt) - rows).sum(axis=-1, keepdims=True)
        better = error < least
        np.copyto(best, other, where=better)
        np.copyto(least, error, where=better)
    return best


def with_second_order_scale(fmt: Format, largest: float) -> Format:
    """Set the second-order scale for this largest magnitude: the largest group scale becomes E4M3's largest number."""
    scale = max(np.float32(largest) / np.float32(fmt.largest), EPSILON)
    return replace(fmt, second_order_scale=float(max(scale / E4M3_MAX, EPSILON)))


def _reduce(extreme: np.ufunc, rows: Array) -> Any:
    """Compute the smallest or largest of each group, [R, G, 1].

    NumPy takes long for many short groups; these are halved while that leaves runs of `SHORT`, whose extremes are then
    found for all positions at once: of two neighbours, of four, and so on.
    """
    group, size = rows.shape[-1], rows.shape[-1]
    if group not in HALVED:
        return extreme.reduceat(rows.reshape(-1), np.arange(0, rows.size, group)).reshape(*rows.shape[:-1], 1)
    values = rows
    while size > SHORT:
        size //= 2
        values = extreme(values[..., :size], values[..., size:])
    flat, reach = values.reshape(-1), 1
    while reach < size:
        flat = extreme(flat[:-reach], flat[reach:])
        reach *= 2
    return flat[::size].reshape(*rows.shape[:-1], 1)


def zero_point(low: Array, scale: Array, fmt: Format) -> Array:
    """Compute the zero point of an asymmetric format for ranges that start at `low` (<= 0)."""
    return np.asarray(np.clip(-np.rint(low / scale), fmt.lowest, fmt.highest))


def _at_least_epsilon(scale: Array) -> Array:
    return np.where(np.abs(scale) < EPSILON, EPSILON, scale).astype(np.float32, copy=False)


def store_scale(scale: Array, fmt: Format) -> npt.NDArray[Any]:
    """Convert the scale to its storage type: float16, or the byte of an E8M0 or E4M3 number."""
    if fmt.scale_storage == "f8e8m0":
        return encode_e8m0(scale)
    if fmt.scale_storage == "f8e4m3":
        # A scale of zero would lose the whole group, in E4M3 as in float16; the smallest positive scale is closer.
        unit = np.float32(fmt.second_order_scale)
        return encode_e4m3(np.maximum(scale / unit, max(E4M3_SMALLEST, FLOAT16_SMALLEST / unit)))
    return scale.astype(np.float16)


def read_scale(stored: npt.NDArray[Any], fmt: Format) -> Array:
    """Convert stored scales to float32, as the compressed model does."""
    if fmt.scale_storage == "f8e8m0":
        return decode_e8m0(stored)
    if fmt.scale_storage == "f8e4m3":
        value = decode_e4m3(stored) * np.float32(fmt.second_order_scale)
        return np.asarray(value.astype(np.float16).astype(np.float32))
    return np.asarray(stored.astype(np.float32))


def stored_value(scale: Array, fmt: Format) -> Array:
    """Return the float32 value of the scale after it is stored.

    Until the second-order scale of E4M3 scales is computed, scales are rounded to four significant bits.
    """
    if fmt.scale_storage == "f8e4m3" and not fmt.second_order_scale:
        mantissa, exponent = np.frexp(scale)
        return np.asarray(np.ldexp(np.rint(mantissa * 16) / 16, exponent).astype(np.float32))
    return read_scale(store_scale(scale, fmt), fmt)


def _levels(rows: Array, scale: Array, zero: Array | None, fmt: Format, out: Array | None = None) -> Array:
    """Round to the nearest integer levels, float32 [R, G, g]; ties to even."""
    levels: Array = np.divide(rows, scale, out=out)
    if zero is not None:
        levels += zero
    np.rint(levels, out=levels)
    return np.clip(levels, fmt.lowest, fmt.highest, out=levels)


@lru_cache(maxsize=16)
def _table(levels: tuple[float, ...]) -> tuple[Array, Array]:
    """Return the levels and the midpoints between them."""
    table = np.array(levels, np.float32)
    return table, ((table[1:].astype(np.float64) + table[:-1]) / 2).astype(np.float32)


def _level_codes(rows: Array, scale: Array, fmt: Format) -> Codes:
    """Find the indices of the nearest levels; half-way values go to the lower one."""
    normalised = rows / scale
    _, midpoints = _table(fmt.levels)
    if len(fmt.levels) > FEW_LEVELS:
        return np.searchsorted(midpoints, normalised, "left").astype(np.uint8)
    codes = np.zeros(rows.shape, np.uint8)
    for midpoint in midpoints:
        codes += normalised > midpoint
    return codes


def encode(rows: Array, scale: Array, zero: Array | None, fmt: Format) -> Codes:
    """Quantize to codes, uint8 [R, G, g]: one element a byte, negative integers in two's complement of `fmt.bits`."""
    if fmt.family == "levels":
        return _level_codes(rows, scale, fmt)
    if fmt.family == "minifloat":
        return (encode_e2m1 if fmt.storage == "f4e2m1" else encode_e4m3)(rows / scale)
    levels = _levels(rows, scale, zero, fmt)
    if fmt.family == "asymmetric":
        return levels.astype(np.uint8)
    if fmt.is_offset:
        return (levels - np.float32(fmt.lowest)).astype(np.uint8)
    codes = levels.astype(np.int8).view(np.uint8)
    return codes if fmt.bits == 8 else codes & np.uint8(0x0F)


def decode(codes: Codes, scale: Array, zero: Array | None, fmt: Format) -> Array:
    """Dequantize codes with this value of the scale, float32 [R, G, g]."""
    if fmt.family == "levels":
        return np.asarray(_table(fmt.levels)[0][codes] * scale)
    if fmt.family == "minifloat":
        return np.asarray((decode_e2m1 if fmt.storage == "f4e2m1" else decode_e4m3)(codes) * scale)
    if fmt.family == "asymmetric":
        assert zero is not None
        return (codes.astype(np.float32) - zero) * scale
    if fmt.is_offset:
        return (codes.astype(np.float32) + np.float32(fmt.lowest)) * scale
    signed = codes.view(np.int8) if fmt.bits == 8 else ((codes ^ 8).astype(np.int8) - np.int8(8))
    return np.asarray(signed.astype(np.float32) * scale)


def round_trip(rows: Array, scale: Array, zero: Array | None, fmt: Format, *, out: Array | None = None) -> Array:
    """Quantize and dequantize `rows` with this scale, float32 [R, G, g].

    `out`, if given, is written over; the result may be another array.
    """
    if fmt.family in ("levels", "minifloat"):
        return decode(encode(rows, scale, zero, fmt), scale, zero, fmt)
    levels = _levels(rows, scale, zero, fmt, out)
    if zero is not None:
        levels -= zero
    levels *= scale
    return levels
