"""The front, its knee and its hypervolume: pure functions of numbers.

Everywhere below `values` is float [n, m]: n trials, m objectives, each in its own unit and direction.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.evaluation import Direction

    Floats = npt.NDArray[np.float64]
    Bools = npt.NDArray[np.bool_]

WIDE = 10.0
"""Ratio of the largest to the smallest positive value above which a log scale is used."""


def costs(values: Floats, directions: Sequence[Direction]) -> Floats:
    """Negate the columns to maximise, so that less is better everywhere; float [n, m]."""
    signs = np.array([1.0 if direction == "minimize" else -1.0 for direction in directions])
    cost: Floats = np.asarray(values, dtype=np.float64).reshape(-1, len(signs)) * signs
    return cost


def dominators(cost: Floats, row: int) -> list[int]:
    """Return the rows that dominate `row`: nowhere worse and somewhere better."""
    mask = (cost <= cost[row]).all(axis=1) & (cost < cost[row]).any(axis=1)
    return [int(index) for index in np.flatnonzero(mask)]


def nondominated(cost: Floats) -> Bools:
    """Return a mask of the rows that no other row dominates; bool [n].

    Rows that are equal in every column do not dominate each other, so exact ties stay together. A row with a NaN is
    never part of the front.

    Args:
        cost: float [n, m], less is better.
    """
    mask = np.zeros(len(cost), dtype=bool)
    rows = np.flatnonzero(~np.isnan(cost).any(axis=1))
    # By the sum of ranks no row dominates an earlier one, so the first of the rows that are left is on the front. It
    # is good in all columns, and dominates most of the others: for most data this takes far less than n squared.
    ranks = [np.unique(column, return_inverse=True)[1] for column in cost[rows].T]
    rows = rows[np.argsort(sum(ranks, np.zeros(len(rows), dtype=np.int64)), kind="stable")]
    while len(rows):
        first, left = cost[rows[0]], cost[rows]
        mask[rows[(left == first).all(axis=1)]] = True
        rows = rows[(left < first).any(axis=1)]
    return mask


def front_indices(
    values: Floats,
    directions: Sequence[Direction],
    *,
    feasible: Sequence[bool],
    keys: Sequence[Hashable | None],
) -> list[int]:
    """Return the rows on the front, in their order: feasible ones only, and each plan once.

    Args:
        values: float [n, m].
        directions: m of them.
        feasible: n flags; the others are neither on the front nor dominate anything.
        keys: n plan keys; of rows with one key the first counts. Each None counts as a different plan.
    """
    first: dict[Hashable, int] = {}
    for row, (allowed, key) in enumerate(zip(feasible, keys, strict=True)):
        if allowed:
            first.setdefault(object() if key is None else key, row)
    rows = list(first.values())
    cost = costs(values, directions)[rows]
    return [row for row, member in zip(rows, nondominated(cost), strict=True) if member]


def is_wide(values: Floats) -> bool:
    """Return True if all finite values are positive and span more than a factor `WIDE`."""
    finite = values[np.isfinite(values)]
    return bool(finite.size > 1 and finite.min() > 0 and finite.max() > WIDE * finite.min())


def unit_costs(values: Floats, directions: Sequence[Direction], *, logarithmic: bool = True) -> Floats:
    """Scale each objective to [0, 1], 0 the best and 1 the worst of these rows; float [n, m].

    With `logarithmic` the logarithm is scaled if `is_wide`; a column without any spread is all 0.
    """
    values = np.asarray(values, dtype=np.float64).reshape(-1, len(directions))
    scaled = np.column_stack([np.log(column) if logarithmic and is_wide(column) else column for column in values.T])
    cost = costs(scaled, directions)
    low, high = cost.min(axis=0), cost.max(axis=0)
    spread = np.where(high > low, high - low, 1.0)
    return np.asarray((cost - low) / spread)


def knee(values: Floats, directions: Sequence[Direction]) -> int:
    """Return the row of a front that is its knee: the point after which every gain costs more than it brings.

    Two objectives: the point farthest, towards the ideal, from the chord between the two extremes, after
    `unit_costs` (the bulge of Das, "On characterizing the knee of the Pareto curve based on normal-boundary
    intersection", Structural Optimization 18, 1999). There the chord is x + y = 1, so the farthest point is the one
    with the smallest sum. Where no point lies beyond the chord, and for any other number of objectives: the point
    nearest to the ideal, the origin of `unit_costs` (compromise programming; Zeleny, "Compromise programming",
    1973). Exact ties go to the point that is best in the first objective, then the second, and so on.

    The objectives count as they are, not by their logarithm: one nearly lossless point would stretch a logarithmic
    scale so far that every loss after it looks small, and the knee would be the smallest model.

    Args:
        values: float [n, m], n >= 1: the front alone, finite.
        directions: m of them.
    """
    unit = unit_costs(values, directions, logarithmic=False)
    bulge = 1.0 - unit.sum(axis=1)
    has_bulge = len(directions) == 2 and bulge.max() > 1e-9
    rank = -bulge if has_bulge else np.linalg.norm(unit, axis=1)
    # Rounding keeps points that are symmetric on paper from being told apart by their last bit.
    order = np.lexsort((*unit.T[::-1], rank.round(12)))
    return int(order[0])


def hypervolume(cost: Floats, reference: Floats) -> float:
    """Compute the exact volume that the rows dominate below `reference`, in the product of the objectives' units.

    Two objectives: the area under the staircase. More: slices between consecutive values of the last objective
    (HSO; While et al., "A faster algorithm for calculating hypervolume", IEEE TEC 10, 2006), each of
    one dimension less; exponential in m, and meant for a front of some hundred points and m <= 4.

    Args:
        cost: float [n, m], less is better; rows that are not better than the reference everywhere add nothing.
        reference: float [m].
    """
    inside = cost[(cost < reference).all(axis=1)]
    if not len(inside):
        return 0.0
    if inside.shape[1] == 1:
        return float(reference[0] - inside.min())
    if inside.shape[1] > 2:
        inside = inside[nondominated(inside)]
    inside = inside[np.argsort(inside[:, -1], kind="stable")]
    if inside.shape[1] == 2:
        reach = np.minimum.accumulate(inside[:, 0])
        heights = np.diff(np.append(inside[:, 1], reference[1]))
        return float(((reference[0] - reach) * heights).sum())
    depths = np.diff(np.append(inside[:, -1], reference[-1]))
    slices = (hypervolume(inside[: i + 1, :-1], reference[:-1]) * d for i, d in enumerate(depths) if d > 0)
    return float(sum(slices))
