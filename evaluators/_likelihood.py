"""Log-likelihoods as lm-eval defines them: of a continuation given a context, and rolling over a document."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import EvaluationError
from autotune.evaluation import LanguageModel
from evaluators import _divergence

__all__ = ["Request", "encode", "encode_pair", "log_likelihoods", "prefix_token", "rolling_requests"]

Request = tuple[Sequence[int], Sequence[int]]
"""Context and continuation as token ids, at least one each."""


def prefix_token(tokenizer: Any) -> int:
    """Return the token that precedes a text without context: beginning of text, else end of text.

    Raises:
        EvaluationError: the tokenizer has neither.
    """
    for name in ("bos_token_id", "eos_token_id"):
        token = getattr(tokenizer, name, None)
        if token is not None:
            return int(token)
    raise EvaluationError(
        "the tokenizer has neither a beginning-of-text nor an end-of-text token, but the first token of a text needs "
        "one before it. Set bos_token in the model's tokenizer_config.json."
    )


def encode(tokenizer: Any, text: str, add_special_tokens: bool = True) -> list[int]:
    """Tokenize a text, with the special tokens that the tokenizer adds by default."""
    return [int(token) for token in tokenizer(text, add_special_tokens=add_special_tokens, verbose=False)["input_ids"]]


def encode_pair(tokenizer: Any, context: str, continuation: str) -> Request:
    """Tokenize a context and its continuation, split after the tokens of the context alone.

    Spaces at the end of the context are moved to the continuation, because most tokenizers begin words with them.
    """
    if not context:
        tokens, prefix = encode(tokenizer, continuation, add_special_tokens=False), prefix_token(tokenizer)
        return (tokens[:1], tokens[1:]) if tokens[:1] == [prefix] else ([prefix], tokens)
    stripped = context.rstrip()
    if stripped:
        context, continuation = stripped, context[len(stripped) :] + continuation
    before = encode(tokenizer, context)
    return before, encode(tokenizer, context + continuation)[len(before) :]


def rolling_requests(tokens: Sequence[int], prefix: int, max_length: int) -> Iterator[Request]:
    """Yield requests that cover each token of a document once, each within a window of `max_length`.

    The context of the first request is the prefix token, that of later ones the last token before them. The last
    request has as much context as the window holds.
    """
    padded = [prefix, *tokens]
    for start in range(0, len(tokens), max_length):
        stop = min(start + max_length, len(tokens))
        begin = max(0, stop - max_length) if start else 0
        yield padded[begin : start + 1], list(tokens[start:stop])


def log_likelihoods(
    model: LanguageModel, requests: Sequence[Request], max_length: int | None = None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Compute the log-likelihoods of continuations.

    Args:
        model: the model to score.
        requests: contexts and continuations.
        max_length: longest input, in tokens; longer contexts lose their beginning.

    Returns:
        Log-likelihoods in nats, float64 [n]; and bool [n], True if greedy decoding gives the continuation.
    """
    inputs, first, targets = [], [], []
    for context, continuation in requests:
        tokens = [*context, *continuation][:-1]
        tokens = tokens if max_length is None else tokens[-max_length:]
        inputs.append(tokens)
        first.append(len(tokens) - len(continuation))
        targets.append(np.asarray(continuation, np.int64))
    likelihood, greedy = np.zeros(len(requests), np.float64), np.ones(len(requests), np.bool_)
    for index, start, logits in model.scan(inputs, first):
        expected = targets[index][start - first[index] :][: len(logits)]
        likelihood[index] -= _divergence.negative_log_likelihood(logits, expected).sum()
        greedy[index] &= bool((logits.argmax(axis=-1) == expected).all())
    return likelihood, greedy
