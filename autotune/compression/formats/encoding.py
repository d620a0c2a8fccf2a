"""Codes of small floating-point numbers, and packing of codes into bytes.

E2M1 and E4M3 elements and E8M0 scales follow the OCP Microscaling Formats specification 1.0, and E4M3 the OCP 8-bit
Floating Point Specification 1.0. Rounding is to nearest, ties to even; numbers that are too large become the largest.
Elements of 2, 3, 4 and 8 bits are packed as OpenVINO lays them out.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Codes = npt.NDArray[np.uint8]

E2M1_LEVELS = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
_E2M1_THRESHOLDS = (E2M1_LEVELS[1:] + E2M1_LEVELS[:-1]) / 2
_E2M1_DECODED = np.concatenate([E2M1_LEVELS, -E2M1_LEVELS])

E4M3_MAX = np.float32(448)
E4M3_SMALLEST = np.float32(2.0**-9)
"""The smallest positive number."""


def encode_e2m1(values: Array) -> Codes:
    """Encode float32 numbers as codes 0 to 15, one a byte: the sign in bit 3."""
    magnitude = np.abs(values)
    codes: Codes = np.signbit(values).astype(np.uint8) << np.uint8(3)
    for code, threshold in enumerate(_E2M1_THRESHOLDS):
        # Half-way values go to the even code: up from an odd one, down from an even one.
        codes += magnitude >= threshold if code % 2 else magnitude > threshold
    return codes


def decode_e2m1(codes: Codes) -> Array:
    """Decode codes to float32 numbers."""
    return np.asarray(_E2M1_DECODED[codes])


@cache
def _e4m3_decoded() -> Array:
    """Return the number of each of the 256 codes; two are NaN."""
    exponent, mantissa = np.divmod(np.arange(128), 8)
    normal = np.ldexp(1 + mantissa / 8, exponent - 7)
    magnitudes = np.where(exponent == 0, mantissa * 2.0**-9, normal)
    magnitudes[127] = np.nan
    return np.concatenate([magnitudes, -magnitudes]).astype(np.float32)


@cache
def _e4m3_of_float16() -> Codes:
    """Return the code of each of the 65,536 float16 numbers, by their bits."""
    numbers = np.arange(1 << 15, dtype=np.uint16).view(np.float16).astype(np.float64)
    levels = _e4m3_decoded()[:127].astype(np.float64)
    middles = (levels[1:] + levels[:-1]) / 2
    lower, upper = np.searchsorted(middles, numbers, "left"), np.searchsorted(middles, numbers, "right")
    positive = np.where(lower % 2 == 0, lower, upper).astype(np.uint8)
    return np.concatenate([positive, positive | 0x80])


def encode_e4m3(values: Array) -> Codes:
    """Encode float32 numbers; they are rounded to float16 first, as in OpenVINO's conversion."""
    halves = np.clip(values, -E4M3_MAX, E4M3_MAX).astype(np.float16)
    return np.asarray(_e4m3_of_float16()[halves.view(np.uint16)])


def decode_e4m3(codes: Codes) -> Array:
    """Decode codes to float32 numbers."""
    return np.asarray(_e4m3_decoded()[codes])


def power_of_two_above(values: Array) -> Array:
    """Round positive numbers up to a power of two from 2^-127 to 2^127."""
    mantissa, exponent = np.frexp(values)
    # x = mantissa * 2**exponent with mantissa in [0.5, 1): an exact power of two is already rounded up.
    exponent = np.clip(np.where(mantissa == 0.5, exponent - 1, exponent), -127, 127)
    return np.ldexp(np.float32(1), exponent).astype(np.float32)


def encode_e8m0(values: Array) -> Codes:
    """Encode positive numbers as biased exponents of the nearest powers of two."""
    mantissa, exponent = np.frexp(values)
    nearest = np.where(mantissa < 0.75, exponent - 1, exponent)
    return np.asarray(np.clip(nearest + 127, 0, 254).astype(np.uint8))


def decode_e8m0(codes: Codes) -> Array:
    """Decode biased exponents to powers of two."""
    return np.ldexp(np.float32(1), codes.astype(np.int32) - 127).astype(np.float32)


_EIGHT_SHIFTS = np.arange(7, -1, -1, dtype=np.uint8)
_FOUR_SHIFTS = np.array([6, 4, 2, 0], np.uint8)


def packed_bytes(elements: int, bits: int) -> int:
    """Return the bytes of a constant of so many elements; three-bit elements are stored in groups of eight."""
    return 3 * -(-elements // 8) if bits == 3 else -(-elements * bits // 8)


def pack(codes: Codes, bits: int) -> Codes:
    """Pack codes into the bytes of a constant in flat order, uint8.

    Elements of 2 and 4 bits fill a byte from its lowest bits on. Eight elements of 3 bits fill three bytes: two with
    the lower two bits of four elements each and one with the upper bits, all from the highest bit on.
    """
    flat = codes.reshape(-1)
    if bits == 8:
        return flat
    flat = _padded(flat, {2: 4, 3: 8, 4: 2}[bits])
    if bits == 4:
        # Both elements of a byte as one number of 16 bits, 0x0b0a: shifted onto itself, its low byte is 0xba.
        pairs = np.ascontiguousarray(flat).view("<u2")
        return np.asarray((pairs | (pairs >> np.uint16(4))).astype(np.uint8))
    if bits == 2:
        lower, upper = (flat[i::4] | (flat[i + 1 :: 4] << np.uint8(2)) for i in (0, 2))
        return np.asarray(lower | (upper << np.uint8(4)))
    eights = flat.reshape(-1, 8)
    triples = np.empty((len(eights), 3), np.uint8)
    for half in range(2):
        fours = eights[:, 4 * half : 4 * half + 4]
        triples[:, half] = np.bitwise_or.reduce((fours & np.uint8(3)) << _FOUR_SHIFTS, axis=1)
    triples[:, 2] = np.bitwise_or.reduce((eights >> np.uint8(2)) << _EIGHT_SHIFTS, axis=1)
    return triples.reshape(-1)


def _padded(flat: Codes, multiple: int) -> Codes:
    missing = -flat.size % multiple
    return np.append(flat, np.zeros(missing, np.uint8)) if missing else flat


def unpack(packed: Codes, bits: int, size: int) -> Codes:
    """Unpack `size` elements, the inverse of `pack`: flat uint8, one element a byte."""
    if bits == 8:
        return packed[:size]
    if bits == 3:
        triples = packed.reshape(-1, 3, 1)
        upper = (triples[:, 2] >> _EIGHT_SHIFTS) & np.uint8(1)
        lower = (triples[:, :2] >> _FOUR_SHIFTS) & np.uint8(3)
        return ((upper << np.uint8(2)) | lower.reshape(-1, 8)).reshape(-1)[:size]
    per_byte = 8 // bits
    codes = np.empty((packed.size, per_byte), np.uint8)
    for index in range(per_byte):
        codes[:, index] = (packed >> np.uint8(index * bits)) & np.uint8((1 << bits) - 1)
    return codes.reshape(-1)[:size]
