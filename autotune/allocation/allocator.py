"""Allocates, verifies and corrects until prediction and measurement agree; every point that it returns was measured."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from autotune.allocation.correct import fit_correction
from autotune.allocation.menus import Menus
from autotune.allocation.probe import Array, Probe
from autotune.allocation.solve import limits, solve
from autotune.allocation.table import ErrorTable, measure
from autotune.compression.engine import Engine
from autotune.compression.plan import Plan
from autotune.compression.variants import Variant
from autotune.compression.weights import rows_to_shape
from autotune.errors import PlanError
from autotune.evaluation import Evaluator, Measurement, Reference

__all__ = ["Allocator", "Point", "Texts"]

ROUNDS = 3
AGREEMENT = 0.03
"""Median relative difference between prediction and measurement that ends the correction."""
NEIGHBOURS = (0.94, 1.06)
"""Sizes beside the one asked for, as shares of it: their plans say how the sum goes wrong there."""

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Texts:
    """What divergences are measured on: an evaluator that gives `kl_divergence`, and its reference."""

    evaluator: Evaluator
    reference: Reference


@dataclass(frozen=True, slots=True)
class Point:
    """One verified plan.

    Attributes:
        plan: the variants.
        predicted: KL divergence in nats a token as the table foretold it when the plan was made.
        measured: the same, measured.
        uniform: the plan is that of plain settings, verified for comparison.
    """

    plan: Plan
    predicted: float
    measured: Measurement
    uniform: bool = False

    @property
    def difference(self) -> float:
        """Prediction over measurement, minus 1."""
        return self.predicted / self.measured.value - 1


class Allocator:
    """Chooses the variant of every weight for one original model.

    Attributes:
        table: predicted divergences, corrected by every plan that was verified.
        points: all verified plans, in the order of their verification.
    """

    def __init__(
        self, engine: Engine, menus: Menus, probe: Probe, *, short: Texts, full: Texts, stage: Stage | None = None
    ) -> None:
        """Measure the error table.

        Args:
            engine: of the original model.
            menus: what each weight may become.
            probe: the original with the menus' weights as inputs.
            short: for the divergence of single weights; some thousand tokens are enough.
            full: for plans.
            stage: is told what happens.
        """
        self._engine, self._probe, self._full = engine, probe, full
        self._stage = stage or (lambda _: None)
        self._weights = {weight.name: weight for weight in engine.weights}
        self.points: list[Point] = []

        def divergence(name: str, variant: Variant) -> float:
            return probe.score({name: self._values(name, variant)}, short.evaluator, short.reference).value

        self.table: ErrorTable = measure(
            engine, menus, divergence, lambda done, count: self._stage(f"measuring weight {done} of {count}")
        )

    def best(self, limit: int) -> Point:
        """The most accurate verified plan of at most `limit` bytes.

        Raises:
            PlanError: nothing on the menus is that small.
        """
        solve(self._engine, self.table, limit)  # refused before anything is measured
        beside = [round(limit * share) for share in NEIGHBOURS]
        self._correct([limit, *beside])
        self._verify_uniform([limit])
        point = self.at_most(limit)
        return replace(point, plan=replace(point.plan, notes=tuple(self._notes(point))))

    def front(self, count: int) -> list[Point]:
        """Verified plans for `count` sizes from the smallest to the largest that is of use, smallest first.

        Points that a smaller one beats are left out, so there may be fewer.
        """
        sizes = limits(self._engine, self.table, count)
        self._correct(sizes)
        self._verify_uniform(sizes)
        return list(_undominated(self.points))

    def at_most(self, limit: int) -> Point:
        """The most accurate of the plans that were verified by now."""
        fitting = [point for point in self.points if point.plan.footprint <= limit]
        return min(fitting, key=lambda point: point.measured.value)

    def _notes(self, point: Point) -> Iterator[str]:
        """What a user should know of a point: its cost, whether plain settings would do, what had to be protected."""
        measured = point.measured
        error = "" if measured.stderr is None else f" ± {measured.stderr:.2g}"
        yield f"KL divergence {measured.value:.4g}{error} nats a token measured, {point.predicted:.4g} predicted"
        if point.uniform:
            yield "one mode and group size for all weights is the best of this size here"
        for name, choices in self.table.menus.choices.items():
            if name in point.plan.variants:
                continue
            (cost, variant), *_ = sorted(
                (cost, choice.variant.mode)
                for cost, choice in zip(self.table.costs(name), choices, strict=True)
                if choice.variant is not None
            )
            yield f"{name}: left as it is, since even {variant} would cost {cost:.3g} nats a token"

    def _correct(self, sizes: Sequence[int]) -> None:
        """Verify the plans of these sizes, learn from them, solve again, until they hold what they promise."""
        for _ in range(ROUNDS):
            new = self._verify(self._solutions(sizes))
            if not new:
                return
            learned = [point for point in self.points if point.measured.value > 0]
            agreed = statistics.median(abs(point.difference) for point in new if point.measured.value > 0) < AGREEMENT
            self.table = self.table.corrected(
                fit_correction(
                    self.table,
                    [point.plan.variants for point in learned],
                    [point.measured.value for point in learned],
                )
            )
            if agreed:
                return

    def _solutions(self, sizes: Sequence[int]) -> Iterator[Plan]:
        for size in sizes:
            try:
                yield solve(self._engine, self.table, size)
            except PlanError:  # a neighbour that is too small
                continue

    def _verify(self, plans: Iterator[Plan] | Sequence[Plan], uniform: bool = False) -> list[Point]:
        known = {point.plan.key for point in self.points}
        found: list[Point] = []
        for plan in plans:
            if plan.key in known:
                continue
            known.add(plan.key)
            self._stage(f"verifying a plan of {plan.footprint:,} bytes")
            values = {name: self._values(name, variant) for name, variant in plan.variants.items()}
            measured = self._probe.score(values, self._full.evaluator, self._full.reference)
            found.append(Point(plan, self.table.predicted(plan.variants), measured, uniform))
        self.points += found
        return found

    def _verify_uniform(self, sizes: Sequence[int]) -> None:
        """Measure the uniform plan that each size would allow, so that nothing returned is worse than it."""
        fitting = []
        for size in sizes:
            below = [plan for plan in self.table.menus.uniform if plan.footprint <= size]
            if below:
                fitting.append(min(below, key=lambda plan: self.table.predicted(plan.variants)))
        self._verify(fitting, uniform=True)

    def _values(self, name: str, variant: Variant) -> Array:
        weight = self._weights[name]
        restored = self._engine.restored(weight, variant)
        return rows_to_shape(restored[:, None, :], weight)[0]


def _undominated(points: Sequence[Point]) -> Iterator[Point]:
    best = float("inf")
    for point in sorted(points, key=lambda point: (point.plan.footprint, point.measured.value)):
        if point.measured.value < best:
            best = point.measured.value
            yield point
