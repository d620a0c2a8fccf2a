"""Error table: predict the KL divergence of every (weight, variant), correct the predictions, and solve for plans.

For one weight, KL divergence is nearly proportional to the output error tr(E H Eᵀ), whatever the format: near the
original the divergence is quadratic in the change of the logits, and the change is linear in E. So one measurement
predicts all variants of a weight; output errors need no inference. If a decision depends on another variant, that one
is measured as well.

A sum of single divergences misses a term for every pair of weights: with D_i and D_j the divergences of the two alone,
at most 2 sqrt(D_i D_j). Pairs within one block matter most, so each block gets a coefficient for its pairs. Measured
plans correct the table.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from autotune.allocation.choices import Choice, Menus
from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Variant
from autotune.compression.knapsack import cheapest_choices
from autotune.compression.plan import Plan

Divergence = Callable[[str, Variant], float]
"""(weight, variant) -> KL divergence in nats a token of the model with this weight alone in this variant."""

Progress = Callable[[int, int], None]

PROHIBITIVE = 1e3
"""Prohibitive divergence in nats a token."""

_NUMBER = re.compile(r"[./](\d+)[./]")


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """Predicted divergences of every choice of every weight.

    Attributes:
        menus: the choices.
        errors: weight -> output error of each of its choices, in their order; 0 for the uncompressed weight.
        measured: weight -> position on its menu -> measured divergence, nats a token.
        correction: weight -> factor on its divergences, fitted to the verified plans.
        pairs: block -> coefficient of the pairs of weights within it, -1 to 1.
    """

    menus: Menus
    errors: Mapping[str, tuple[float, ...]]
    measured: Mapping[str, Mapping[int, float]]
    correction: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, float] = field(default_factory=dict)

    def costs(self, name: str) -> list[float]:
        """Predict the divergence of each choice of a weight alone, in nats a token."""
        factor = self.correction.get(name, 1.0)
        measured = self.measured.get(name, {})
        return [
            factor * measured[index]
            if index in measured
            else factor * _rate(error, self.errors[name], measured) * error
            for index, error in enumerate(self.errors[name])
        ]

    def cost(self, name: str, variant: Variant | None) -> float:
        """Predict the divergence of one variant of a weight, which must be on its menu."""
        return self.costs(name)[self.index(name, variant)]

    def index(self, name: str, variant: Variant | None) -> int:
        """Find the position of a variant on the weight's menu."""
        return [choice.variant for choice in self.menus.choices[name]].index(variant)

    def contributions(self, variants: Mapping[str, Variant]) -> dict[str, float]:
        """Predict the divergence of each weight of a plan alone; weights not named by the plan are uncompressed."""
        return {name: self.cost(name, variants.get(name)) for name in self.menus.choices}

    def predicted(self, variants: Mapping[str, Variant]) -> float:
        """Predict the divergence of a plan, pairs included."""
        single = self.contributions(variants)
        together = pair_terms(single)
        total = sum(single.values())
        # Errors that cancel each other are assumed to leave at least a tenth of their sum.
        return max(total + sum(self.pairs.get(block, 0.0) * term for block, term in together.items()), 0.1 * total)

    def beside(self, chosen: Mapping[str, float]) -> dict[str, list[float]]:
        """Predict all choices of each weight, including their pairs with the current choices of the other weights.

        Args:
            chosen: weight -> divergence of its current choice, see `contributions`.
        """
        roots: dict[str, float] = {}
        for name, cost in chosen.items():
            roots[block_of(name)] = roots.get(block_of(name), 0.0) + math.sqrt(cost)
        costs = {}
        for name in self.menus.choices:
            others = roots[block_of(name)] - math.sqrt(chosen[name])
            weight = 2 * self.pairs.get(block_of(name), 0.0) * others
            costs[name] = [max(cost + weight * math.sqrt(cost), 0.1 * cost) for cost in self.costs(name)]
        return costs

    def at_least(self, bits: int) -> ErrorTable:
        """Return a table that makes formats of fewer bits prohibitive."""
        excluded = {
            name: {
                i: PROHIBITIVE for i, c in enumerate(choices) if c.variant is not None and c.variant.format.bits < bits
            }
            for name, choices in self.menus.choices.items()
        }
        return replace(self, measured={name: {**self.measured.get(name, {}), **excluded[name]} for name in excluded})

    def with_measured(self, name: str, index: int, divergence: float) -> ErrorTable:
        """Return a table with one more measurement."""
        divergences = {**self.measured.get(name, {}), index: divergence}
        return replace(self, measured={**self.measured, name: divergences})

    def corrected(self, factors: Mapping[str, float], pairs: Mapping[str, float] | None = None) -> ErrorTable:
        """Return a table with further factors on its divergences, and other coefficients of pairs."""
        merged = {name: self.correction.get(name, 1.0) * factors.get(name, 1.0) for name in self.errors}
        return replace(self, correction=merged, pairs=dict(self.pairs if pairs is None else pairs))


def block_of(name: str) -> str:
    """Cut a weight's name after the first number, which counts its block; without a number it stays whole."""
    found = _NUMBER.search(name)
    return name if found is None else name[: found.end()]


def pair_terms(contributions: Mapping[str, float]) -> dict[str, float]:
    """Sum 2 sqrt(D_i D_j) over the pairs of weights within each block."""
    blocks: dict[str, list[float]] = {}
    for name, cost in contributions.items():
        blocks.setdefault(block_of(name), []).append(cost)
    return {
        block: sum(math.sqrt(cost) for cost in costs) ** 2 - sum(costs)
        for block, costs in blocks.items()
        if len(costs) > 1
    }


def _rate(error: float, errors: Iterable[float], measured: Mapping[int, float]) -> float:
    """Compute nats a token per unit of output error, from the measured choice with the nearest error (as a ratio)."""
    errors = tuple(errors)
    usable = [index for index in measured if errors[index] > 0 and measured[index] < PROHIBITIVE]
    if not usable or error <= 0:
        return 0.0
    nearest = min(usable, key=lambda index: (abs(math.log(errors[index] / error)), index))
    return measured[nearest] / errors[nearest]


def measure(engine: Engine, menus: Menus, divergence: Divergence, progress: Progress | None = None) -> ErrorTable:
    """Compute the errors of all choices and measure one divergence of each weight.

    Args:
        engine: of the original model; keeps what it computes in its bank.
        menus: the choices.
        divergence: measures one variant of one weight.
        progress: called with (weights done, weights in all).
    """
    weights = {weight.name: weight for weight in engine.weights}
    errors: dict[str, tuple[float, ...]] = {}
    measured: dict[str, dict[int, float]] = {}
    for done, (name, choices) in enumerate(menus.choices.items(), 1):
        found = [0.0 if c.variant is None else engine.variant_error(weights[name], c.variant) for c in choices]
        errors[name] = tuple(found)
        measured_index = _choice_to_measure(choices, found)
        if measured_index is not None:
            variant = choices[measured_index].variant
            assert variant is not None
            measured[name] = {measured_index: max(divergence(name, variant), 0.0)}
        if progress is not None:
            progress(done, len(menus.choices))
    return ErrorTable(menus, errors, measured)


def _choice_to_measure(choices: tuple[Choice, ...], errors: list[float]) -> int | None:
    """Pick the choice to measure: the one of median error, above the noise and small enough for errors to add up."""
    usable = sorted(
        (i for i, choice in enumerate(choices) if choice.variant is not None and errors[i] > 0), key=errors.__getitem__
    )
    return usable[len(usable) // 2] if usable else None


PRIOR_WEIGHT = 0.02
"""Weight of the square of a factor's distance from 1 against the squared relative residuals of the plans."""

PRIOR_PAIRS = 0.01
"""The same for a coefficient of pairs, which has prior 0."""

PRIOR_COMMON = 0.0005
"""The same for the two terms common to all weights and all blocks, which a few plans determine."""

FACTORS = (0.5, 2.0)
COEFFICIENTS = (-0.5, 0.5)


def corrected_by(
    table: ErrorTable,
    plans: Sequence[Mapping[str, Variant]],
    measured: Sequence[float],
    importance: Sequence[float] | None = None,
) -> ErrorTable:
    """Fit the table's corrections to measured divergences of plans.

    Divergences of interacting weights, above all those of one block, do not add up exactly. A factor for each weight, a
    coefficient for the pairs of each block, a common factor and a common coefficient are fitted to the relative
    residuals of the verified plans by ridge regression (Hoerl and Kennard, 1970). Each fit starts from the measured
    divergences, so fitting the same plans again changes nothing.

    Args:
        table: the predictions.
        plans: variants by weight.
        measured: KL divergence of each plan, nats a token, positive.
        importance: of each plan's residual, 0 to 1; by default all are alike.
    """
    plain = table.corrected({name: 1 / factor for name, factor in table.correction.items()}, {})
    names = list(plain.menus.choices)
    single = [plain.contributions(plan) for plan in plans]
    terms = [pair_terms(contributions) for contributions in single]
    blocks = list(dict.fromkeys(block for each in terms for block in each))
    y = np.asarray(measured, np.float64)[:, None]
    shares = np.array([[contributions[name] for name in names] for contributions in single]) / y
    together = np.array([[each.get(block, 0.0) for block in blocks] for each in terms]).reshape(len(plans), -1) / y
    # The common terms are separate columns, so that the prior does not penalise them once a weight or block.
    design = np.concatenate(
        [shares, together, shares.sum(axis=1, keepdims=True), together.sum(axis=1, keepdims=True)], axis=1
    )
    prior = [PRIOR_WEIGHT] * len(names) + [PRIOR_PAIRS] * len(blocks) + [PRIOR_COMMON] * 2
    counted = design.T * (1.0 if importance is None else np.asarray(importance, np.float64))
    step = np.linalg.solve(counted @ design + np.diag(prior), counted @ (1.0 - shares.sum(axis=1)))
    of_weights, of_blocks = step[: len(names)] + step[-2], step[len(names) : -2] + step[-1]
    factors = np.clip(1.0 + of_weights, *FACTORS).tolist()
    coefficients = np.clip(of_blocks, *COEFFICIENTS).tolist()
    return plain.corrected(dict(zip(names, factors, strict=True)), dict(zip(blocks, coefficients, strict=True)))


REFINEMENTS = 2
"""Number of times a solution is refined with its own pairs."""


def solve(engine: Engine, table: ErrorTable, limit: int) -> Plan:
    """Find the plan of least predicted divergence whose footprint is at most `limit` bytes.

    Pairs of weights make the problem quadratic. It is solved as a sequence of linear problems, each with the pairs of
    the previous solution; the best solution is returned.

    Raises:
        PlanError: no plan of the menus is that small; the message names the smallest size.
    """
    table.menus.check(limit, engine)
    costs = {name: table.costs(name) for name in table.menus.choices}
    best = solve_linear(engine, table, costs, limit)
    if not any(table.pairs.values()):
        return best
    least, solved, plan = table.predicted(best.variants), {best.key}, best
    for _ in range(REFINEMENTS):
        plan = solve_linear(engine, table, table.beside(table.contributions(plan.variants)), limit)
        if plan.key in solved:
            break
        solved.add(plan.key)
        if table.predicted(plan.variants) < least:
            best, least = plan, table.predicted(plan.variants)
    return best


def solve_linear(engine: Engine, table: ErrorTable, costs: dict[str, list[float]], limit: int) -> Plan:
    """Find the plan of least total cost, given the cost of each choice of each weight."""
    menus = table.menus.choices
    sizes = [[choice.nbytes for choice in choices] for choices in menus.values()]
    room = limit - _rest(engine, table)
    while True:
        chosen = cheapest_choices(sizes, [costs[name] for name in menus], room)
        if chosen is None:
            return table.menus.smallest(engine)
        choice_of = {name: menus[name][index].variant for name, index in zip(menus, chosen, strict=True)}
        variants: dict[str, Variant] = {name: variant for name, variant in choice_of.items() if variant is not None}
        plan = engine.plan_of(variants)
        if plan.footprint <= limit:
            return plan
        # Constants that only some choices need, the shapes of reshapes: some hundred bytes at most.
        room -= plan.footprint - limit


def limits(engine: Engine, table: ErrorTable, count: int) -> list[int]:
    """Spread sizes evenly from the smallest plan of the menus to the largest uniform one."""
    smallest = table.menus.smallest(engine).footprint
    largest = max((plan.footprint for plan in table.menus.uniform), default=engine.sizes.original)
    return [round(smallest + (largest - smallest) * step / (count - 1)) for step in range(count)]


def _rest(engine: Engine, table: ErrorTable) -> int:
    """Compute the bytes that do not depend on the menus."""
    decided = sum(choices[0].nbytes for choices in table.menus.choices.values())
    return table.menus.smallest(engine).footprint - decided
