"""Means, ratios and their standard errors."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluators._statistics import mean, quantile, ratio, standard_error

VALUES = st.lists(st.floats(-100, 100), min_size=2, max_size=20)


@given(VALUES)
def test_standard_error_is_that_of_the_mean(values: list[float]) -> None:
    """It is the sample's standard deviation over the root of its size."""
    assert standard_error(values) == pytest.approx(np.std(values, ddof=1) / len(values) ** 0.5)


def test_one_value_has_no_standard_error() -> None:
    """A single sequence tells nothing about spread."""
    assert standard_error([3.0]) is None
    assert mean([3.0]).stderr is None


@given(VALUES, st.floats(-10, 10))
def test_what_original_and_candidate_share_is_no_error(values: list[float], shift: float) -> None:
    """If every sequence loses the same, the mean loss is known exactly, however much sequences differ."""
    measured = mean(np.array(values) + shift, values)
    assert measured.value == pytest.approx(np.mean(values) + shift, abs=1e-9)
    assert measured.stderr == pytest.approx(0.0, abs=1e-9)


@given(st.lists(st.tuples(st.floats(0, 50), st.integers(1, 50)), min_size=2, max_size=20))
def test_a_ratio_weighs_tokens_alike(pairs: list[tuple[float, int]]) -> None:
    """The value is sum over sum; equal counts make it the plain mean with its plain error."""
    sums, counts = zip(*pairs, strict=True)
    assert ratio(sums, counts).value == pytest.approx(sum(sums) / sum(counts))
    same = [7] * len(sums)
    plain = mean(np.array(sums) / 7)
    assert ratio(sums, same).value == pytest.approx(plain.value)
    assert ratio(sums, same).stderr == pytest.approx(plain.stderr, abs=1e-9)


def test_the_error_of_a_ratio_is_what_resampling_gives() -> None:
    """The delta method agrees with a bootstrap over sequences within a tenth."""
    random = np.random.default_rng(0)
    counts = random.integers(5, 60, 200).astype(float)
    sums = counts * random.normal(2.0, 0.5, 200)
    draws = random.integers(0, 200, (4000, 200))
    bootstrap = (sums[draws].sum(1) / counts[draws].sum(1)).std()
    assert ratio(sums, counts).stderr == pytest.approx(bootstrap, rel=0.1)


def test_an_empty_sequence_counts_for_nothing() -> None:
    """A sequence without tokens does not change a ratio and has the value 0."""
    measured = ratio([3.0, 0.0], [6, 0])
    assert measured.value == 0.5
    assert list(measured.values) == [0.5, 0.0]


@pytest.mark.parametrize("level", [0.5, 0.99])
def test_the_error_of_a_quantile_is_what_resampling_gives(level: float) -> None:
    """Woodruff's error agrees with a bootstrap over sequences within a quarter, where positions hang together."""
    random = np.random.default_rng(0)
    values = np.exp(random.normal(0.0, 0.4, (150, 1)) + random.normal(0.0, 1.0, (150, 100)))
    measured = quantile(values, level)
    draws = random.integers(0, 150, (400, 150))
    bootstrap = np.array([np.quantile(values[draw], level) for draw in draws]).std()
    assert measured.value == np.quantile(values, level)
    assert measured.stderr == pytest.approx(bootstrap, rel=0.25)
    assert len(measured.values) == 150


def test_a_quantile_of_one_sequence_has_no_error() -> None:
    """Nor does that of equal values have any."""
    assert quantile(np.ones((1, 5)), 0.5).stderr is None
    assert quantile(np.zeros((3, 5)), 0.99).stderr == 0.0
