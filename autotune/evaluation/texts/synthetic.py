"""Texts that a model writes itself, for calibration or scoring where there is no text to be had.

After Liu et al., "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models" (2023), section 3.1: from a
start token on, the first few tokens are the likeliest ones, and the others are drawn from the model's distribution.
Start tokens are spread evenly over the vocabulary. What a model writes follows the distribution that it was trained on
more closely than a text from another source does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.files import fingerprint
from autotune.errors import ConfigError

if TYPE_CHECKING:
    import numpy.typing as npt

    from autotune.evaluation.protocol import FloatArray, IntArray, LanguageModel
    from autotune.evaluation.stores import ReferenceStore
    from autotune.models.source import SourceModel

    DoubleArray = npt.NDArray[np.float64]

__all__ = ["CALIBRATION", "EVALUATION", "cached_windows", "generate_windows", "recipe"]

VERSION = 1
"""Changes whenever the same model would write other texts."""

CALIBRATION, EVALUATION = 0, 1
"""What texts are for: those for one and those for the other are independent of each other."""

LIKELIEST_TOKENS = 4
TOP_K = 64
TEMPERATURE = 1.0
TEXTS_TOGETHER = 32
TEXTS_A_WINDOW = 16
"""How many texts are begun for each window before a model that ends them at once is given up."""


def recipe(samples: int, sequence_length: int, seed: int, purpose: int = CALIBRATION) -> str:
    """A fingerprint of everything but the model that decides the windows."""
    return fingerprint("synthetic", VERSION, purpose, samples, sequence_length, seed)


def cached_windows(
    store: ReferenceStore,
    open_model: Callable[[], AbstractContextManager[LanguageModel]],
    *,
    samples: int,
    sequence_length: int,
    seed: int,
    source: SourceModel,
    ov_config: Mapping[str, Any],
) -> IntArray:
    """Windows for calibration from the store; the model is only opened where they are not there yet.

    Args:
        store: where they are kept.
        open_model: compiles the original model.
        samples, sequence_length, seed: see `generate_windows`.
        source, ov_config: what `open_model` opens, and how.
    """
    key = fingerprint(
        recipe(samples, sequence_length, seed),
        source.fingerprint,
        source.tokenizer_fingerprint,
        dict(ov_config),
        version("openvino"),
    )

    def create() -> dict[str, IntArray]:
        with open_model() as model:
            return {"tokens": generate_windows(model, samples=samples, sequence_length=sequence_length, seed=seed)}

    return np.asarray(store.get_or_create(key, create)[0]["tokens"])


def generate_windows(
    model: LanguageModel, *, samples: int, sequence_length: int, seed: int, purpose: int = CALIBRATION
) -> IntArray:
    """Windows of tokens that the model writes; the same seed gives the same ones.

    A text that reaches `sequence_length` is a window. Texts that end before are put one after the other, each with its
    end-of-text token, and cut into windows.

    Args:
        model: the model that writes.
        samples: how many windows, n.
        sequence_length: tokens of a window, T.
        seed: of the draws.
        purpose: `CALIBRATION` or `EVALUATION`.

    Returns:
        int64 [n, T].

    Raises:
        ConfigError: the model ends its texts so soon that they do not fill the windows.
    """
    whole: list[list[int]] = []
    ended: list[int] = []
    begun = 0
    while missing := samples - len(whole) - len(ended) // sequence_length:
        if begun >= TEXTS_A_WINDOW * samples:
            raise ConfigError(
                f"the model ends the texts that it writes after {len(ended) / begun:.0f} tokens on average, and "
                f"{begun} of them do not fill {samples} windows of {sequence_length} tokens; use a text instead of "
                "synthetic: true (path or dataset), or fewer samples"
            )
        numbers = range(begun, begun + min(missing, TEXTS_TOGETHER))
        for text in _write(model, numbers, sequence_length, [purpose, seed]):
            if len(text) == sequence_length:
                whole.append(text)
            else:
                ended += text
        begun += len(numbers)
    tokens = [token for window in whole for token in window] + ended
    return np.array(tokens[: samples * sequence_length], np.int64).reshape(samples, sequence_length)


def _write(model: LanguageModel, numbers: range, length: int, seed: list[int]) -> list[list[int]]:
    """The texts of these numbers, each of at most `length` tokens; what else is written with a text changes nothing."""
    prefix = _beginning(model.tokenizer)
    draws = np.stack([np.random.default_rng([*seed, number]).random(length) for number in numbers])
    prompts = np.array([[*prefix, token] for token in _start_tokens(model, numbers, seed)], np.int64)
    texts = model.sample_batch(prompts, len(prefix) + length, partial(_choose, draws, len(prefix)))
    return [text[len(prefix) :] for text in texts]


def _beginning(tokenizer: Any) -> list[int]:
    """The token that the tokenizer puts before a text, if any."""
    before = getattr(tokenizer, "bos_token_id", None)
    return [token for token in tokenizer("")["input_ids"][:1] if token == before]


def _start_tokens(model: LanguageModel, numbers: range, seed: list[int]) -> list[int]:
    """Ids that are spread evenly over the vocabulary however many are taken; special tokens are none of them."""
    special = getattr(model.tokenizer, "all_special_ids", None) or [model.tokenizer.eos_token_id]
    ordinary = np.setdiff1d(np.arange(min(len(model.tokenizer), model.vocabulary_size)), special)
    # The multiples of the golden ratio, modulo one.
    places = (np.random.default_rng(seed).random() + np.array(numbers) * (math.sqrt(5) - 1) / 2) % 1
    return [int(token) for token in ordinary[(places * len(ordinary)).astype(np.int64)]]


def _choose(draws: DoubleArray, before: int, texts: IntArray, position: int, logits: FloatArray) -> IntArray:
    """The next token of each text: the likeliest one at the beginning, later one of the `TOP_K` likeliest.

    Args:
        draws: uniform numbers, float64 [all texts, length].
        before: tokens before a text's own.
        texts, position, logits: see `LanguageModel.sample_batch`.
    """
    if position - before <= LIKELIEST_TOKENS:
        return np.asarray(logits.argmax(axis=-1))
    kept = min(TOP_K, logits.shape[-1])
    likeliest = np.sort(np.argpartition(logits, -kept, axis=-1)[:, -kept:], axis=-1)
    weights = np.take_along_axis(logits, likeliest, axis=-1).astype(np.float64) / TEMPERATURE
    sums = np.exp(weights - weights.max(axis=-1, keepdims=True)).cumsum(axis=-1)
    passed = sums <= draws[texts, position - before, None] * sums[:, -1:]
    return np.take_along_axis(likeliest, passed.sum(axis=-1, keepdims=True), axis=-1)[:, 0]
