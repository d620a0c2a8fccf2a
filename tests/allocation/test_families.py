"""A whole allocation of a real model: never worse than uniform settings of the same size.

Cuts and errors of the other families: `test_large_embeddings.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import openvino as ov
import pytest
from small_world import TEXT
from transformers import AutoTokenizer

from autotune.allocation.allocator import Allocator
from autotune.allocation.choices import default_settings, make_menus
from autotune.allocation.probe import Probe, Texts
from autotune.compression.calibration.statistics import StatisticsCache
from autotune.compression.engine import Engine
from autotune.evaluation.texts.sources import token_windows
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from evaluators.perplexity import Perplexity


@pytest.mark.parametrize("family", ["gemma", "qwen2_moe"])
def test_no_worse_than_any_uniform_setting(family: str, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """At the size of each uniform plan, by the divergence of the compressed models themselves."""
    folder = family_folder(family)
    model = ov.Core().read_model(folder / "ov" / "openvino_model.xml")
    tokenizer = AutoTokenizer.from_pretrained(folder / "ov")
    text = tmp_path / "text.txt"
    text.write_text(TEXT * 6, encoding="utf-8")
    windows = token_windows(tokenizer, [TEXT * 6], sequence_length=32, samples=16)
    cache = StatisticsCache(tmp_path / "statistics")
    engine = Engine(
        model, statistics=lambda: cache.get_or_collect(model, engine.activations, windows, model_fingerprint=family)
    )
    evaluator = Perplexity(path=text, sequence_length=32, samples=16)
    with OpenVINOLanguageModel(model, tokenizer) as original:
        reference = evaluator.reference(original)
    texts = Texts(evaluator, lambda: reference, family)
    menus = make_menus(engine, default_settings(data_aware=True))
    weights = {weight.name: weight for weight in engine.weights if weight.name in menus.choices}
    probe = Probe(model, weights, tokenizer, device="CPU", ov_config={})
    try:
        allocator = Allocator(engine, menus, lambda: probe, short=texts, full=texts)
        plans = {plan.key: plan for plan in menus.uniform}
        points = {key: allocator.best(plans[key].footprint) for key in list(plans)[::2]}
    finally:
        probe.close()

    def divergence(plan: object) -> float:
        with OpenVINOLanguageModel(engine.apply(plan), tokenizer) as compressed:  # type: ignore[arg-type]
            return evaluator.evaluate(compressed, reference)["kl_divergence"].value

    measured = {key: divergence(plan) for key, plan in plans.items()}
    for key, point in points.items():
        assert point.plan.footprint <= plans[key].footprint
        least = min(value for other, value in measured.items() if plans[other].footprint <= plans[key].footprint)
        # The probe multiplies by float32 weights, the compressed model by packed ones: the same to some last bits.
        assert divergence(point.plan) <= least * 1.02 + 1e-7


@pytest.mark.parametrize("family", ["granitemoehybrid", "lfm2"])
def test_uniform_plans_leave_convolutions_too(family: str, family_folder: Callable[[str], Path]) -> None:
    """Plans that are compared compress the same weights: only those of the menus are inputs of the probe."""
    engine = Engine(ov.Core().read_model(family_folder(family) / "ov" / "openvino_model.xml"))
    menus = make_menus(engine, default_settings(data_aware=False))
    assert any(use.kind == "convolution" for weight in engine.weights for use in weight.uses)
    assert menus.uniform
    assert all(plan.variants.keys() <= menus.choices.keys() for plan in menus.uniform)
