"""From an error table to plans: the least predicted divergence at most so large."""

from __future__ import annotations

from autotune.allocation.table import ErrorTable
from autotune.compression.engine import Engine
from autotune.compression.knapsack import cheapest_choices
from autotune.compression.plan import Plan
from autotune.compression.variants import Variant

__all__ = ["limits", "solve"]

REFINEMENTS = 2
"""How often a solution is solved again with the pairs that it has itself."""


def solve(engine: Engine, table: ErrorTable, limit: int) -> Plan:
    """The plan of least predicted divergence whose `openvino_model.bin` has at most `limit` bytes.

    What pairs of weights add makes the problem quadratic. It is solved as a row of linear ones, each with the pairs
    that the solution before it has; the best of them all is taken.

    Raises:
        PlanError: nothing on the menus is that small; the message says what is.
    """
    table.menus.check(limit, engine)
    costs = {name: table.costs(name) for name in table.menus.choices}
    best = solve_linear(engine, table, costs, limit)
    if not any(table.pairs.values()):
        return best
    least, seen, plan = table.predicted(best.variants), {best.key}, best
    for _ in range(REFINEMENTS):
        plan = solve_linear(engine, table, table.beside(table.contributions(plan.variants)), limit)
        if plan.key in seen:
            break
        seen.add(plan.key)
        if table.predicted(plan.variants) < least:
            best, least = plan, table.predicted(plan.variants)
    return best


def solve_linear(engine: Engine, table: ErrorTable, costs: dict[str, list[float]], limit: int) -> Plan:
    """The plan of least total cost, given the cost of each choice of each weight."""
    menus = table.menus.choices
    sizes = [[choice.nbytes for choice in choices] for choices in menus.values()]
    room = limit - _rest(engine, table)
    while True:
        chosen = cheapest_choices(sizes, [costs[name] for name in menus], room)
        if chosen is None:
            return table.menus.smallest(engine)
        found = {name: menus[name][index].variant for name, index in zip(menus, chosen, strict=True)}
        variants: dict[str, Variant] = {name: variant for name, variant in found.items() if variant is not None}
        plan = engine.plan_of(variants)
        if plan.footprint <= limit:
            return plan
        # Constants that only some choices need, the shapes of reshapes: some hundred bytes at most.
        room -= plan.footprint - limit


def limits(engine: Engine, table: ErrorTable, count: int) -> list[int]:
    """Sizes spread evenly from the smallest model of the menus to the one that costs nothing more to enlarge."""
    smallest = table.menus.smallest(engine).footprint
    largest = max((plan.footprint for plan in table.menus.uniform), default=engine.sizes.original)
    return [round(smallest + (largest - smallest) * step / (count - 1)) for step in range(count)]


def _rest(engine: Engine, table: ErrorTable) -> int:
    """Bytes of everything that the menus do not decide."""
    decided = sum(choices[0].nbytes for choices in table.menus.choices.values())
    return table.menus.smallest(engine).footprint - decided
