"""The sequential test: its error rate over all looks, its power, and the scale on which it compares."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

from autotune.evaluation import Measurement
from autotune.evaluation.sequential import (
    ERROR,
    FEWEST,
    PRIOR,
    additive,
    are_separated,
    is_decided,
    log_evidence,
    looks,
    scoring_order,
)


def share_decided(draw: np.random.Generator, effect: float, texts: str) -> float:
    """Share of 2000 comparisons over 128 windows that are decided at any look."""
    decided = 0
    for _ in range(2000):
        noise = draw.normal(size=128)
        if texts == "heavy-tailed":
            noise = draw.standard_t(3, 128)
        elif texts == "uneven":  # some windows are harder than others for both models
            noise *= draw.lognormal(0, 0.7, 128)
        decided += any(is_decided([log_evidence(noise[:count] + effect)]) for count in looks(128))
    return decided / 2000


@pytest.mark.parametrize("texts", ["normal", "heavy-tailed", "uneven"])
def test_equal_models_are_decided_seldom(texts: str) -> None:
    """Over all looks together the error is at most `ERROR`, and a difference of one deviation is found."""
    assert share_decided(np.random.default_rng(0), 0.0, texts) <= ERROR
    assert share_decided(np.random.default_rng(1), 1.0, "normal") == 1.0


@given(st.lists(st.floats(-1e3, 1e3), min_size=FEWEST, max_size=40), st.sampled_from((1e-9, 1e-3, 7.0, 1e9)))
def test_evidence_has_no_unit_and_one_direction(values: list[float], unit: float) -> None:
    """It does not change with the unit, and at most one of the two directions has any."""
    array = np.round(values, 3)
    forward, backward = log_evidence(array), log_evidence(-array)
    assert min(forward, backward) == -math.inf
    if math.isfinite(forward):
        assert log_evidence(array * unit) == pytest.approx(forward, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("values", [[0.5, 1.5, 0.2, 0.9, 1.1, 0.4, -0.3], [3.0, 2.9, 3.2, 3.05], [0.1, 2.0, -1.5, 0.3]])
def test_evidence_is_the_ratio_of_marginal_likelihoods(values: list[float]) -> None:
    """A mean with the prior N(0, `PRIOR` s²) against none, over all deviations s with the density 1/s."""

    def marginal(prior: float) -> float:
        covariance = np.eye(len(values)) + prior
        inverse, volume = np.linalg.inv(covariance), math.sqrt(np.linalg.det(covariance))
        exponent = float(np.array(values) @ inverse @ np.array(values)) / 2
        found, _ = quad(lambda log: math.exp(-len(values) * log - exponent * math.exp(-2 * log)), -8, 30)
        return float(found) / volume

    assert log_evidence(values) == pytest.approx(math.log(marginal(PRIOR) / marginal(0.0)), rel=1e-6)


def test_few_windows_never_decide() -> None:
    """Fewer than the first block are no evidence, equal differences are certainty."""
    assert log_evidence([1.0] * (FEWEST - 1)) == -math.inf
    assert log_evidence([1.0] * FEWEST) == math.inf
    assert log_evidence([0.0] * 9) == -math.inf


def test_evidence_is_divided_among_hypotheses() -> None:
    """The mean decides: one of two needs twice the evidence; nothing decides nothing."""
    enough = math.log(1 / ERROR)
    assert is_decided([enough])
    assert not is_decided([enough, -math.inf])
    assert is_decided([enough + math.log(2), -math.inf])
    assert not is_decided([])


def test_models_are_compared_on_common_windows() -> None:
    """Two models that differ by a tenth on every window are separated, whichever is longer; equal ones are not."""
    texts = np.random.default_rng(0).lognormal(0, 0.5, 40)
    worse = 1.1 * texts + np.linspace(0, 0.01, 40)
    assert are_separated(texts, worse[:20])
    assert are_separated(worse, texts[:20])
    assert not are_separated(texts, texts)
    assert not are_separated(texts[:3], worse)


@pytest.mark.parametrize("kind", ["mean", "perplexity", "increase"])
def test_values_are_compared_on_the_scale_of_their_mean(kind: str) -> None:
    """A perplexity is the mean of logarithms; a quantile is no mean of anything."""
    logs = np.random.default_rng(0).normal(0.3, 0.1, 9)
    back = {"mean": lambda x: x, "perplexity": np.exp, "increase": lambda x: 100 * np.expm1(x)}[kind]
    scale = additive(Measurement(float(back(logs.mean())), None, tuple(back(logs))))
    assert scale is not None
    np.testing.assert_allclose(scale.inverse(scale.of(back(logs)).mean()), back(logs.mean()))
    assert additive(Measurement(float(back(logs.mean())) * 1.01, None, tuple(back(logs)))) is None


@given(st.integers(1, 400))
def test_blocks_cover_all_windows_once(count: int) -> None:
    """Looks increase up to the number of windows, in multiples of the first block but for the last."""
    at = looks(count)
    assert at[-1] == count
    assert at == sorted(set(at))
    assert all(stop % FEWEST == 0 for stop in at[:-1])
    for before, stop in pairwise(at[:-1]):  # a quarter more, rounded to whole blocks
        assert stop - before == max(FEWEST, FEWEST * round(1.25 * before / FEWEST) - before)
    assert sorted(scoring_order(count).tolist()) == list(range(count))
    assert scoring_order(count).tolist() == scoring_order(count).tolist()
