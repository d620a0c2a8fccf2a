"""Elements of 2, 3, 4 and 8 bits packed into bytes as OpenVINO lays them out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["pack", "packed_bytes", "unpack"]

Codes = npt.NDArray[np.uint8]

_EIGHT_SHIFTS = np.arange(7, -1, -1, dtype=np.uint8)
_FOUR_SHIFTS = np.array([6, 4, 2, 0], np.uint8)


def packed_bytes(elements: int, bits: int) -> int:
    """Bytes of a constant of so many elements; three-bit elements come in eights."""
    return 3 * -(-elements // 8) if bits == 3 else -(-elements * bits // 8)


def pack(codes: Codes, bits: int) -> Codes:
    """Bytes of a constant in flat order, uint8.

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
    """Inverse of `pack` for `size` elements: flat uint8, one element a byte."""
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
