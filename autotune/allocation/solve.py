"""From an error table to plans: the least predicted divergence at most so large."""

from __future__ import annotations

from autotune.allocation.table import ErrorTable
from autotune.compression.engine import Engine
from autotune.compression.knapsack import cheapest_choices
from autotune.compression.plan import Plan

__all__ = ["limits", "solve"]


def solve(engine: Engine, table: ErrorTable, limit: int) -> Plan:
    """The plan of least predicted divergence whose `openvino_model.bin` has at most `limit` bytes.

    Raises:
        PlanError: nothing on the menus is that small; the message says what is.
    """
    table.menus.check(limit, engine)
    menus = table.menus.choices
    sizes = [[choice.nbytes for choice in choices] for choices in menus.values()]
    costs = [table.costs(name) for name in menus]
    room = limit - _rest(engine, table)
    while True:
        chosen = cheapest_choices(sizes, costs, room)
        if chosen is None:
            return table.menus.smallest(engine)
        variants = {name: menus[name][index].variant for name, index in zip(menus, chosen, strict=True)}
        plan = engine.plan_of({name: variant for name, variant in variants.items() if variant is not None})
        if plan.footprint <= limit:
            return plan
        # Constants that only some choices need, the shapes of reshapes: some hundred bytes at most.
        room -= plan.footprint - limit


def limits(engine: Engine, table: ErrorTable, count: int) -> list[int]:
    """Sizes spread evenly from the smallest model of the menus to the one that costs nothing more to enlarge."""
    smallest = table.menus.smallest(engine).footprint
    largest = max(plan.footprint for plan in table.menus.uniform)
    return [round(smallest + (largest - smallest) * step / (count - 1)) for step in range(count)]


def _rest(engine: Engine, table: ErrorTable) -> int:
    """Bytes of everything that the menus do not decide."""
    decided = sum(choices[0].nbytes for choices in table.menus.choices.values())
    return table.menus.smallest(engine).footprint - decided
