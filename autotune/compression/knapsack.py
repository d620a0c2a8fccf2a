"""Knapsack solvers: choices of least total cost under a limit on their total size."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

UNITS = 1 << 16
"""Sizes are counted in so many parts of their sum, rounded up, where their greatest common divisor is finer."""


def cheapest_subset(sizes: Sequence[int], costs: Sequence[float], limit: float, floor: float) -> list[int]:
    """Choose the subset of least cost whose size is at least `floor` and below `limit`.

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


def cheapest_choices(sizes: Sequence[Sequence[int]], costs: Sequence[Sequence[float]], limit: int) -> list[int] | None:
    """Choose one option for each item, at the least total cost with a total size of at most `limit`.

    The multiple-choice knapsack by dynamic programming (Kellerer et al., 2004, section 11.5) over what each choice
    takes beyond its item's smallest one, in 65536 parts of the room there is, rounded up; what rounding leaves is then
    spent on the single steps that save most a byte.

    Args:
        sizes: non-negative, [n][m], each item with its own number of choices.
        costs: finite, [n][m].
        limit: of the total size.

    Returns:
        The index of each item's choice; None where even the smallest ones pass the limit.
    """
    least = [min(options) for options in sizes]
    room = limit - sum(least)
    if room < 0:
        return None
    unit = max(1, -(-room // UNITS))
    capacity = room // unit
    best = np.zeros(capacity + 1)
    picked = np.zeros((len(sizes), capacity + 1), np.int16)
    for item, (options, prices) in enumerate(zip(sizes, costs, strict=True)):
        better = np.full(capacity + 1, np.inf)
        for index, (size, cost) in enumerate(zip(options, prices, strict=True)):
            extra = -(-(size - least[item]) // unit)
            if extra > capacity:
                continue
            with_it = best[: capacity + 1 - extra] + cost
            improved = with_it < better[extra:]
            better[extra:] = np.where(improved, with_it, better[extra:])
            picked[item, extra:][improved] = index
        best = better
    chosen = [0] * len(sizes)
    left = int(best.argmin())
    for item in range(len(sizes) - 1, -1, -1):
        chosen[item] = int(picked[item, left])
        left -= -(-(sizes[item][chosen[item]] - least[item]) // unit)
    return _use_rest(sizes, costs, limit, chosen)


def _use_rest(
    sizes: Sequence[Sequence[int]], costs: Sequence[Sequence[float]], limit: int, chosen: list[int]
) -> list[int]:
    left = limit - sum(sizes[item][index] for item, index in enumerate(chosen))
    while True:
        steps = [
            ((costs[item][now] - costs[item][index]) / max(sizes[item][index] - sizes[item][now], 1), item, index)
            for item, now in enumerate(chosen)
            for index in range(len(sizes[item]))
            if costs[item][index] < costs[item][now] and sizes[item][index] - sizes[item][now] <= left
        ]
        if not steps:
            return chosen
        _, item, index = max(steps)
        left -= sizes[item][index] - sizes[item][chosen[item]]
        chosen[item] = index
