"""Similarity of greedy answers, as WhoWhatBench defines it, and divergence along the original's answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictBool, ValidationInfo, field_validator

from autotune.errors import EvaluationError
from autotune.evaluation import (
    Example,
    LanguageModel,
    Measurement,
    Metric,
    Reference,
    complete_answers,
    fingerprint,
    fingerprint_file,
    is_english,
    read_images,
    read_prompts,
)
from evaluators import _answers, _teacher_forcing
from evaluators._embedder import embedder_fingerprint
from evaluators._statistics import mean

__all__ = ["Options", "Similarity", "prompt_sets", "prompt_tokens"]

_VERSION = 3  # increased when the same options give other scores
_SETS = Path(__file__).parent / "prompts"
_NO_TEMPLATE = "the model's tokenizer has no chat template; leave it at auto"

ANSWER_METRICS: Mapping[str, Metric] = {
    "answer_kl_divergence": Metric(
        "minimize", "nats/token", "KL(original || compressed) along the original's answers", perfect=0.0
    ),
    "answer_top1_agreement": Metric(
        "maximize", "", "share of the original's answer tokens that the compressed model prefers too", perfect=1.0
    ),
    "answer_prefix": Metric(
        "maximize", "", "share of the original's answer before the first token that differs", perfect=1.0
    ),
    "answer_ties": Metric("minimize", "", "share of answers that pass a tie within numeric noise before they differ"),
}
"""Metrics of one pass along the original's answers."""

METRICS: Mapping[str, Metric] = {
    "similarity": Metric("maximize", "", "cosine of the answers' embeddings, mean over prompts", perfect=1.0),
    "fdt": Metric("maximize", "tokens", "position of the first divergent token, mean over prompts"),
    "fdt_norm": Metric("maximize", "", "fdt as a share of the original's answer length", perfect=1.0),
    "sdt": Metric("minimize", "tokens", "divergent tokens of an answer, mean over prompts", perfect=0.0),
    "sdt_norm": Metric("minimize", "", "sdt as a share of each answer's length, mean over prompts", perfect=0.0),
    **ANSWER_METRICS,
}


def prompt_sets() -> dict[str, Path]:
    """Return the files of the built-in sets of prompts, by name."""
    return {path.stem: path for path in sorted(_SETS.iterdir())}


class Options(_answers.AnswerOptions):
    """The options of `similarity` in model.yaml."""

    prompts: Literal["default", "report", "short", "long", "languages"] | Path | tuple[str, ...] = Field(
        "default",
        description="`default`, `report` (others of the same kinds), `short`, `long` (a thousand tokens and more), "
        "`languages` (other than English), a file (txt with one per line, csv, yaml, jsonl), or a list of prompts. "
        "Lines {image: FILE, text: TEXT} of a jsonl file are prompts about images.",
    )
    use_chat_template: Literal["auto"] | StrictBool = Field(
        "auto", description="Put prompts into the tokenizer's chat template; `auto`: where it has one."
    )
    decode: Literal["always", "front", "never"] = Field(
        "front",
        description="Decode the compressed model's answers for every model, in a search for the final front alone, "
        "or never (then there are only the metrics answer_...).",
    )

    @field_validator("prompts", mode="before")
    @classmethod
    def _well_formed(cls, prompts: object) -> object:
        if isinstance(prompts, (list, tuple)):
            if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
                raise ValueError("needs at least one prompt, each a text that is not blank")
        elif not isinstance(prompts, (str, Path)) or not str(prompts):
            raise ValueError(f"must be a set of prompts, a file or a list of prompts, got {prompts!r}")
        elif not Path(prompts).suffix and not Path(prompts).is_absolute() and str(prompts) not in prompt_sets():
            sets = ", ".join(prompt_sets())
            raise ValueError(f"unknown prompt set {str(prompts)!r}; use one of {sets}, or a file")
        return prompts

    @field_validator("use_chat_template")
    @classmethod
    def _has_template(cls, required: bool | str, info: ValidationInfo) -> bool | str:
        if required is True and info.context and info.context.get("chat_template") is False:
            raise ValueError(f"is true, but {_NO_TEMPLATE}")
        return required


class Similarity:
    """Compares greedy answers to the same prompts.

    The candidate verifies the original's answers as drafts, all in one pass. After the first disagreement it decodes
    its own answer from the same KV cache, all prompts together. The same pass gives the divergence at each position of
    the original's answer, its end-of-text decision included. Standard errors are over prompts.

    Attributes:
        previewed: the metrics that `preview` measures, without any decoding.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    tasks: tuple[str, ...] = ("text-generation", "visual-text")
    repeatable = True

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read or loaded yet."""
        self.options = Options(**options)
        if self.options.decode == "never":
            self.metrics = ANSWER_METRICS
        self._last_pass = _teacher_forcing.LastPass()
        self.previewed = frozenset(METRICS if self.options.decode == "always" else ANSWER_METRICS)

    @cached_property
    def _prompts(self) -> list[str]:
        prompts = self.options.prompts
        if isinstance(prompts, tuple):
            return list(prompts)
        return read_prompts(prompt_sets().get(str(prompts), Path(prompts)))

    @cached_property
    def _images(self) -> list[Path | None]:
        prompts = self.options.prompts
        if isinstance(prompts, tuple) or str(prompts) in prompt_sets():
            return [None] * len(self._prompts)
        return read_images(prompts)

    def held_out(self) -> Similarity | None:
        """Return the evaluator on the prompts `report` instead of `default`; None for any other prompts."""
        if self.options.prompts != "default":
            return None
        return Similarity(**{**self.options.model_dump(), "prompts": "report"})

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the prompts as tokens; see `autotune.evaluation.HeldOut`."""
        return [[int(token) for token in tokenizer(prompt)["input_ids"]] for prompt in self._prompts]

    def fingerprint(self) -> str:
        """Return a fingerprint of the prompts' texts, the embedder and the other options."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        options = self.options
        return fingerprint(
            _VERSION,
            self._prompts,
            options.max_new_tokens,
            None if options.decode == "never" else embedder_fingerprint(options.embedder),
            options.use_chat_template,
            *(fingerprint_file(image) for image in self._images if image is not None),
        )

    def reference(self, original: LanguageModel) -> Reference:
        """Compute answers int64 [all tokens], their lengths [n], embeddings float32 [n, D], and distributions.

        `text_lengths`, int64 [n], has the numbers of tokens of the answers' texts tokenized again.
        """
        prompts = self._tokenised(original)
        limit = self.options.max_new_tokens
        answers = original.greedy_batch(prompts, [limit] * len(prompts))
        texts = _answers.texts(original.tokenizer, answers)
        if not any(text.strip() for text in texts):
            raise EvaluationError(
                f"the original model's answers to all {len(prompts)} prompts are empty. Use other prompts "
                "(evaluators.similarity.prompts), or use_chat_template: false."
            )
        reference: dict[str, npt.NDArray[Any]] = {
            "answers": np.array([token for answer in answers for token in answer], np.int64),
            "lengths": np.array([len(answer) for answer in answers], np.int64),
            "text_lengths": np.array([len(_answers.tokens(original.tokenizer, text)) for text in texts], np.int64),
            **_teacher_forcing.reference_arrays(original, _teacher_forcing.lay_out(prompts, answers, limit)),
        }
        if self.options.decode != "never":
            reference["embeddings"] = _answers.embed(self.options.embedder, texts)
        return reference

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate`'s answers against those of the reference; see `Evaluator.evaluate`."""
        drafts = _answers.split(reference)
        if self.options.decode == "never":
            return self._verify(candidate, reference)[1]
        verified = self._last_pass.get(candidate, reference)
        if verified is None:
            answers, measured = _teacher_forcing.answer(candidate, reference, self._path(candidate, drafts), drafts)
        else:
            begun, measured = verified
            limits = [self.options.max_new_tokens] * len(drafts)
            answers = complete_answers(candidate, self._tokenised(candidate), begun, drafts, limits)
        return self._compare(candidate.tokenizer, reference, answers) | measured

    def shrunk(self, original: LanguageModel) -> tuple[Similarity, float]:
        """Return the evaluator on every second prompt, and the ratio of all prompts to these, that of the times."""
        few = Similarity(**{**self.options.model_dump(), "prompts": tuple(self._prompts[::2])})
        few.__dict__["_images"] = self._images[::2]  # the option is a file for prompts about images
        return few, len(self._prompts) / len(few._prompts)

    def preview(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure the metrics `previewed`; see `autotune.evaluation.Previewing`."""
        if self.options.decode == "always":
            return self.evaluate(candidate, reference)
        return self._verify(candidate, reference)[1]

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return perfect values; `fdt` is the mean length of the original's answers, `answer_ties` is measured."""
        lengths = np.asarray(reference["text_lengths"], np.float64)
        stated = {
            name: mean(np.full(len(lengths), metric.perfect), metric.perfect)
            for name, metric in self.metrics.items()
            if metric.perfect is not None
        }
        if self.options.decode != "never":
            stated["fdt"] = mean(lengths, lengths)
        counts = np.minimum(reference["lengths"] + 1, self.options.max_new_tokens)
        return stated | {
            "answer_ties": _teacher_forcing.original_ties(reference, list(accumulate(counts.tolist(), initial=0)))
        }

    def scored(self, reference: Reference) -> str:
        """Return the number of prompts and of answer tokens; see `autotune.evaluation.Describing`."""
        others = sum(not is_english(prompt) for prompt in self._prompts)
        languages = f", {others} of them not in English" if others else ""
        return f"{len(self._prompts)} prompts{languages}, {int(reference['lengths'].sum()):,} tokens of answers"

    def _tokenised(self, model: LanguageModel) -> list[list[int]]:
        template = self.options.use_chat_template
        return [
            model.prompt(prompt, image)
            if model.takes_images or image is not None
            else prompt_tokens(model.tokenizer, prompt, template)
            for prompt, image in zip(self._prompts, self._images, strict=True)
        ]

    def _path(self, candidate: LanguageModel, drafts: Sequence[Sequence[int]]) -> _teacher_forcing.Decisions:
        return _teacher_forcing.lay_out(self._tokenised(candidate), drafts, self.options.max_new_tokens)

    def _verify(self, candidate: LanguageModel, reference: Reference) -> _teacher_forcing.Verified:
        """Run the pass along the original's answers."""
        if (kept := self._last_pass.get(candidate, reference)) is not None:
            return kept
        drafts = _answers.split(reference)
        found = _teacher_forcing.verify(candidate, reference, self._path(candidate, drafts), drafts)
        return self._last_pass.put(candidate, reference, found)

    def _compare(
        self, tokenizer: Any, reference: Reference, answers: Sequence[Sequence[int]]
    ) -> dict[str, Measurement]:
        """Compare the candidate's answers with the original's as texts."""
        texts, originals = (_answers.texts(tokenizer, side) for side in (answers, _answers.split(reference)))
        cosines = _answers.cosines(self.options.embedder, texts, originals, reference["embeddings"])
        tokens = [[_answers.tokens(tokenizer, text) for text in side] for side in (originals, texts)]
        examples = tuple(map(Example, self._prompts, originals, texts, cosines.tolist()))
        return {"similarity": replace(mean(cosines, 1.0), examples=examples), **_answers.token_metrics(*tokens)}


def prompt_tokens(tokenizer: Any, prompt: str, use_chat_template: str | bool) -> list[int]:
    """Tokenize a prompt, in the tokenizer's chat template if it has one (``auto``), always (True) or never (False).

    Raises:
        EvaluationError: the template is required and missing, or the prompt has no tokens.
    """
    template = getattr(tokenizer, "chat_template", None)
    if use_chat_template is True and not template:
        raise EvaluationError(f"evaluators.similarity.use_chat_template is true, but {_NO_TEMPLATE}.")
    if use_chat_template is not False and template:
        tokens = _answers.chat_tokens(tokenizer, [{"role": "user", "content": prompt}])
    else:
        tokens = tokenizer(prompt)["input_ids"]
    if not len(tokens):
        raise EvaluationError(f"the prompt {prompt!r} has no tokens with this model's tokenizer; leave it out.")
    return [int(token) for token in tokens]
