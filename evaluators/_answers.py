"""Greedy answers: chat prompts, cosines of embeddings, divergent tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from autotune.evaluation import Measurement, Reference
from evaluators._embedder import embed
from evaluators._statistics import mean, ratio

__all__ = [
    "AnswerOptions",
    "chat_tokens",
    "cosines",
    "divergence_tokens",
    "embed",
    "split",
    "texts",
    "token_metrics",
    "tokens",
]


class AnswerOptions(BaseModel):
    """The options of evaluators that compare answers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_new_tokens: int = Field(128, ge=1, strict=True, description="Longest answer, in tokens.")
    embedder: str = Field(
        "sentence-transformers/all-mpnet-base-v2",
        min_length=1,
        description="Hub id or folder of a sentence-transformers model or encoder, or `minilm`.",
    )


def chat_tokens(tokenizer: Any, messages: Sequence[Mapping[str, str]], **switches: Any) -> list[int]:
    """Put messages into the tokenizer's chat template, up to where the answer begins; token ids."""
    text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True, **switches)
    return [int(token) for token in tokenizer(text, add_special_tokens=False)["input_ids"]]  # the template adds its own


def split(reference: Reference) -> list[list[int]]:
    """Return the answers of a reference as token ids."""
    ends = np.cumsum(reference["lengths"])
    return [part.tolist() for part in np.split(np.asarray(reference["answers"]), ends[:-1])]


def texts(tokenizer: Any, answers: Sequence[Sequence[int]]) -> list[str]:
    """Return the answers as texts, without special tokens."""
    return [tokenizer.decode(list(answer), skip_special_tokens=True) for answer in answers]


def tokens(tokenizer: Any, answer: str) -> list[int]:
    """Tokenize an answer's text again."""
    return [int(token) for token in tokenizer(answer)["input_ids"]]


def cosines(
    embedder: str, texts: Sequence[str], originals: Sequence[str], embeddings: npt.NDArray[np.float32]
) -> npt.NDArray[np.float64]:
    """Compute the cosine of each pair of answers, float64 [n]; exactly 1 for equal texts."""
    found = np.ones(len(texts), np.float64)
    different = [index for index, text in enumerate(texts) if text != originals[index]]
    if different:
        vectors = embed(embedder, [texts[index] for index in different])
        found[different] = np.sum(vectors * embeddings[different], axis=1, dtype=np.float64)
    return np.clip(found, -1.0, 1.0)


def divergence_tokens(original: Sequence[int], candidate: Sequence[int]) -> tuple[int, int]:
    """Return the position of the first divergent token (FDT) and the number of divergent tokens (SDT).

    As in WhoWhatBench, both come from the matching blocks of `difflib.SequenceMatcher`. FDT is the length of the first
    block if it begins both answers, else 0. SDT is the number of the candidate's tokens outside all blocks. A longer
    match further on can hide a short common beginning; then FDT is 0, as in WhoWhatBench.

    Args:
        original: token ids of the original's answer.
        candidate: token ids of the candidate's answer.

    Returns:
        (FDT, SDT); if the candidate has no tokens, SDT is the number of the original's.
    """
    if not candidate:
        return 0, len(original)
    blocks = SequenceMatcher(None, list(original), list(candidate)).get_matching_blocks()
    first = blocks[0]
    fdt = first.size if first.a == 0 and first.b == 0 else 0
    return fdt, len(candidate) - sum(block.size for block in blocks)


def token_metrics(originals: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> dict[str, Measurement]:
    """Compute FDT and SDT of answers whose texts were tokenized again, as in WhoWhatBench."""
    lengths = np.array([len(answer) for answer in originals], np.float64)
    pairs = [divergence_tokens(*pair) for pair in zip(originals, candidates, strict=True)]
    fdt = np.array([pair[0] for pair in pairs], np.float64)
    sdt = np.array([pair[1] for pair in pairs], np.float64)
    own = np.array([len(answer) for answer in candidates], np.float64)
    sdt_norm = np.divide(sdt, own, out=(sdt > 0).astype(np.float64), where=own > 0)
    return {
        "fdt": mean(fdt, lengths),
        "fdt_norm": ratio(fdt, lengths),
        "sdt": mean(sdt),
        "sdt_norm": mean(sdt_norm),
    }
