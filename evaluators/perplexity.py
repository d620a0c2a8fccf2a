"""Perplexity on fixed windows of a text, and from the same pass KL divergence and top-1 agreement to the original."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from autotune.evaluation import LanguageModel, Measurement, Metric, Reference
from autotune.files import fingerprint
from autotune.texts import describe_source, read_texts, token_windows
from evaluators import _divergence
from evaluators._statistics import mean, standard_error

__all__ = ["Options", "Perplexity"]

_log = logging.getLogger(__name__)
_VERSION = 1  # of the numbers: raised when the same options would give other scores
_BATCH_BYTES = 128 * 2**20
_BATCH_TOKENS = 4096
_LARGE_REFERENCE = 2 * 2**30

METRICS: Mapping[str, Metric] = {
    "perplexity": Metric("minimize", "", "exp of the mean negative log-likelihood a token"),
    "perplexity_increase": Metric("minimize", "%", "perplexity above the original's", perfect=0.0),
    "kl_divergence": Metric("minimize", "nats/token", "KL(original || compressed), mean over positions", perfect=0.0),
    "top1_agreement": Metric("maximize", "", "share of positions at which both prefer the same token", perfect=1.0),
}


class Options(BaseModel):
    """The options of `perplexity` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(None, description="A UTF-8 text file.")
    dataset: str | None = Field(None, description="A Hugging Face dataset: hub id, or a local folder or file.")
    name: str | None = Field(None, description="The dataset's configuration.")
    split: str | None = Field(None, description="The dataset's split.")
    column: str | None = Field(None, description="The dataset's text column; `text` by default.")
    sequence_length: int = Field(512, ge=2, strict=True, description="Tokens of a window.")
    samples: int | None = Field(
        None, ge=1, strict=True, description="At most so many windows, from the start; all by default."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset, and not both")
        return self


class Perplexity:
    """Scores a model on consecutive windows of a text, each from an empty cache.

    Perplexity is exp of the mean negative log-likelihood over the T - 1 predictions inside each window of T tokens,
    all tokens weighted alike; the divergence and the agreement are means over all T positions. Standard errors come
    from paired differences, window by window; those of perplexity by the delta method.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read yet."""
        self.options = Options(**options)

    @cached_property
    def _texts(self) -> list[str]:
        return read_texts(self.options)

    def fingerprint(self) -> str:
        """Changes with the text's content and the windows, not with where the text lies."""
        return fingerprint(_VERSION, self.options.sequence_length, self.options.samples, *self._texts)

    def reference(self, original: LanguageModel) -> Reference:
        """Tokens int64 [n, T], per-window likelihoods float64 [n], and the distributions at all n T positions."""
        windows = token_windows(
            original.tokenizer,
            self._texts,
            sequence_length=self.options.sequence_length,
            samples=self.options.samples,
            name=describe_source(self.options),
        )
        positions = _divergence.Positions(windows.size, original.vocabulary_size)
        likelihoods = np.empty(len(windows), np.float64)
        for here, logits in _passes(original, windows):
            likelihoods[here] = _window_likelihoods(logits, windows[here])
            positions.add(logits.reshape(-1, logits.shape[-1]))
        arrays = positions.arrays()
        size = sum(array.nbytes for array in arrays.values())
        if size > _LARGE_REFERENCE:
            _log.warning(
                "the original's distributions on %s take %.1f GB of cache (%d windows of %d tokens); "
                "the option samples of the evaluator perplexity makes that less",
                describe_source(self.options),
                size / 1e9,
                *windows.shape,
            )
        return {"tokens": windows, "likelihoods": likelihoods, **arrays}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on the windows of the reference; see `Evaluator.evaluate`."""
        windows = np.asarray(reference["tokens"])
        length = windows.shape[1]
        likelihoods, divergences, agreements = (np.empty(len(windows), np.float64) for _ in range(3))
        for here, logits in _passes(candidate, windows):
            divergence, agree = _divergence.compare(
                reference, here.start * length, logits.reshape(-1, logits.shape[-1])
            )
            likelihoods[here] = _window_likelihoods(logits, windows[here])
            divergences[here] = divergence.reshape(-1, length).mean(axis=1)
            agreements[here] = agree.reshape(-1, length).mean(axis=1)
        return _measurements(likelihoods, np.asarray(reference["likelihoods"]), divergences, agreements)

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """The original's perplexity; perfect values otherwise."""
        likelihoods = np.asarray(reference["likelihoods"])
        return _measurements(likelihoods, likelihoods, np.zeros(len(likelihoods)), np.ones(len(likelihoods)))


def _passes(model: LanguageModel, windows: npt.NDArray[np.int64]) -> Iterator[tuple[slice, npt.NDArray[np.float32]]]:
    """Logits of the windows, [b, T, V] at a time; b follows from T and V alone, so that scores do not vary with it."""
    length = windows.shape[1]
    rows = max(1, min(_BATCH_BYTES // (4 * length * model.vocabulary_size), _BATCH_TOKENS // length))
    for start in range(0, len(windows), rows):
        here = slice(start, min(start + rows, len(windows)))
        yield here, model.logits(windows[here])


def _window_likelihoods(logits: npt.NDArray[np.float32], windows: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Mean negative log-likelihood of each window in nats a token, float64 [b]."""
    return np.array(
        [
            _divergence.negative_log_likelihood(rows[:-1], tokens[1:]).mean()
            for rows, tokens in zip(logits, windows, strict=True)
        ]
    )


def _measurements(
    likelihoods: npt.NDArray[np.float64],
    originals: npt.NDArray[np.float64],
    divergences: npt.NDArray[np.float64],
    agreements: npt.NDArray[np.float64],
) -> dict[str, Measurement]:
    """From per-window means, all float64 [n]. Windows are equally long, so their mean is the mean over tokens."""
    differences = likelihoods - originals
    error = standard_error(differences)  # of the log of perplexity's ratio to the original's
    perplexity = math.exp(likelihoods.mean())
    growth = math.exp(differences.mean())
    return {
        "perplexity": Measurement(
            perplexity, None if error is None else perplexity * error, tuple(np.exp(likelihoods).tolist())
        ),
        "perplexity_increase": Measurement(
            100.0 * (growth - 1.0),
            None if error is None else 100.0 * growth * error,
            tuple((100.0 * np.expm1(differences)).tolist()),
        ),
        "kl_divergence": mean(divergences),
        "top1_agreement": mean(agreements),
    }
