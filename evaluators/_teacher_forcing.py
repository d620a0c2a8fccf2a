"""Scoring of given answers in one forward pass (teacher forcing): the model's own choices and their divergence."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from autotune.evaluation import LanguageModel, Measurement, Reference, follow_draft
from evaluators import _divergence
from evaluators._statistics import mean, ratio

__all__ = ["Decisions", "LastPass", "Verified", "answer", "lay_out", "original_ties", "reference_arrays", "verify"]

_NOISE_ANSWERS = 2  # answers that are run again in another batch, to measure the effect of its shape
_WIDER = 5  # tokens by which that batch is longer than the answer's sequence


class Decisions(NamedTuple):
    """The positions at which a model decides on the tokens of n answers, end of text included.

    Attributes:
        sequences: prompt and answer of each, as token ids.
        first: position of the first decision in each sequence.
        starts: index of the first decision of each answer among all decisions, and their number, [n + 1].
        limit: length of the longest possible answer.
    """

    sequences: list[list[int]]
    first: list[int]
    starts: list[int]
    limit: int

    def decision(self, answer: int, position: int) -> int:
        """Return the index, among all decisions, of the one at `position` of a sequence."""
        return self.starts[answer] + position - self.first[answer]


def lay_out(prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], limit: int) -> Decisions:
    """Lay out prompts and answers; an answer has at most `limit` tokens and no end-of-text token."""
    counts = [min(len(answer) + 1, limit) for answer in answers]
    sequences = [[*p, *a[: count - 1]] for p, a, count in zip(prompts, answers, counts, strict=True)]
    return Decisions(sequences, [len(prompt) - 1 for prompt in prompts], list(accumulate(counts, initial=0)), limit)


def reference_arrays(original: LanguageModel, path: Decisions) -> dict[str, npt.NDArray[Any]]:
    """Compute distributions at all decisions, margins between the two best tokens (float32), and self-noise [3].

    Self-noise compares the original with itself in other batches: twice the largest difference of a logit, the mean
    divergence, the share of decisions that change.
    """
    positions = _divergence.Positions(path.starts[-1], original.vocabulary_size)
    margins = np.empty(path.starts[-1], np.float32)
    scanned: dict[tuple[int, int], npt.NDArray[np.float32]] = {}
    for answer, start, logits in original.scan(path.sequences, path.first):
        begin = path.decision(answer, start)
        positions.put(begin, logits)
        margins[begin : begin + len(logits)] = _divergence.margins(logits)
        if answer < _NOISE_ANSWERS:
            scanned |= {(answer, start + row): values.copy() for row, values in enumerate(logits)}
    arrays = positions.arrays()
    found = []
    for answer in range(min(_NOISE_ANSWERS, len(path.sequences))):
        sequence, first = path.sequences[answer], path.first[answer]
        wider = [*sequence, *sequence[:_WIDER]]
        for _, start, logits in original.scan([sequence, wider], [first, len(wider)]):
            compared = _divergence.compare(arrays, path.decision(answer, start), logits)
            shift = max(float(np.abs(row - scanned[answer, start + at]).max()) for at, row in enumerate(logits))
            found.append((2.0 * shift, compared.divergence.mean(), 1.0 - compared.agree.mean()))
    return {**arrays, "margins": margins, "noise": np.asarray(np.max(found, axis=0), np.float64)}


class Comparison:
    """Compares a candidate with the original at the decisions of `path`, piece by piece, in any order."""

    def __init__(self, reference: Reference, path: Decisions) -> None:
        total = path.starts[-1]
        self._reference, self._path = reference, path
        self.best = np.empty(total, np.int64)
        self._agree, self._ties = np.empty(total, np.bool_), np.empty(total, np.bool_)
        self._divergence = np.empty(total, np.float64)

    def add(self, answer: int, start: int, logits: npt.NDArray[np.float32]) -> None:
        """Add the candidate's logits, float32 [n, V], from position `start` of a sequence on."""
        begin = self._path.decision(answer, start)
        span = slice(begin, begin + len(logits))
        compared = _divergence.compare(self._reference, begin, logits)
        self._divergence[span], self._agree[span], self.best[span] = compared
        self._ties[span] = _divergence.margins(logits) <= self._reference["noise"][0]

    def metrics(self) -> dict[str, Measurement]:
        """Return the metrics of all decisions."""
        _, divergence_noise, disagreement = self._reference["noise"].tolist()
        parts = [slice(begin, end) for begin, end in pairwise(self._path.starts)]
        counts = [part.stop - part.start for part in parts]
        same = [int(np.argmin(np.append(self._agree[part], False))) for part in parts]
        ties = [float(self._ties[part][: agreed + 1].any()) for part, agreed in zip(parts, same, strict=True)]
        divergences = [self._divergence[part].sum() for part in parts]
        agreements = [self._agree[part].sum() for part in parts]
        return {
            "answer_kl_divergence": ratio(divergences, counts, divergence_noise),
            "answer_top1_agreement": ratio(agreements, counts, disagreement),
            "answer_prefix": ratio(same, counts),
            "answer_ties": mean(ties),
        }


Verified: TypeAlias = tuple[list[tuple[list[int], bool]], dict[str, Measurement]]
"""The result of `follow_draft` for each answer (the candidate's own answer up to the first disagreement), and the
metrics that the pass along the original's answers gives."""


class LastPass:
    """Result of the latest pass along a reference's answers, for an `evaluate` of the same model after `preview`."""

    def __init__(self) -> None:
        self._kept: tuple[weakref.ref[LanguageModel], Reference, Verified] | None = None

    def get(self, candidate: LanguageModel, reference: Reference) -> Verified | None:
        """Return the result for these two; None if the latest pass was another one."""
        kept = self._kept
        return kept[2] if kept is not None and kept[0]() is candidate and kept[1] is reference else None

    def put(self, candidate: LanguageModel, reference: Reference, verified: Verified) -> Verified:
        """Keep and return a result; the model itself is not kept alive."""
        self._kept = (weakref.ref(candidate), reference, verified)
        return verified


def verify(
    candidate: LanguageModel, reference: Reference, path: Decisions, drafts: Sequence[Sequence[int]]
) -> Verified:
    """Run the candidate along the original's answers in one pass."""
    compared = Comparison(reference, path)
    for answer, start, logits in candidate.scan(path.sequences, path.first):
        compared.add(answer, start, logits)
    return [
        follow_draft(compared.best[begin:end].tolist(), draft, path.limit, candidate.end_token_ids)
        for (begin, end), draft in zip(pairwise(path.starts), drafts, strict=True)
    ], compared.metrics()


def answer(
    candidate: LanguageModel, reference: Reference, path: Decisions, drafts: Sequence[Sequence[int]]
) -> tuple[list[list[int]], dict[str, Measurement]]:
    """Run the candidate along the original's answers, and let it go on with its own; its answers and the metrics.

    The prompts are in the cache when the decoding begins. So this costs less than `verify` and the decoding.
    """
    compared = Comparison(reference, path)
    prompts = [sequence[: first + 1] for sequence, first in zip(path.sequences, path.first, strict=True)]
    answers = candidate.greedy_batch(prompts, [path.limit] * len(prompts), drafts, compared.add)
    return answers, compared.metrics()


def original_ties(reference: Reference, path_starts: Sequence[int]) -> Measurement:
    """Return the share of the original's answers with a tie, a margin within its own noise."""
    ties = reference["margins"] <= reference["noise"][0]
    return mean([float(ties[begin:end].any()) for begin, end in pairwise(path_starts)])
