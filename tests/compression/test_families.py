"""Every family of models, exported by optimum-intel, goes through the whole engine."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import bin_size, content, differing, distance, logits
from families import FAMILIES, VOCABULARY

from autotune.compression.calibration.statistics import StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.settings import MODES, Settings

TOKENS: npt.NDArray[np.int64] = np.random.default_rng(5).integers(1, VOCABULARY, (4, 40), dtype=np.int64)
INT4 = {"mode": "int4_asym", "group_size": 64}
ALGORITHMS = {
    "ratio": {"ratio": 0.6},
    "all_layers": {"all_layers": True, "scale_estimation": True},
    "awq": {"awq": True},
    "awq-scale_estimation": {"awq": True, "scale_estimation": True},
    "gptq": {"gptq": True},
    "awq-gptq-scale_estimation": {"awq": True, "gptq": True, "scale_estimation": True},
    "awq-scale_estimation-lora": {"awq": True, "scale_estimation": True, "lora_correction": True},
}
SETTINGS: dict[str, dict[str, Any]] = {mode: {"mode": mode} for mode in MODES if mode != "codebook"}
SETTINGS |= {name: {**INT4, **options} for name, options in ALGORITHMS.items()}

CASES = [
    (family, name)
    for row, family in enumerate(FAMILIES)
    for column, name in enumerate(SETTINGS)
    if name in ALGORITHMS or family == "qwen2" or (row + column) % 4 == 0
]
"""Algorithms look at the graph of a family; formats look at single weights, so each goes through a quarter of them."""

LARGEST_ERROR = {"int8_asym": 0.04, "int8_sym": 0.04, "int3_sym": 0.9, "int2_sym": 1.5}
"""Of the logits, relative; 0.5 where it is not said. Random weights lose much in coarse formats."""

CHANNELS_FIRST = {"lfm2": ["self.model.model.layers.0.conv.out_proj.weight"]}
"""Weights whose inputs have their channels before their tokens."""

Family = Callable[[str], "Original"]


class Original:
    """The exported model of a family, its logits and an engine with statistics of the same tokens."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = self.read()
        self.logits = logits(self.model, TOKENS)
        self.engine = Engine(self.model, statistics=self._statistics)

    def read(self) -> ov.Model:
        return ov.Core().read_model(self.folder / "ov" / "openvino_model.xml")

    def _statistics(self) -> Any:
        cache = StatisticsCache(self.folder / "statistics")
        return cache.get_or_collect(self.model, self.engine.activations, TOKENS, model_fingerprint="")


@pytest.fixture(scope="module")
def original(family_folder: Callable[[str], Path]) -> Family:
    """The exported model of a family, by name."""
    return cache(lambda name: Original(family_folder(name)))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_export_is_the_model(family: str, original: Family) -> None:
    """The exported graph gives the logits that transformers gives, so that what is compressed is the family."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(original(family).folder / "hf", dtype=torch.float32)
    with torch.no_grad():
        expected = model(torch.tensor(TOKENS)).logits.numpy()
    assert len(np.unique(expected.argmax(axis=-1))) > 20
    assert distance(expected, original(family).logits) < 1e-5


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_setting_gives_a_model_that_runs(family: str, name: str, original: Family, tmp_path: Path) -> None:
    """Compressed, saved and run, each family keeps near its own logits, and its file has the size that was planned."""
    source = original(family)
    plan = source.engine.plan(Settings(**SETTINGS[name]))
    compressed = source.engine.apply(plan)
    assert bin_size(compressed, tmp_path) == plan.footprint
    error = distance(source.logits, logits(compressed, TOKENS))
    assert error < (0.1 if FAMILIES[family].routed else 0) + LARGEST_ERROR.get(name, 0.5)


@pytest.mark.parametrize("family", FAMILIES)
def test_activations_of_every_matrix_are_seen(family: str, original: Family) -> None:
    """There is no MatMul that activation-aware methods cannot look at, but for those behind convolutions."""
    weights = original(family).engine.weights
    unseen = [w.name for w in weights for use in w.uses if use.kind == "matmul" and use.activation is None]
    assert unseen == CHANNELS_FIRST.get(family, [])


@pytest.mark.parametrize(
    "settings",
    [
        {"mode": "int8_asym"},
        {"mode": "int4_asym", "group_size": 32},
        {"mode": "int4_asym", "group_size": 64, "all_layers": True},
    ],
    ids=["int8", "int4", "all_layers"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_nncf_compresses_the_same_constants(family: str, settings: dict[str, Any], original: Family) -> None:
    """Without data, NNCF gives every constant of every family the same type, shape and bytes."""
    nncf = pytest.importorskip("nncf")
    nncf.set_log_level(logging.ERROR)
    arguments = {**settings, "mode": getattr(nncf.CompressWeightsMode, settings["mode"].upper())}
    if "group_size" in settings:
        arguments["advanced_parameters"] = nncf.AdvancedCompressionParameters(
            group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST
        )
    expected = content(nncf.compress_weights(original(family).read(), **arguments))
    engine = original(family).engine
    assert differing(content(engine.apply(engine.plan(Settings(**settings)))), expected) == []
