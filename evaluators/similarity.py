"""Similarity of greedy answers, as WhoWhatBench defines it, and divergence along the original's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, StrictBool, field_validator

from autotune.errors import EvaluationError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference
from autotune.files import fingerprint
from autotune.texts import read_prompts
from evaluators import _divergence
from evaluators._answers import answer_tokens, divergence_tokens, prompt_tokens
from evaluators._embedder import embed, embedder_fingerprint
from evaluators._statistics import mean, ratio

__all__ = ["Options", "Similarity"]

_VERSION = 1  # of the numbers: raised when the same options would give other scores
_DEFAULT_PROMPTS = Path(__file__).parent / "prompts" / "default.txt"

METRICS: Mapping[str, Metric] = {
    "similarity": Metric("maximize", "", "cosine of the answers' embeddings, mean over prompts", perfect=1.0),
    "fdt": Metric("maximize", "tokens", "position of the first divergent token, mean over prompts"),
    "fdt_norm": Metric("maximize", "", "fdt as a share of the original's answer length", perfect=1.0),
    "sdt": Metric("minimize", "tokens", "divergent tokens of an answer, mean over prompts", perfect=0.0),
    "sdt_norm": Metric("minimize", "", "sdt as a share of each answer's length, mean over prompts", perfect=0.0),
    "answer_kl_divergence": Metric(
        "minimize", "nats/token", "KL(original || compressed) along the original's answers", perfect=0.0
    ),
    "answer_top1_agreement": Metric(
        "maximize", "", "share of the original's answer tokens that the compressed model prefers too", perfect=1.0
    ),
}


class Options(BaseModel):
    """The options of `similarity` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    prompts: Literal["default"] | Path | tuple[str, ...] = Field(
        "default", description="`default`, a text file with one prompt a line, or the prompts themselves."
    )
    max_new_tokens: int = Field(128, ge=1, strict=True, description="Longest answer, in tokens.")
    embedder: str = Field(
        "sentence-transformers/all-mpnet-base-v2",
        min_length=1,
        description="Hub id or folder of a sentence-transformers model or encoder, or `minilm`.",
    )
    use_chat_template: Literal["auto"] | StrictBool = Field(
        "auto", description="Put prompts into the tokenizer's chat template; `auto`: where it has one."
    )

    @field_validator("prompts", mode="before")
    @classmethod
    def _well_formed(cls, prompts: object) -> object:
        if isinstance(prompts, (list, tuple)):
            if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
                raise ValueError("needs at least one prompt, each a text that is not blank")
        elif not isinstance(prompts, (str, Path)) or not str(prompts):
            raise ValueError(f"must be default, a text file or a list of prompts, got {prompts!r}")
        return prompts


class Similarity:
    """Compares greedy answers to the same prompts.

    The original's answer is the draft that the candidate verifies in one pass; from the first disagreement on the
    candidate decodes its own, all prompts together. The same pass gives the divergence at each position of the
    original's answer, its end-of-text decision included. Standard errors are over prompts.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read or loaded yet."""
        self.options = Options(**options)

    @cached_property
    def _prompts(self) -> list[str]:
        prompts = self.options.prompts
        if isinstance(prompts, tuple):
            return list(prompts)
        return read_prompts(_DEFAULT_PROMPTS if prompts == "default" else prompts)

    def fingerprint(self) -> str:
        """Changes with the prompts themselves, the embedder and the other options."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        options = self.options
        return fingerprint(
            _VERSION,
            self._prompts,
            options.max_new_tokens,
            embedder_fingerprint(options.embedder),
            options.use_chat_template,
        )

    def reference(self, original: LanguageModel) -> Reference:
        """Answers int64 [all tokens] with their lengths [n], embeddings float32 [n, D], distributions at each token.

        `text_lengths`, int64 [n], counts the tokens of the answers' texts tokenised again.
        """
        prompts = self._tokenised(original)
        limit = self.options.max_new_tokens
        answers = original.greedy_batch(prompts, [limit] * len(prompts))
        texts = _decode(original, answers)
        if not any(text.strip() for text in texts):
            raise EvaluationError(
                f"the original model's answers to all {len(prompts)} prompts are empty, so there is nothing to be "
                "similar to. Give evaluators.similarity.prompts that it does answer, or try use_chat_template: false."
            )
        counts = [self._positions(answer) for answer in answers]
        positions = _divergence.Positions(sum(counts), original.vocabulary_size)
        for prompt, answer, count in zip(prompts, answers, counts, strict=True):
            positions.add(original.verify(prompt, answer, limit).logits[:count])
        return {
            "answers": np.array([token for answer in answers for token in answer], np.int64),
            "lengths": np.array([len(answer) for answer in answers], np.int64),
            "text_lengths": np.array([len(answer_tokens(original.tokenizer, text)) for text in texts], np.int64),
            "embeddings": embed(self.options.embedder, texts),
            **positions.arrays(),
        }

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate`'s answers against those of the reference; see `Evaluator.evaluate`."""
        originals = _split(reference)
        counts = [self._positions(answer) for answer in originals]
        answers, divergences, agreements = self._answer(candidate, reference, originals, counts)
        tokenizer = candidate.tokenizer
        texts, original_texts = _decode(candidate, answers), _decode(candidate, originals)
        return {
            "similarity": mean(self._cosines(texts, original_texts, reference["embeddings"]), 1.0),
            **_token_metrics(
                [answer_tokens(tokenizer, text) for text in original_texts],
                [answer_tokens(tokenizer, text) for text in texts],
            ),
            "answer_kl_divergence": ratio(divergences, counts),
            "answer_top1_agreement": ratio(agreements, counts),
        }

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Perfect values; the first divergent token is at the mean length of the original's answers."""
        lengths = np.asarray(reference["text_lengths"], np.float64)
        ones, zeros = np.ones(len(lengths)), np.zeros(len(lengths))
        return {
            "similarity": mean(ones, 1.0),
            "fdt": mean(lengths, lengths),
            "fdt_norm": mean(ones, 1.0),
            "sdt": mean(zeros),
            "sdt_norm": mean(zeros),
            "answer_kl_divergence": mean(zeros),
            "answer_top1_agreement": mean(ones, 1.0),
        }

    def _tokenised(self, model: LanguageModel) -> list[list[int]]:
        template = self.options.use_chat_template
        return [prompt_tokens(model.tokenizer, prompt, template) for prompt in self._prompts]

    def _positions(self, answer: Sequence[int]) -> int:
        """Decisions behind an answer: its tokens, and the end of text where it ended by itself."""
        return min(len(answer) + 1, self.options.max_new_tokens)

    def _answer(
        self, candidate: LanguageModel, reference: Reference, originals: Sequence[Sequence[int]], counts: Sequence[int]
    ) -> tuple[list[list[int]], list[float], list[int]]:
        """The candidate's answers, and for each prompt the sums of divergence and agreement over its positions."""
        prompts = self._tokenised(candidate)
        limit = self.options.max_new_tokens
        answers: list[list[int]] = []
        divergences, agreements, unfinished = [], [], []
        start = 0
        for index, (prompt, draft, count) in enumerate(zip(prompts, originals, counts, strict=True)):
            verified = candidate.verify(prompt, draft, limit)
            divergence, agree = _divergence.compare(reference, start, verified.logits[:count])
            start += count
            divergences.append(float(divergence.sum()))
            agreements.append(int(agree.sum()))
            answers.append(list(verified.answer))
            if not verified.finished:
                unfinished.append(index)
        rests = candidate.greedy_batch(
            [[*prompts[index], *answers[index]] for index in unfinished],
            [limit - len(answers[index]) for index in unfinished],
        )
        for index, rest in zip(unfinished, rests, strict=True):
            answers[index] += rest
        return answers, divergences, agreements

    def _cosines(
        self, texts: Sequence[str], original_texts: Sequence[str], embeddings: npt.NDArray[np.float32]
    ) -> npt.NDArray[np.float64]:
        """Cosine of each pair of answers, float64 [n]; exactly 1 where they are the same text."""
        cosines = np.ones(len(texts), np.float64)
        different = [index for index, text in enumerate(texts) if text != original_texts[index]]
        if different:
            vectors = embed(self.options.embedder, [texts[index] for index in different])
            cosines[different] = np.sum(vectors * embeddings[different], axis=1, dtype=np.float64)
        return np.clip(cosines, -1.0, 1.0)


def _split(reference: Reference) -> list[list[int]]:
    ends = np.cumsum(reference["lengths"])
    return [part.tolist() for part in np.split(np.asarray(reference["answers"]), ends[:-1])]


def _decode(model: LanguageModel, answers: Sequence[Sequence[int]]) -> list[str]:
    return [model.tokenizer.decode(list(answer), skip_special_tokens=True) for answer in answers]


def _token_metrics(originals: Sequence[Sequence[int]], candidates: Sequence[Sequence[int]]) -> dict[str, Measurement]:
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
