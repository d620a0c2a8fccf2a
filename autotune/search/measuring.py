"""What measuring the errors for budgets will take, told before any of it is done."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from autotune.allocation.allocator import TOKENS_PER_WEIGHT
from autotune.allocation.planner import LEARNED_FROM
from autotune.allocation.suffix import SHARE
from autotune.search.budgets import allowed_menus, windows_of

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.config import Config

__all__ = ["Measuring", "forecast_measuring"]

ROUNDS = 2
"""Plans at each size that the correction usually takes, uniform ones included."""

ROWS = 512
"""Tokens of the product that is timed."""

EFFICIENCY = 0.8
"""What a model reaches of the speed of one product: attention, norms and logits take their share."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """The table of errors of a study with budgets, from nothing.

    Attributes:
        weights: how many have a choice.
        variants: how many (weight, variant) are compressed for it.
        token_forwards: tokens that run through the model to measure single weights, at most; and the mean for each.
        per_weight: the same for each weight.
        verification: tokens that run to correct the table by whole plans, at most.
        seconds: what all those tokens take on this machine, roughly, from one product of the model's own size.
    """

    weights: int
    variants: int
    token_forwards: int
    per_weight: float
    verification: int
    seconds: float


def forecast_measuring(config: Config, engine: Engine) -> Measuring:
    """Count, and time one product of matrices; nothing of the model is run.

    Raises:
        PlanError: a setting of the space cannot be used with this model.
    """
    menus = allowed_menus(config, engine)
    short, full = windows_of(config)
    once = short["sequence_length"] * short["samples"]
    count = len(menus.choices)
    singles = count * max(1, TOKENS_PER_WEIGHT // once) * once if once <= TOKENS_PER_WEIGHT else count * once
    verification = ROUNDS * LEARNED_FROM * full["sequence_length"] * full["samples"]
    operations = 2.0 * sum(weight.size for weight in engine.weights if weight.kind == "matmul")
    return Measuring(
        weights=count,
        variants=sum(choice.variant is not None for choices in menus.choices.values() for choice in choices),
        token_forwards=singles,
        per_weight=singles / max(count, 1),
        verification=verification,
        seconds=(SHARE * singles + verification) * operations / (EFFICIENCY * _speed(engine)),
    )


def _speed(engine: Engine) -> float:
    """Floating-point operations a second of a product as large as the model's usual one."""
    sizes = sorted((weight.rows, weight.columns) for weight in engine.weights if weight.kind == "matmul")
    rows, columns = sizes[len(sizes) // 2] if sizes else (512, 512)
    inputs, weight = np.ones((ROWS, columns), np.float32), np.ones((columns, rows), np.float32)
    best = np.inf
    for _ in range(4):
        started = time.perf_counter()
        np.matmul(inputs, weight)
        best = min(best, time.perf_counter() - started)
    return 2.0 * ROWS * rows * columns / float(best)
