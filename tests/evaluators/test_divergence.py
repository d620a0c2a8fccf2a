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
from evaluators._divergence import Positions, arrays_of, compare, margins, negative_log_likelihood

Logits = npt.NDArray[np.float32]


def _reference(logits: Logits) -> Reference:
    positions = Positions(*logits.shape)
    positions.put(0, logits)
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
def kept_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the eight most likely tokens and eight of the tail, of any vocabulary above sixteen."""
    monkeypatch.setattr(_divergence, "COMPLETE_VOCABULARY", 16)
    monkeypatch.setattr(_divergence, "TOP", 8)
    monkeypatch.setattr(_divergence, "SAMPLED", 8)


@given(seed=st.integers(0, 10**6), width=st.integers(2, 300), noise=st.sampled_from([0.003, 0.1, 3.0]))
def test_complete_divergence_is_the_exact_one(seed: int, width: int, noise: float) -> None:
    """With all log-probabilities kept, each position's divergence is the float64 one within 1e-6 nats."""
    original, candidate = _pair(seed, width, noise)
    divergence, agree, _ = compare(_reference(original), 0, candidate)
    np.testing.assert_allclose(divergence, _kl64(original, candidate), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(agree, original.argmax(-1) == candidate.argmax(-1))


def test_a_divergence_of_an_8_bit_model_is_resolved() -> None:
    """A mean divergence near 5e-5 nats, that of an 8-bit model, comes out within half a percent."""
    original, candidate = (
        np.concatenate(part) for part in zip(*(_pair(s, 4096, 0.01) for s in range(40)), strict=True)
    )
    exact = _kl64(original, candidate).mean()
    assert 2e-5 < exact < 1e-4
    divergence = compare(_reference(original), 0, candidate).divergence
    assert divergence.mean() == pytest.approx(exact, rel=5e-3)


@pytest.mark.usefixtures("kept_in_part")
def test_a_partly_kept_divergence_has_no_bias() -> None:
    """Over many positions the mean is the exact one within its own spread, and no position is below zero."""
    original, candidate = (
        np.concatenate(part) for part in zip(*(_pair(s, 60, 0.3, 1.0) for s in range(400)), strict=True)
    )
    reference = _reference(original)
    assert "log_probability" not in reference
    divergence, exact = compare(reference, 0, candidate).divergence, _kl64(original, candidate)
    error = divergence - exact
    assert (divergence >= 0.0).all()
    assert error.std() > 0.01 * exact.mean()  # positions do differ
    assert abs(error.mean()) < 3 * error.std() / len(error) ** 0.5


@pytest.mark.usefixtures("kept_in_part")
def test_sampled_tokens_are_drawn_from_the_tail_in_proportion() -> None:
    """No sampled token is a top one, and each appears as often as its share of the tail asks."""
    original = np.tile(np.linspace(3.0, -3.0, 40).astype(np.float32), (2000, 1))
    reference = _reference(original)
    sampled = reference["kept_tokens"][:, 8:]
    assert sampled.min() >= 8
    share = np.exp(_log_softmax64(original[:1]))[0, 8:]
    counts = np.bincount(sampled.ravel() - 8, minlength=32) / sampled.size
    np.testing.assert_allclose(counts, share / share.sum(), atol=1e-3)
    np.testing.assert_allclose(reference["tail_probability"], share.sum(), rtol=1e-5)


@pytest.mark.usefixtures("kept_in_part")
def test_a_compact_reference_gives_the_same_divergence() -> None:
    """16 bits a log-probability are enough; a part's arrays are found among those of a whole text."""
    original, candidate = _pair(3, 60, 0.3)
    compact = Positions(*original.shape, compact=True)
    compact.put(0, original)
    stored = {f"2/{name}": array for name, array in compact.arrays().items()}
    found = compare(arrays_of(stored, 2), 0, candidate)
    exact = compare(_reference(original), 0, candidate)
    np.testing.assert_allclose(found.divergence, exact.divergence, rtol=2e-3)
    assert arrays_of(stored, 1) == {}


@pytest.mark.usefixtures("kept_in_part")
def test_a_tail_without_probability_does_no_harm() -> None:
    """If the top tokens have all the probability, the tail adds nothing, on either side."""
    original = np.full((1, 40), -200.0, np.float32)
    original[0, :4] = 0.0
    candidate = original.copy()
    candidate[0, 0] = 1.0
    divergence = compare(_reference(original), 0, candidate).divergence
    assert divergence[0] == pytest.approx(_kl64(original, candidate)[0], abs=1e-5)


def test_large_vocabularies_are_kept_in_part() -> None:
    """At 32,000 tokens 320 are kept, and the divergence over a few hundred positions is within 1% of the full one."""
    random = np.random.default_rng(0)
    # A bigram-like fall of the sorted logits, as language models have it, with differences of 4-bit weights.
    original = (-1.3 * np.log(np.arange(1, 32001)) + random.normal(0.0, 1.0, (300, 32000))).astype(np.float32)
    candidate = original + random.normal(0.0, 0.08, original.shape).astype(np.float32)
    reference = _reference(original)
    assert reference["kept_tokens"].shape == (300, 320)
    assert reference["kept_tokens"].dtype == np.int32
    kept = np.take_along_axis(original, reference["kept_tokens"][:, :256].astype(np.int64), axis=1)
    assert (np.sort(kept) == np.sort(np.partition(original, -256)[:, -256:])).all()
    mean = compare(reference, 0, candidate).divergence.mean()
    assert mean == pytest.approx(_kl64(original, candidate).mean(), rel=0.01)


def test_a_margin_is_between_the_two_best_tokens() -> None:
    """It is zero where two tokens are equally good, and nothing is changed by asking."""
    logits = np.array([[0, 5, 4.5], [5, 0, 4], [7, 7, 7]], np.float32)
    kept = logits.copy()
    assert margins(logits).tolist() == [0.5, 1.0, 0.0]
    np.testing.assert_array_equal(logits, kept)


@pytest.mark.parametrize("width", [30, 9000])
def test_a_model_does_not_diverge_from_itself(width: int) -> None:
    """Equal logits give exactly zero and full agreement, kept completely or in part."""
    logits, _ = _pair(1, width, 0.0)
    divergence, agree, _ = compare(_reference(logits), 0, logits)
    assert (divergence == 0.0).all()
    assert agree.all()


def test_positions_are_found_by_their_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Positions kept in several parts, and compared from the middle in small pieces, are the same positions."""
    original, candidate = _pair(2, 50, 0.3)
    whole = compare(_reference(original), 0, candidate).divergence
    positions = Positions(6, 50)
    positions.put(1, original[1:])
    positions.put(0, original[:1])
    monkeypatch.setattr(_divergence, "_PIECE_BYTES", 4 * 50 * 2)
    part = compare(positions.arrays(), 2, candidate[2:5]).divergence
    np.testing.assert_array_equal(part, whole[2:5])


def test_missing_positions_are_noticed() -> None:
    """A reference cannot be taken before all positions are there."""
    positions = Positions(3, 5)
    positions.put(0, np.zeros((2, 5), np.float32))
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
