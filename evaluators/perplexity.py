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

from autotune.common.files import fingerprint
from autotune.errors import ConfigError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference
from autotune.evaluation.texts.sources import describe_source, read_texts, token_windows
from autotune.evaluation.texts.synthetic import EVALUATION, generate_windows, recipe
from evaluators import _divergence
from evaluators._statistics import mean, quantile, standard_error

__all__ = ["Options", "Perplexity"]

_log = logging.getLogger(__name__)
_VERSION = 2  # of the numbers: raised when the same options would give other scores
_SEED = 0  # of synthetic text
_FEW = 8  # windows that show how long all of them take
_NOISE_WINDOWS = 2  # run once more, each alone, to see what the shape of a batch does
_LARGE_REFERENCE = 2 * 2**30

METRICS: Mapping[str, Metric] = {
    "perplexity": Metric("minimize", "", "exp of the mean negative log-likelihood a token"),
    "perplexity_increase": Metric("minimize", "%", "perplexity above the original's", perfect=0.0),
    "kl_divergence": Metric("minimize", "nats/token", "KL(original || compressed), mean over positions", perfect=0.0),
    "kl_divergence_median": Metric("minimize", "nats/token", "median over positions of the divergence", perfect=0.0),
    "kl_divergence_p99": Metric("minimize", "nats/token", "99th percentile of the divergence", perfect=0.0),
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
    synthetic: bool = Field(False, strict=True, description="Text that the original model writes itself.")
    sequence_length: int = Field(512, ge=2, strict=True, description="Tokens of a window.")
    samples: int | None = Field(
        None, ge=1, strict=True, description="At most so many windows, from the start; all by default."
    )

    skip: int = Field(0, ge=0, strict=True, description="Windows at the beginning that are left out.")

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.path is not None) + (self.dataset is not None) + self.synthetic != 1:
            raise ValueError("give one of path, dataset and synthetic: true")
        if self.synthetic and self.samples is None:
            raise ValueError("needs samples beside synthetic: true: how many windows the model is to write")
        return self


class Perplexity:
    """Scores a model on consecutive windows of a text, each from an empty cache.

    Perplexity is exp of the mean negative log-likelihood over the T - 1 predictions inside each window of T tokens,
    all tokens weighted alike; divergence and agreement are over all T positions. Standard errors come from paired
    differences, window by window; those of perplexity by the delta method.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    repeatable = True

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read yet."""
        self.options = Options(**options)

    @cached_property
    def _texts(self) -> list[str]:
        if self.options.synthetic:
            assert self.options.samples is not None
            return [recipe(self._until or 0, self.options.sequence_length, _SEED, EVALUATION)]
        return read_texts(self.options)

    @property
    def _until(self) -> int | None:
        """The window after the last one that is scored."""
        return None if self.options.samples is None else self.options.skip + self.options.samples

    def _windows(self, original: LanguageModel) -> npt.NDArray[np.int64]:
        if not self.options.synthetic:
            return self._read_windows(original.tokenizer)
        until, length = self._until, self.options.sequence_length
        assert until is not None
        windows = generate_windows(original, samples=until, sequence_length=length, seed=_SEED, purpose=EVALUATION)
        return windows[self.options.skip :]

    def _read_windows(self, tokenizer: Any) -> npt.NDArray[np.int64]:
        name, skip, length = describe_source(self.options), self.options.skip, self.options.sequence_length
        windows = token_windows(tokenizer, self._texts, sequence_length=length, samples=self._until, name=name)
        if skip and len(windows) <= skip:
            raise ConfigError(
                f"{name} has {len(windows)} windows of {length} tokens, so none is left after the first {skip}."
            )
        return windows[skip:]

    def held_out(self) -> Perplexity | None:
        """The windows after those that are scored; None where all are (the option `samples` leaves some)."""
        if self._until is None:
            return None
        return Perplexity(**{**self.options.model_dump(), "skip": self._until})

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """The windows; see `autotune.evaluation.HeldOut`."""
        return [] if self.options.synthetic else self._read_windows(tokenizer).tolist()

    def shrunk(self, original: LanguageModel) -> tuple[Perplexity, float]:
        """The same on a few windows; the whole takes as many times as long as it has more of them."""
        samples = self.options.samples if self.options.synthetic else len(self._windows(original))
        assert samples is not None
        few = min(_FEW, samples)
        return Perplexity(**{**self.options.model_dump(exclude_none=True), "samples": few}), samples / few

    def fingerprint(self) -> str:
        """Changes with the text's content and the windows, not with where the text lies."""
        skip = [f"skip {self.options.skip}"] if self.options.skip else []
        return fingerprint(_VERSION, self.options.sequence_length, self.options.samples, *skip, *self._texts)

    def reference(self, original: LanguageModel) -> Reference:
        """Tokens int64 [n, T], likelihoods float64 [n, T - 1], distributions at all n T positions, self-noise [3]."""
        windows = self._windows(original)
        length = windows.shape[1]
        positions = _divergence.Positions(windows.size, original.vocabulary_size)
        likelihoods = np.empty((len(windows), length - 1), np.float64)
        for index, start, logits in original.scan(windows.tolist(), [0] * len(windows)):
            _likelihoods(logits, windows[index], start, likelihoods[index])
            positions.put(index * length + start, logits)
        arrays = positions.arrays()
        self._warn_of_size(arrays, windows)
        return {
            "tokens": windows,
            "likelihoods": likelihoods,
            "noise": _self_noise(original, windows, likelihoods, arrays),
            **arrays,
        }

    def _warn_of_size(self, arrays: Reference, windows: npt.NDArray[np.int64]) -> None:
        size = sum(array.nbytes for array in arrays.values())
        if size > _LARGE_REFERENCE:
            _log.warning(
                "the original's distributions on %s take %.1f GB of cache (%d windows of %d tokens); "
                "the option samples of the evaluator perplexity makes that less",
                describe_source(self.options),
                size / 1e9,
                *windows.shape,
            )

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on the windows of the reference; see `Evaluator.evaluate`."""
        *_, measured = self.stages(candidate, reference)
        return measured

    def stages(self, candidate: LanguageModel, reference: Reference) -> Iterator[Mapping[str, Measurement]]:
        """The scores after a quarter, a half and all of the windows; see `StagedEvaluator.stages`."""
        windows = np.asarray(reference["tokens"])
        length = windows.shape[1]
        likelihoods = np.empty((len(windows), length - 1), np.float64)
        divergences, agreements = (np.empty(windows.shape, np.float64) for _ in range(2))
        stops = {-(-len(windows) // 4), -(-len(windows) // 2), len(windows)}
        finished = 0
        for index, start, logits in candidate.scan(windows.tolist(), [0] * len(windows)):
            compared = _divergence.compare(reference, index * length + start, logits)
            here = slice(start, start + len(logits))
            divergences[index, here], agreements[index, here] = compared.divergence, compared.agree
            _likelihoods(logits, windows[index], start, likelihoods[index])
            if here.stop < length:
                continue
            finished += 1  # windows are equally long, so they are finished in their order
            if finished in stops:
                done = slice(0, finished)
                yield _measurements(likelihoods[done], reference, divergences[done], agreements[done])

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """The original's perplexity; perfect values otherwise."""
        shape = reference["tokens"].shape
        return _measurements(np.asarray(reference["likelihoods"]), reference, np.zeros(shape), np.ones(shape))


def _likelihoods(
    logits: npt.NDArray[np.float32], window: npt.NDArray[np.int64], start: int, out: npt.NDArray[np.float64]
) -> None:
    """Negative log-likelihoods of the tokens after `start`, as far as these logits tell, into their places."""
    targets = window[start + 1 : start + 1 + len(logits)]
    out[start : start + len(targets)] = _divergence.negative_log_likelihood(logits[: len(targets)], targets)


def _self_noise(
    original: LanguageModel,
    windows: npt.NDArray[np.int64],
    likelihoods: npt.NDArray[np.float64],
    arrays: Reference,
) -> npt.NDArray[np.float64]:
    """How far the original is from itself in another batch shape: mean likelihood, divergence, disagreement."""
    length = windows.shape[1]
    found = []
    for index, window in enumerate(windows[:_NOISE_WINDOWS]):
        again = np.empty(length - 1, np.float64)
        divergence, agree = np.empty(length), np.empty(length)
        for _, start, logits in original.scan([window.tolist()], [0]):
            _likelihoods(logits, window, start, again)
            compared = _divergence.compare(arrays, index * length + start, logits)
            here = slice(start, start + len(logits))
            divergence[here], agree[here] = compared.divergence, compared.agree
        found.append((abs(again.mean() - likelihoods[index].mean()), divergence.mean(), 1.0 - agree.mean()))
    return np.asarray(np.max(found, axis=0), np.float64)


def _measurements(
    likelihoods: npt.NDArray[np.float64],
    reference: Reference,
    divergences: npt.NDArray[np.float64],
    agreements: npt.NDArray[np.float64],
) -> dict[str, Measurement]:
    """From values at positions of the first n windows: likelihoods [n, T - 1], the others [n, T]."""
    shift, divergence_noise, disagreement = reference["noise"].tolist()
    windows = likelihoods.mean(axis=1)  # equally long, so that their mean is the mean over tokens
    differences = windows - reference["likelihoods"][: len(windows)].mean(axis=1)
    error = standard_error(differences)  # of the log of perplexity's ratio to the original's
    perplexity = math.exp(windows.mean())
    growth = math.exp(differences.mean())
    return {
        "perplexity": Measurement(
            perplexity,
            None if error is None else perplexity * error,
            tuple(np.exp(windows).tolist()),
            perplexity * shift,
        ),
        "perplexity_increase": Measurement(
            100.0 * (growth - 1.0),
            None if error is None else 100.0 * growth * error,
            tuple((100.0 * np.expm1(differences)).tolist()),
            100.0 * growth * shift,
        ),
        "kl_divergence": mean(divergences.mean(axis=1), noise=divergence_noise),
        "kl_divergence_median": quantile(divergences, 0.5),
        "kl_divergence_p99": quantile(divergences, 0.99),
        "top1_agreement": mean(agreements.mean(axis=1), 1.0, disagreement),
    }
