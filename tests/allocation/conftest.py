"""One allocator for the tiny Llama, its menus small enough that everything is measured in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import openvino as ov
import pytest
from small_world import TEXT, World
from transformers import AutoTokenizer

from autotune.allocation.allocator import Allocator
from autotune.allocation.choices import make_menus
from autotune.allocation.probe import Probe, Texts
from autotune.compression.calibration.statistics import StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.settings import Settings
from autotune.evaluation.texts.sources import token_windows
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from evaluators.perplexity import Perplexity


@pytest.fixture(scope="session")
def world(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("allocation")
    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    text = folder / "text.txt"
    text.write_text(TEXT * 4, encoding="utf-8")
    windows = token_windows(tokenizer, [TEXT * 6], sequence_length=32, samples=16)
    cache = StatisticsCache(folder / "statistics")
    engine = Engine(
        model,
        statistics=lambda: cache.get_or_collect(model, engine.activations, windows, model_fingerprint="tiny"),
    )
    menus = make_menus(
        engine,
        [
            Settings(mode="int8_asym"),
            Settings(mode="int4_asym", group_size=32, all_layers=True, gptq=True),
            Settings(mode="int4_sym", group_size=64, all_layers=True),
        ],
    )
    evaluator = Perplexity(path=text, sequence_length=32, samples=16)
    with OpenVINOLanguageModel(model, tokenizer) as original:
        reference = evaluator.reference(original)
    texts = Texts(evaluator, lambda: reference, "tiny")
    weights = {weight.name: weight for weight in engine.weights}
    probe = Probe(model, weights, tokenizer, device="CPU", ov_config={})
    yield World(model, tokenizer, engine, menus, probe, texts)
    probe.close()


@pytest.fixture(scope="session")
def allocator(world: World) -> Allocator:
    return Allocator(world.engine, world.menus, lambda: world.probe, short=world.texts, full=world.texts)
