"""What the sum of single errors misses, learned from plans that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.allocation.table import ErrorTable
from autotune.compression.variants import Variant

__all__ = ["fit_correction"]

PRIOR = 0.05
"""Weight of each factor's distance from 1 against the squared relative residuals of the plans."""

RANGE = (0.5, 2.0)


def fit_correction(
    table: ErrorTable, plans: Sequence[Mapping[str, Variant]], measured: Sequence[float]
) -> dict[str, float]:
    """Factors on the rates of the weights that bring the sums closer to the measured divergences.

    Errors of weights that work on each other (those of one block, first of all) add up to a little more or less than
    their sum. A common factor and one for each weight, all drawn towards 1, are fitted to the relative residuals of the
    verified plans: ridge regression (Hoerl and Kennard, 1970) of (A f - y) / y with f = 1 + d.

    Args:
        table: the predictions.
        plans: variants by weight.
        measured: KL divergence of each plan, nats a token.
    """
    names = list(table.menus.choices)
    contributions = np.array([[table.cost(name, plan.get(name)) for name in names] for plan in plans])
    shares = contributions / np.asarray(measured, np.float64)[:, None]
    # The common factor is a column of its own, so that it is not paid for once a weight.
    design = np.concatenate([shares, shares.sum(axis=1, keepdims=True)], axis=1)
    penalty = PRIOR * np.diag([1.0] * len(names) + [0.01])
    step = np.linalg.solve(design.T @ design + penalty, design.T @ (1.0 - shares.sum(axis=1)))
    factors = np.clip(1.0 + step[:-1] + step[-1], *RANGE)
    return dict(zip(names, factors.tolist(), strict=True))
