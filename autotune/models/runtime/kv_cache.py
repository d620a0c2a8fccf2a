"""Size of a KV cache, from the states of a compiled model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

BITS = {"f32": 32, "f16": 16, "bf16": 16, "u8": 8, "u4": 4}
"""Bits of a number of a KV cache, by `KV_CACHE_PRECISION`."""

SCALES = 8
"""Bytes of scale and zero point, both float32, of the numbers that are quantized together: those of a head."""


@dataclass(frozen=True, slots=True)
class KVCache:
    """Shape of the states of one token.

    Attributes:
        states: sizes of each state without batch and length, which are 0 in an empty one; the last is that of a head.
        recurrent: there are states without a length (Mamba, convolutions). The export of Granite 4.0 computes wrong
            logits from them if more than one token continues them (relative error 0.35).
    """

    states: tuple[tuple[int, ...], ...]
    recurrent: bool

    @classmethod
    def of(cls, states: Sequence[Any]) -> KVCache:
        """Read the states of an inference request that has run nothing."""
        shapes = [list(state.state.shape) for state in states]
        sizes = tuple(tuple(size for size in shape if size) for shape in shapes)
        return cls(sizes, any(shape.count(0) != 2 for shape in shapes))

    def token_bytes(self, precision: str) -> int:
        """Compute the bytes of one token in this precision, a key of `BITS`."""
        bits, quantized = BITS[precision], BITS[precision] <= 8
        sizes = (
            math.prod(sizes) * bits // 8 + (SCALES * math.prod(sizes[:-1]) if quantized else 0) for sizes in self.states
        )
        return sum(sizes)
