"""Overlap between texts that must be disjoint, measured token by token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import numpy.typing as npt

Texts = Sequence[Sequence[int]]

BLOCK = 64
"""Length of the token sequences that are compared: two texts share that many only if one was copied."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shared_parts(texts: Mapping[str, Texts]) -> dict[str, float]:
    """Measure the overlap of each pair of texts that should be disjoint.

    Args:
        texts: name -> token ids of its texts. Names without any token are left out.

    Returns:
        ``"a and b"`` -> share of b's tokens that are in a, for each pair in order.
    """
    used = {name: part for name, part in texts.items() if any(len(text) for text in part)}
    return {f"{a} and {b}": shared_share(used[b], used[a]) for a, b in combinations(used, 2)}


def shared_share(texts: Texts, others: Texts) -> float:
    """Return the share of the tokens of `texts`, in blocks of 64, that are anywhere in `others`, in [0, 1].

    Every common stretch of at least 127 tokens is found. A text shorter than a block is compared as a whole.
    """
    lengths = {min(BLOCK, len(text)) for text in texts if len(text)}
    hashes = {length: _hashes_at_all_positions(others, length) for length in lengths}
    shared = total = 0
    for text in texts:
        length = min(BLOCK, len(text))
        if not length:
            continue
        tokens = np.asarray(text, np.int64)
        starts = [*range(0, len(tokens) - length + 1, length)]
        shared += int(np.isin(_hashes(tokens, length)[starts], hashes[length]).sum()) * length
        total += len(starts) * length
    return shared / total if total else 0.0


def _hashes_at_all_positions(texts: Texts, length: int) -> npt.NDArray[np.uint64]:
    """Hash every run of `length` tokens; if `length` is below `BLOCK`, only texts of exactly that length."""
    fitting = [text for text in texts if (len(text) >= length if length == BLOCK else len(text) == length)]
    return np.concatenate([_hashes(np.asarray(text, np.int64), length) for text in fitting] or [np.empty(0, np.uint64)])


def _hashes(tokens: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of the `length` tokens from each position, [n - length + 1]: a polynomial modulo 2^64."""
    count = len(tokens) - length + 1
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    result = np.zeros(count, np.uint64)
    for offset in range(length):
        result = result * _MULTIPLIER + mixed[offset : offset + count]
    return result
