"""Laws of LoRA correction: the adapters are the best of their rank, and what the graph adds is what was fitted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import bin_size, chain, constants, logits

from autotune.compression.algorithms.lora import cost_beside, fit_adapters, leading_directions
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Packed, Variant, restore
from autotune.compression.ir.model_weights import Rows
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import Settings
from autotune.compression.variants import Treatment, compress_weight
from autotune.errors import PlanError

Array = npt.NDArray[np.float32]


def lora(**settings: Any) -> Settings:
    return Settings(mode="int4_asym", group_size=32, lora_correction=True, **settings)


def correlated(columns: int) -> Array:
    rng = np.random.default_rng(0)
    tokens = (
        rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns)) * rng.uniform(0.2, 3, columns)
    )
    return (tokens.T @ tokens / len(tokens)).astype(np.float32)


def loss(error: Array, moment: Array) -> float:
    return float(np.einsum("rk,kl,rl->", error, moment, error, dtype=np.float64))


def lora_a(packed: Packed, rank: int) -> Array:
    levels = packed["lora_a"].reshape(rank, -1).astype(np.float32) - packed["lora_a_zero_point"][:, None]
    return np.asarray(levels * packed["lora_a_scale"].view(np.float16)[:, None], np.float32)


@pytest.mark.parametrize("shape", [(40, 96), (96, 40)])
@pytest.mark.parametrize("rank", [1, 8])
def test_no_adapters_of_that_rank_do_better(shape: tuple[int, int], rank: int) -> None:
    """The projection on the leading directions loses what the singular values of E H^(1/2) behind the rank hold."""
    error = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    moment = correlated(shape[1])
    singular = np.linalg.svd(error.astype(np.float64) @ np.linalg.cholesky(moment.astype(np.float64)), compute_uv=False)
    directions = leading_directions(error, moment, rank)
    np.testing.assert_allclose(directions.T @ directions, np.eye(rank), atol=1e-5)
    found = loss(error - directions @ (directions.T @ error), moment)
    assert found == pytest.approx(float((singular[rank:] ** 2).sum()), rel=2e-3)


def test_eight_bit_adapters_lose_next_to_nothing() -> None:
    """Stored in int8_asym, the adapters keep over 99 % of what they win."""
    error, moment = np.random.default_rng(1).normal(size=(64, 96)).astype(np.float32), correlated(96)
    directions = leading_directions(error, moment, 8)
    best = loss(error - directions @ (directions.T @ error), moment)
    _, b, a = fit_adapters(error, moment, 8)
    won = loss(error, moment) - best
    assert loss(error, moment) - loss(error - b @ a, moment) > 0.99 * won


def test_an_error_of_zero_gives_adapters_of_zero() -> None:
    """A weight that the format holds exactly is left exact."""
    _, b, a = fit_adapters(np.zeros((16, 24), np.float32), correlated(24), 4)
    assert np.isfinite(b @ a).all()
    assert np.abs(b @ a).max() < 1e-6


def test_an_error_costs_what_the_best_b_leaves_of_it() -> None:
    """The cost beside adapters is e H eᵀ of what remains of each row when B is solved for by least squares."""
    rng, moment = np.random.default_rng(2), correlated(24)
    a, error = rng.normal(size=(3, 24)).astype(np.float32), rng.normal(size=(10, 24)).astype(np.float32)
    root = np.linalg.cholesky(moment.astype(np.float64))
    b = np.linalg.lstsq((a @ root).T, (error @ root).T, rcond=None)[0].T
    assert loss(error, cost_beside(a, moment)) == pytest.approx(loss(error - b @ a, moment), rel=1e-3)


def test_scale_estimation_beside_adapters_lowers_the_error() -> None:
    """With the same adapters' rank the output error is below that of plain rounding with adapters."""
    values, moment = np.random.default_rng(4).standard_t(4, (48, 96)).astype(np.float32), correlated(96)
    weight = find_weights(chain([values]))[0]

    def left(**options: Any) -> float:
        variant = Variant("int4_asym", 32, lora_rank=4, lora_iterations=3, **options)
        packed = compress_weight(Rows.of(weight, values), variant, Treatment(second_moment=moment))
        error = values - restore(packed, weight, variant)
        return loss(error, cost_beside(lora_a(packed, 4), moment))

    assert left(scale_estimation=True) < 0.95 * left()


@pytest.mark.parametrize("extra", [{}, {"awq": True}, {"scale_estimation": True}, {"ratio": 0.6}])
def test_adapters_bring_the_model_nearer_and_count_in_the_footprint(
    llama: ov.Model,
    statistics: Callable[[], Statistics],
    tokens: npt.NDArray[np.int64],
    tmp_path: Path,
    extra: dict[str, Any],
) -> None:
    """With adapters the logits are nearer to the original's, and the plan knows the file's size to the byte."""
    engine = Engine(llama, statistics=statistics)
    without = engine.apply(engine.plan(Settings(mode="int4_asym", group_size=32, **extra)))
    plan = engine.plan(lora(**extra))
    corrected = engine.apply(plan)
    original = logits(llama, tokens)
    assert np.square(logits(corrected, tokens) - original).mean() < np.square(logits(without, tokens) - original).mean()
    assert plan.footprint == bin_size(corrected, tmp_path)
    assert {name for name in constants(corrected) if name.endswith("lora_A")}


def test_gptq_and_adapters_are_refused_in_planning(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """They exclude each other, and the message says so before any work."""
    with pytest.raises(PlanError, match="cannot be combined"):
        Engine(llama, statistics=statistics).plan(lora(gptq=True))


def test_a_weight_too_small_for_the_rank_is_named(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """Adapters as large as the weight are not made; the note says where and why."""
    plan = Engine(llama, statistics=statistics).plan(lora(lora_rank=4096))
    assert not any(variant.lora_rank for variant in plan.variants.values())
    assert any("rank 4096" in note for note in plan.notes)
