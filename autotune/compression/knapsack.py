"""Choosing weights under a limit on their elements, at the least total error."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

__all__ = ["cheapest_subset"]

UNITS = 1 << 16
"""Sizes are counted in so many parts of their sum, rounded up, where their greatest common divisor is finer."""


def cheapest_subset(sizes: Sequence[int], costs: Sequence[float], limit: float, floor: float) -> list[int]:
    """The subset of least cost whose size is at least `floor` and below `limit`.

    Where no subset falls between the two, the cheapest of the largest ones below the limit. Dynamic programming over
    sizes (Kellerer et al., "Knapsack Problems", 2004, section 2.3): exact where sizes have a common divisor of at least
    1/65536 of their sum, as those of one model's layers usually do.

    Args:
        sizes: positive, [n].
        costs: of choosing each, [n]; one that is infinite is never chosen.
        limit: the subset's size stays below it.
        floor: it reaches this where it can.

    Returns:
        Indices in increasing order.
    """
    candidates = [index for index, cost in enumerate(costs) if math.isfinite(cost)]
    if not candidates:
        return []
    unit = max(math.gcd(*(sizes[index] for index in candidates)), -(-sum(sizes) // UNITS))
    capacity = math.ceil(limit / unit) - 1
    best = np.full(capacity + 1, np.inf)
    best[0] = 0.0
    taken = np.zeros((len(candidates), capacity + 1), bool)
    for row, index in enumerate(candidates):
        size = -(-sizes[index] // unit)
        if size > capacity:
            continue
        with_it = best[: capacity + 1 - size] + costs[index]
        taken[row, size:] = with_it < best[size:]
        best[size:] = np.where(taken[row, size:], with_it, best[size:])
    reachable = np.flatnonzero(np.isfinite(best))
    enough = reachable[reachable * unit >= floor]
    used = int(enough[best[enough].argmin()]) if len(enough) else int(reachable[-1])
    chosen = []
    for row in range(len(candidates) - 1, -1, -1):
        if taken[row, used]:
            chosen.append(candidates[row])
            used -= -(-sizes[candidates[row]] // unit)
    return sorted(chosen)
