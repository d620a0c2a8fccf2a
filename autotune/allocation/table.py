"""The predicted divergence of every (weight, variant): output errors of all, one or two measured ones of each weight.

For one weight the divergence that a variant causes is nearly proportional to its output error tr(E H Eᵀ), whatever the
format: near the original the divergence is quadratic in the change of the logits, and the change is linear in E. So one
measurement a weight gives the factor, and the errors of all its variants, which need no inference, the rest. Where a
decision hangs on another variant, that one is measured as well.

Changes of the logits by two weights are not at right angles, so a sum of single divergences misses a term for every
pair: with D_i and D_j the divergences of the two alone, at most 2 sqrt(D_i D_j). Of these the pairs within one block
count most, and each block gets a coefficient for its pairs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

from autotune.allocation.menus import Choice, Menus
from autotune.compression.engine import Engine
from autotune.compression.variants import Variant

__all__ = ["ErrorTable", "block_of", "measure"]

Divergence = Callable[[str, Variant], float]
"""(weight, variant) -> KL divergence in nats a token of the model with this weight alone in this variant."""

Progress = Callable[[int, int], None]

DEAR = 1e3
"""Nats a token that no variant costs."""

_NUMBER = re.compile(r"[./](\d+)[./]")


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """Predicted divergences.

    Attributes:
        menus: the choices.
        errors: weight -> output error of each of its choices, in their order; 0 for the weight as it is.
        measured: weight -> position on its menu -> measured divergence, nats a token.
        correction: weight -> factor on its divergences that the verified plans ask for.
        pairs: block -> coefficient of the pairs of weights within it, -1 to 1.
    """

    menus: Menus
    errors: Mapping[str, tuple[float, ...]]
    measured: Mapping[str, Mapping[int, float]]
    correction: Mapping[str, float] = field(default_factory=dict)
    pairs: Mapping[str, float] = field(default_factory=dict)

    def costs(self, name: str) -> list[float]:
        """Predicted divergence of each choice of a weight on its own, in nats a token."""
        factor = self.correction.get(name, 1.0)
        known = self.measured.get(name, {})
        return [
            factor * known[index] if index in known else factor * _rate(error, self.errors[name], known) * error
            for index, error in enumerate(self.errors[name])
        ]

    def cost(self, name: str, variant: Variant | None) -> float:
        """Predicted divergence of one variant of a weight, which must be on its menu."""
        return self.costs(name)[self.index(name, variant)]

    def index(self, name: str, variant: Variant | None) -> int:
        """Position of a variant on the weight's menu."""
        return [choice.variant for choice in self.menus.choices[name]].index(variant)

    def contributions(self, variants: Mapping[str, Variant]) -> dict[str, float]:
        """What each weight of a plan adds on its own; weights that the plan does not name stay as they are."""
        return {name: self.cost(name, variants.get(name)) for name in self.menus.choices}

    def predicted(self, variants: Mapping[str, Variant]) -> float:
        """Predicted divergence of a plan, pairs included."""
        single = self.contributions(variants)
        together = pair_terms(single)
        total = sum(single.values())
        # However much errors cancel, a tenth of their sum is taken to stay.
        return max(total + sum(self.pairs.get(block, 0.0) * term for block, term in together.items()), 0.1 * total)

    def beside(self, chosen: Mapping[str, float]) -> dict[str, list[float]]:
        """Costs of all choices of each weight, with the pairs that they form with the other weights' present ones.

        Args:
            chosen: weight -> the divergence of its present choice, as `contributions` gives it.
        """
        roots: dict[str, float] = {}
        for name, cost in chosen.items():
            roots[block_of(name)] = roots.get(block_of(name), 0.0) + math.sqrt(cost)
        found = {}
        for name in self.menus.choices:
            others = roots[block_of(name)] - math.sqrt(chosen[name])
            weight = 2 * self.pairs.get(block_of(name), 0.0) * others
            found[name] = [max(cost + weight * math.sqrt(cost), 0.1 * cost) for cost in self.costs(name)]
        return found

    def at_least(self, bits: int) -> ErrorTable:
        """The table of the same choices, those of fewer bits so dear that none is taken where there is another."""
        dear = {
            name: {i: DEAR for i, c in enumerate(choices) if c.variant is not None and c.variant.format.bits < bits}
            for name, choices in self.menus.choices.items()
        }
        return replace(self, measured={name: {**self.measured.get(name, {}), **dear[name]} for name in dear})

    def with_measured(self, name: str, index: int, divergence: float) -> ErrorTable:
        """The table with one more measurement."""
        known = {**self.measured.get(name, {}), index: divergence}
        return replace(self, measured={**self.measured, name: known})

    def corrected(self, factors: Mapping[str, float], pairs: Mapping[str, float] | None = None) -> ErrorTable:
        """The table with further factors on its divergences, and other coefficients of pairs."""
        merged = {name: self.correction.get(name, 1.0) * factors.get(name, 1.0) for name in self.errors}
        return replace(self, correction=merged, pairs=dict(self.pairs if pairs is None else pairs))


def block_of(name: str) -> str:
    """The name of a weight up to the first number in it, which counts its block; the whole name without one."""
    found = _NUMBER.search(name)
    return name if found is None else name[: found.end()]


def pair_terms(contributions: Mapping[str, float]) -> dict[str, float]:
    """Block -> 2 sqrt(D_i D_j) summed over the pairs of weights within it."""
    blocks: dict[str, list[float]] = {}
    for name, cost in contributions.items():
        blocks.setdefault(block_of(name), []).append(cost)
    return {
        block: sum(math.sqrt(cost) for cost in costs) ** 2 - sum(costs)
        for block, costs in blocks.items()
        if len(costs) > 1
    }


def _rate(error: float, errors: Iterable[float], known: Mapping[int, float]) -> float:
    """Nats a token for a unit of output error, from the measured choice whose error is the nearest as a ratio."""
    errors = tuple(errors)
    able = [index for index in known if errors[index] > 0 and known[index] < DEAR]
    if not able or error <= 0:
        return 0.0
    nearest = min(able, key=lambda index: (abs(math.log(errors[index] / error)), index))
    return known[nearest] / errors[nearest]


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
        witness = _witness(choices, found)
        if witness is not None:
            variant = choices[witness].variant
            assert variant is not None
            measured[name] = {witness: max(divergence(name, variant), 0.0)}
        if progress is not None:
            progress(done, len(menus.choices))
    return ErrorTable(menus, errors, measured)


def _witness(choices: tuple[Choice, ...], errors: list[float]) -> int | None:
    """The choice to measure: of the middle error, so that it stands out of the noise and stays where errors add up."""
    able = sorted(
        (i for i, choice in enumerate(choices) if choice.variant is not None and errors[i] > 0), key=errors.__getitem__
    )
    return able[len(able) // 2] if able else None
