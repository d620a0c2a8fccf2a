"""Learnt codebooks: levels of least error, checked by brute force, and the weights that they give."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import openvino as ov
import pytest
from builders import chain, constants, normal

from autotune.compression.algorithms.codebook import _means_of_least_error, fit_levels
from autotune.compression.engine import Engine
from autotune.compression.formats.quantize import initial_scale, round_trip, stored_value
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.model_weights import rows_of_constant
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


@pytest.mark.parametrize("group_size", [32, -1])
def test_scales_fit_the_levels(group_size: int) -> None:
    """Without a text, too, no group errs more than with the scale of its range, and the weight errs less."""
    values = normal(64, 128) * np.random.default_rng(1).gamma(1, size=(64, 128)).astype(np.float32)
    model = chain([values])
    engine, fmt = Engine(model), FORMATS["adaptive_codebook"]
    (weight,) = engine.weights
    grouped = values.reshape(64, -1, 32 if group_size == 32 else 128)
    rows = rows_of_constant(constants(model)["W0"], weight, 1 << 17)
    fmt = replace(fmt, levels=fit_levels(rows, grouped.shape[1], fmt, None))
    scale, zero = initial_scale(grouped, fmt)
    restored = engine.restored(weight, Variant("adaptive_codebook", group_size)).reshape(grouped.shape)
    with_ranges = round_trip(grouped, stored_value(scale, fmt), zero, fmt)
    of_ranges, found = (np.square(each - grouped).sum(-1) for each in (with_ranges, restored))
    assert (found <= of_ranges * (1 + 1e-5)).all()
    assert found.sum() < 0.95 * of_ranges.sum()
