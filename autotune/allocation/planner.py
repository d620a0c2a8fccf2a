"""Plans of a study's budgets: one table of errors for all of them, solved anew for each."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from autotune.allocation.allocator import Allocator, Stage, Texts, protections
from autotune.allocation.choices import Menus
from autotune.allocation.error_table import ErrorTable, solve
from autotune.allocation.probe import Probe
from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Variant
from autotune.compression.plan import Plan
from autotune.compression.settings import MOST_BITS
from autotune.errors import PlanError

__all__ = ["ERROR_METRIC", "BudgetPlanner", "bytes_of"]

ERROR_METRIC = "measured KL divergence"
"""What the plan's map of weights shows instead of a sensitivity."""

LEARNED_FROM = 8
"""Sizes at which plans are verified before the first trial; the trials are measured anyway."""


class BudgetPlanner:
    """Solves for budgets; measured once, kept in the bank, so that all workers and later studies have one table.

    Attributes:
        allocator: with the corrected table, and the plans that it was corrected by.
    """

    def __init__(
        self,
        engine: Engine,
        menus: Menus,
        open_probe: Callable[[], Probe],
        *,
        short: Texts,
        full: Texts,
        most: float | None = None,
        stage: Stage | None = None,
    ) -> None:
        """Measure, or find in the bank, the errors and the plans that correct them.

        Args:
            engine: of the original model.
            menus: what each weight may become.
            open_probe: makes the probe, should anything have to be measured; it is closed again.
            short, full: see `Allocator`.
            most: bytes that no plan may pass, whatever its budget (a limit of the study).
            stage: is told what happens.

        Raises:
            PlanError: the menus are empty.
        """
        if not menus.choices:
            raise PlanError("allocation: no weight of this model can have any of the formats that the space allows")
        self._engine, self._most = engine, most
        opened: list[Probe] = []

        def probe() -> Probe:
            if not opened:
                opened.append(open_probe())
            return opened[0]

        try:
            self.allocator = Allocator(engine, menus, probe, short=short, full=full, stage=stage)
            self.allocator.learn(LEARNED_FROM)
        finally:
            for one in opened:
                one.close()

    def plan(self, budget: float) -> Plan:
        """The plan of least predicted divergence within a budget.

        A uniform or other plan that was verified and did better than that prediction is taken instead. A budget in
        bits a weight below what the formats reach gives the smallest plan there is, with a note.

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
                f"{budget:g} bits a weight are fewer than the allowed formats reach; the smallest plan instead"
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
                notes.append("one mode and group size for all weights is the best of this size here")
        notes += protections(table, plan, self.allocator.collapsing())
        return replace(plan, notes=(*notes, *plan.notes), sensitivity=self._errors(predicted))

    def _solve(self, table: ErrorTable, limit: int, budget: float) -> Plan:
        """A plan of at most so many bytes, and of at most so many bits a weight where the budget counts these."""
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
        """What the plan's file tells of the table: the map of errors, and what was foretold."""
        table = self.allocator.table
        errors = {}
        for name, choices in table.menus.choices.items():
            costs = zip(choices, table.costs(name), strict=True)
            errors[name] = {described(c.variant): cost for c, cost in costs if c.variant is not None}
        # By its worst format, a weight's place does not depend on what this plan gave it.
        values = {name: max(table.costs(name)) for name in table.menus.choices}
        return {"metric": ERROR_METRIC, "values": values, "predicted": predicted, "errors": errors}


def bytes_of(engine: Engine, budget: float) -> int:
    """Bytes of `openvino_model.bin` that a budget in bits a weight (or in bytes) allows."""
    if budget > MOST_BITS:
        return int(budget)
    weights = sum(engine.sizes.nbytes(weight) for weight in engine.weights)
    elements = sum(weight.size for weight in engine.weights)
    # The shapes of grouped weights are constants of their own, 8 bytes an axis, and no bits of a weight.
    shapes = sum(8 * len(weight.shape) for weight in engine.weights)
    return engine.sizes.original - weights + shapes + round(budget * elements / 8)


def described(variant: Variant) -> str:
    """``int4_asym g64``."""
    return variant.mode if variant.group_size == -1 else f"{variant.mode} g{variant.group_size}"
