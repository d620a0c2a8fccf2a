"""Planner of a study's budgets: one error table for all, solved for each budget."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from autotune.allocation.allocator import Allocator, protections
from autotune.allocation.error_table import ErrorTable, solve
from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Variant
from autotune.compression.plan import Plan
from autotune.compression.settings import MOST_BITS

LEARNED_FROM = 8
"""Number of sizes at which plans are verified before the first trial; trials are measured anyway."""


class BudgetPlanner:
    """Solves for budgets. Its measurements are stored in the bank, so all workers and later studies share one table.

    Attributes:
        allocator: with the corrected table, and the plans that it was corrected by.
    """

    def __init__(self, allocator: Allocator, *, most: float | None = None) -> None:
        """Verify plans of several sizes, or read them from the bank, to correct the allocator's table.

        Args:
            allocator: of the original model; it measures nothing afterwards.
            most: upper bound in bytes for every plan, whatever its budget (a limit of the study).
        """
        self.allocator, self._engine, self._most = allocator, allocator.engine, most
        allocator.learn(LEARNED_FROM)

    def plan(self, budget: float) -> Plan:
        """Return the plan of least predicted divergence within a budget.

        A verified plan that measured better than that prediction is returned instead. A budget in bits a weight below
        the smallest plan returns the smallest plan, with a note.

        Args:
            budget: bits a weight, or bytes; see `Settings.budget`.

        Raises:
            PlanError: fewer bytes than the smallest plan has.
        """
        limit = bytes_of(self._engine, budget)
        notes = []
        if self._most is not None and limit > self._most:
            limit = int(self._most)
        smallest = self.allocator.table.menus.smallest(self._engine).footprint
        if budget <= MOST_BITS and limit < smallest:
            notes.append(
                f"{budget:g} bits per weight is below the smallest plan of the allowed formats, which is used instead"
            )
            limit = smallest
        table = self.allocator.table_at(max(limit, smallest))
        plan = self._solve(table, limit, budget)
        predicted = table.predicted(plan.variants)
        verified = [p for p in self.allocator.points if p.plan.footprint <= max(limit, plan.footprint)]
        if budget <= MOST_BITS:
            verified = [p for p in verified if p.plan.bits_per_weight <= max(budget, plan.bits_per_weight)]
        best = min(verified, key=lambda point: (point.measured.value, point.plan.key), default=None)
        if best is not None and best.measured.value < predicted:
            plan, predicted = best.plan, best.measured.value
            if best.uniform:
                notes.append("one mode and group size for all weights is the best plan of this size")
        notes += protections(table, plan, self.allocator.collapsing(), self.allocator.loss.unit)
        return replace(plan, notes=(*notes, *plan.notes), sensitivity=self._errors(predicted))

    def _solve(self, table: ErrorTable, limit: int, budget: float) -> Plan:
        """Solve for at most `limit` bytes, and at most `budget` bits a weight if the budget counts bits."""
        elements = sum(weight.size for weight in self._engine.weights)
        while True:
            plan = solve(self._engine, table, limit)
            over = (plan.bits_per_weight - budget) * elements / 8 if budget <= MOST_BITS else 0.0
            smaller = limit - math.ceil(over)
            # The shapes of grouped weights take bytes and no bits: fewer groups leave room that a weight must not fill.
            if smaller >= limit or smaller < table.menus.smallest(self._engine).footprint:
                return plan
            limit = smaller

    def _errors(self, predicted: float) -> dict[str, Any]:
        """Collect the error map and the prediction for the plan's file."""
        table = self.allocator.table
        errors = {}
        for name, choices in table.menus.choices.items():
            costs = zip(choices, table.costs(name), strict=True)
            errors[name] = {described(c.variant): cost for c, cost in costs if c.variant is not None}
        # By its worst format, a weight's place does not depend on what this plan gave it.
        values = {name: max(table.costs(name)) for name in table.menus.choices}
        metric = f"measured {self.allocator.loss.label}"  # instead of a sensitivity
        return {"metric": metric, "values": values, "predicted": predicted, "errors": errors}


def bytes_of(engine: Engine, budget: float) -> int:
    """Convert a budget in bits a weight (or in bytes) to bytes of the weight files."""
    if budget > MOST_BITS:
        return int(budget)
    weights = sum(engine.sizes.nbytes(weight) for weight in engine.weights)
    elements = sum(weight.size for weight in engine.weights)
    # The shapes of grouped weights are constants of their own, 8 bytes an axis, and no bits of a weight.
    shapes = sum(8 * len(weight.shape) for weight in engine.weights)
    beside = engine.sizes.beside
    rest = engine.sizes.original - beside.original + beside.compressed - weights
    return rest + shapes + round(budget * elements / 8)


def described(variant: Variant) -> str:
    """``int4_asym g64``."""
    return variant.mode if variant.group_size == -1 else f"{variant.mode} g{variant.group_size}"
