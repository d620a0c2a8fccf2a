from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import combinations, product

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from autotune.compression.knapsack import cheapest_choices, cheapest_subset

items = st.lists(st.tuples(st.integers(1, 12), st.floats(0, 10)), min_size=1, max_size=7)


# Half and all of the integer sizes are limits that a subset may reach exactly.
@given(items, st.floats(0.05, 1) | st.sampled_from((0.5, 1.0)), st.floats(0, 1))
def test_it_equals_trying_every_subset(pairs: list[tuple[int, float]], share: float, depth: float) -> None:
    sizes, costs = [size for size, _ in pairs], [cost for _, cost in pairs]
    limit = share * sum(sizes)
    floor = depth * limit
    found = cheapest_subset(sizes, costs, limit, floor)
    subsets = [c for n in range(len(pairs) + 1) for c in combinations(range(len(pairs)), n)]
    total = {c: sum(sizes[i] for i in c) for c in subsets}
    below = [c for c in subsets if total[c] < limit]
    enough = [c for c in below if total[c] >= floor] or [
        c for c in below if total[c] == max(total[other] for other in below)
    ]
    assert tuple(found) in enough
    assert math.isclose(sum(costs[i] for i in found), min(sum(costs[i] for i in c) for c in enough), abs_tol=1e-9)


def test_infinite_costs_are_never_chosen() -> None:
    assert cheapest_subset([4, 4, 4], [math.inf, 1.0, math.inf], 12.5, 12) == [1]
    assert cheapest_subset([4], [math.inf], 5, 4) == []


def test_sizes_without_a_common_divisor_never_pass_the_limit() -> None:
    sizes = [1_000_003, 999_983, 2_000_003, 777_777]
    found = cheapest_subset(sizes, [1.0, 1.0, 1.0, 1.0], 3_000_000, 2_900_000)
    assert 2_700_000 < sum(sizes[i] for i in found) < 3_000_000


menus = st.lists(
    st.lists(st.tuples(st.integers(0, 9), st.floats(0, 10)), min_size=1, max_size=4), min_size=1, max_size=4
)


@given(menus, st.integers(0, 40))
def test_choices_equal_trying_all_of_them(menu: list[list[tuple[int, float]]], limit: int) -> None:
    sizes = [[size for size, _ in options] for options in menu]
    costs = [[cost for _, cost in options] for options in menu]
    found = cheapest_choices(sizes, costs, limit)
    every = [
        picks
        for picks in product(*(range(len(options)) for options in menu))
        if sum(sizes[item][index] for item, index in enumerate(picks)) <= limit
    ]
    if not every:
        assert found is None
        return
    assert found is not None
    assert tuple(found) in every

    def cost(picks: Sequence[int]) -> float:
        return sum(costs[item][index] for item, index in enumerate(picks))

    assert math.isclose(cost(found), min(map(cost, every)), abs_tol=1e-9)


def test_coarse_units_keep_the_limit_and_waste_little() -> None:
    """A room of a thousand times the units there are."""
    random = np.random.default_rng(0)
    sizes = [sorted(random.integers(1_000_000, 9_000_000, 4).tolist()) for _ in range(30)]
    costs = [sorted(random.uniform(0, 1, 4).tolist(), reverse=True) for _ in range(30)]
    limit = 150_000_000
    found = cheapest_choices(sizes, costs, limit)
    assert found is not None
    used = sum(sizes[item][index] for item, index in enumerate(found))
    assert 0.99 * limit < used <= limit


def test_what_rounding_leaves_goes_to_the_step_that_saves_most_a_byte() -> None:
    """131072 bytes are 65536 units, all of which the first item takes, though it leaves a byte."""
    large = ([0, 131_071], [100.0, 0.0])
    sizes, costs = [large[0], [0, 1], [0, 1], [0, 2]], [large[1], [1.0, 0.0], [2.0, 0.0], [9.0, 0.0]]
    assert cheapest_choices(sizes, costs, 131_072) == [1, 0, 1, 0]
    assert cheapest_choices(sizes, costs, 131_073) == [1, 0, 0, 1]
    assert cheapest_choices([[3, 5], [4, 9]], [[1.0, 0.0], [1.0, 0.0]], 6) is None
    assert cheapest_choices([[3, 5], [4, 9]], [[1.0, 0.0], [1.0, 0.0]], 7) == [0, 0]


def test_a_subset_reaches_the_floor_or_is_the_largest_there_is() -> None:
    """At the floor exactly, below the limit strictly; without a subset between them, the largest below."""
    assert cheapest_subset([4, 6], [1.0, 5.0], 11, 6) == [1]
    assert cheapest_subset([4, 6], [1.0, 5.0], 11, 7) == [0, 1]
    assert cheapest_subset([4, 6], [1.0, 5.0], 10, 7) == [1]
    assert cheapest_subset([4, 6], [1.0, 5.0], 6, 5) == [0]
    assert cheapest_subset([4, 6], [1.0, 5.0], 4, 3) == []


def test_terabytes_take_no_more_memory() -> None:
    """Sizes that are 10**12 times as large, and have no common divisor, give the same choice."""
    sizes, costs = [[0, 3, 5], [0, 2, 4], [1, 6, 8]], [[9.0, 4.0, 0.5], [8.0, 5.0, 2.0], [7.0, 3.0, 1.0]]
    large = [[size * 10**12 + index for index, size in enumerate(options)] for options in sizes]
    assert cheapest_choices(large, costs, 9_500_000_000_000) == cheapest_choices(sizes, costs, 9)
    assert cheapest_subset([3 * 10**12 + 1, 2 * 10**12, 4 * 10**12], [1.0, 5.0, 2.0], 6.5e12, 5e12) == [0, 1]
