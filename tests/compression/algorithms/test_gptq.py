"""Laws of GPTQ: what it does to columns, against a direct transcription of the algorithm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from autotune.compression.algorithms.gptq import propagation, quantize_columns, quantize_with_best_scales
from autotune.compression.formats.quantize import decode, encode, initial_scale, stored_value
from autotune.compression.formats.table import FORMATS
from autotune.errors import CompressionError

Array = npt.NDArray[np.float32]


def correlated(columns: int, seed: int = 0) -> Array:
    """Second moments of activations with a few strong directions and channels of unequal size."""
    rng = np.random.default_rng(seed)
    tokens = (
        rng.normal(size=(4 * columns, columns)) @ rng.normal(size=(columns, columns)) * rng.uniform(0.2, 3, columns)
    )
    return (tokens.T @ tokens / len(tokens)).astype(np.float32)


def prepared(mode: str, group: int, seed: int = 1) -> tuple[Array, Array, Array | None]:
    """Rows [6, 160 / group, group] with scale and zero point as they would be stored."""
    fmt = FORMATS[mode]
    rows = np.random.default_rng(seed).normal(size=(6, 160 // group, group)).astype(np.float32)
    scale, zero = initial_scale(rows, fmt)
    return rows, stored_value(scale, fmt), zero


def output_loss(
    rows: Array, codes: npt.NDArray[np.uint8], scale: Array, zero: Array | None, mode: str, h: Array
) -> float:
    error = (decode(codes, scale, zero, FORMATS[mode]) - rows).reshape(len(rows), -1).astype(np.float64)
    return float(np.einsum("rk,kl,rl->", error, h.astype(np.float64), error))


def transcription(rows: Array, scale: Array, zero: Array | None, h: Array, order: list[int], mode: str) -> Array:
    """Optimal brain quantization in a fixed order, one column and one elimination at a time, in float64."""
    fmt, group = FORMATS[mode], rows.shape[-1]
    rest = rows.reshape(len(rows), -1).astype(np.float64)
    inverse = np.linalg.inv(h.astype(np.float64))
    codes = np.empty(rest.shape, np.uint8)
    for column in order:
        s = scale[:, column // group, 0]
        z = None if zero is None else zero[:, column // group, 0]
        codes[:, column] = encode(rest[:, column].astype(np.float32), s, z, fmt)
        error = (rest[:, column] - decode(codes[:, column], s, z, fmt)) / inverse[column, column]
        rest -= np.outer(error, inverse[column])
        inverse -= np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        inverse[column, column] = 1  # this column takes no further part
        inverse[column, np.arange(len(inverse)) != column] = 0
        inverse[np.arange(len(inverse)) != column, column] = 0
    return codes


@pytest.mark.parametrize("activation_order", [True, False])
def test_the_factor_is_of_the_damped_second_moments(activation_order: bool) -> None:
    """N D Nᵀ are the damped second moments, columns in the order of falling energy, or as they stand."""
    h = correlated(48)
    spread = propagation(h, damping=0.05, activation_order=activation_order)
    if activation_order:
        assert np.all(np.diff(np.diagonal(h)[spread.order]) <= 0)
    else:
        assert spread.order.tolist() == list(range(48))
    damped = (h + 0.05 * np.diagonal(h).mean() * np.eye(48))[np.ix_(spread.order, spread.order)]
    np.testing.assert_allclose((spread.factor * spread.cost) @ spread.factor.T, damped, rtol=1e-4, atol=1e-5)
    assert np.array_equal(spread.factor, np.triu(spread.factor))
    assert np.all(np.diagonal(spread.factor) == 1)


@pytest.mark.parametrize("threads", [1, 2])
def test_the_factor_does_not_depend_on_threads(threads: int) -> None:
    """LAPACK divides a factorization among threads; the bits are the same with any number of them."""
    h = correlated(400)
    expected = propagation(h)
    with threadpool_limits(limits=threads, user_api="blas"):
        found = propagation(h)
    assert np.array_equal(found.factor, expected.factor)
    assert np.array_equal(found.cost, expected.cost)


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4"])
def test_codes_are_those_of_the_algorithm(mode: str) -> None:
    """Blocked and batched, the codes are those of one elimination a column (but for roundings on an edge)."""
    rows, scale, zero = prepared(mode, 32)
    h = correlated(160)
    spread = propagation(h)
    damped = h + 0.01 * np.diagonal(h).mean() * np.eye(160, dtype=np.float32)
    expected = transcription(rows, scale, zero, damped, spread.order.tolist(), mode)
    codes = quantize_columns(rows, scale, zero, spread, FORMATS[mode]).codes.reshape(expected.shape)
    assert np.mean(codes != expected) < 0.01


def test_columns_go_in_the_order_of_falling_energy() -> None:
    """The strongest channels are rounded first, while most others are left to compensate; or as they stand."""
    h = correlated(24)
    energy = np.diagonal(h)[propagation(h).order]
    assert np.all(energy[:-1] >= energy[1:])
    assert propagation(h, activation_order=False).order.tolist() == list(range(24))


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4"])
def test_uncorrelated_channels_are_simply_rounded(mode: str) -> None:
    """If no column can compensate for another, GPTQ is plain rounding."""
    rows, scale, zero = prepared(mode, 32)
    spread = propagation(np.diag(np.linspace(1, 5, 160)).astype(np.float32))
    codes = quantize_columns(rows, scale, zero, spread, FORMATS[mode]).codes
    np.testing.assert_array_equal(codes, encode(rows, scale, zero, FORMATS[mode]))


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4"])
def test_the_output_error_is_far_below_that_of_rounding(mode: str) -> None:
    """On correlated activations the error at the output is less than half of plain rounding's."""
    rows, scale, zero = prepared(mode, 32)
    h = correlated(160)
    codes = quantize_columns(rows, scale, zero, propagation(h), FORMATS[mode]).codes
    rounded = encode(rows, scale, zero, FORMATS[mode])
    assert output_loss(rows, codes, scale, zero, mode, h) < 0.5 * output_loss(rows, rounded, scale, zero, mode, h)


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4"])
@pytest.mark.parametrize("best_scales", [False, True])
def test_the_loss_is_the_output_error(mode: str, best_scales: bool) -> None:
    """The reported loss is e H eᵀ with the damped second moments, row by row."""
    rows, scale, zero = prepared(mode, 32)
    h = correlated(160)
    spread = propagation(h)
    if best_scales:
        found = quantize_with_best_scales(rows, scale, zero, h, spread, FORMATS[mode])
    else:
        found = quantize_columns(rows, scale, zero, spread, FORMATS[mode])
    damped = h + spread.damping * np.eye(160)
    losses = [
        output_loss(rows[i : i + 1], found.codes[i : i + 1], found.scale[i : i + 1], z, mode, damped)
        for i in range(len(rows))
        for z in [None if found.zero is None else found.zero[i : i + 1]]
    ]
    np.testing.assert_allclose(found.loss, losses, rtol=2e-4)


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4"])
@given(seed=st.integers(0, 2**31), group=st.sampled_from((8, 32, 160)))
def test_with_scale_estimation_no_row_loses_more(mode: str, seed: int, group: int) -> None:
    """In every row the output error is at most that of GPTQ alone, whose scales are those of the range."""
    rows, scale, zero = prepared(mode, group, seed)
    h = correlated(160, seed)
    spread = propagation(h)
    alone = quantize_columns(rows, scale, zero, spread, FORMATS[mode])
    found = quantize_with_best_scales(rows, scale, zero, h, spread, FORMATS[mode])
    assert np.all(found.loss <= alone.loss)
    assert found.loss.sum() < alone.loss.sum()
    assert np.array_equal(found.scale, found.scale.astype(np.float16).astype(np.float32))


def test_channels_that_are_never_active_do_no_harm() -> None:
    """Dead channels, and an input that is zero throughout, give finite factors and plain rounding of those columns."""
    rows, scale, zero = prepared("int4_asym", 32)
    h = correlated(160)
    h[40:50], h[:, 40:50] = 0, 0
    for moment in (h, np.zeros_like(h)):
        spread = propagation(moment)
        assert np.isfinite(spread.factor).all()
        codes = quantize_columns(rows, scale, zero, spread, FORMATS["int4_asym"]).codes.reshape(6, 160)
        rounded = encode(rows, scale, zero, FORMATS["int4_asym"]).reshape(6, 160)
        np.testing.assert_array_equal(codes[:, 40:50], rounded[:, 40:50])


def test_a_matrix_that_is_not_definite_is_damped_further() -> None:
    """Rounding may leave second moments slightly indefinite; the damping grows until they can be factored."""
    h = correlated(32)
    values, vectors = np.linalg.eigh(h.astype(np.float64))
    values[0] = -0.05 * np.diagonal(h).mean()
    spread = propagation(((vectors * values) @ vectors.T).astype(np.float32))
    assert np.isfinite(spread.factor).all()


def test_second_moments_that_are_not_finite_are_refused() -> None:
    """NaN does not find its way into codes."""
    with pytest.raises(CompressionError, match="not finite"):
        propagation(np.full((4, 4), np.nan, np.float32))


def test_importance_is_the_cost_after_the_others_made_up() -> None:
    """For the first column of the order it is one over its entry of the inverse; for uncorrelated ones their energy."""
    h = correlated(24)
    spread = propagation(h, damping=0.01)
    inverse = np.linalg.inv(h.astype(np.float64) + 0.01 * np.diagonal(h).mean() * np.eye(24))
    first = spread.order[0]
    assert spread.importance[first] == pytest.approx(1 / inverse[first, first], rel=1e-3)
    diagonal = np.linspace(1, 3, 24).astype(np.float32)
    np.testing.assert_allclose(propagation(np.diag(diagonal), damping=0.0).importance, diagonal, rtol=1e-5)
