"""Prompts and answers as tokens, and how far two answers are apart."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np

from autotune.errors import EvaluationError
from autotune.evaluation import Measurement
from evaluators._statistics import mean, ratio

__all__ = ["ChatTemplate", "answer_tokens", "divergence_tokens", "prompt_sets", "prompt_tokens", "token_metrics"]

_SETS = Path(__file__).parent / "prompts"

ChatTemplate = Literal["auto", True, False]


def prompt_sets() -> dict[str, Path]:
    """The sets of prompts that the package brings along, by name."""
    return {path.stem: path for path in sorted(_SETS.iterdir())}


def prompt_tokens(tokenizer: Any, prompt: str, use_chat_template: ChatTemplate) -> list[int]:
    """Token ids of a prompt, inside the tokenizer's chat template where there is one (``auto``) or must be (True).

    Raises:
        EvaluationError: the template is asked for and missing, or the prompt has no tokens.
    """
    template = getattr(tokenizer, "chat_template", None)
    if use_chat_template is True and not template:
        raise EvaluationError(
            "evaluators.similarity.use_chat_template is true, but the model's tokenizer has no chat template; leave it "
            "at auto."
        )
    if use_chat_template is not False and template:
        message = [{"role": "user", "content": prompt}]
        text = tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        tokens = tokenizer(text, add_special_tokens=False)["input_ids"]  # the template has written its own
    else:
        tokens = tokenizer(prompt)["input_ids"]
    if not len(tokens):
        raise EvaluationError(f"the prompt {prompt!r} has no tokens with this model's tokenizer; leave it out.")
    return [int(token) for token in tokens]


def answer_tokens(tokenizer: Any, answer: str) -> list[int]:
    """An answer's text as token ids, with the special tokens that the tokenizer adds by default."""
    return [int(token) for token in tokenizer(answer)["input_ids"]]


def divergence_tokens(original: Sequence[int], candidate: Sequence[int]) -> tuple[int, int]:
    """First divergent token and number of differing tokens, as WhoWhatBench defines them.

    Both are read off the matching blocks that `difflib.SequenceMatcher` finds: FDT is the length of the first block
    if that stands at the beginning of both answers, else 0; SDT is the number of the candidate's tokens that are in
    no block. A longer match further on can hide a short common beginning: then FDT is 0, as it is there.

    Args:
        original: token ids of the original's answer.
        candidate: token ids of the candidate's answer.

    Returns:
        (FDT, SDT); where the candidate has no tokens, SDT counts the original's.
    """
    if not candidate:
        return 0, len(original)
    blocks = SequenceMatcher(None, list(original), list(candidate)).get_matching_blocks()
    first = blocks[0]
    fdt = first.size if first.a == 0 and first.b == 0 else 0
    return fdt, len(candidate) - sum(block.size for block in blocks)


def token_metrics(originals: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> dict[str, Measurement]:
    """FDT and SDT of answers tokenised again, as WhoWhatBench takes them: the text counts, not how it came about."""
    lengths = np.array([len(tokens) for tokens in originals], np.float64)
    pairs = [divergence_tokens(*pair) for pair in zip(originals, candidates, strict=True)]
    fdt = np.array([pair[0] for pair in pairs], np.float64)
    sdt = np.array([pair[1] for pair in pairs], np.float64)
    own = np.array([len(tokens) for tokens in candidates], np.float64)
    sdt_norm = np.divide(sdt, own, out=(sdt > 0).astype(np.float64), where=own > 0)
    return {
        "fdt": mean(fdt, lengths),
        "fdt_norm": ratio(fdt, lengths),
        "sdt": mean(sdt),
        "sdt_norm": mean(sdt_norm),
    }
