from __future__ import annotations

import math
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from autotune.compression.knapsack import cheapest_subset

items = st.lists(st.tuples(st.integers(1, 12), st.floats(0, 10)), min_size=1, max_size=7)


@given(items, st.floats(0.05, 1), st.floats(0, 1))
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
