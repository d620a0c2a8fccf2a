from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

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
from channel_scaling import scaled_without_rounding
from families import VOCABULARY
from openvino import opset15 as ops
from openvino import opset17

from autotune.compression.algorithms.awq.groups import find_groups
from autotune.compression.engine import Engine
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import Settings

Groups = dict[tuple[str, ...], tuple[str, ...] | None]


def groups_of(model: ov.Model) -> Groups:
    """Weights of each group -> what takes the inverse of its scale, or None."""
    return {
        tuple(sorted(g.weights)): None if g.merge is None else (*sorted(g.merge.constants), *sorted(g.merge.producers))
        for g in find_groups(model, find_weights(model))
    }


def test_llama_has_a_group_at_every_norm_every_attention_and_every_gated_product(llama: ov.Model) -> None:
    """q, k, v and gate, up share the gain before them, o follows v, down follows up, the head the last norm."""
    expected: Groups = {("self.lm_head.weight",): ("__module.model.norm.weight",)}
    for i in (0, 1):
        layer, module = f"self.model.layers.{i}", f"__module.model.layers.{i}"
        q, k, v, o = (f"{layer}.self_attn.{name}_proj.weight" for name in "qkvo")
        gate, up, down = (f"{layer}.mlp.{name}_proj.weight" for name in ("gate", "up", "down"))
        expected[k, q, v] = (f"{module}.input_layernorm.weight",)
        expected[o,] = (v,)
        expected[gate, up] = (f"{module}.post_attention_layernorm.weight",)
        expected[down,] = (up,)
    assert groups_of(llama) == expected


def test_half_precision_gains_are_found_too(llama: ov.Model) -> None:
    """A gain that comes through a Convert is as good as a plain one."""
    gains = [name for name in constants(llama) if name.endswith("norm.weight")]
    assert len(gains) == 5
    assert groups_of(cast_weights(llama, gains, "f16")) == groups_of(llama)


@pytest.mark.parametrize(
    ("also_uses", "expected"),
    [
        (None, {("gate", "up"): ("gain",), ("down",): ("up",)}),
        ("norm", {("gate", "up"): None, ("down",): ("up",)}),
        ("gain", {("gate", "up"): None, ("down",): ("up",)}),
        ("up", {("gate", "up"): ("gain",), ("down",): None}),
        ("product", {("gate", "up"): ("gain",), ("down",): None}),
    ],
)
@pytest.mark.parametrize("merged", [True, False])
def test_what_something_else_reads_is_not_divided(also_uses: str | None, expected: Groups, merged: bool) -> None:
    """Another consumer keeps the division from being merged (NNCF divides for it, too); a Multiply then serves."""
    model = gated_block(also_uses=also_uses)
    assert groups_of(model) == expected
    x = normal(2, 7, 32, seed=9)
    scaled = scaled_without_rounding(model, merged=merged)
    for index in range(len(model.outputs)):
        assert distance(outputs_of(model, x, index=index), outputs_of(scaled, x, index=index)) < 1e-5


def test_a_result_is_a_consumer() -> None:
    """An activation that is also an output of the model is not divided."""
    model = gated_block()
    normed = next(n for n in model.get_ordered_ops() if n.get_friendly_name() == "normed")
    model.add_results([ops.result(normed)])
    assert groups_of(model) == {("gate", "up"): None, ("down",): ("up",)}


def test_a_gain_whose_name_is_not_its_own_is_left_alone() -> None:
    """Constants are found again by name when they are divided, so a name that occurs twice is none."""
    model = gated_block()
    ones = named(ops.constant(np.ones((1, 1, 32), np.float32)), "gain")
    result = model.get_results()[0]
    result.input(0).replace_source_output(ops.multiply(result.input_value(0), ones).output(0))
    assert groups_of(model) == {("gate", "up"): None, ("down",): ("up",)}


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
    found = groups_of(result_model([ops.matmul(normed, as_constant(normal(4, 16), "W"), False, True)], [x]))
    assert found == {("W",): None}


def between(make: Callable[[ov.Node], ov.Node], width: int = 24) -> ov.Model:
    """x -> MatMul with "first" [24, 16] -> what `make` adds -> MatMul with "second" [5, width]."""
    x = features(16)
    first = ops.matmul(x, as_constant(normal(24, 16, seed=1), "first"), False, True)
    second = as_constant(normal(5, width, seed=2), "second")
    return result_model([ops.matmul(make(first), second, False, True)], [x])


def heads(node: ov.Node, count: int, size: int) -> ov.Node:
    """[B, T, count * size] -> [B, count, T, size]."""
    split = ops.reshape(node, np.array([0, 0, count, size]), special_zero=True)
    return ops.transpose(split, np.array([0, 2, 1, 3]))


def merged_heads(node: ov.Node, width: int) -> ov.Node:
    """[B, H, T, D] -> [B, T, width]."""
    return ops.reshape(ops.transpose(node, np.array([0, 2, 1, 3])), np.array([0, 0, width]), special_zero=True)


def attention(node: ov.Node) -> ov.Node:
    """Softmax(V Vᵀ) V without a mask, by hand; V's heads are repeated twice."""
    values = heads(node, 3, 8)
    wide = ops.broadcast(ops.unsqueeze(values, np.int64(2)), np.array([1, 3, 2, 7, 8]))
    repeated = ops.reshape(wide, np.array([0, 6, -1, 8]), special_zero=True)
    weights = ops.softmax(ops.constant(normal(1, 6, 7, 7)), -1)
    return merged_heads(ops.matmul(weights, repeated, False, False), 48)


COMMUTING: dict[str, tuple[Callable[[ov.Node], ov.Node], int]] = {
    "bias": (lambda node: ops.add(node, as_constant(normal(1, 1, 24), "bias")), 24),
    "relu": (ops.relu, 24),
    "constant factor": (lambda node: ops.multiply(node, np.float32(3)), 24),
    "divided by tokens": (lambda node: ops.divide(node, ops.exp(ops.reduce_max(node, np.array([2]), True))), 24),
    "one output of a split": (lambda node: ops.variadic_split(node, 2, np.array([8, 16])).output(1), 16),
    "slice": (lambda node: ops.slice(node, [4], [12], [1], [2]), 8),
    "two slices": (
        lambda node: ops.multiply(
            ops.slice(node, [0], [12], [1], [2]), ops.sigmoid(ops.slice(node, [12], [24], [1], [2]))
        ),
        12,
    ),
    "concatenated halves": (
        lambda node: ops.concat([ops.split(node, 2, 2).output(1), ops.split(node, 2, 2).output(0)], 2),
        24,
    ),
    "heads and back": (lambda node: merged_heads(heads(node, 3, 8), 24), 24),
    "attention": (attention, 48),
}

KEPT: dict[str, Callable[[ov.Node], ov.Node]] = {
    "tanh": ops.tanh,
    "gelu": lambda node: ops.gelu(node, "erf"),
    "square": lambda node: ops.multiply(node, node),
    "residual": lambda node: ops.add(ops.relu(node), node),
    "softmax": lambda node: ops.softmax(node, -1),
    "scalar bias": lambda node: ops.add(node, np.float32(1)),
    "overlapping slices": lambda node: ops.concat(
        [ops.slice(node, [0], [16], [1], [2]), ops.sigmoid(ops.slice(node, [8], [16], [1], [2]))], 2
    ),
    "whole numbers": lambda node: ops.convert(ops.convert(node, np.int32), np.float32),
}


@pytest.mark.parametrize("name", [n for n in COMMUTING if n not in ("divided by tokens", "concatenated halves")])
def test_a_division_passes_through(name: str) -> None:
    """It reaches the rows of the weight before, and the function stays."""
    make, width = COMMUTING[name]
    model = between(make, width)
    assert "first" in (groups_of(model)["second",] or ())
    x = normal(1, 7, 16, seed=3)
    assert distance(outputs_of(model, x), outputs_of(scaled_without_rounding(model, merged=True), x)) < 1e-5


@pytest.mark.parametrize("name", KEPT)
def test_a_division_does_not_pass_through(name: str) -> None:
    """An operation that does not commute with a scale, or reads its input twice, stops the propagation."""
    model = between(KEPT[name])
    assert groups_of(model)["second",] is None
    x = normal(1, 7, 16, seed=3)
    assert distance(outputs_of(model, x), outputs_of(scaled_without_rounding(model, merged=True), x)) < 1e-3


def test_repeated_heads_share_a_scale() -> None:
    """Channels that read one row of the values are tied to it, and to nothing else."""
    model = between(*COMMUTING["attention"])
    group = next(g for g in find_groups(model, find_weights(model)) if g.weights == ("second",))
    assert group.merge is not None
    channels = np.arange(48).reshape(3, 2, 8)
    assert np.array_equal(group.merge.shared.reshape(3, 2, 8), np.broadcast_to(channels[:, :1], (3, 2, 8)))
    assert np.array_equal(group.merge.producers["first"], channels[:, 0].reshape(-1))


@pytest.mark.parametrize(("start", "merges"), [(0, True), (1, False)])
def test_a_state_must_start_at_nothing(start: float, merges: bool) -> None:
    """The content of a state is divided together with the values written to it, if its initial value is zero."""

    def cached(node: ov.Node) -> ov.Node:
        first = ops.broadcast(ops.constant(np.float32(start)), np.array([1, 0, 24]))
        state = ops.read_value(first, "state", np.float32, [1, -1, 24])
        joined = ops.concat([state, node], 1)
        sinks.append(ops.assign(joined, "state"))
        return joined

    sinks: list[ov.Node] = []
    model = between(cached)
    model.add_sinks(sinks)
    assert (groups_of(model)["second",] is not None) == merges


def test_a_width_that_the_graph_leaves_open_is_that_of_the_weight() -> None:
    """Exports reshape heads to [batch, tokens, -1]; the input is calibrated, and divided in the rows before."""
    x = features(32)
    before = ops.gather(ops.shape_of(x), np.array([0, 1]), np.int64(0))
    rows = ops.matmul(x, as_constant(normal(64, 32), "rows"), False, True)
    split = ops.reshape(rows, ops.concat([before, ops.constant(np.array([4, 16]))], 0), special_zero=False)
    back = named(ops.reshape(split, ops.concat([before, ops.constant(np.array([-1]))], 0), special_zero=False), "back")
    assert back.get_output_partial_shape(0)[2].is_dynamic
    model = result_model([ops.matmul(back, as_constant(normal(8, 64, seed=1), "W"), False, True)], [x])
    assert find_weights(model)[1].activations == ("back:0",)
    assert groups_of(model)[("W",)] == ("rows",)
    inputs = normal(2, 5, 32, seed=9)
    assert distance(outputs_of(model, inputs), outputs_of(scaled_without_rounding(model, merged=True), inputs)) < 1e-5


def expert_block(*, grouped: bool) -> ov.Model:
    """Swish(gate) * up -> down for three experts: all of them on all tokens, or each on its own by GroupedMatMul."""
    x = named(ops.parameter([-1, 32], np.float32), "x")
    ends = ops.parameter([3], np.int32)
    weights = {name: as_constant(normal(3, *shape, seed=len(name)), name) for name, shape in EXPERTS.items()}
    each = x if grouped else ops.reshape(ops.tile(x, np.array([3, 1])), np.array([3, -1, 32]), special_zero=False)

    def linear(values: ov.Node, name: str) -> ov.Node:
        if grouped:
            return opset17.grouped_matmul(values, weights[name], ends)
        return ops.matmul(values, weights[name], False, True)

    product = named(ops.multiply(ops.swish(linear(each, "gate")), linear(each, "up")), "product")
    return result_model([linear(product, "down")], [x, ends] if grouped else [x])


EXPERTS = {"gate": (64, 32), "up": (64, 32), "down": (32, 64)}


@pytest.mark.parametrize("grouped", [False, True])
def test_experts_follow_the_rows_before_them(grouped: bool) -> None:
    """All experts of a layer share one scale, whose inverse is merged into every expert's rows of `up`."""
    model = expert_block(grouped=grouped)
    assert groups_of(model) == {("gate", "up"): None, ("down",): ("up",)}
    inputs = [normal(12, 32, seed=9), *([np.array([4, 4, 12], np.int32)] if grouped else [])]
    (group,) = (group for group in find_groups(model, find_weights(model)) if group.merge is not None)
    scaled = scaled_without_rounding(model, merged=True, groups=[group])
    assert distance(outputs_of(model, *inputs), outputs_of(scaled, *inputs)) < 1e-5


def test_experts_gain_by_their_scale() -> None:
    """Strong channels of `up` are scaled; no Multiply is inserted, by which the plugins would not recognise experts."""
    values = {name: normal(3, *shape, seed=len(name)) for name, shape in EXPERTS.items()}
    values["up"][:, ::16] *= 12
    model = expert_block(grouped=False)
    for name, node in constants(model).items():
        if name in values:
            new = as_constant(values[name], name)
            for target in node.output(0).get_target_inputs():
                target.replace_source_output(new.output(0))
    engine = Engine(model)
    plain = Settings(mode="int4_asym", group_size=32, all_layers=True)
    scaled = engine.plan(replace(plain, awq=True, awq_data_free=True))
    assert dict(scaled.awq) == {"product:0": "merged"}
    x = normal(40, 32, seed=3)
    errors = [
        distance(outputs_of(model, x), outputs_of(engine.apply(plan), x)) for plan in (engine.plan(plain), scaled)
    ]
    assert errors[1] < 0.9 * errors[0]


TOKENS: npt.NDArray[np.int64] = np.random.default_rng(6).integers(1, VOCABULARY, (2, 24), dtype=np.int64)

MERGED = {
    # family: groups of its two layers and head -> those whose scale is merged, and all of them
    "mistral": (9, 9),
    "qwen2": (8, 8),
    "gemma": (8, 8),
    "phi3": (9, 9),
    "opt": (8, 8),
    "gpt2": (6, 8),
    "gpt_neox": (7, 9),
    "falcon": (2, 6),
}


@pytest.fixture(scope="module")
def original(family_folder: Callable[[str], Path]) -> Callable[[str], ov.Model]:
    """The exported model of a family."""
    return cache(lambda name: ov.Core().read_model(family_folder(name) / "ov" / "openvino_model.xml"))


@pytest.mark.parametrize("family", MERGED)
def test_no_family_changes(family: str, original: Callable[[str], ov.Model]) -> None:
    """Random scales on every group leave the logits where they were, with merging and with Multiplies alone."""
    model = original(family)
    groups = find_groups(model, find_weights(model))
    assert (sum(group.merge is not None for group in groups), len(groups)) == MERGED[family]
    assert change(model) < 1e-4


def change(model: ov.Model) -> float:
    """The largest relative distance of the logits when every group is scaled."""
    expected = logits(model, TOKENS)
    return max(
        distance(expected, logits(scaled_without_rounding(model, merged=merged), TOKENS)) for merged in (True, False)
    )


def test_llama_does_not_change(llama: ov.Model) -> None:
    """With norms, attention with repeated heads, and gated products all merged."""
    assert all(group.merge is not None for group in find_groups(llama, find_weights(llama)))
    assert change(llama) < 1e-5


def test_the_cache_is_scaled_with_what_fills_it(llama: ov.Model) -> None:
    """A continued sequence, whose values come from the cache, gives the logits of the whole one."""
    scaled = scaled_without_rounding(llama, merged=True)
    config = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}
    request = ov.Core().compile_model(scaled, "CPU", config).create_infer_request()
    parts = []
    for part in (slice(0, 16), slice(16, 17), slice(17, 24)):
        tokens = TOKENS[:, part]
        inputs = {
            "input_ids": tokens,
            "attention_mask": np.ones((2, part.stop), np.int64),
            "position_ids": np.tile(np.arange(part.start, part.stop), (2, 1)),
            "beam_idx": np.arange(2, dtype=np.int32),
        }
        parts.append(np.array(request.infer(inputs)[0], np.float32))
    assert distance(logits(llama, TOKENS), np.concatenate(parts, axis=1)) < 1e-4
