"""Perplexity on fixed windows of a text, and from the same pass KL divergence and top-1 agreement to the original."""

from __future__ import annotations

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
    fingerprint,
    generate_windows,
    looks,
    read_texts,
    read_windows,
    scoring_order,
    synthetic_fingerprint,
)
from evaluators import _divergence
from evaluators._statistics import mean, quantile, standard_error

__all__ = ["Options", "Perplexity"]

_VERSION = 3  # increased when the same options give other scores
_SEED = 0  # of synthetic text
_FEW = 8  # windows that are timed to forecast the time of all
_NOISE_WINDOWS = 2  # windows that are run again, each alone, to measure the effect of the batch's shape
_PART_TOKENS = 4096  # of a part of the reference: a batch of a scan
_EXACT_BYTES = 256 * 2**20  # of a text's distributions that are stored completely; those of longer ones are compact

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
    tasks = ("text-generation", "visual-text")

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
        """Compute the reference with all of its parts; see `outline` and `part`."""
        outline = self.outline(original)
        parts = range(-(-len(outline["tokens"]) // _windows_a_part(outline)))
        made = {number: self.part(original, outline, number) for number in parts}
        return {**outline, **{f"{number}/{name}": array for number in parts for name, array in made[number].items()}}

    def outline(self, original: LanguageModel) -> Reference:
        """Return the tokens, int64 [n, T], and the number of the first part in the compact form, int64 [1]."""
        windows = self._windows(original)
        parts = -(-len(windows) // _windows_a_part({"tokens": windows}))
        size = windows.size * _divergence.position_bytes(original.vocabulary_size)
        return {"tokens": windows, "compact": np.array([0 if size > _EXACT_BYTES else parts], np.int64)}

    def part_key(self, outline: Reference, part: int) -> str:
        """Return a fingerprint of a part's tokens, places and form; see `PartedEvaluator.part_key`."""
        chosen = _windows_of(outline, part)
        tokens = np.ascontiguousarray(outline["tokens"][chosen]).tobytes().hex()
        return fingerprint("perplexity", _VERSION, chosen.tolist(), bool(part >= outline["compact"][0]), tokens)

    def part(self, original: LanguageModel, outline: Reference, part: int) -> Reference:
        """Compute likelihoods float64 [m, T - 1], m T distributions and self-noise [3] on the m windows of a part."""
        chosen = _windows_of(outline, part)
        windows = np.asarray(outline["tokens"][chosen])
        length = windows.shape[1]
        places = (chosen[:, None] * length + np.arange(length)).ravel()
        compact = bool(part >= outline["compact"][0])
        positions = _divergence.Positions(windows.size, original.vocabulary_size, places=places, compact=compact)
        likelihoods = np.empty((len(windows), length - 1), np.float64)
        for index, start, logits in original.scan(windows.tolist(), [0] * len(windows)):
            _likelihoods(logits, windows[index], start, likelihoods[index])
            positions.put(index * length + start, logits)
        arrays = positions.arrays()
        noise = {} if part else {"noise": _self_noise(original, windows, likelihoods, arrays)}
        return {"likelihoods": likelihoods, **noise, **arrays}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on the windows of the reference; see `Evaluator.evaluate`."""
        *_, measured = self.stages(candidate, reference)
        return measured

    def stages(self, candidate: LanguageModel, reference: Reference) -> Iterator[Mapping[str, Measurement]]:
        """Yield the scores after each block of windows, in a fixed random order; see `StagedEvaluator.stages`."""
        windows = np.asarray(reference["tokens"])
        length, each = windows.shape[1], _windows_a_part(reference)
        order = scoring_order(len(windows))
        likelihoods = np.empty((len(windows), length - 1), np.float64)
        divergences, agreements = (np.empty(windows.shape, np.float64) for _ in range(2))
        finished = 0
        for stop in looks(len(windows)):
            block = order[finished:stop]
            for index, start, logits in candidate.scan(windows[block].tolist(), [0] * len(block)):
                at, span = finished + index, slice(start, start + len(logits))
                part, row = divmod(at, each)
                compared = _divergence.compare(_divergence.arrays_of(reference, part), row * length + start, logits)
                divergences[at, span], agreements[at, span] = compared.divergence, compared.agree
                _likelihoods(logits, windows[block[index]], start, likelihoods[at])
            finished = stop
            originals = _original_means(reference, stop)
            yield _measurements(likelihoods[:stop], originals, reference, divergences[:stop], agreements[:stop])

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's perplexity, and perfect values of the other metrics."""
        return self.original_on(reference, len(reference["tokens"]))

    def original_on(self, reference: Reference, parts: int) -> Mapping[str, Measurement]:
        """As `original`, on the windows of the first parts; see `PartedEvaluator.original_on`."""
        windows, length = reference["tokens"].shape
        means = _original_means(reference, min(windows, parts * _windows_a_part(reference)))
        shape = len(means), length
        return _measurements(means[:, None], means, reference, np.zeros(shape), np.ones(shape))

    def scored(self, reference: Reference) -> str:
        """Return the number of windows and tokens; see `autotune.evaluation.Describing`."""
        count, length = reference["tokens"].shape
        return f"{count} windows of {length} tokens, {count * (length - 1):,} predicted"


def _windows_a_part(reference: Reference) -> int:
    """Number of windows in each part of the reference but the last."""
    return max(1, _PART_TOKENS // int(reference["tokens"].shape[1]))


def _windows_of(outline: Reference, part: int) -> npt.NDArray[np.int64]:
    """Return the windows of a part, int64 [m]: those that are scored one after the other."""
    each = _windows_a_part(outline)
    return scoring_order(len(outline["tokens"]))[part * each : (part + 1) * each]


def _original_means(reference: Reference, count: int) -> npt.NDArray[np.float64]:
    """Return the original's mean negative log-likelihood of each of the first windows, in the order of scoring."""
    each = _windows_a_part(reference)
    return np.concatenate([reference[f"{part}/likelihoods"].mean(axis=1) for part in range(-(-count // each))])[:count]


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
    originals: npt.NDArray[np.float64],
    reference: Reference,
    divergences: npt.NDArray[np.float64],
    agreements: npt.NDArray[np.float64],
) -> dict[str, Measurement]:
    """Compute all metrics from n windows: likelihoods [n, T - 1], originals' means [n], the other arrays [n, T]."""
    shift, divergence_noise, disagreement = reference["0/noise"].tolist()
    windows = likelihoods.mean(axis=1)  # of equal length: their mean is the mean over tokens
    differences = windows - originals
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
