"""KL divergence, top-1 agreement and likelihoods against float64 oracles."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import EvaluationError
from autotune.evaluation import Reference
from evaluators import _divergence
from evaluators._divergence import Positions, compare, negative_log_likelihood

Logits = npt.NDArray[np.float32]


def _reference(logits: Logits) -> Reference:
    positions = Positions(*logits.shape)
    positions.add(logits)
    return positions.arrays()


def _log_softmax64(logits: Logits) -> npt.NDArray[np.float64]:
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    return np.asarray(wide - np.log(np.exp(wide).sum(axis=-1, keepdims=True)))


def _kl64(original: Logits, candidate: Logits) -> npt.NDArray[np.float64]:
    p, q = _log_softmax64(original), _log_softmax64(candidate)
    return np.asarray((np.exp(p) * (p - q)).sum(axis=-1))


def _pair(seed: int, width: int, noise: float, scale: float = 3.0) -> tuple[Logits, Logits]:
    random = np.random.default_rng(seed)
    original = random.normal(0.0, scale, (6, width)).astype(np.float32)
    return original, (original + random.normal(0.0, noise, original.shape)).astype(np.float32)


@pytest.fixture
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the eight most likely tokens of any vocabulary above sixteen."""
    monkeypatch.setattr(_divergence, "COMPLETE_VOCABULARY", 16)
    monkeypatch.setattr(_divergence, "TOP", 8)


@given(seed=st.integers(0, 10**6), width=st.integers(2, 300), noise=st.sampled_from([0.003, 0.1, 3.0]))
def test_complete_divergence_is_the_exact_one(seed: int, width: int, noise: float) -> None:
    """With all log-probabilities kept, each position's divergence is the float64 one within 1e-6 nats."""
    original, candidate = _pair(seed, width, noise)
    divergence, agree = compare(_reference(original), 0, candidate)
    np.testing.assert_allclose(divergence, _kl64(original, candidate), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(agree, original.argmax(-1) == candidate.argmax(-1))


def test_a_divergence_of_an_8_bit_model_is_resolved() -> None:
    """A mean divergence near 5e-5 nats, that of an 8-bit model, comes out within half a percent."""
    original, candidate = (
        np.concatenate(part) for part in zip(*(_pair(s, 4096, 0.01) for s in range(40)), strict=True)
    )
    exact = _kl64(original, candidate).mean()
    assert 2e-5 < exact < 1e-4
    divergence, _ = compare(_reference(original), 0, candidate)
    assert divergence.mean() == pytest.approx(exact, rel=5e-3)


@pytest.mark.usefixtures("small_buckets")
def test_bucketed_divergence_is_a_lower_bound() -> None:
    """Over top tokens and tail it is that of the merged distributions: never above the full one, never below 0."""
    for seed in range(30):
        original, candidate = _pair(seed, 40, 0.5)
        reference = _reference(original)
        assert reference["top_tokens"].shape == (6, 8)
        assert "log_probability" not in reference
        divergence, _ = compare(reference, 0, candidate)
        p, q = np.exp(_log_softmax64(original)), np.exp(_log_softmax64(candidate))
        top = np.argsort(-p, axis=-1)[:, :8]
        merged = [np.take_along_axis(one, top, -1) for one in (p, q)]
        tails = [1.0 - one.sum(axis=-1) for one in merged]
        expected = (merged[0] * np.log(merged[0] / merged[1])).sum(-1) + tails[0] * np.log(tails[0] / tails[1])
        np.testing.assert_allclose(divergence, expected, rtol=1e-4, atol=1e-6)
        assert (divergence <= _kl64(original, candidate) + 1e-6).all()
        assert (divergence >= -1e-6).all()


@pytest.mark.usefixtures("small_buckets")
def test_a_tail_without_probability_does_no_harm() -> None:
    """Where the top tokens hold everything, the tail adds nothing, on either side."""
    original = np.full((1, 40), -200.0, np.float32)
    original[0, :4] = 0.0
    candidate = original.copy()
    candidate[0, 0] = 1.0
    divergence, _ = compare(_reference(original), 0, candidate)
    assert divergence[0] == pytest.approx(_kl64(original, candidate)[0], abs=1e-5)


def test_large_vocabularies_are_kept_in_part() -> None:
    """Above 8192 tokens the reference holds 1024 of them, and most of a peaked distribution's divergence."""
    random = np.random.default_rng(0)
    original = random.normal(0.0, 3.0, (3, 9000)).astype(np.float32)
    candidate = original + random.normal(0.0, 0.1, original.shape).astype(np.float32)
    reference = _reference(original)
    assert reference["top_tokens"].shape == (3, 1024)
    assert reference["top_tokens"].dtype == np.int32
    divergence, _ = compare(reference, 0, candidate)
    exact = _kl64(original, candidate)
    assert (divergence <= exact + 1e-6).all()
    assert (divergence >= 0.6 * exact).all()


@pytest.mark.parametrize("width", [30, 9000])
def test_a_model_does_not_diverge_from_itself(width: int) -> None:
    """Equal logits give exactly zero and full agreement, kept completely or in part."""
    logits, _ = _pair(1, width, 0.0)
    divergence, agree = compare(_reference(logits), 0, logits)
    assert (divergence == 0.0).all()
    assert agree.all()


def test_positions_are_found_by_their_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions kept in several parts, and compared from the middle in small pieces, are the same positions."""
    original, candidate = _pair(2, 50, 0.3)
    whole, _ = compare(_reference(original), 0, candidate)
    positions = Positions(6, 50)
    positions.add(original[:1])
    positions.add(original[1:])
    monkeypatch.setattr(_divergence, "_PIECE_BYTES", 4 * 50 * 2)
    part, _ = compare(positions.arrays(), 2, candidate[2:5])
    np.testing.assert_array_equal(part, whole[2:5])


def test_missing_positions_are_noticed() -> None:
    """A reference cannot be taken before all positions are there."""
    positions = Positions(3, 5)
    positions.add(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="2 of 3 positions"):
        positions.arrays()


def test_another_vocabulary_is_an_error() -> None:
    """A candidate whose vocabulary differs from the original's is refused with both sizes."""
    with pytest.raises(EvaluationError, match="vocabulary of 6 tokens, the original one of 5"):
        compare(_reference(np.zeros((1, 5), np.float32)), 0, np.zeros((1, 6), np.float32))


@given(seed=st.integers(0, 10**6), width=st.integers(2, 200), offset=st.sampled_from([0.0, -1e4, 50.0]))
def test_likelihoods_are_the_exact_ones(seed: int, width: int, offset: float) -> None:
    """Negative log-likelihoods are the float64 ones, whatever is added to all logits."""
    random = np.random.default_rng(seed)
    logits = (random.normal(0.0, 3.0, (5, width)) + offset).astype(np.float32)
    targets = random.integers(0, width, 5)
    expected = -_log_softmax64(logits)[np.arange(5), targets]
    np.testing.assert_allclose(negative_log_likelihood(logits, targets), expected, rtol=1e-6, atol=1e-6)
