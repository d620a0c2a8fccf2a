"""Greedy decoding of several prompts together, sped up by drafts and by prompt lookup in them.

A draft may be fed with its prompt; the answer then goes on behind the first rejected token. In each later step a row
looks up its last few tokens in its draft and its own text, and proposes the tokens that followed there. One pass checks
the next token and the proposals (speculative decoding, Saxena 2023, "Prompt lookup decoding"). A proposal is accepted
only if the model prefers the same token, so proposals change the cost of an answer and not the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from autotune.evaluation import FloatArray, IntArray, Visit

    Infer = Callable[[IntArray, IntArray, IntArray, IntArray], FloatArray]

_NGRAMS = (3, 2)  # lengths of the n-grams that are looked up, in this order
_STEP_TOKENS = 32  # of one step's pass, proposals included: with most models hardly slower than one token
_PREFILL_COLUMNS = 32
_BARRIER = -1  # token between draft and text: proposals end there


def decode(
    infer: Infer,
    prompts: Sequence[Sequence[int]],
    limits: Sequence[int],
    drafts: Sequence[Sequence[int]],
    ends: Collection[int],
    *,
    prefill_tokens: int,
    whole_prompts: bool = False,
    window: int | None = None,
    visit: Visit | None = None,
) -> list[list[int]]:
    """Return the greedy answers to prompts that share one KV cache.

    Args:
        infer: (tokens [b, k], mask [b, c + k], positions [b, k], rows [b]) -> logits float32 [b, k, V], a view that the
            next call overwrites. Row i continues row ``rows[i]`` of the cache, which has c columns; the first call
            has c = 0 and starts from an empty cache. The model does not attend to columns whose mask is 0.
        prompts: token ids, at least one each.
        limits: the longest answers, in tokens.
        drafts: texts to propose from, as token ids; may be empty.
        ends: tokens that end an answer and are not part of it.
        prefill_tokens: largest number of prompt tokens in one pass (at least one column of all rows).
        whole_prompts: all prompts, with their drafts, are one pass, however many tokens they have.
        window: columns of the cache that the model looks back. Masked columns of rejected proposals would push others
            out of it, so there are proposals only while all columns stay within it.
        visit: feed each draft, up to its limit, with its prompt, and call this with (index of the prompt, t, logits
            [n, V]) for all positions from the last one of the prompt on, where row j predicts token t + j + 1. The
            drafts have to fit into the window.
    """
    along = [list(draft[: max(limit - 1, 0)]) if visit else [] for draft, limit in zip(drafts, limits, strict=True)]
    length = [len(prompt) + len(draft) for prompt, draft in zip(prompts, along, strict=True)]
    order = sorted((row for row, limit in enumerate(limits) if limit > 0), key=lambda row: -length[row])
    answers: list[list[int]] = [[] for _ in prompts]
    if not order:
        return answers
    rows = [_Row(prompts[row], drafts[row], limits[row], answers[row], along[row]) for row in order]
    preferred: list[list[int]] = [[] for _ in rows]

    def read(index: int, position: int, logits: FloatArray) -> None:
        preferred[index] += logits.argmax(axis=-1).tolist()
        if visit is not None:
            visit(order[index], position, logits)

    firsts = [len(prompts[row]) - 1 for row in order]
    columns = length[order[0]] if whole_prompts else max(1, min(_PREFILL_COLUMNS, prefill_tokens // len(order)))
    mask = _prefill(infer, [[*prompts[row], *along[row]] for row in order], firsts, columns, read)
    for index, (row, choices) in enumerate(zip(rows, preferred, strict=True)):
        rejected = len(along[order[index]]) - row.accept(choices, ends)
        mask[index, mask.shape[1] - rejected :] = 0
    while True:
        kept = np.array([index for index, row in enumerate(rows) if row.open], np.int64)
        if not len(kept):
            return answers
        rows, mask = [rows[index] for index in kept], mask[kept]
        most = _STEP_TOKENS // len(rows) - 1
        if window is not None:
            most = min(most, window - mask.shape[1] - max(row.left for row in rows))
        proposals = [row.propose(most) for row in rows]
        width = 1 + max(map(len, proposals))
        tokens, fed = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), np.int64)
        for index, (row, proposed) in enumerate(zip(rows, proposals, strict=True)):
            tokens[index, : 1 + len(proposed)] = [row.answer[-1], *proposed]
            fed[index, : 1 + len(proposed)] = 1
        positions = mask.sum(axis=1, keepdims=True) + np.arange(width)
        chosen = infer(tokens, np.concatenate([mask, fed], axis=1), positions, kept).argmax(axis=-1)
        for index, (row, choices) in enumerate(zip(rows, chosen.tolist(), strict=True)):
            fed[index, 1 + row.accept(choices, ends) :] = 0
        mask = np.concatenate([mask, fed], axis=1)


def visit_chosen(visit: Visit, chosen: Sequence[int]) -> Visit:
    """Return the visitor of some of the prompts, by their indices among all."""
    return lambda row, position, logits: visit(chosen[row], position, logits)


def _prefill(
    infer: Infer, sequences: Sequence[Sequence[int]], firsts: Sequence[int], columns: int, read: Visit
) -> IntArray:
    """Fill the cache with sequences, the longest first, and read the logits of each from a position on.

    Each pass has so many columns.

    The sequences end in the same column. A shorter one enters at the column where it begins, as a copy of the first row
    with all earlier columns masked, so that no time is spent on padding.

    Returns:
        The mask, int64 [b, longest].
    """
    longest = len(sequences[0])
    mask = np.zeros((len(sequences), longest), np.int64)
    tokens = np.zeros((len(sequences), longest), np.int64)
    for row, sequence in enumerate(sequences):
        mask[row, longest - len(sequence) :] = 1
        tokens[row, longest - len(sequence) :] = sequence
    positions = np.maximum(mask.cumsum(axis=1) - 1, 0)
    before = 0
    for start in range(0, longest, columns):
        stop = min(start + columns, longest)
        here = int(mask[:, :stop].any(axis=1).sum())
        rows = np.where(np.arange(here) < before, np.arange(here), 0)
        logits = infer(tokens[:here, start:stop], mask[:here, :stop], positions[:here, start:stop], rows)
        before = here
        for row in range(here):
            begin = longest - len(sequences[row])  # the column of the sequence's first token
            needed = max(start, begin + firsts[row])
            if needed < stop:
                read(row, needed - begin, logits[row, needed - start :])
    return mask


class _Row:
    """Decoding state of one answer, with the index of n-grams that proposals come from."""

    def __init__(
        self, prompt: Sequence[int], draft: Sequence[int], limit: int, answer: list[int], proposed: list[int]
    ) -> None:
        self.answer = answer
        self.open = True
        self._limit = limit
        self._reach = 1  # number of proposals to try, from the number accepted last
        self._proposed = proposed
        self._text: list[int] = []
        self._after: dict[tuple[int, ...], int] = {}  # n-gram -> where its last occurrence ended
        self._match: int | None = None
        for token in (*draft, _BARRIER, *prompt):
            self._append(token)

    @property
    def left(self) -> int:
        """Number of tokens that the answer may still get."""
        return self._limit - len(self.answer)

    def accept(self, chosen: Sequence[int], ends: Collection[int]) -> int:
        """Append the model's choices up to the first rejected proposal; return the number of accepted proposals."""
        right = 0
        for index in range(1 + len(self._proposed)):
            token = chosen[index]
            if token in ends:
                self.open = False
                break
            self.answer.append(token)
            self._append(token)
            self.open = self.left > 0
            if not self.open or index == len(self._proposed) or token != self._proposed[index]:
                break
            right += 1
        if self._proposed:
            self._reach = 2 * right + 1
        return right

    def propose(self, most: int) -> list[int]:
        """Propose at most `most` next tokens."""
        count = min(most, self._reach, self.left - 1)
        self._proposed = [] if self._match is None else self._text[self._match : self._match + max(count, 0)]
        if _BARRIER in self._proposed:
            self._proposed = self._proposed[: self._proposed.index(_BARRIER)]
        return self._proposed

    def _append(self, token: int) -> None:
        self._text.append(token)
        keys = [tuple(self._text[-length:]) for length in _NGRAMS]
        self._match = next((self._after[key] for key in keys if key in self._after), None)
        self._after |= dict.fromkeys(keys, len(self._text))
