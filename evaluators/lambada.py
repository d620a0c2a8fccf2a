"""The last word of passages, as the task lambada_openai of lm-eval defines it: perplexity and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from autotune.common.files import fingerprint
from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference
from autotune.evaluation.texts.prompts import read_prompts
from autotune.evaluation.texts.sources import describe_source, read_texts
from evaluators._likelihood import Request, encode, encode_pair, log_likelihoods
from evaluators._statistics import mean, standard_error

__all__ = ["Lambada", "Options"]

_VERSION = 1  # of the numbers: raised when the same options would give other scores

METRICS: Mapping[str, Metric] = {
    "lambada_perplexity": Metric("minimize", "", "exp of the mean negative log-likelihood of the last words"),
    "lambada_accuracy": Metric("maximize", "", "share of last words that greedy decoding gives"),
}


class Options(BaseModel):
    """The options of `lambada` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(None, description="A file of passages: jsonl with `text`, csv, yaml, or one a line.")
    dataset: str | None = Field(
        None, description="A Hugging Face dataset with one passage a row, such as EleutherAI/lambada_openai."
    )
    name: str | None = Field(None, description="The dataset's configuration.")
    split: str | None = Field(None, description="The dataset's split.")
    column: str | None = Field(None, description="The dataset's text column; `text` by default.")
    samples: int | None = Field(None, ge=1, strict=True, description="At most so many passages; all by default.")
    skip: int = Field(0, ge=0, strict=True, description="Passages at the beginning that are left out.")

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset, and not both")
        return self


class Lambada:
    """Asks for the last word of each passage, the rest being the context. Standard errors are over passages, paired
    with the original's.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    repeatable = True

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read yet."""
        self.options = Options(**options)

    @cached_property
    def _passages(self) -> list[str]:
        texts = read_texts(self.options) if self.options.path is None else read_prompts(self.options.path)
        if len(texts) <= self.options.skip:
            raise ConfigError(
                f"{describe_source(self.options)} has {len(texts)} passages, so none is left after the first "
                f"{self.options.skip}."
            )
        return texts[self.options.skip :][: self.options.samples]

    def held_out(self) -> Lambada | None:
        """The passages after those that are scored; None where all are (the option `samples` leaves some)."""
        if self.options.samples is None:
            return None
        return Lambada(**{**self.options.model_dump(), "skip": self.options.skip + self.options.samples})

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """The passages; see `autotune.evaluation.HeldOut`."""
        return [encode(tokenizer, passage) for passage in self._passages]

    def fingerprint(self) -> str:
        """Changes with the passages."""
        return fingerprint(_VERSION, *self._passages)

    def reference(self, original: LanguageModel) -> Reference:
        """Log-likelihoods float64 [n] and hits float64 [n] (0 or 1) of the last words."""
        likelihoods, hits = log_likelihoods(original, self._requests(original))
        return {"likelihoods": likelihoods, "hits": hits.astype(np.float64)}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on all passages; see `Evaluator.evaluate`."""
        likelihoods, hits = log_likelihoods(candidate, self._requests(candidate))
        return _measurements(likelihoods, hits.astype(np.float64), reference)

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """The original's own perplexity and accuracy."""
        return _measurements(np.asarray(reference["likelihoods"]), np.asarray(reference["hits"]), reference)

    def _requests(self, model: LanguageModel) -> list[Request]:
        requests = []
        for index, passage in enumerate(self._passages):
            words = passage.split(" ")
            request = encode_pair(model.tokenizer, " ".join(words[:-1]), " " + words[-1])
            if not request[1]:
                raise EvaluationError(
                    f"the last word of passage {index} of {describe_source(self.options)} has no tokens of its own "
                    "with this model's tokenizer; leave the passage out."
                )
            requests.append(request)
        return requests


def _measurements(
    likelihoods: np.ndarray[Any, np.dtype[np.float64]],
    hits: np.ndarray[Any, np.dtype[np.float64]],
    reference: Reference,
) -> dict[str, Measurement]:
    error = standard_error(likelihoods - reference["likelihoods"])
    perplexity = float(np.exp(-likelihoods.mean()))
    return {
        "lambada_perplexity": Measurement(
            perplexity, None if error is None else perplexity * error, tuple(np.exp(-likelihoods).tolist())
        ),
        "lambada_accuracy": mean(hits, np.asarray(reference["hits"])),
    }
