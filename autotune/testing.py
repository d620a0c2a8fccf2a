"""Helpers for tests of evaluators: a conformance suite, and a language model without OpenVINO.

from autotune.testing import EvaluatorConformance

class TestMine(EvaluatorConformance):
    def make(self):
        return MyEvaluator(option=1)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import EvaluationError
from autotune.evaluation import (
    Evaluator,
    HeldOut,
    Measurement,
    Metric,
    Previewing,
    ReferenceStore,
    StagedEvaluator,
    answers_along,
)

if TYPE_CHECKING:
    from autotune.evaluation import Choose, FloatArray, IntArray, Reference, Visit

__all__ = ["EvaluatorConformance", "FakeEncoder", "FakeLanguageModel", "FakeTokenizer"]

_PIECE = 7  # positions in one piece of a scan


class FakeTokenizer:
    """Tokenizer with one token a character: 0 is end of text, 1 unknown, then newline and printable ASCII."""

    chat_template: str | None = None
    eos_token = "<end>"
    eos_token_id = 0
    pad_token = "<end>"

    def __init__(self) -> None:
        """Make the alphabet."""
        self._alphabet = [self.eos_token, "?", "\n", *map(chr, range(32, 127))]
        self._ids = {character: index for index, character in enumerate(self._alphabet) if index >= 2}

    def __len__(self) -> int:
        return len(self._alphabet)

    def __call__(
        self,
        text: str,
        pair: str = "",
        add_special_tokens: bool = True,
        verbose: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
    ) -> dict[str, list[int]]:
        """Tokenize `text`, and the text after it, into ``{"input_ids": [...]}``."""
        tokens = [self._ids.get(character, 1) for character in text + pair]
        return {"input_ids": tokens[:max_length] if truncation else tokens}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """Return the text of `tokens`."""
        return "".join(self._alphabet[token] for token in tokens if token or not skip_special_tokens)


class FakeLanguageModel:
    """Deterministic language model in NumPy; its logits are a random function of the last two tokens.

    Implements `autotune.evaluation.LanguageModel`. Two models with the same seed are equal; `noise` changes the logits,
    as compression does; `broken` makes every method raise as for NaN logits.

    Attributes:
        calls: number of calls of each method.
    """

    def __init__(
        self, *, seed: int = 0, noise: float = 0.0, broken: bool = False, vocabulary_size: int | None = None
    ) -> None:
        """Make the tables.

        Args:
            seed: of the model.
            noise: standard deviation of the noise in each table of logits; that of the logits is about 3.
            broken: raise as a model with NaN logits does.
            vocabulary_size: V, at least the tokenizer's 98, which is the default.
        """
        self._tokenizer = FakeTokenizer()
        size = vocabulary_size or len(self._tokenizer)
        random = np.random.default_rng(seed)
        self._tables = random.normal(0.0, 2.0, (2, len(self._tokenizer), size)).astype(np.float32)
        self._tables += noise * np.random.default_rng(seed + 1).normal(0.0, 1.0, self._tables.shape).astype(np.float32)
        self._tables[:, :, len(self._tokenizer) :] -= 10.0
        self._broken = broken
        self.calls = {"logits": 0, "scan": 0, "greedy": 0, "greedy_batch": 0, "sample_batch": 0}

    @property
    def tokenizer(self) -> FakeTokenizer:
        """One token a character."""
        return self._tokenizer

    @property
    def end_token_ids(self) -> frozenset[int]:
        """Token 0 ends an answer."""
        return frozenset({0})

    @property
    def source(self) -> None:
        """None: there is no OpenVINO model."""

    @property
    def vocabulary_size(self) -> int:
        """Width of the logits, V."""
        return int(self._tables.shape[-1])

    @property
    def takes_images(self) -> bool:
        """Return False: prompts are tokenized."""
        return False

    def prompt(self, text: str, image: Path | None) -> list[int]:
        """Refuse an image, as models for text alone do."""
        raise EvaluationError(f"the model takes no images; leave out {image}.")

    def logits(self, tokens: IntArray) -> FloatArray:
        """See `LanguageModel.logits`."""
        self.calls["logits"] += 1
        return self._logits(np.asarray(tokens))

    def scan(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[tuple[int, int, FloatArray]]:
        """See `LanguageModel.scan`; in small pieces that alternate and are overwritten, as a real model's may be."""
        self.calls["scan"] += 1
        for start in range(0, max(map(len, sequences), default=0), _PIECE):
            for index, sequence in enumerate(sequences):
                begin, end = max(start, first[index]), min(start + _PIECE, len(sequence))
                if begin < end:
                    logits = self._logits(np.array([sequence[:end]]))[0, begin:]
                    yield index, begin, logits
                    logits[:] = np.nan

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """See `LanguageModel.greedy`."""
        self.calls["greedy"] += 1
        return self._greedy(prompt, max_new_tokens)

    def greedy_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        drafts: Sequence[Sequence[int]] | None = None,
        visit: Visit | None = None,
    ) -> list[list[int]]:
        """See `LanguageModel.greedy_batch`."""
        if visit is not None:
            assert drafts is not None, "passes along drafts need drafts"
            return answers_along(self, prompts, max_new_tokens, drafts, visit)
        self.calls["greedy_batch"] += 1
        return [self._greedy(prompt, limit) for prompt, limit in zip(prompts, max_new_tokens, strict=True)]

    def sample_batch(self, prompts: IntArray, length: int, choose: Choose) -> list[list[int]]:
        """See `LanguageModel.sample_batch`."""
        self.calls["sample_batch"] += 1
        texts: list[list[int]] = np.asarray(prompts).tolist()
        still_open = np.arange(len(texts))
        for position in range(len(texts[0]), length):
            logits = self._logits(np.array([texts[index][-2:] for index in still_open]))[:, -1]
            chosen = choose(still_open, position, logits)
            for index, token in zip(still_open, chosen.tolist(), strict=True):
                texts[index].append(token)
            still_open = still_open[chosen != 0]
            if not len(still_open):
                break
        return texts

    def _greedy(self, prompt: Sequence[int], limit: int) -> list[int]:
        tokens = list(prompt)
        while len(tokens) < len(prompt) + limit:
            token = int(self._logits(np.array([tokens[-2:]]))[0, -1].argmax())
            if token == 0:
                break
            tokens.append(token)
        return tokens[len(prompt) :]

    def _logits(self, tokens: IntArray) -> FloatArray:
        if self._broken:
            raise EvaluationError(
                "the fake model returns NaN or infinite logits, because it was created with broken=True."
            )
        before = np.concatenate([np.zeros_like(tokens[:, :1]), tokens[:, :-1]], axis=1)
        logits: FloatArray = self._tables[0][tokens] + self._tables[1][before]
        return logits


class FakeEncoder:
    """Deterministic encoder in NumPy; implements `autotune.evaluation.Encoder`.

    The vector of a token is a random function of it and of the mean of the text.

    Attributes:
        usage: as given.
    """

    def __init__(
        self, *, seed: int = 0, noise: float = 0.0, broken: bool = False, logits: int = 0, **usage: Any
    ) -> None:
        """Make the table.

        Args:
            seed, noise, broken: as for `FakeLanguageModel`.
            logits: number of logits of a text; 0 is a vector of 16 numbers for each token.
            usage: see `Encoder`.
        """
        self.tokenizer, self.usage, self.source = FakeTokenizer(), usage, None
        shape = (len(self.tokenizer), logits or 16)
        self._table = np.random.default_rng(seed).normal(0.0, 1.0, shape).astype(np.float32)
        self._table += noise * np.random.default_rng(seed + 1).normal(0.0, 1.0, shape).astype(np.float32)
        self._broken, self._logits = broken, logits

    def run(
        self, sequences: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Iterator[tuple[int, FloatArray]]:
        """See `Encoder.run`; the last text comes first."""
        if self._broken:
            raise EvaluationError("the fake model returns NaN or infinite numbers, because it has broken=True.")
        for index in reversed(range(len(sequences))):
            vectors = self._table[np.asarray(sequences[index])]
            mean = vectors.mean(axis=0)
            yield index, mean if self._logits else vectors + mean


class EvaluatorConformance:
    """Tests that every evaluator must pass; a test class inherits this and defines `make`."""

    def make(self) -> Evaluator:
        """Return a new evaluator that can score a `FakeLanguageModel`, always with the same options."""
        raise NotImplementedError

    def model(self, **options: Any) -> Any:
        """Return the model to score, by default a `FakeLanguageModel`, which has the options."""
        return FakeLanguageModel(**options)

    def test_is_an_evaluator(self) -> None:
        """It has the protocol's members, and its metrics are named and described."""
        evaluator = self.make()
        assert isinstance(evaluator, Evaluator)
        assert evaluator.metrics
        for name, metric in evaluator.metrics.items():
            assert name.isidentifier()
            assert isinstance(metric, Metric)
            assert metric.direction in ("minimize", "maximize")
            assert metric.description

    def test_fingerprint_is_stable(self) -> None:
        """Two evaluators with the same options have the same fingerprint."""
        assert self.make().fingerprint() == self.make().fingerprint()

    def test_original_scores_like_itself(self, tmp_path: Path) -> None:
        """Scoring the original against its own reference gives the values of `original`; perfect ones if defined."""
        evaluator = self.make()
        reference = self._stored(evaluator, tmp_path)
        scores = evaluator.evaluate(self.model(), reference)
        stated = evaluator.original(reference)
        self._check(evaluator, scores)
        self._check(evaluator, stated)
        for name, metric in evaluator.metrics.items():
            assert math.isclose(scores[name].value, stated[name].value, rel_tol=1e-5, abs_tol=1e-6), name
            if metric.perfect is not None:
                assert math.isclose(stated[name].value, metric.perfect, abs_tol=1e-9), name

    def test_disturbed_model_scores_worse(self, tmp_path: Path) -> None:
        """A disturbed model is never better than perfect, and worse than the original by one metric at least."""
        evaluator = self.make()
        reference = self._stored(evaluator, tmp_path)
        scores = evaluator.evaluate(self.model(noise=1.0), reference)
        self._check(evaluator, scores)
        losses = [
            (scores[name].value - metric.perfect) * (1.0 if metric.direction == "minimize" else -1.0)
            for name, metric in evaluator.metrics.items()
            if metric.perfect is not None
        ]
        assert not losses or max(losses) > 0.0

    def test_is_deterministic_and_keeps_its_reference(self, tmp_path: Path) -> None:
        """Another instance, given the stored reference, gives the same scores; the reference is only read."""
        reference = self._stored(self.make(), tmp_path)
        first = self.make().evaluate(self.model(noise=0.5), reference)
        again = self.make().evaluate(self.model(noise=0.5), reference)
        assert {name: one.value for name, one in first.items()} == {name: one.value for name, one in again.items()}

    def test_a_preview_is_part_of_the_scores(self, tmp_path: Path) -> None:
        """An evaluator with a cheap part measures exactly that in it, with the values that it has in the whole."""
        evaluator = self.make()
        if not isinstance(evaluator, Previewing):
            return
        reference = self._stored(evaluator, tmp_path)
        every = evaluator.evaluate(self.model(noise=0.5), reference)
        cheap = evaluator.preview(self.model(noise=0.5), reference)
        assert set(cheap) == set(evaluator.previewed) <= set(every)
        assert {name: one.value for name, one in cheap.items()} == {name: every[name].value for name in cheap}

    def test_the_last_stage_is_the_score(self, tmp_path: Path) -> None:
        """An evaluator that scores in stages ends where `evaluate` does, each stage with every metric."""
        evaluator = self.make()
        if not isinstance(evaluator, StagedEvaluator):
            return
        reference = self._stored(evaluator, tmp_path)
        *stages, last = evaluator.stages(self.model(noise=0.5), reference)
        every = evaluator.evaluate(self.model(noise=0.5), reference)
        for scores in (*stages, last):
            self._check(evaluator, scores)
        assert {name: one.value for name, one in last.items()} == {name: one.value for name, one in every.items()}

    def test_held_out_texts_are_others(self) -> None:
        """An evaluator with held-out texts has the same metrics on them and shares no text with the search."""
        evaluator = self.make()
        if not isinstance(evaluator, HeldOut):
            return
        other, tokenizer = evaluator.held_out(), self.model().tokenizer
        if other is None:
            return
        assert set(other.metrics) == set(evaluator.metrics)
        assert other.fingerprint() != evaluator.fingerprint()
        assert isinstance(other, HeldOut)
        own = {tuple(passage) for passage in evaluator.passages(tokenizer)}
        assert not own & {tuple(passage) for passage in other.passages(tokenizer)}

    def test_broken_model_is_an_error(self, tmp_path: Path) -> None:
        """A model that gives NaN is an EvaluationError, not a score."""
        import pytest

        evaluator = self.make()
        reference = self._stored(evaluator, tmp_path)
        with pytest.raises(EvaluationError):
            evaluator.evaluate(self.model(broken=True), reference)

    def _stored(self, evaluator: Evaluator, folder: Path) -> Reference:
        """The reference as it comes back from disk: read-only, and through safetensors."""
        created, _ = ReferenceStore(folder).get_or_create("it", lambda: evaluator.reference(self.model()))
        assert all(not array.flags.writeable for array in created.values())
        return created

    def _check(self, evaluator: Evaluator, scores: Mapping[str, Measurement]) -> None:
        assert set(scores) == set(evaluator.metrics)
        for name, measurement in scores.items():
            assert math.isfinite(measurement.value), name
            assert measurement.stderr is None or measurement.stderr >= 0.0, name
            assert measurement.noise >= 0.0, name
