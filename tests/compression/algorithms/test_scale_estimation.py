from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.compression.algorithms.scale_estimation import (
    SHRINK_FACTORS,
    blocks_of,
    estimate_scale,
    fit_scales,
    output_error,
)
from autotune.compression.formats.quantize import decode, encode, initial_scale, round_trip, stored_value
from autotune.compression.formats.table import FORMATS

SEARCHABLE = sorted(name for name, fmt in FORMATS.items() if fmt.takes_algorithms and name != "codebook")


def case(seed: int, groups: int, size: int) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Rows [4, groups, size] with outliers, and second moments of correlated activations with uneven channels."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_t(3, (4, groups, size)).astype(np.float32)
    k = groups * size
    x = rng.normal(size=(2 * k, k)) @ (np.eye(k) + rng.normal(size=(k, k)) / np.sqrt(k)) * rng.lognormal(0, 2, k)
    return rows, (x.T @ x / len(x)).astype(np.float32)


def exact_error(error: npt.NDArray[np.float32], moment: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """e H eᵀ of every group with its own block of H, in float64, [R, G]."""
    groups, size = error.shape[1:]
    blocks = [moment[i * size : (i + 1) * size, i * size : (i + 1) * size] for i in range(groups)]
    e = error.astype(np.float64)
    return np.stack([np.einsum("ri,ij,rj->r", e[:, g], blocks[g], e[:, g]) for g in range(groups)], axis=1)


@pytest.mark.parametrize(("groups", "size"), [(1, 8), (3, 8), (2, 160), (1, 131)])
def test_output_error_is_the_quadratic_form_of_the_second_moments(groups: int, size: int) -> None:
    """e H eᵀ of each group, with blocks of at most 128 channels; a size without a divisor falls back to single ones."""
    error, moment = case(0, groups, size)
    block = {8: 8, 160: 80, 131: 1}[size]
    found = output_error(error, blocks_of(moment, size)) * np.diagonal(moment).mean()
    split = error.reshape(len(error), -1, block)
    expected = exact_error(split, moment).reshape(len(error), groups, -1).sum(axis=-1)
    assert blocks_of(moment, size).shape == (groups * size // block, block, block)
    assert np.allclose(found[..., 0], expected, rtol=1e-3)


def test_output_error_is_what_the_output_loses() -> None:
    """Measured on the activations themselves: the mean square of X eᵀ."""
    rng = np.random.default_rng(1)
    x, error = rng.normal(size=(50, 16)).astype(np.float32), rng.normal(size=(3, 1, 16)).astype(np.float32)
    moment = x.T @ x / len(x)
    found = output_error(error, blocks_of(moment, 16)) * np.diagonal(moment).mean()
    assert np.allclose(found[:, 0, 0], np.square(error[:, 0] @ x.T).mean(axis=1), rtol=1e-4)


@pytest.mark.parametrize("name", SEARCHABLE)
@given(seed=st.integers(0, 2**31), groups=st.integers(1, 3), size=st.sampled_from((4, 16, 32)))
def test_estimated_scale_is_never_worse_than_the_start(name: str, seed: int, groups: int, size: int) -> None:
    """In every group the output error is at most that of the range's own scale, and float16 holds the scale exactly."""
    fmt = FORMATS[name]
    rows, moment = case(seed, groups, size)
    start, start_zero = initial_scale(rows, fmt)
    scale, zero = estimate_scale(rows, start, start_zero, blocks_of(moment, rows.shape[-1]), fmt)
    assert np.array_equal(scale, scale.astype(np.float16).astype(np.float32))
    assert np.all(scale != 0)
    before = exact_error(round_trip(rows, stored_value(start, fmt), start_zero, fmt) - rows, moment)
    after = exact_error(round_trip(rows, scale, zero, fmt) - rows, moment)
    assert np.all(after <= before * (1 + 1e-4) + 1e-6 * moment.max())


@pytest.mark.parametrize("name", SEARCHABLE)
@pytest.mark.parametrize("groups", [1, 3])
def test_the_start_is_not_changed(name: str, groups: int) -> None:
    """Rows, scale and zero point are the caller's, also with one group a row."""
    fmt = FORMATS[name]
    rows, moment = case(7, groups, 16)
    given = [array for array in (rows, *initial_scale(rows, fmt)) if array is not None]
    before = [array.copy() for array in given]
    found = estimate_scale(rows, given[1], given[2] if fmt.has_zero_point else None, blocks_of(moment, 16), fmt)
    assert all(np.array_equal(a, b) for a, b in zip(given, before, strict=True))
    assert fmt.has_zero_point == (found[1] is not None)


@pytest.mark.parametrize("name", SEARCHABLE)
def test_estimated_scale_beats_plain_rounding(name: str) -> None:
    """As stored, four-bit rows lose a tenth less at least, all together, and eight-bit rows lose no more."""
    fmt = FORMATS[name]
    rows, moment = case(7, 4, 32)
    start, start_zero = initial_scale(rows, fmt)
    plain = decode(encode(rows, start, start_zero, fmt), stored_value(start, fmt), start_zero, fmt)
    scale, zero = estimate_scale(rows, start, start_zero, blocks_of(moment, rows.shape[-1]), fmt)
    found = decode(encode(rows, scale, zero, fmt), scale, zero, fmt)
    before, after = exact_error(plain - rows, moment).sum(), exact_error(found - rows, moment).sum()
    assert after <= before * (0.9 if fmt.bits == 4 else 1)


@pytest.mark.parametrize("name", SEARCHABLE)
def test_white_activations_reduce_it_to_the_least_square_error(name: str) -> None:
    """With the identity for second moments, no share of the range does better in plain square error (tried in full)."""
    fmt = FORMATS[name]
    rows, _ = case(3, 2, 32)
    start, start_zero = initial_scale(rows, fmt)
    scale, zero = estimate_scale(rows, start, start_zero, blocks_of(np.eye(64, dtype=np.float32), 32), fmt)
    found = np.square(round_trip(rows, scale, zero, fmt) - rows).sum(axis=-1)
    for factor in np.float32(SHRINK_FACTORS):
        tried = stored_value(start * factor, fmt)
        if fmt.has_zero_point:
            low = np.minimum(rows.min(axis=-1, keepdims=True), 0) * factor
            levels = np.clip(-np.rint(low / (start * factor)), fmt.lowest, fmt.highest)
            error = np.square(round_trip(rows, tried, levels, fmt) - rows).sum(axis=-1)
        else:
            error = np.square(round_trip(rows, tried, None, fmt) - rows).sum(axis=-1)
        assert np.all(found <= error * (1 + 1e-5))


@pytest.mark.parametrize("name", SEARCHABLE)
def test_dead_channels_and_rows_without_values_are_harmless(name: str) -> None:
    """No activation at all, or rows of zeros, leave scales that are numbers and not zero."""
    fmt = FORMATS[name]
    rows, moment = case(4, 2, 8)
    rows[0] = 0
    for statistics in (np.zeros_like(moment), moment):
        scale, zero = estimate_scale(rows, *initial_scale(rows, fmt), blocks_of(statistics, rows.shape[-1]), fmt)
        assert np.all(np.isfinite(scale) & (scale != 0))
        assert zero is None or np.all((zero >= fmt.lowest) & (zero <= fmt.highest))
        assert not round_trip(rows, scale, zero, fmt)[0].any()


@pytest.mark.parametrize("name", SEARCHABLE)
def test_weights_of_single_channels_are_a_diagonal_matrix(name: str) -> None:
    """A vector of channel weights gives what the matrix with that diagonal gives."""
    rows, moment = case(7, 3, 32)
    weights = np.diagonal(moment).copy()
    scale, zero = initial_scale(rows, FORMATS[name])
    by_vector = estimate_scale(rows, scale, zero, blocks_of(weights, rows.shape[-1]), FORMATS[name])
    by_matrix = estimate_scale(rows, scale, zero, blocks_of(np.diag(weights), rows.shape[-1]), FORMATS[name])
    for ours, expected in zip(by_vector, by_matrix, strict=True):
        if expected is not None:
            assert np.mean(ours != expected) < 0.02  # sums in another order may tip a tie


@pytest.mark.parametrize("name", SEARCHABLE)
@given(seed=st.integers(0, 2**31), groups=st.integers(1, 4), damping=st.sampled_from((0.0, 0.3)))
def test_fitted_scales_lose_what_they_say(name: str, seed: int, groups: int, damping: float) -> None:
    """The error of the whole row, between groups included, falls by the returned gain, and never rises."""
    fmt = FORMATS[name]
    rows, moment = case(seed, groups, 16)
    moment /= np.diagonal(moment).mean()
    scale, zero = initial_scale(rows, fmt)
    scale = stored_value(scale, fmt)
    codes = encode(rows, scale, zero, fmt)
    fitted, gain = fit_scales(rows, codes, scale, zero, moment, fmt, damping=damping)
    damped = moment + damping * np.eye(len(moment))

    def error(s: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return exact_error((decode(codes, s, zero, fmt) - rows).reshape(len(rows), 1, -1), damped)[:, 0]  # type: ignore[arg-type]

    assert np.all(gain >= 0)
    assert np.allclose(error(scale) - error(fitted), gain, rtol=1e-2, atol=1e-4 * error(scale).max())
    assert np.array_equal(fitted, fitted.astype(np.float16).astype(np.float32))


def test_no_scales_fit_better() -> None:
    """Beside the fitted scales every change of a single one costs output error (as far as float16 resolves)."""
    fmt = FORMATS["int4_sym"]
    rows, moment = case(3, 4, 16)
    start, _ = initial_scale(rows, fmt)
    codes = encode(rows, start, None, fmt)
    scale, _ = fit_scales(rows, codes, stored_value(start, fmt), None, moment, fmt)

    def error(s: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        return exact_error((decode(codes, s, None, fmt) - rows).reshape(len(rows), 1, -1), moment)[:, 0]

    for group in range(4):
        for factor in (0.99, 1.01):
            moved = scale.copy()
            moved[:, group] *= np.float32(factor)
            assert np.all(error(moved) > error(scale))


@pytest.mark.parametrize("size", [16, 32, 256])
def test_blocks_of_divided_channels_are_those_of_their_moments(size: int) -> None:
    """Dividing the channels first, or their second moments, is one thing; so it is for a diagonal alone."""
    _, moment = case(1, 512 // size, size)
    divisor = np.exp(np.random.default_rng(3).normal(size=512)).astype(np.float32)
    expected = blocks_of(moment / np.outer(divisor, divisor), size)
    np.testing.assert_allclose(blocks_of(moment, size, divisor), expected, rtol=1e-6)
    weights = np.diagonal(moment).copy()
    np.testing.assert_allclose(blocks_of(weights, size, divisor), blocks_of(weights / divisor**2, size), rtol=1e-6)
