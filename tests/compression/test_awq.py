from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import (
    as_constant,
    cast_weights,
    constants,
    distance,
    features,
    gated_block,
    logits,
    named,
    normal,
    outputs_of,
    result_model,
)
from openvino import opset15 as ops

from autotune.compression.awq import LARGEST, AwqGroup, Member, find_groups, search_scale
from autotune.compression.engine import Engine
from autotune.compression.plan import Plan
from autotune.compression.settings import Settings
from autotune.compression.statistics import Statistics
from autotune.compression.variants import Variant
from autotune.compression.weights import find_weights

Groups = dict[tuple[str, ...], tuple[str | None, str | None]]


def groups_of(model: ov.Model) -> Groups:
    """Weights of each group -> (gain, producer)."""
    return {tuple(sorted(g.weights)): (g.gain, g.producer) for g in find_groups(model, find_weights(model))}


def test_llama_has_a_group_at_every_norm_and_every_gated_product(llama: ov.Model) -> None:
    """q, k, v and gate, up share the gain before them, down follows up, the head the last norm; o has no place."""
    expected: Groups = {("self.lm_head.weight",): ("__module.model.norm.weight", None)}
    for i in (0, 1):
        layer, module = f"self.model.layers.{i}", f"__module.model.layers.{i}"
        qkv = sorted(f"{layer}.self_attn.{name}_proj.weight" for name in "qkv")
        expected[tuple(qkv)] = (f"{module}.input_layernorm.weight", None)
        gate_up = (f"{layer}.mlp.gate_proj.weight", f"{layer}.mlp.up_proj.weight")
        expected[gate_up] = (f"{module}.post_attention_layernorm.weight", None)
        expected[(f"{layer}.mlp.down_proj.weight",)] = (None, gate_up[1])
    assert groups_of(llama) == expected


def test_half_precision_gains_are_found_too(llama: ov.Model) -> None:
    """A gain that comes through a Convert is as good as a plain one."""
    gains = [gain for gain, _ in groups_of(llama).values() if gain is not None]
    assert groups_of(cast_weights(llama, gains, "f16")) == groups_of(llama)


@pytest.mark.parametrize(
    ("also_uses", "expected"),
    [
        (None, {("gate", "up"): ("gain", None), ("down",): (None, "up")}),
        ("norm", {("down",): (None, "up")}),
        ("gain", {("down",): (None, "up")}),
        ("up", {("gate", "up"): ("gain", None)}),
        ("product", {("gate", "up"): ("gain", None)}),
    ],
)
def test_an_activation_with_another_consumer_is_left_alone(also_uses: str | None, expected: Groups) -> None:
    """What anything else in the model reads cannot be scaled without changing the function (NNCF scales it)."""
    assert groups_of(gated_block(also_uses=also_uses)) == expected


def test_a_result_is_a_consumer() -> None:
    """An activation that is also an output of the model is left alone."""
    model = gated_block()
    normed = next(n for n in model.get_ordered_ops() if n.get_friendly_name() == "normed")
    model.add_results([ops.result(normed)])
    assert groups_of(model) == {("down",): (None, "up")}


def test_a_gain_whose_name_is_not_its_own_is_left_alone() -> None:
    """Gains are found again by name when they are divided, so a name that occurs twice is none."""
    model = gated_block()
    ones = named(ops.constant(np.ones((1, 1, 32), np.float32)), "gain")
    result = model.get_results()[0]
    result.input(0).replace_source_output(ops.multiply(result.input_value(0), ones).output(0))
    assert groups_of(model) == {("down",): (None, "up")}


def test_tied_weights_are_left_alone() -> None:
    """A weight that two operations share would take the scale of one of them into the other."""
    x = features(16)
    gain, shared = as_constant(normal(1, 1, 16), "gain"), as_constant(normal(16, 16), "shared")
    first = ops.matmul(named(ops.multiply(ops.tanh(x), gain), "normed"), shared, False, True)
    assert groups_of(result_model([ops.matmul(ops.tanh(first), shared, False, True)], [x])) == {}


@pytest.mark.parametrize("shape", [(1, 1, 1), (1,), (1, 16, 1)])
def test_a_factor_without_a_value_for_each_channel_is_no_gain(shape: tuple[int, ...]) -> None:
    """One number for all channels, or one for each token, cannot take a channel scale."""
    x = named(ops.parameter([1, 16, 16], np.float32), "x")
    normed = ops.multiply(ops.tanh(x), as_constant(normal(*shape), "factor"))
    assert groups_of(result_model([ops.matmul(normed, as_constant(normal(4, 16), "W"), False, True)], [x])) == {}


LOSSLESS = Variant("int4_asym", 1)
"""One value a group is an end of its own range: nothing is lost but the rounding of its scale to float16."""


def scaled_everywhere(engine: Engine, model: ov.Model) -> Plan:
    """A plan with every AWQ group of a model, in a format that loses next to nothing."""
    groups = find_groups(model, find_weights(model))
    scaled = {name for group in groups for name in group.weights}
    producers = {group.producer for group in groups}
    plan = engine.plan(Settings())
    variants = {
        w.name: replace(LOSSLESS, awq=w.name in scaled, awq_output=w.name in producers)
        for w in engine.weights
        if w.kind == "matmul"
    }
    return replace(plan, variants=variants, awq=tuple(group.activation for group in groups))


@pytest.mark.parametrize("storage", ["f32", "f16"])
def test_awq_does_not_change_the_function(
    llama: ov.Model, statistics: Callable[[], Statistics], tokens: npt.NDArray[np.int64], storage: str
) -> None:
    """In a format without loss, logits with every scale applied differ from the original's as little as without."""
    model = cast_weights(llama, [n for n in constants(llama) if n.endswith(".weight")], storage)
    engine = Engine(model, statistics=statistics)
    plan = scaled_everywhere(engine, model)
    plain = replace(
        plan, variants={n: replace(v, awq=False, awq_output=False) for n, v in plan.variants.items()}, awq=()
    )
    assert len(plan.awq) == 7
    original = logits(model, tokens)
    without, with_awq = (distance(original, logits(engine.apply(p), tokens)) for p in (plain, plan))
    assert without < 0.01
    assert with_awq < 2 * without


def test_awq_scales_are_really_applied(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """Gains are the original ones over a scale that differs from channel to channel, nowhere beyond float16's reach."""
    engine = Engine(llama, statistics=statistics)
    plan = engine.plan(Settings(mode="int4_sym", group_size=32, awq=True))
    before, after = constants(llama), constants(engine.apply(plan))
    gains = [gain for gain, _ in groups_of(llama).values() if gain is not None and "layers" in gain]
    assert len(gains) == 4
    for gain in gains:
        scale = before[gain].data / after[gain].data
        assert scale.max() > 1.05 * scale.min()
        assert 1 / LARGEST <= scale.min() <= scale.max() <= LARGEST


def test_awq_leaves_producers_of_uncompressed_weights_alone(
    llama: ov.Model, statistics: Callable[[], Statistics]
) -> None:
    """A group is not scaled where one of its weights, or the weight before it, stays as it is."""
    engine = Engine(llama, statistics=statistics)
    ignored = (".*layers.0.mlp.up_proj.*", ".*layers.1.self_attn.q_proj.*")
    plan = engine.plan(Settings(mode="int4_sym", group_size=32, awq=True, ignored_scope=ignored))
    assert sorted(plan.awq) == [
        "__module.model.layers.0.input_layernorm/aten::mul/Multiply_1:0",
        "__module.model.layers.1.mlp/aten::mul/Multiply:0",
        "__module.model.layers.1.post_attention_layernorm/aten::mul/Multiply_1:0",
    ]
    marked = {name for name, variant in plan.variants.items() if variant.awq}
    assert not any("layers.0.mlp" in name or "layers.1.self_attn" in name for name in marked)


def member(rows: npt.NDArray[np.float32], mode: str = "int4_sym") -> Member:
    """A member of a group over these rows [R, K]."""
    x = features(rows.shape[1])
    (weight,) = find_weights(result_model([ops.matmul(x, as_constant(rows, "W"), False, True)], [x]))
    return Member(weight, Variant(mode, 32), lambda start, stop: rows[start:stop])


def test_search_protects_channels_with_large_activations() -> None:
    """Where a few channels carry the activation, they get the larger scales, and the output error goes down."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 64)).astype(np.float32)
    x = rng.normal(size=(200, 64)) * np.where(np.arange(64) % 16 == 0, 20, 1)
    scale = search_scale([member(rows)], (x.T @ x / len(x)).astype(np.float32))
    assert scale.shape == (64,)
    assert scale[::16].min() > 1.5 * np.delete(scale, np.s_[::16]).max()


def test_search_without_any_activation_scales_nothing() -> None:
    """Dead channels only: all ones."""
    found = search_scale([member(normal(8, 32))], np.zeros((32, 32), np.float32))
    assert np.array_equal(found, np.ones(32, np.float32))


def test_even_activations_scale_nothing() -> None:
    """Channels of equal strength need no scale: it is the same for all of them."""
    found = search_scale([member(normal(8, 32))], np.eye(32, dtype=np.float32) * 3)
    assert np.allclose(found, 1, rtol=1e-6)


def test_group_says_where_it_is() -> None:
    """A group names the activation by operation and port."""
    model = gated_block()
    assert find_groups(model, find_weights(model))[0] == AwqGroup("normed:0", ("gate", "up"), gain="gain")


def test_small_block_computes_the_same_after_scaling() -> None:
    """The gated block, scaled in both places with random scales by the engine's own pieces, gives the same outputs."""
    from autotune.compression.graph import assemble
    from autotune.compression.variants import Treatment, compress_weight, read_rows

    rng = np.random.default_rng(2)
    model = gated_block()
    first = np.exp(rng.normal(size=32)).astype(np.float32)
    second = np.exp(rng.normal(size=64)).astype(np.float32)
    treatments = {
        "gate": Treatment(input_scale=first),
        "up": Treatment(input_scale=first, output_scale=second),
        "down": Treatment(input_scale=second),
    }
    compressed = []
    for weight in find_weights(model):
        read = read_rows(constants(model)[weight.name], weight)
        compressed.append((weight, LOSSLESS, compress_weight(read, weight, LOSSLESS, treatments[weight.name])))
    scaled = assemble(model, compressed, {"gain": first}, {})
    x = normal(2, 7, 32, seed=9)
    assert distance(outputs_of(model, x), outputs_of(scaled, x)) < 0.001
