"""Memory: processes that run OpenVINO GenAI. The figures of larger models are in benchmarks/memory_at_use.py."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import autotune
from autotune.errors import EvaluationError, PrerequisiteError
from autotune.evaluation import Bounding, Evaluator
from autotune.evaluation.stores import ReferenceStore
from autotune.models.intake import window_length
from evaluators.memory import Memory


@pytest.fixture(scope="module")
def tokenizer(tiny_llama: Path) -> Any:
    """The tiny Llama's."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_llama)


@dataclass
class At:
    """A language model as far as memory needs one."""

    source: Any
    tokenizer: Any


def test_a_prompt_adds_the_same_memory_to_every_format(tiny_llama: Path, tokenizer: Any, tmp_path: Path) -> None:
    """The parts of the original predict the whole; a model in memory is measured without the prompt."""
    import openvino as ov

    path = tiny_llama / "openvino_model.xml"
    evaluator = Memory(prompt_tokens=2048)
    assert isinstance(evaluator, Evaluator)
    original = At(path, tokenizer)
    reference, _ = ReferenceStore(tmp_path).get_or_create("it", lambda: evaluator.reference(original))
    assert int(reference["growth"][0]) > 2048 * 2 * 2 * 2 * 16 * 2  # the KV cache: 2 layers, 2 heads of 16, float16
    whole = evaluator.original(reference)["memory"].value
    assert isinstance(evaluator, Bounding)
    bounds = evaluator.bounds(path.with_suffix(".bin").stat().st_size, reference)
    assert set(bounds) == set(evaluator.metrics)
    assert int(reference["growth"][0]) < bounds["memory"] < whole
    measured = {name: score.value for name, score in evaluator.evaluate(original, reference).items()}
    assert set(measured) == set(evaluator.metrics)
    assert measured["memory_measured"] == pytest.approx(whole, rel=0.05)
    assert measured["memory"] == pytest.approx(whole, rel=0.1)
    in_memory = evaluator.preview(At(ov.Core().read_model(path), tokenizer), reference)
    assert set(in_memory) == evaluator.previewed
    assert in_memory["memory"].value == pytest.approx(whole, rel=0.1)


def test_a_model_that_cannot_run_is_an_error(tiny_llama: Path, tokenizer: Any) -> None:
    """With the reason of OpenVINO, and the length."""
    evaluator = Memory(prompt_tokens=16, ov_config={"KV_CACHE_PRECISION": "u2"})
    with pytest.raises(EvaluationError, match=r"in OpenVINO GenAI with 16 tokens: .*KV_CACHE_PRECISION"):
        evaluator.reference(At(tiny_llama / "openvino_model.xml", tokenizer))


def test_without_genai_the_evaluator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work, with the package to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrerequisiteError, match=r"pip install 'ov-autotune\[genai\]'"):
        Memory().check(None)


def test_a_limit_at_a_length_selects_the_evaluator(tiny_llama: Path) -> None:
    """With the default evaluators, or beside others; a second length is refused, and none is that of the evaluator."""
    limits = {"memory": "<= 6 GB at 8192 tokens"}
    config = autotune.Config(model=str(tiny_llama), space="int4", constraints=limits)  # type: ignore[arg-type]
    assert config.evaluators["memory"] == {"prompt_tokens": 8192}
    assert "perplexity" in config.evaluators
    assert window_length("evaluators.memory", Memory().options) == {}  # a length of no text, which a study looks for
    assert (config.constraints["memory"].value, config.constraints["memory"].text) == (6e9, "<= 6 GB at 8192 tokens")
    assert autotune.Config(**config.as_dict()) == config
    evaluators = {"memory": {"prompt_tokens": 512}, "latency": None}
    with pytest.raises(ValueError, match=r"at 8192 tokens, and evaluators.memory.prompt_tokens is 512"):
        autotune.Config(model=str(tiny_llama), evaluators=evaluators, constraints=limits)  # type: ignore[arg-type]
    for options, length in ({"prompt_tokens": 512}, 512), (None, 4096):
        limits = {"memory_measured": "<=6 GB"}
        config = autotune.Config(model=str(tiny_llama), evaluators={"memory": options}, constraints=limits)  # type: ignore[arg-type]
        assert config.constraints["memory_measured"].text == f"<= 6 GB at {length} tokens"
        assert autotune.Config(**config.as_dict()) == config
