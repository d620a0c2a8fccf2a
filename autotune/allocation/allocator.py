"""Allocator: solve for a plan, measure it and correct the predictions, until both agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np

from autotune.allocation.choices import Menus
from autotune.allocation.error_table import ErrorTable, corrected_by, limits, measure, solve
from autotune.allocation.probe import Array, MeasuringInputs, Probe, Texts
from autotune.common.files import fingerprint
from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.weights import rows_to_shape
from autotune.compression.plan import Plan
from autotune.errors import PlanError
from autotune.evaluation import Measurement
from autotune.models.tasks.task import Loss

TOKENS_PER_WEIGHT = 2048
"""Token-forwards that a table of errors may take, for each weight on average."""

ROUNDS = 3
AGREEMENT = 0.03
"""Median relative difference between prediction and measurement that ends the correction, where the standard error of
the measurements is smaller still."""
NEIGHBOURS = (0.94, 1.06)
"""Sizes next to the requested one, as shares of it; their plans show the error of the prediction there."""
REFINED_AT = 12
"""Sizes at which decisions are looked at before a weight is measured a second time."""
RIVALS = 1.5
"""Uniform plans are measured where their prediction is at most so many times what the best plan measured."""
REACH = 0.25
"""How far, in the logarithm of the size, verified plans correct each other."""
SAFE_BITS = 4
"""Formats of fewer bits have errors that do not add up well."""
DIGITS = 6
"""Significant digits of a measured divergence that count: the last bits depend on the number of threads."""
COLLAPSE = 10.0
"""Nats a token that every compressed choice of a weight must cost for it to count as one that ruins the model, as a
multiple of the median over all weights of the same."""

Stage = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Point:
    """Verified plan.

    Attributes:
        plan: the variants.
        predicted: predicted KL divergence in nats a token when the plan was made.
        measured: measured KL divergence.
        uniform: the plan has one format for all weights, and was verified for comparison.
    """

    plan: Plan
    predicted: float
    measured: Measurement
    uniform: bool = False

    @property
    def difference(self) -> float:
        """Prediction over measurement, minus 1."""
        return self.predicted / self.measured.value - 1


@contextmanager
def open_allocator(
    inputs: MeasuringInputs, menus: Menus, *, short: Texts, full: Texts, stage: Stage | None = None
) -> Iterator[Allocator]:
    """Make an allocator whose probe is compiled when something has to be measured, and freed at the end."""
    probes: list[Probe] = []

    def probe() -> Probe:
        if not probes:
            probes.append(inputs.probe(menus.choices))
        return probes[0]

    try:
        yield Allocator(inputs.engine, menus, probe, short=short, full=full, stage=stage)
    finally:
        for one in probes:
            one.close()


class Allocator:
    """Chooses the variant of every weight for one original model.

    Attributes:
        engine: of the original model.
        table: predicted divergences, corrected by every plan that was verified.
        points: all verified plans, in the order of their verification.
        measurements: number of divergences of single weights, those from the bank included.
        token_forwards: tokens of all measurements, those from the bank included.
    """

    def __init__(
        self,
        engine: Engine,
        menus: Menus,
        probe: Callable[[], Probe],
        *,
        short: Texts,
        full: Texts,
        tokens_per_weight: int = TOKENS_PER_WEIGHT,
        stage: Stage | None = None,
    ) -> None:
        """Measure the error table.

        Args:
            engine: of the original model.
            menus: the choices of each weight.
            probe: returns the original with the menus' weights as inputs, for measurements that are not in the bank.
            short: for the divergence of single weights; a thousand tokens are enough.
            full: for plans.
            tokens_per_weight: token-forwards that the table may take, on average; those that remain after the first
                measurement of each weight are used for second ones.
            stage: receives progress messages.
        """
        self.engine, self._probe, self._short, self._full = engine, probe, short, full
        self._stage = stage or (lambda _: None)
        self._weights = {weight.name: weight for weight in engine.weights}
        self.points: list[Point] = []
        self.measurements = self.token_forwards = 0
        self.table: ErrorTable = measure(
            engine, menus, self._alone, lambda done, count: self._stage(f"measuring weight {done} of {count}")
        )
        allowed = tokens_per_weight * len(menus.choices) - self.token_forwards
        self._measure_again(allowed // short.tokens if menus.choices else 0)

    @property
    def loss(self) -> Loss:
        """The loss that is measured."""
        return self._full.loss

    def best(self, limit: int) -> Point:
        """Find the most accurate verified plan of at most `limit` bytes.

        Raises:
            PlanError: nothing on the menus is that small.
        """
        solve(self.engine, self.table, limit)  # refused before anything is measured
        beside = [round(limit * share) for share in NEIGHBOURS]
        self._correct([limit, *beside])
        self._verify_uniform([limit])
        point = self.at_most(limit)
        return replace(point, plan=replace(point.plan, notes=tuple(self.notes(point))))

    def front(self, count: int) -> list[Point]:
        """Verify plans of `count` sizes from the smallest to the largest useful one, and return the front.

        Dominated points are left out, so there may be fewer.
        """
        sizes = limits(self.engine, self.table, count)
        self._correct(sizes)
        self._verify_uniform(sizes)
        return list(_undominated(self.points))

    def learn(self, count: int) -> None:
        """Correct the table by plans of `count` sizes, and measure the uniform plans of about these sizes."""
        sizes = limits(self.engine, self.table, count)
        self._correct(sizes)
        self._verify_uniform(sizes)

    def at_most(self, limit: int) -> Point:
        """Return the most accurate plan verified so far."""
        fitting = [point for point in self.points if point.plan.footprint <= limit]
        return min(fitting, key=lambda point: point.measured.value)

    def collapsing(self) -> dict[str, float]:
        """Find weights that every format of their menu ruins: name -> least divergence of such a weight alone.

        Such a weight alone costs more than `COLLAPSE` times what the median weight does, in its best format: gates of
        linear attention and small routers are known for it. The knapsack leaves them as they are wherever it can.
        """
        least = {}
        for name, choices in self.table.menus.choices.items():
            costs = [c for c, o in zip(self.table.costs(name), choices, strict=True) if o.variant is not None]
            least[name] = min(costs)
        usual = statistics.median(least.values()) if least else 0.0
        return {name: cost for name, cost in least.items() if cost > COLLAPSE * usual and cost > 1e-4}

    def notes(self, point: Point) -> Iterator[str]:
        """Yield notes on a point: its divergence, if it is uniform, and the protected weights."""
        measured = point.measured
        error = "" if measured.stderr is None else f" ± {measured.stderr:.2g}"
        label, unit = self.loss.label, self.loss.unit
        yield f"{label} {measured.value:.4g}{error}{unit} measured, {point.predicted:.4g} predicted"
        if point.uniform:
            yield "one mode and group size for all weights is the best plan of this size"
        collapsing = self.collapsing()
        yield from protections(self.table, point.plan, collapsing, unit)

    def _alone(self, name: str, variant: Variant) -> float:
        """Measure the divergence of one weight alone in a variant, in nats a token."""
        self.measurements += 1
        return self._measured({name: variant}, self._short).value

    def _measured(self, variants: dict[str, Variant], texts: Texts) -> Measurement:
        """Measure the divergence with these weights replaced, or read it from the bank."""
        self.token_forwards += texts.tokens

        def compute() -> dict[str, np.ndarray]:
            values = {name: self._values(name, variant) for name, variant in variants.items()}
            measured = self._probe().score(values, texts.evaluator, texts.reference())
            error = math.nan if measured.stderr is None else measured.stderr
            return {"divergence": np.array([measured.value, error], np.float64)}

        entry = self.engine.kept(fingerprint("divergence", texts.key), variants, compute)
        value, error = entry["divergence"].tolist()
        return Measurement(float(f"{value:.{DIGITS}g}"), None if math.isnan(error) else error)

    def _measure_again(self, times: int) -> None:
        """Measure second variants of the weights whose predictions matter most: those with a large share of a plan's
        divergence, predicted from another variant."""
        order = list(self.table.menus.choices)  # that of the model, in which the probe is fastest
        for name, index in sorted(self._uncertain_choices()[:times], key=lambda one: order.index(one[0])):
            variant = self.table.menus.choices[name][index].variant
            assert variant is not None
            self._stage(f"measuring {name} again, in {variant.mode}")
            self.table = self.table.with_measured(name, index, max(self._alone(name, variant), 0.0))

    def _uncertain_choices(self) -> list[tuple[str, int]]:
        """List (weight, position on its menu) of chosen variants that were not measured: one for each weight, the
        largest share of a plan's divergence first."""
        shares: dict[tuple[str, int], float] = {}
        for limit in limits(self.engine, self.table, REFINED_AT):
            plan = solve(self.engine, self.table, limit)
            total = self.table.predicted(plan.variants)
            for name, variant in plan.variants.items():
                if name not in self.table.menus.choices or total <= 0:
                    continue
                index = self.table.index(name, variant)
                if index not in self.table.measured.get(name, {}):
                    share = self.table.costs(name)[index] / total
                    shares[name, index] = shares.get((name, index), 0.0) + share
        most: dict[str, tuple[float, int]] = {}
        for (name, index), share in shares.items():
            if share > most.get(name, (0.0, 0))[0]:
                most[name] = (share, index)
        return [(name, index) for name, (_, index) in sorted(most.items(), key=lambda item: (-item[1][0], item[0]))]

    def table_at(self, limit: int) -> ErrorTable:
        """Correct the table by verified plans of similar size; the error of the sum depends on the size."""
        learned = [point for point in self.points if point.measured.value > 0]
        if not learned:
            return self.table
        proximity = [math.exp(-0.5 * (math.log(p.plan.footprint / limit) / REACH) ** 2) for p in learned]
        plans = [point.plan.variants for point in learned]
        return corrected_by(self.table, plans, [point.measured.value for point in learned], proximity)

    def _correct(self, sizes: Sequence[int]) -> None:
        """Verify the plans of these sizes, correct the table and solve again, until measurements match predictions."""
        for _ in range(ROUNDS):
            new = [point for point in self._verify(self._solutions(sizes)) if point.measured.value > 0]
            if not new:
                return
            agreed = statistics.median(abs(point.difference) / tolerance(point) for point in new) < 1
            learned = [point for point in self.points if point.measured.value > 0]
            plans = [point.plan.variants for point in learned]
            self.table = corrected_by(self.table, plans, [point.measured.value for point in learned])
            if agreed:
                return

    def _solutions(self, sizes: Sequence[int]) -> list[tuple[Plan, float]]:
        """Solve for each size, and again without formats of few bits if there are any; return plans with predictions.

        A sum of single errors does not predict the large errors of few bits, so each such plan gets an alternative.
        """
        solutions = []
        for size in sizes:
            table = self.table_at(size)
            choices = (choice.variant for each in table.menus.choices.values() for choice in each)
            risky = any(variant is not None and variant.format.bits < SAFE_BITS for variant in choices)
            for one in (table, *([table.at_least(SAFE_BITS)] if risky else [])):
                with suppress(PlanError):  # a neighbour that is too small
                    plan = solve(self.engine, one, size)
                    solutions.append((plan, table.predicted(plan.variants)))
        return solutions

    def _verify(self, plans: Sequence[tuple[Plan, float]], uniform: bool = False) -> list[Point]:
        verified = {point.plan.key for point in self.points}
        points: list[Point] = []
        for plan, predicted in plans:
            if plan.key in verified:
                continue
            verified.add(plan.key)
            self._stage(f"verifying a plan of {plan.footprint:,} bytes")
            measured = self._measured(dict(plan.variants), self._full)
            points.append(Point(plan, predicted, measured, uniform))
        self.points += points
        return points

    def _verify_uniform(self, sizes: Sequence[int]) -> None:
        """Measure the uniform plans of each size that may be the best, so that the result is never worse."""
        fitting = []
        for size in sizes:
            table = self.table_at(size)
            below = [plan for plan in table.menus.uniform if plan.footprint <= size]
            own = [point.measured.value for point in self.points if point.plan.footprint <= size]
            predicted = [table.predicted(plan.variants) for plan in below]
            limit = max(RIVALS * min(own, default=0.0), min(predicted, default=0.0))
            fitting += [(plan, value) for plan, value in zip(below, predicted, strict=True) if value <= limit]
        self._verify(fitting, uniform=True)

    def _values(self, name: str, variant: Variant) -> Array:
        weight = self._weights[name]
        restored = self.engine.restored(weight, variant)
        return rows_to_shape(restored[:, None, :], weight)[0]


def tolerance(point: Point) -> float:
    """Return the relative difference between prediction and measurement that the standard error allows."""
    error = point.measured.stderr
    return max(AGREEMENT, 0.0 if error is None else error / point.measured.value)


def protections(table: ErrorTable, plan: Plan, collapsing: dict[str, float], unit: str) -> Iterator[str]:
    """Yield a sentence for each uncompressed weight, and for each compressed one that ruins the model.

    Args:
        table, plan, collapsing: of the allocator.
        unit: of the loss.
    """
    for name, choices in table.menus.choices.items():
        compressed = [(c, o.variant.mode) for c, o in zip(table.costs(name), choices, strict=True) if o.variant]
        cost, mode = min(compressed)
        if name not in plan.variants:
            why = "its quantization alone ruins the model" if name in collapsing else "it has room to be"
            yield f"{name}: left as it is, since {why}: {cost:.3g}{unit} in {mode}"
        elif name in collapsing:
            yield (
                f"{name}: costs {cost:.3g}{unit} in {mode} alone, {COLLAPSE:g} times the usual or more, and is "
                "compressed since nothing else fits this size"
            )


def _undominated(points: Sequence[Point]) -> Iterator[Point]:
    best = float("inf")
    for point in sorted(points, key=lambda point: (point.plan.footprint, point.measured.value)):
        if point.measured.value < best:
            best = point.measured.value
            yield point
