"""Texts that a model writes itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autotune.compression.settings import Settings
from autotune.config.sections import Calibration
from autotune.errors import ConfigError
from autotune.evaluation.stores import ReferenceStore
from autotune.evaluation.texts import synthetic
from autotune.evaluation.texts.synthetic import cached_windows, generate_windows
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from autotune.study.single import compress, open_model
from autotune.testing import FakeLanguageModel

Tokens = npt.NDArray[np.int64]


def windows(model: Any = None, *, samples: int = 6, length: int = 24, seed: int = 0, **options: Any) -> Tokens:
    model = FakeLanguageModel() if model is None else model
    return generate_windows(model, samples=samples, sequence_length=length, seed=seed, **options)


class Curt(FakeLanguageModel):
    """Ends a text with its `length`-th token."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def sample_batch(self, prompts: Any, length: int, choose: Any) -> list[list[int]]:
        texts = super().sample_batch(prompts, min(length, self.length - 1), choose)
        return [[*text, 0] if text[-1] else text for text in texts]


def test_the_same_seed_writes_the_same_text() -> None:
    """Seed and purpose decide the windows, and different ones have no window in common."""
    first = windows()
    assert first.shape == (6, 24)
    assert first.dtype == np.int64
    np.testing.assert_array_equal(first, windows())
    for other in (windows(seed=1), windows(purpose="evaluation")):
        assert not {tuple(window) for window in other} & {tuple(window) for window in first}


def test_a_text_does_not_depend_on_what_is_written_with_it() -> None:
    """Texts written two at a time are those that were written all at once."""
    np.testing.assert_array_equal(windows(samples=7, batch_size=2), windows(samples=7))


def test_start_tokens_are_spread_over_the_vocabulary() -> None:
    """However many texts are begun, their first tokens lie evenly, and no special token is one."""
    model = FakeLanguageModel()
    for count in (8, 32):
        starts = np.sort(synthetic._start_tokens(model, range(count), [0, 0]))
        assert starts[0] > 0
        assert np.diff([*starts, starts[0] + 97]).max() < 2.7 * 97 / count


def test_a_text_goes_on_with_the_likeliest_tokens_first() -> None:
    """The first tokens behind the start are the model's greedy answer, the later ones are not."""
    model = FakeLanguageModel()
    greedy = synthetic.LIKELIEST_TOKENS
    differing = 0
    for window in windows(model, samples=8):
        answer = model.greedy([int(window[0])], 20)
        assert window[1 : 1 + greedy].tolist() == answer[:greedy]
        differing += window[1:21].tolist() != answer
    assert differing == 8


def test_tokens_are_drawn_as_often_as_the_model_says() -> None:
    """Evenly spread draws pick each of the likeliest tokens by its share, and no other token."""
    logits = np.random.default_rng(1).normal(0, 2, 200).astype(np.float32)
    draws = ((np.arange(20_000) + 0.5) / 20_000)[:, None].repeat(10, axis=1)
    rows = np.broadcast_to(logits, (20_000, 200))
    chosen = synthetic._choose(draws, 0, np.arange(20_000), 9, rows)
    kept = np.argsort(logits)[-synthetic.TOP_K :]
    expected = np.zeros(200)
    expected[kept] = np.exp(logits[kept]) / np.exp(logits[kept]).sum()
    np.testing.assert_allclose(np.bincount(chosen, minlength=200) / 20_000, expected, atol=1e-4)


def test_short_texts_fill_windows_together() -> None:
    """Texts that end early follow each other in a window, each with its end-of-text token."""
    found = windows(Curt(8), samples=3, length=24)
    assert found.shape == (3, 24)
    ends = np.flatnonzero(found.reshape(-1) == 0)
    assert len(ends) >= 9
    assert np.diff([-1, *ends]).max() == 8


def test_a_model_that_ends_at_once_is_refused() -> None:
    """If generated texts are too short to fill the windows, the error says so and names the remedy."""
    with pytest.raises(ConfigError, match=r"3 tokens per sample on average.*path or dataset"):
        windows(Curt(3), length=64)


def test_windows_are_written_once(tmp_path: Path) -> None:
    """The second time they come from the store, and the model is not opened."""
    loads = []

    @contextmanager
    def open_model() -> Iterator[FakeLanguageModel]:
        loads.append(1)
        yield FakeLanguageModel()

    of = {"model_fingerprint": "model", "tokenizer_fingerprint": "tokenizer", "ov_config": {}}
    ask = partial(cached_windows, samples=3, sequence_length=16, **of)
    first = ask(ReferenceStore(tmp_path / "store"), open_model, seed=0)
    again = ask(ReferenceStore(tmp_path / "store"), open_model, seed=0)
    np.testing.assert_array_equal(first, again)
    assert len(loads) == 1
    assert not np.array_equal(ask(ReferenceStore(tmp_path / "store"), open_model, seed=1), first)


@pytest.fixture(scope="module")
def llama(tiny_llama: Path) -> Iterator[OpenVINOLanguageModel]:
    from transformers import AutoTokenizer

    with OpenVINOLanguageModel(tiny_llama, AutoTokenizer.from_pretrained(tiny_llama)) as model:
        yield model


def test_texts_that_end_leave_the_others_as_they_are(llama: OpenVINOLanguageModel) -> None:
    """With the likeliest token at each step a batch gives every prompt its greedy answer, whichever ends first."""
    prompts = np.array([[5, 17], [80, 81], [200, 3], [44, 44]], np.int64)

    def choose(texts: Tokens, position: int, logits: npt.NDArray[np.float32]) -> Tokens:
        best = logits.argmax(axis=-1)
        best[(texts == 1) & (position == 6)] = 0  # the second text is ended here
        return np.asarray(best)

    found = llama.sample_batch(prompts, 14, choose)
    for index, prompt in enumerate(prompts.tolist()):
        expected = [*prompt, *llama.greedy(prompt, 4 if index == 1 else 12)]
        ended = len(expected) < (6 if index == 1 else 14)
        assert found[index] == [*expected, *([0] if ended or index == 1 else [])]


def test_a_model_is_compressed_on_its_own_text(tiny_llama: Path, tmp_path: Path) -> None:
    """`compress` calibrates on what the model writes, and finds the text and everything else again."""
    calibration = Calibration.model_validate({"synthetic": True, "samples": 4, "sequence_length": 16})
    settings = Settings(mode="int4_asym", group_size=32, gptq=True)
    messages: list[str] = []
    for name in ("first", "again"):
        session = open_model(str(tiny_llama), calibration=calibration, cache=tmp_path / "cache", stage=messages.append)
        compress(session, settings, output=tmp_path / name)
    assert "generating 4 windows of 16 tokens with the model" in messages
    files = [(tmp_path / name / "openvino_model.bin").read_bytes() for name in ("first", "again")]
    assert files[0] == files[1]
