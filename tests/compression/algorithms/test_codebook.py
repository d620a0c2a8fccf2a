"""Learnt codebooks: levels of least error, checked by brute force, and the weights that they give."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import openvino as ov
import pytest
from builders import chain, normal

from autotune.compression.algorithms.codebook import _means_of_least_error
from autotune.compression.engine import Engine
from autotune.compression.settings import Settings


def loss(mass: np.ndarray, numbers: np.ndarray, levels: np.ndarray) -> float:
    return float((mass * np.square(numbers[:, None] - levels).min(axis=1)).sum())


@pytest.mark.parametrize("seed", range(5))
def test_levels_have_the_least_error(seed: int) -> None:
    """No way of cutting eleven numbers into four runs has a smaller weighted error; few numbers are all kept."""
    draw = np.random.default_rng(seed)
    mass, numbers = draw.uniform(0.1, 2, 11), np.sort(draw.normal(size=11))
    least = np.inf
    for cuts in combinations(range(1, 11), 3):
        runs = [slice(*ends) for ends in zip((0, *cuts), (*cuts, 11), strict=True)]
        means = np.array([np.average(numbers[run], weights=mass[run]) for run in runs])
        least = min(least, loss(mass, numbers, means))
    assert loss(mass, numbers, _means_of_least_error(mass, mass * numbers, 4)) == pytest.approx(least)
    assert _means_of_least_error(mass[:3], (mass * numbers)[:3], 4) == pytest.approx(numbers[:3])


def error(model: ov.Model, mode: str, values: np.ndarray) -> float:
    engine = Engine(model)
    plan = engine.plan(Settings(mode=mode, group_size=64, all_layers=True))
    (weight,) = engine.weights
    restored = engine.restored(weight, plan.variants[weight.name])
    assert np.isfinite(restored).all()
    return float(np.square(restored - values).sum())


@pytest.mark.parametrize("shape", ["normal", "uniform", "few", "zero", "spikes"])
def test_levels_fit_the_weight(shape: str) -> None:
    """The error is below that of nf4, whose levels are for normal weights; up to 16 levels of a group are exact."""
    draw = np.random.default_rng(0)
    values = {
        "normal": normal(64, 128),
        "uniform": draw.uniform(-1, 1, (64, 128)).astype(np.float32),
        "few": draw.choice(np.arange(-7, 8, dtype=np.float32), (64, 128)),
        "zero": np.zeros((64, 128), np.float32),
        "spikes": np.where(draw.random((64, 128)) < 0.02, 8, normal(64, 128)).astype(np.float32),
    }[shape]
    values[:, ::64] = np.abs(values).max()  # a scale without rounding
    found = error(chain([values]), "adaptive_codebook", values)
    if shape in ("few", "zero"):
        assert found <= 1e-6 * np.square(values).sum()
    else:
        assert found < error(chain([values]), "nf4", values)
