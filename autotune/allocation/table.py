"""The predicted divergence of every (weight, variant): output errors of all, one measured divergence of each weight.

For one weight the divergence that a variant causes is nearly proportional to its output error tr(E H Eᵀ), whatever the
format: near the original the divergence is quadratic in the change of the logits, and the change is linear in E. So one
measurement a weight gives the factor, and the errors of all its variants, which need no inference, the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from autotune.allocation.menus import Choice, Menus
from autotune.compression.engine import Engine
from autotune.compression.variants import Variant

__all__ = ["ErrorTable", "measure"]

Divergence = Callable[[str, Variant], float]
"""(weight, variant) -> KL divergence in nats a token of the model with this weight alone in this variant."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class ErrorTable:
    """Predicted divergences, which add up.

    Attributes:
        menus: the choices.
        errors: weight -> output error of each of its choices, in their order; 0 for the weight as it is.
        rates: weight -> nats a token for each unit of its output error, as measured.
        correction: weight -> factor on its rate that the verified plans ask for.
    """

    menus: Menus
    errors: Mapping[str, tuple[float, ...]]
    rates: Mapping[str, float]
    correction: Mapping[str, float]

    def costs(self, name: str) -> list[float]:
        """Predicted divergence of each choice of a weight, in nats a token."""
        rate = self.rates[name] * self.correction.get(name, 1.0)
        return [rate * error for error in self.errors[name]]

    def cost(self, name: str, variant: Variant | None) -> float:
        """Predicted divergence of one variant of a weight, which must be on its menu."""
        return self.costs(name)[self.index(name, variant)]

    def index(self, name: str, variant: Variant | None) -> int:
        """Position of a variant on the weight's menu."""
        return [choice.variant for choice in self.menus.choices[name]].index(variant)

    def predicted(self, variants: Mapping[str, Variant]) -> float:
        """Predicted divergence of a plan; weights that it does not name stay as they are."""
        return sum(self.cost(name, variants.get(name)) for name in self.menus.choices)

    def corrected(self, factors: Mapping[str, float]) -> ErrorTable:
        """The table with further factors on its rates."""
        merged = {name: self.correction.get(name, 1.0) * factors.get(name, 1.0) for name in self.rates}
        return replace(self, correction=merged)


def measure(engine: Engine, menus: Menus, divergence: Divergence, progress: Progress | None = None) -> ErrorTable:
    """Compute the errors of all choices and measure one divergence of each weight.

    Args:
        engine: of the original model; keeps what it computes in its bank.
        menus: the choices.
        divergence: measures one variant of one weight.
        progress: called with (weights done, weights in all).
    """
    weights = {weight.name: weight for weight in engine.weights}
    errors, rates = {}, {}
    for done, (name, choices) in enumerate(menus.choices.items(), 1):
        found = [0.0 if c.variant is None else engine.variant_error(weights[name], c.variant) for c in choices]
        errors[name] = tuple(found)
        witness = _witness(choices, found)
        if witness is None:
            rates[name] = 0.0
        else:
            variant = choices[witness].variant
            assert variant is not None
            rates[name] = max(divergence(name, variant), 0.0) / found[witness]
        if progress is not None:
            progress(done, len(menus.choices))
    return ErrorTable(menus, errors, rates, {})


def _witness(choices: tuple[Choice, ...], errors: list[float]) -> int | None:
    """The choice to measure: of the middle error, so that it stands out of the noise and stays where errors add up."""
    able = sorted(
        (i for i, choice in enumerate(choices) if choice.variant is not None and errors[i] > 0), key=errors.__getitem__
    )
    return able[len(able) // 2] if able else None
