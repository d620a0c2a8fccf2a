"""Laws of the front, its knee and its hypervolume."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from autotune.results.front import pareto

GRID = st.integers(0, 6).map(float)
POINTS = st.integers(1, 3).flatmap(
    lambda m: hnp.arrays(np.float64, st.tuples(st.integers(1, 12), st.just(m)), elements=GRID)
)


def dominates(a: Any, b: Any) -> bool:
    """Return True if a dominates b, by the definition."""
    pairs = list(zip(a, b, strict=True))
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


@given(POINTS)
def test_nondominated_is_what_no_row_beats(cost: Any) -> None:
    """A row is on the front exactly when no other row dominates it."""
    expected = [not any(dominates(other, row) for other in cost) for row in cost]
    assert pareto.nondominated(cost).tolist() == expected


@given(POINTS)
def test_maximising_is_minimising_the_negative(cost: Any) -> None:
    """Directions only turn signs."""
    m = cost.shape[1]
    flags: dict[str, Any] = {"feasible": [True] * len(cost), "keys": [None] * len(cost)}
    assert pareto.front_indices(cost, ["minimize"] * m, **flags) == pareto.front_indices(
        -cost, ["maximize"] * m, **flags
    )


def test_nan_is_never_on_the_front() -> None:
    """A row with a NaN neither joins the front nor keeps others off it."""
    cost = np.array([[math.nan, 0.0], [1.0, 1.0]])
    assert pareto.nondominated(cost).tolist() == [False, True]


def test_exact_ties_stay_together_and_a_plan_counts_once() -> None:
    """Equal values of two plans are both on the front; a repeated plan only by its first trial."""
    values = np.array([[1.0, 2.0], [1.0, 2.0], [1.0, 2.0], [3.0, 3.0]])
    rows = pareto.front_indices(values, ["minimize", "minimize"], feasible=[True] * 4, keys=["a", "b", "a", "c"])
    assert rows == [0, 1]


def test_infeasible_rows_neither_join_nor_dominate() -> None:
    """The best row outside the constraints leaves the front to the others."""
    values = np.array([[0.0, 0.0], [1.0, 1.0]])
    assert pareto.front_indices(values, ["minimize", "minimize"], feasible=[False, True], keys=[None, None]) == [1]


@given(POINTS)
def test_hypervolume_counts_the_cells_below(cost: Any) -> None:
    """On integer points the volume is the number of unit cells that some point dominates."""
    m = cost.shape[1]
    cells = [any(all(p[k] <= cell[k] for k in range(m)) for p in cost) for cell in product(range(7), repeat=m)]
    assert pareto.hypervolume(cost, np.full(m, 7.0)) == pytest.approx(sum(cells))


@given(POINTS)
def test_only_the_front_has_volume(cost: Any) -> None:
    """Dominated rows add nothing."""
    reference = np.full(cost.shape[1], 7.0)
    alone = pareto.hypervolume(cost[pareto.nondominated(cost)], reference)
    assert alone == pytest.approx(pareto.hypervolume(cost, reference))


def test_hypervolume_of_nothing_is_nothing() -> None:
    """No rows, or rows beyond the reference, have no volume."""
    assert pareto.hypervolume(np.empty((0, 2)), np.ones(2)) == 0
    assert pareto.hypervolume(np.array([[1.0, 0.0]]), np.ones(2)) == 0


def test_knee_is_farthest_from_the_chord() -> None:
    """Of a convex front the point with the greatest distance to the line between its ends."""
    values = np.array([[0.0, 1.0], [0.1, 0.5], [0.2, 0.2], [0.6, 0.1], [1.0, 0.0]])
    start, end = values[0], values[-1]
    chord = (end - start) / np.linalg.norm(end - start)
    distances = [abs(chord[0] * (p - start)[1] - chord[1] * (p - start)[0]) for p in values]
    assert pareto.knee(values, ["minimize", "minimize"]) == int(np.argmax(distances)) == 2


@given(st.lists(st.tuples(st.integers(1, 99), st.integers(1, 99)), min_size=1, max_size=10, unique=True))
def test_knee_does_not_depend_on_units_or_signs(points: list[tuple[int, int]]) -> None:
    """Other units, and maximising the negative, give the same knee."""
    values = np.array(points, dtype=np.float64) + 100.0
    values = values[pareto.nondominated(values)]
    chosen = pareto.knee(values, ["minimize", "minimize"])
    assert pareto.knee(values * [8.0, 0.5], ["minimize", "minimize"]) == chosen
    assert pareto.knee(values * [1.0, -1.0], ["minimize", "maximize"]) == chosen


def test_a_nearly_lossless_point_does_not_move_the_knee() -> None:
    """However small the divergence of the most accurate model, the knee stays where the trade is best."""
    values = np.array([[3e-3, 22.0], [1e-3, 17.0], [2e-3, 13.8], [4.5e-3, 13.4], [9e-3, 11.3]])
    for smallest in (5e-4, 5e-5, 5e-9, 5e-300):
        values[0, 0] = smallest
        assert pareto.knee(values, ["minimize", "minimize"]) == 2


def test_values_over_decades_are_wide() -> None:
    """Positive values that span more than tenfold suit a log scale."""
    values = np.array([[1e-4, 22.0], [1e-3, 14.0], [1e-2, 13.9], [1e-1, 12.0]])
    assert pareto.is_wide(values[:, 0])
    assert not pareto.is_wide(values[:, 1])
    assert not pareto.is_wide(np.array([0.0, 1.0, 100.0]))


def test_knee_without_a_bulge_is_nearest_to_the_ideal() -> None:
    """If every point is behind the chord, the knee is the point nearest to the best of both, not the farthest."""
    values = np.array([[0.0, 1.0], [0.62, 0.62], [0.4, 0.75], [1.0, 0.0]])
    assert pareto.knee(values, ["minimize", "minimize"]) == 2


def test_knee_of_one_and_of_two() -> None:
    """A single point is its own knee; of two ends the one that is better in the first objective."""
    assert pareto.knee(np.array([[3.0, 4.0]]), ["minimize", "maximize"]) == 0
    assert pareto.knee(np.array([[2.0, 1.0], [1.0, 2.0]]), ["minimize", "minimize"]) == 1
    assert pareto.knee(np.array([[2.0], [1.0]]), ["maximize"]) == 0


def test_knee_of_three_objectives_is_nearest_to_the_ideal() -> None:
    """With more than two objectives the distance to the ideal decides."""
    values = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.4, 0.4, 0.4]])
    assert pareto.knee(values, ["minimize"] * 3) == 3


def test_unit_costs_are_0_at_the_best_and_1_at_the_worst() -> None:
    """Of each objective; by its logarithm where it spans decades, all 0 where it has no spread."""
    values = np.array([[2.0, 5.0, 7.0], [4.0, 5.0, 700.0], [3.0, 5.0, 70.0]])
    directions: list[Any] = ["maximize", "minimize", "minimize"]
    assert pareto.unit_costs(values, directions) == pytest.approx(np.array([[1, 0, 0], [0, 0, 1], [0.5, 0, 0.5]]))
    linear = pareto.unit_costs(values, directions, logarithmic=False)
    assert linear[:, 2] == pytest.approx([0, 1, 63 / 693])


@pytest.mark.parametrize(
    ("values", "wide"),
    [
        ([1.0, 10.0], False),
        ([1.0, 10.1], True),
        ([5.0], False),
        ([-1.0, 100.0], False),
        ([1.0, math.nan, 20.0], True),
        ([1.0, math.inf], False),
    ],
)
def test_wide_is_more_than_tenfold_of_positive_finite_values(values: list[float], wide: bool) -> None:
    """At the edges: exactly tenfold, one value, negative ones, NaN and infinity."""
    assert pareto.is_wide(np.array(values)) is wide


def test_dominators_are_nowhere_worse_and_somewhere_better() -> None:
    """All of them, by row; neither the row itself nor an equal one."""
    cost = np.array([[1.0, 1.0], [1.0, 1.0], [0.0, 1.0], [0.0, 2.0], [0.5, 0.5]])
    assert pareto.dominators(cost, 0) == [2, 4]


def test_the_knee_of_a_bulge_is_not_the_point_nearest_to_the_ideal() -> None:
    """The sum of unit costs decides before the chord, the distance behind it."""
    values = np.array([[0.0, 1.0], [0.1, 0.5], [0.32, 0.32], [1.0, 0.0]])
    assert pareto.knee(values, ["minimize", "minimize"]) == 1
