"""Whether texts that should be others than each other are: how much of one stands in another, token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

__all__ = ["BLOCK", "shared_parts", "shared_share"]

Texts = Sequence[Sequence[int]]

BLOCK = 64
"""Tokens in a row that do not stand in two texts by chance; a text that is shorter counts as a whole."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shared_parts(texts: Mapping[str, Texts]) -> dict[str, float]:
    """``"a and b"`` -> the share of b's tokens that stand in a, for each pair of sets that have texts, in order."""
    used = {name: part for name, part in texts.items() if any(len(text) for text in part)}
    return {f"{a} and {b}": shared_share(used[b], used[a]) for a, b in combinations(used, 2)}


def shared_share(texts: Texts, others: Texts) -> float:
    """The share of the tokens of `texts` in blocks of `BLOCK` that stand somewhere in `others`, in [0, 1].

    Every stretch of at least 2 BLOCK - 1 tokens that both have is found.
    """
    lengths = {min(BLOCK, len(text)) for text in texts if len(text)}
    known = {length: _hashes_at_all_places(others, length) for length in lengths}
    shared = total = 0
    for text in texts:
        length = min(BLOCK, len(text))
        if not length:
            continue
        tokens = np.asarray(text, np.int64)
        starts = [*range(0, len(tokens) - length + 1, length)]
        blocks = _hashes(tokens, length)[starts]
        found = np.isin(blocks, known[length])
        shared += int(found.sum()) * length
        total += len(starts) * length
    return shared / total if total else 0.0


def _hashes_at_all_places(texts: Texts, length: int) -> npt.NDArray[np.uint64]:
    """Hashes of all `length` tokens in a row; of texts of just that length where blocks are shorter than BLOCK."""
    fitting = [text for text in texts if (len(text) >= length if length == BLOCK else len(text) == length)]
    return np.concatenate([_hashes(np.asarray(text, np.int64), length) for text in fitting] or [np.empty(0, np.uint64)])


def _hashes(tokens: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of the `length` tokens from each place on, [n - length + 1]: a polynomial of them, modulo 2^64."""
    count = len(tokens) - length + 1
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    result = np.zeros(count, np.uint64)
    for offset in range(length):
        result = result * _MULTIPLIER + mixed[offset : offset + count]
    return result
