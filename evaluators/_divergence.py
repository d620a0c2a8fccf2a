"""What is kept of the original's distribution at each position, and how far a candidate's is from it.

Position means a row of logits, float32 [n, V]. The original's log-probabilities are kept completely where
V <= COMPLETE_VOCABULARY; otherwise the TOP most likely tokens with their log-probabilities and the log of all the
probability that remains (the tail). There the divergence is taken over TOP + 1 outcomes, the tail being one: by the
data-processing inequality a lower bound of the full one, and a close one, since the tail of a language model's
distribution holds little probability. Everything is float32, in pieces that stay in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import EvaluationError
from autotune.evaluation import Reference

__all__ = ["COMPLETE_VOCABULARY", "TOP", "Positions", "compare", "negative_log_likelihood"]

COMPLETE_VOCABULARY = 8192
TOP = 1024

_PIECE_BYTES = 4 * 2**20

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]


class Positions:
    """Collects the original's distributions, position after position, into arrays of a known length."""

    def __init__(self, count: int, vocabulary_size: int) -> None:
        """Make room for `count` positions over `vocabulary_size` tokens."""
        self._filled = 0
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "vocabulary_size": np.array([vocabulary_size], np.int64),
            "best": np.empty(count, np.int32),
        }
        if vocabulary_size <= COMPLETE_VOCABULARY:
            self._arrays["log_probability"] = np.empty((count, vocabulary_size), np.float32)
        else:
            self._arrays["top_tokens"] = np.empty((count, TOP), np.int32)
            self._arrays["top_log_probability"] = np.empty((count, TOP), np.float32)
            self._arrays["tail_log_probability"] = np.empty(count, np.float32)

    def add(self, logits: Float32Array) -> None:
        """Keep the next positions, float32 [n, V]."""
        for piece in _pieces(*logits.shape):
            rows = logits[piece]
            here = slice(self._filled, self._filled + len(rows))
            self._filled += len(rows)
            logp = _log_softmax(rows)
            self._arrays["best"][here] = rows.argmax(axis=-1)
            if "log_probability" in self._arrays:
                self._arrays["log_probability"][here] = logp
                continue
            tokens = np.argpartition(rows, -TOP, axis=-1)[:, -TOP:]
            top, tail = _bucket(logp, tokens)
            self._arrays["top_tokens"][here] = tokens
            self._arrays["top_log_probability"][here] = top
            self._arrays["tail_log_probability"][here] = tail

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """The arrays for a reference, once every position is there."""
        if self._filled != len(self._arrays["best"]):
            raise ValueError(f"{self._filled} of {len(self._arrays['best'])} positions were added")
        return self._arrays


def compare(reference: Reference, start: int, logits: Float32Array) -> tuple[Float64Array, npt.NDArray[np.bool_]]:
    """Compare a candidate with the original at positions `start` to `start` + n.

    Args:
        reference: the arrays of `Positions`.
        start: index of the first position.
        logits: the candidate's, float32 [n, V].

    Returns:
        KL(original || candidate) in nats, float64 [n]; and whether both prefer the same token, bool [n].

    Raises:
        EvaluationError: the candidate's vocabulary is not the original's.
    """
    size = int(reference["vocabulary_size"][0])
    if logits.shape[-1] != size:
        raise EvaluationError(
            f"the model has a vocabulary of {logits.shape[-1]} tokens, the original one of {size}: they are not "
            "versions of one model."
        )
    divergence = np.empty(len(logits), np.float64)
    agree = np.empty(len(logits), np.bool_)
    for piece in _pieces(*logits.shape):
        rows = logits[piece]
        here = slice(start + piece.start, start + piece.start + len(rows))
        divergence[piece] = _divergence(reference, here, _log_softmax(rows))
        agree[piece] = rows.argmax(axis=-1) == reference["best"][here]
    return divergence, agree


def negative_log_likelihood(logits: Float32Array, targets: npt.NDArray[np.int64]) -> Float64Array:
    """Minus the log-probability of each target token, in nats.

    Args:
        logits: float32 [n, V].
        targets: int64 [n].

    Returns:
        float64 [n].
    """
    result = np.empty(len(logits), np.float64)
    for piece in _pieces(*logits.shape):
        rows = logits[piece]
        result[piece] = _log_sum_exp(rows) - rows[np.arange(len(rows)), targets[piece]]
    return result


def _pieces(count: int, width: int) -> list[slice]:
    rows = max(1, _PIECE_BYTES // (4 * width))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _log_sum_exp(rows: Float32Array) -> Float64Array:
    """Log of the sum of exponentials of each row, float64 [n] from float32 [n, V] within about 1e-7."""
    largest = rows.max(axis=-1, keepdims=True)
    total = np.exp(rows - largest).sum(axis=-1)
    return np.asarray(largest[:, 0].astype(np.float64) + np.log(total.astype(np.float64)))


def _log_softmax(rows: Float32Array) -> Float32Array:
    # Subtracting the largest logit first is exact where it matters, for tokens whose logits are near it.
    shifted: Float32Array = rows - rows.max(axis=-1, keepdims=True)
    total = np.exp(shifted).sum(axis=-1, keepdims=True)
    shifted -= np.log(total)
    return shifted


def _bucket(logp: Float32Array, tokens: npt.NDArray[np.integer[Any]]) -> tuple[Float32Array, Float32Array]:
    """Log-probabilities of `tokens`, float32 [n, k], and of all other tokens together, float32 [n]."""
    top = np.take_along_axis(logp, tokens, axis=-1)
    probability = np.exp(logp)
    np.put_along_axis(probability, tokens, 0.0, axis=-1)  # not 1 - sum(top): the tail may be tiny
    tail = np.maximum(probability.sum(axis=-1), np.finfo(np.float32).tiny)
    return top, np.log(tail)


def _divergence(reference: Mapping[str, npt.NDArray[Any]], here: slice, logp: Float32Array) -> Float64Array:
    if "log_probability" in reference:
        return _kl(reference["log_probability"][here], logp)
    top, tail = _bucket(logp, reference["top_tokens"][here])
    kept, kept_tail = reference["top_log_probability"][here], reference["tail_log_probability"][here]
    return _kl(kept, top) + _kl(kept_tail[:, None], tail[:, None])


def _kl(original: Float32Array, candidate: Float32Array) -> Float64Array:
    """Sum over the last axis of p (log p - log q), float64 [n]; exactly 0 where both are equal."""
    terms = original - candidate
    terms *= np.exp(original)
    return np.asarray(terms.sum(axis=-1), np.float64)
