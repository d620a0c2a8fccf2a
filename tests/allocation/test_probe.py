from __future__ import annotations

import numpy as np
import pytest
from builders import language_chain, normal
from small_world import World

from autotune.allocation.probe import input_name, with_weights_as_inputs
from autotune.allocation.suffix import Suffixes
from autotune.compression.ir.weights import find_weights, rows_to_shape
from autotune.models.runtime.language_model import OpenVINOLanguageModel

TOKENS = np.arange(64, dtype=np.int64).reshape(2, 32)


def test_with_nothing_replaced_it_is_the_original(world: World) -> None:
    with OpenVINOLanguageModel(world.model, world.tokenizer) as original:
        expected = original.logits(TOKENS)
    with world.probe.replaced({}) as model:
        np.testing.assert_allclose(model.logits(TOKENS), expected, atol=1e-4)


def test_with_weights_replaced_it_is_the_compressed_model_and_then_the_original_again(world: World) -> None:
    """The divergence of a plan can be measured without building its model."""
    plan = world.menus.uniform[2]
    values = {}
    for weight in world.engine.weights:
        restored = world.engine.restored(weight, plan.variants[weight.name])
        values[weight.name] = rows_to_shape(restored[:, None, :], weight)[0]
    with world.probe.replaced({}) as model:
        before = model.logits(TOKENS)
    with world.probe.replaced(values) as model:
        replaced = model.logits(TOKENS)
    with OpenVINOLanguageModel(world.engine.apply(plan), world.tokenizer) as compressed:
        np.testing.assert_allclose(replaced, compressed.logits(TOKENS), atol=1e-3)
    assert np.abs(replaced - before).max() > 0.05
    with world.probe.replaced({}) as model:
        np.testing.assert_array_equal(model.logits(TOKENS), before)


def test_behind_a_cut_it_is_the_whole_model(world: World) -> None:
    """A weight alone costs what the whole model with it says, though only the part behind it is run."""
    evaluator, reference = world.texts.evaluator, world.texts.reference()
    plan = world.menus.uniform[2]
    for weight in world.engine.weights:
        restored = world.engine.restored(weight, plan.variants[weight.name])
        values = {weight.name: rows_to_shape(restored[:, None, :], weight)[0]}
        found = world.probe.score(values, evaluator, reference)
        with world.probe.replaced(values) as whole:
            expected = evaluator.evaluate(whole, reference)["kl_divergence"]
        assert found.value == pytest.approx(expected.value, rel=1e-3, abs=1e-7)
    assert len({world.probe.segment(weight.name) for weight in world.engine.weights}) > 2


def test_a_table_that_is_also_the_head_is_measured_from_its_first_use() -> None:
    """A change of a tied embedding changes all that comes after the lookup, not the logits alone."""
    model = language_chain([normal(64, 64, seed=seed) for seed in range(4)], normal(96, 64), tied=True)
    model.outputs[0].get_tensor().set_names({"logits"})
    weights = {weight.name: weight for weight in find_weights(model)}
    probe, _ = with_weights_as_inputs(model, weights)
    suffixes = Suffixes(model, probe, {}, None, device="CPU", ov_config={})
    segments = {name: suffixes.segment(input_name(name)) for name in weights}
    assert segments["E"] == 0
    assert segments["W3"] > segments["W0"]
