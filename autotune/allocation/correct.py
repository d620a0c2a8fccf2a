"""What the sum of single errors misses, learned from plans that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from autotune.allocation.table import ErrorTable, pair_terms
from autotune.compression.variants import Variant

__all__ = ["corrected_by"]

PRIOR_WEIGHT = 0.02
"""Weight of the square of a factor's distance from 1 against the squared relative residuals of the plans."""

PRIOR_PAIRS = 0.01
"""The same of a coefficient of pairs, whose prior is 0."""

PRIOR_COMMON = 0.0005
"""The same of the two terms that all weights and all blocks have in common: a few plans are enough to know them."""

FACTORS = (0.5, 2.0)
COEFFICIENTS = (-0.5, 0.5)


def corrected_by(
    table: ErrorTable,
    plans: Sequence[Mapping[str, Variant]],
    measured: Sequence[float],
    importance: Sequence[float] | None = None,
) -> ErrorTable:
    """The table whose predictions come closer to the measured divergences.

    Divergences of weights that work on each other, those of one block first of all, add up to a little more or less
    than their sum. A factor for each weight and a coefficient for the pairs of each block, beside a common factor and
    a common coefficient, are fitted to the relative residuals of the verified plans, all drawn towards no correction:
    ridge regression (Hoerl and Kennard, 1970). It starts from the measured divergences each time, so that fitting the
    same plans again changes nothing.

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
    # The common terms are columns of their own, so that they are not paid for once a weight or block.
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
