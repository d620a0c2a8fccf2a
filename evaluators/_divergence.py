"""Stored distributions of the original model, and the divergence of a candidate from them.

A position is a row of logits, float32 [n, V]. If V <= COMPLETE_VOCABULARY, all of the original's log-probabilities p
are stored. Otherwise the TOP most likely tokens are stored, the probability of all others (the tail), and SAMPLED
tokens drawn from the tail in proportion to p, which give an unbiased estimate of the tail's share of the divergence. A
single bucket for the tail would hide every difference inside it: 3% of the divergence at TOP = 1024 for a small model,
whose tail has 2.5% of the probability.

The divergence is the sum over tokens of p (r - 1 - log r) with r = q / p. Because p and q sum to 1, it equals
KL(p || q), but each term is non-negative and of second order in the difference. Rounding and sampling therefore cause
no error of first order (the estimator k3 of Schulman 2020, "Approximating KL divergence"). All of it is float32, in
pieces that fit into the processor's cache.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from autotune.errors import EvaluationError
from autotune.evaluation import Reference

__all__ = [
    "COMPLETE_VOCABULARY",
    "SAMPLED",
    "TOP",
    "Comparison",
    "Positions",
    "arrays_of",
    "compare",
    "margins",
    "negative_log_likelihood",
    "position_bytes",
]

COMPLETE_VOCABULARY = 8192
TOP = 256
SAMPLED = 64

_CODES = 2**16 - 1
_PIECE_BYTES = 4 * 2**20
_LARGEST = 80.0  # of log r: exp stays finite in float32, and p r is 0 beyond

Float32Array = npt.NDArray[np.float32]
Float64Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class Positions:
    """Arrays of the original's distributions, filled piece by piece."""

    def __init__(
        self, count: int, vocabulary_size: int, *, places: IntArray | None = None, compact: bool = False
    ) -> None:
        """Make room for `count` positions over `vocabulary_size` tokens.

        Args:
            count: number of positions.
            vocabulary_size: V.
            places: int64 [count], indices of the positions in the whole text, which decide the tokens that are sampled;
                by default the text has these positions alone.
            compact: use the compact form.
        """
        self._filled = 0
        self._places = np.arange(count) if places is None else places
        self._arrays: dict[str, npt.NDArray[Any]] = {
            "vocabulary_size": np.array([vocabulary_size], np.int64),
            "best": np.empty(count, np.int32),
        }
        if compact and vocabulary_size > TOP:
            tokens = np.uint16 if vocabulary_size <= 2**16 else np.int32
            self._arrays["kept_tokens"] = np.empty((count, TOP + SAMPLED), tokens)
            self._arrays["kept_codes"] = np.empty((count, TOP + SAMPLED), np.uint16)
            self._arrays["kept_range"] = np.empty((count, 2), np.float32)
            self._arrays["tail_probability"] = np.empty(count, np.float32)
        elif vocabulary_size <= COMPLETE_VOCABULARY:
            self._arrays["log_probability"] = np.empty((count, vocabulary_size), np.float32)
        else:
            self._arrays["kept_tokens"] = np.empty((count, TOP + SAMPLED), np.int32)
            self._arrays["kept_log_probability"] = np.empty((count, TOP + SAMPLED), np.float32)
            self._arrays["tail_probability"] = np.empty(count, np.float32)

    def put(self, start: int, logits: Float32Array) -> None:
        """Store the positions from `start` on, float32 [n, V]; each position once, in any order."""
        self._filled += len(logits)
        for piece in _pieces(*logits.shape):
            rows = logits[piece]
            span = slice(start + piece.start, start + piece.start + len(rows))
            logp = rows - _log_sum_exp(rows)[:, None].astype(np.float32)
            self._arrays["best"][span] = rows.argmax(axis=-1)
            if "log_probability" in self._arrays:
                self._arrays["log_probability"][span] = logp
                continue
            tokens, tail = _choose(logp, self._places[span])
            self._arrays["kept_tokens"][span] = tokens
            self._arrays["tail_probability"][span] = tail
            kept = np.take_along_axis(logp, tokens, axis=-1)
            if "kept_codes" in self._arrays:
                self._arrays["kept_codes"][span], self._arrays["kept_range"][span] = _encode(kept)
            else:
                self._arrays["kept_log_probability"][span] = kept

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Return the arrays for a reference.

        Raises:
            ValueError: not every position was stored.
        """
        if self._filled != len(self._arrays["best"]):
            raise ValueError(f"{self._filled} of {len(self._arrays['best'])} positions were added")
        return self._arrays


_NAMES = (
    *("vocabulary_size", "best", "log_probability", "kept_tokens", "kept_log_probability"),
    *("kept_codes", "kept_range", "tail_probability"),
)


def arrays_of(reference: Reference, part: int) -> Reference:
    """Return the arrays of `Positions` of one part of a reference; see `autotune.evaluation.PartedEvaluator`."""
    return {name: reference[key] for name in _NAMES if (key := f"{part}/{name}") in reference}


def position_bytes(vocabulary_size: int) -> int:
    """Return the bytes of a position that is not compact."""
    return 4 * vocabulary_size if vocabulary_size <= COMPLETE_VOCABULARY else 8 * (TOP + SAMPLED)


class Comparison(NamedTuple):
    """Comparison of a candidate with the original at n positions.

    Attributes:
        divergence: KL(original || candidate) in nats, float64 [n].
        agree: True if both prefer the same token, bool [n].
        best: the token that the candidate prefers, int64 [n].
    """

    divergence: Float64Array
    agree: npt.NDArray[np.bool_]
    best: IntArray


def compare(reference: Reference, start: int, logits: Float32Array) -> Comparison:
    """Compare a candidate with the original at positions `start` to `start` + n.

    Args:
        reference: the arrays of `Positions`.
        start: index of the first position.
        logits: the candidate's, float32 [n, V].

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
    best = np.empty(len(logits), np.int64)
    for piece in _pieces(*logits.shape):
        rows = logits[piece]
        span = slice(start + piece.start, start + piece.start + len(rows))
        divergence[piece] = _divergence(reference, span, rows)
        best[piece] = rows.argmax(axis=-1)
    return Comparison(divergence, best == reference["best"][start : start + len(logits)], best)


def negative_log_likelihood(logits: Float32Array, targets: IntArray) -> Float64Array:
    """Compute minus the log-probability of each target token, in nats.

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


def margins(logits: Float32Array) -> Float32Array:
    """Compute the difference between the two largest logits, float32 [n] from logits float32 [n, V]."""
    result = np.empty(len(logits), np.float32)
    for piece in _pieces(*logits.shape):
        rows = logits[piece].copy()
        best = rows.argmax(axis=-1)[:, None]
        largest = np.take_along_axis(rows, best, axis=-1)
        np.put_along_axis(rows, best, -np.inf, axis=-1)
        result[piece] = largest[:, 0] - rows.max(axis=-1)
    return result


def _pieces(count: int, width: int) -> list[slice]:
    rows = max(1, _PIECE_BYTES // (4 * width))
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _log_sum_exp(rows: Float32Array) -> Float64Array:
    """Compute the log of the sum of exponentials of each row, float64 [n] from float32 [n, V], to about 1e-7."""
    largest = rows.max(axis=-1, keepdims=True)
    total = np.exp(rows - largest).sum(axis=-1)
    return np.asarray(largest[:, 0].astype(np.float64) + np.log(total.astype(np.float64)))


def _choose(logp: Float32Array, places: IntArray) -> tuple[IntArray, Float32Array]:
    """Tokens to keep of [n, V] log-probabilities, [n, TOP + SAMPLED], and the probability of all but TOP, [n].

    The sampled tokens are drawn systematically: at equal distances along the tail's cumulative probability, from a
    offset that the position's index decides (multiples of the golden ratio). A token may be drawn more than once.
    """
    top = np.argpartition(logp, -TOP, axis=-1)[:, -TOP:]
    probability = np.exp(logp, dtype=np.float64)
    np.put_along_axis(probability, top, 0.0, axis=-1)  # not 1 - sum(top): the tail may be tiny
    cumulative = np.cumsum(probability, axis=-1)
    offset = places * 0.6180339887498949 % 1.0
    marks = (np.arange(SAMPLED) + offset[:, None]) / SAMPLED * cumulative[:, -1:]
    drawn = [np.searchsorted(row, mark, side="right") for row, mark in zip(cumulative, marks, strict=True)]
    sampled = np.minimum(np.array(drawn, np.int64), logp.shape[-1] - 1)
    return np.concatenate([top, sampled], axis=1), cumulative[:, -1].astype(np.float32)


def _encode(logp: Float32Array) -> tuple[npt.NDArray[np.uint16], Float32Array]:
    """Codes of [n, k] log-probabilities, and for each row the largest one and the scale of the others, [n, 2]."""
    largest = logp.max(axis=-1, keepdims=True)
    roots = np.sqrt(largest - logp)
    scale = np.maximum(roots.max(axis=-1, keepdims=True), np.float32(1e-6)) / np.float32(_CODES)
    return np.rint(roots / scale).astype(np.uint16), np.concatenate([largest, scale], axis=-1)


def _decode(codes: npt.NDArray[np.uint16], ranges: Float32Array) -> Float32Array:
    """Log-probabilities of the codes."""
    roots = codes.astype(np.float32) * ranges[:, 1:]
    return np.asarray(ranges[:, :1] - roots * roots, np.float32)


def _divergence(reference: Reference, span: slice, rows: Float32Array) -> Float64Array:
    normaliser = _log_sum_exp(rows)[:, None].astype(np.float32)
    if "log_probability" in reference:
        logp = reference["log_probability"][span]
        return np.asarray(np.einsum("nv,nv->n", np.exp(logp), _excess((rows - normaliser) - logp)), np.float64)
    if "kept_codes" in reference:
        logp = _decode(reference["kept_codes"][span], reference["kept_range"][span])
    else:
        logp = reference["kept_log_probability"][span]
    logq = np.take_along_axis(rows, reference["kept_tokens"][span].astype(np.int64), axis=-1) - normaliser
    excess = _excess(logq - logp)
    top = np.einsum("nv,nv->n", np.exp(logp[:, :TOP]), excess[:, :TOP])
    return np.asarray(top + reference["tail_probability"][span] * excess[:, TOP:].mean(axis=1), np.float64)


def _excess(log_ratio: Float32Array) -> Float32Array:
    """The terms r - 1 - log r of log r, at least 0; exactly 0 where r is 1. The argument is overwritten."""
    np.minimum(log_ratio, _LARGEST, out=log_ratio)
    result: Float32Array = np.expm1(log_ratio)
    result -= log_ratio
    return result
