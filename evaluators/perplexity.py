"""Perplexity on fixed windows of a text, and from the same pass KL divergence and top-1 agreement to the original."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from autotune.evaluation import (
    LanguageModel,
    Measurement,
    Metric,
    Reference,
    TextEvaluator,
    TextOptions,
    describe_source,
    fingerprint,
    generate_windows,
    read_texts,
    read_windows,
    synthetic_fingerprint,
)
from evaluators import _divergence
from evaluators._statistics import mean, quantile, standard_error

__all__ = ["Options", "Perplexity"]

_log = logging.getLogger(__name__)
_VERSION = 2  # increased when the same options give other scores
_SEED = 0  # of synthetic text
_FEW = 8  # windows that are timed to forecast the time of all
_NOISE_WINDOWS = 2  # windows that are run again, each alone, to measure the effect of the batch's shape
_LARGE_REFERENCE = 2 * 2**30

METRICS: Mapping[str, Metric] = {
    "perplexity": Metric("minimize", "", "exp of the mean negative log-likelihood a token"),
    "perplexity_increase": Metric("minimize", "%", "perplexity above the original's", perfect=0.0),
    "kl_divergence": Metric("minimize", "nats/token", "KL(original || compressed), mean over positions", perfect=0.0),
    "kl_divergence_median": Metric("minimize", "nats/token", "median over positions of the divergence", perfect=0.0),
    "kl_divergence_p99": Metric("minimize", "nats/token", "99th percentile of the divergence", perfect=0.0),
    "top1_agreement": Metric("maximize", "", "share of positions at which both prefer the same token", perfect=1.0),
}


class Options(TextOptions):
    """The options of `perplexity` in model.yaml."""

    synthetic: bool = Field(False, strict=True)
    """Text that the original model writes itself."""
    sequence_length: int = Field(512, ge=2, strict=True)
    """Tokens of a window."""

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if len(self.sources) != 1:
            raise ValueError("give one of path, dataset, texts, tokens and synthetic: true")
        if self.synthetic and self.samples is None:
            raise ValueError("synthetic: true needs samples, the number of windows to generate")
        return self


class Perplexity(TextEvaluator[Options]):
    """Scores a model on consecutive windows of a text, each from an empty cache.

    Perplexity is exp of the mean negative log-likelihood over the T - 1 predictions inside each window of T tokens,
    with equal weights; divergence and agreement are over all T positions. Standard errors come from paired differences,
    window by window; those of perplexity by the delta method.
    """

    Options = Options
    metrics = METRICS

    @cached_property
    def _texts(self) -> list[str]:
        if self.options.synthetic:
            return [synthetic_fingerprint(self.stop or 0, self.options.sequence_length, _SEED, "evaluation")]
        return read_texts(self.options)

    def _windows(self, original: LanguageModel) -> npt.NDArray[np.int64]:
        if not self.options.synthetic:
            return self._read_windows(original.tokenizer)
        assert self.stop is not None
        length = self.options.sequence_length
        return self.select(
            generate_windows(original, samples=self.stop, sequence_length=length, seed=_SEED, purpose="evaluation"),
            f"windows of {length} tokens",
        )

    def _read_windows(self, tokenizer: Any) -> npt.NDArray[np.int64]:
        length = self.options.sequence_length
        windows = read_windows(self.options, tokenizer, self._texts, sequence_length=length, samples=self.stop)
        return self.select(windows, f"windows of {length} tokens")

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the windows; see `autotune.evaluation.HeldOut`."""
        return [] if self.options.synthetic else self._read_windows(tokenizer).tolist()

    def shrunk(self, original: LanguageModel) -> tuple[Perplexity, float]:
        """Return the evaluator on a few windows, and the ratio of all windows to these, which is that of the times."""
        samples = self.options.samples if self.options.synthetic else len(self._windows(original))
        assert samples is not None
        few = min(_FEW, samples)
        return Perplexity(**{**self.options.model_dump(exclude_none=True), "samples": few}), samples / few

    def fingerprint(self) -> str:
        """Return a fingerprint of the text's content and the windows; the location of the text does not matter."""
        skip = [f"skip {self.options.skip}"] if self.options.skip else []
        return fingerprint(_VERSION, self.options.sequence_length, self.options.samples, *skip, *self._texts)

    def reference(self, original: LanguageModel) -> Reference:
        """Compute tokens int64 [n, T], likelihoods float64 [n, T - 1], all n T distributions, and self-noise [3]."""
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
        """Yield the scores after a quarter, a half and all of the windows; see `StagedEvaluator.stages`."""
        windows = np.asarray(reference["tokens"])
        length = windows.shape[1]
        likelihoods = np.empty((len(windows), length - 1), np.float64)
        divergences, agreements = (np.empty(windows.shape, np.float64) for _ in range(2))
        stops = {-(-len(windows) // 4), -(-len(windows) // 2), len(windows)}
        finished = 0
        for index, start, logits in candidate.scan(windows.tolist(), [0] * len(windows)):
            compared = _divergence.compare(reference, index * length + start, logits)
            span = slice(start, start + len(logits))
            divergences[index, span], agreements[index, span] = compared.divergence, compared.agree
            _likelihoods(logits, windows[index], start, likelihoods[index])
            if span.stop < length:
                continue
            finished += 1  # windows of equal length are finished in order
            if finished in stops:
                done = slice(0, finished)
                yield _measurements(likelihoods[done], reference, divergences[done], agreements[done])

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's perplexity, and perfect values of the other metrics."""
        shape = reference["tokens"].shape
        return _measurements(np.asarray(reference["likelihoods"]), reference, np.zeros(shape), np.ones(shape))

    def scored(self, reference: Reference) -> str:
        """Return the number of windows and tokens; see `autotune.evaluation.Describing`."""
        count, length = reference["tokens"].shape
        return f"{count} windows of {length} tokens, {count * (length - 1):,} predicted"


def _likelihoods(
    logits: npt.NDArray[np.float32], window: npt.NDArray[np.int64], start: int, out: npt.NDArray[np.float64]
) -> None:
    """Write the negative log-likelihoods of the tokens that these logits predict into `out`, [T - 1]."""
    targets = window[start + 1 : start + 1 + len(logits)]
    out[start : start + len(targets)] = _divergence.negative_log_likelihood(logits[: len(targets)], targets)


def _self_noise(
    original: LanguageModel,
    windows: npt.NDArray[np.int64],
    likelihoods: npt.NDArray[np.float64],
    arrays: Reference,
) -> npt.NDArray[np.float64]:
    """Measure the original against itself in another batch shape: mean likelihood, divergence, disagreement."""
    length = windows.shape[1]
    found = []
    for index, window in enumerate(windows[:_NOISE_WINDOWS]):
        again = np.empty(length - 1, np.float64)
        divergence, agree = np.empty(length), np.empty(length)
        for _, start, logits in original.scan([window.tolist()], [0]):
            _likelihoods(logits, window, start, again)
            compared = _divergence.compare(arrays, index * length + start, logits)
            span = slice(start, start + len(logits))
            divergence[span], agree[span] = compared.divergence, compared.agree
        found.append((abs(again.mean() - likelihoods[index].mean()), divergence.mean(), 1.0 - agree.mean()))
    return np.asarray(np.max(found, axis=0), np.float64)


def _measurements(
    likelihoods: npt.NDArray[np.float64],
    reference: Reference,
    divergences: npt.NDArray[np.float64],
    agreements: npt.NDArray[np.float64],
) -> dict[str, Measurement]:
    """Compute all metrics from the first n windows: likelihoods [n, T - 1], divergences and agreements [n, T]."""
    shift, divergence_noise, disagreement = reference["noise"].tolist()
    windows = likelihoods.mean(axis=1)  # of equal length: their mean is the mean over tokens
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
