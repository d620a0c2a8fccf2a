"""The last word of passages, as the task lambada_openai of lm-eval defines it: perplexity and accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autotune.errors import EvaluationError
from autotune.evaluation import (
    LanguageModel,
    Measurement,
    Metric,
    Reference,
    TextEvaluator,
    TextOptions,
    describe_source,
    fingerprint,
    read_prompts,
    read_texts,
)
from evaluators._likelihood import Request, encode, encode_pair, log_likelihoods
from evaluators._statistics import mean, standard_error

__all__ = ["Lambada", "Options"]

_VERSION = 1  # increased when the same options give other scores

METRICS: Mapping[str, Metric] = {
    "lambada_perplexity": Metric("minimize", "", "exp of the mean negative log-likelihood of the last words"),
    "lambada_accuracy": Metric("maximize", "", "share of last words that greedy decoding gives"),
}


class Options(TextOptions):
    """The options of `lambada` in model.yaml."""

    path: Path | None = None
    """A file of passages: jsonl with `text`, csv, yaml, or one a line."""
    dataset: str | None = None
    """A Hugging Face dataset with one passage a row, such as EleutherAI/lambada_openai."""


class Lambada(TextEvaluator[Options]):
    """Scores the last word of each passage given the words before it.

    Standard errors are over passages, paired with the original's.
    """

    Options = Options
    metrics = METRICS

    @cached_property
    def _passages(self) -> list[str]:
        options = self.options
        return self.select(read_texts(options) if options.path is None else read_prompts(options.path), "passages")

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the passages as tokens; see `autotune.evaluation.HeldOut`."""
        return [encode(tokenizer, passage) for passage in self._passages]

    def fingerprint(self) -> str:
        """Return a fingerprint of the passages."""
        return fingerprint(_VERSION, *self._passages)

    def reference(self, original: LanguageModel) -> Reference:
        """Compute log-likelihoods float64 [n] and hits float64 [n] (0 or 1) of the last words."""
        likelihoods, hits = log_likelihoods(original, self._requests(original))
        return {"likelihoods": likelihoods, "hits": hits.astype(np.float64)}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on all passages; see `Evaluator.evaluate`."""
        likelihoods, hits = log_likelihoods(candidate, self._requests(candidate))
        return _measurements(likelihoods, hits.astype(np.float64), reference)

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's perplexity and accuracy."""
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
