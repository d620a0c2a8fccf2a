from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from builders import (
    as_constant,
    bin_size,
    cast_weights,
    chain,
    content,
    distance,
    features,
    language_chain,
    named,
    normal,
    outputs_of,
    result_model,
)
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from autotune.compression.engine import Engine
from autotune.compression.ir.weights import Use, Weight, find_weights, rows_to_shape, rows_view
from autotune.compression.settings import Settings
from autotune.errors import CompressionError


def only(model: ov.Model) -> Weight:
    (weight,) = find_weights(model)
    return weight


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16", "f64"])
def test_weights_are_found_in_every_float_storage(storage: str) -> None:
    """A MatMul's constant is found whether it is float32 or comes through a Convert, under its own name and type."""
    weight = only(chain([normal(8, 16)], storage=storage))
    assert (weight.name, weight.shape, weight.element_type, weight.kind) == ("W0", (8, 16), storage, "matmul")
    assert weight.activations == ("x:0",)


@pytest.mark.parametrize("port", [0, 1])
@pytest.mark.parametrize("transposed", [True, False])
def test_reduction_axis_follows_port_and_transposition(port: int, transposed: bool) -> None:
    """The axis that a MatMul sums over is the constant's last but where the layout says the other; rows are outputs."""
    # The constant is [8, 16] with 16 summed over where it is "first, not transposed" or "second, transposed".
    last = transposed if port == 1 else not transposed
    values = normal(8, 16)
    constant = as_constant(values if last else np.ascontiguousarray(values.T), "W")
    x = named(ops.parameter([-1, 16, 4] if port == 0 else [-1, 4, 16], np.float32), "x")
    node = ops.matmul(constant, x, transposed, False) if port == 0 else ops.matmul(x, constant, False, transposed)
    weight = only(result_model([node], [x]))
    assert weight.uses[0].port == port
    assert (weight.rows, weight.columns) == (8, 16)
    assert weight.reduction_axes == ((1,) if last else (0,))
    assert np.array_equal(rows_view(constant.data, weight), values)


@pytest.mark.parametrize(
    ("port", "transpose_x", "expected"), [(1, False, True), (1, True, False), (0, True, True), (0, False, False)]
)
def test_activations_are_seen_where_their_features_come_last(port: int, transpose_x: bool, expected: bool) -> None:
    """Activation-aware methods look at an activation only where its last axis is the one that is summed over."""
    x = named(ops.parameter([-1, 4, 4], np.float32), "x")
    w = as_constant(normal(4, 4), "W")
    node = ops.matmul(x, w, transpose_x, True) if port == 1 else ops.matmul(w, x, False, transpose_x)
    assert only(result_model([node], [x])).activations == (("x:0",) if expected else ())


def test_batched_weights_have_a_row_for_each_matrix_and_output() -> None:
    """A constant of three dimensions keeps its leading axis among the channels."""
    x = named(ops.parameter([3, -1, 16], np.float32), "x")
    weight = only(result_model([ops.matmul(x, as_constant(normal(3, 8, 16), "W"), False, True)], [x]))
    assert (weight.rows, weight.columns, weight.reduction_axes) == (24, 16, (2,))


def test_embedding_last_layer_and_body_are_told_apart() -> None:
    """A Gather's table is an embedding, the last MatMul is marked, and nothing else is."""
    weights = find_weights(language_chain([normal(16, 16), normal(16, 16)], normal(40, 16)))
    assert [(w.name, w.kind, w.is_last) for w in weights] == [
        ("E", "embedding", False),
        ("W0", "matmul", False),
        ("W1", "matmul", False),
        ("H", "matmul", True),
    ]


def test_tied_weight_is_found_once() -> None:
    """An embedding that is also the head is one weight with two uses, an embedding, and there is no last layer."""
    weights = find_weights(language_chain([normal(16, 16)], normal(40, 16), tied=True))
    assert [(w.name, w.kind, len(w.uses), w.is_last) for w in weights] == [
        ("E", "embedding", 2, False),
        ("W0", "matmul", 1, False),
    ]


def test_tied_weight_in_half_precision_is_found_once() -> None:
    """Two Converts behind one constant are two uses of one weight."""
    ids = ops.parameter([-1, -1], np.int64)
    table = named(ops.constant(normal(40, 16).astype(np.float16)), "E")
    x = ops.gather(ops.convert(table, np.float32), ids, ops.constant(np.int64(0)))
    weight = only(result_model([ops.matmul(x, ops.convert(table, np.float32), False, True)], [ids]))
    assert (weight.name, len(weight.uses)) == ("E", 2)


@pytest.mark.parametrize("repeated", ["constant", "operation", "activation"])
def test_repeated_names_are_refused(repeated: str) -> None:
    """Two weights, operations or activations of one name would be taken for each other; the error names them."""
    x = features(16)
    names = {"constant": ("W", "W"), "operation": ("A", "B"), "activation": ("A", "B")}[repeated]
    node = named(ops.tanh(x), "same" if repeated == "activation" else "tanh")
    for i, name in enumerate(names):
        node = ops.matmul(node, as_constant(normal(16, 16, seed=i), name), False, True)
        node = named(node, "same" if repeated == "operation" else f"M{i}")
    if repeated == "activation":
        node = named(ops.tanh(node), "same")
    with pytest.raises(CompressionError, match=r"2 operations named (W|same)"):
        find_weights(result_model([node], [x]))


def test_repeated_names_elsewhere_do_no_harm(tmp_path: Path) -> None:
    """Constants that are no weights may share a name; they are counted and kept."""
    x = features(16)
    node = ops.matmul(x, as_constant(normal(16, 16), "W"), False, True)
    for i in range(2):
        node = ops.add(node, as_constant(normal(1, 1, 16, seed=i), "bias"))
    engine = Engine(result_model([node], [x]))
    plan = engine.plan(Settings())
    compressed = engine.apply(plan)
    assert plan.footprint == bin_size(compressed, tmp_path)
    data = normal(1, 3, 16, seed=5)
    assert distance(outputs_of(engine.model, data), outputs_of(compressed, data)) < 0.02


def convolution(x: ov.Node, w: ov.Node) -> ov.Node:
    return ops.convolution(x, w, [1, 1], [0, 0], [0, 0], [1, 1])


def convolution_backprop(x: ov.Node, w: ov.Node) -> ov.Node:
    return ops.convolution_backprop_data(x, w, [1, 1], None, [0, 0], [0, 0], [1, 1])


def group_convolution(x: ov.Node, w: ov.Node) -> ov.Node:
    return ops.group_convolution(x, w, [1, 1], [0, 0], [0, 0], [1, 1])


def group_convolution_backprop(x: ov.Node, w: ov.Node) -> ov.Node:
    return ops.group_convolution_backprop_data(x, w, [1, 1], None, [0, 0], [0, 0], [1, 1])


@pytest.mark.parametrize(
    ("operation", "shape", "channels"),
    [
        (convolution, (6, 4, 3, 3), (0,)),
        (convolution_backprop, (4, 6, 3, 3), (1,)),
        (group_convolution, (2, 3, 2, 3, 3), (0, 1)),
        (group_convolution_backprop, (2, 2, 3, 3, 3), (0, 2)),
    ],
)
def test_convolutions_have_one_row_an_output_channel(
    operation: Callable[[ov.Node, ov.Node], ov.Node], shape: tuple[int, ...], channels: tuple[int, ...]
) -> None:
    """Output channels (of every group) are rows, all else is summed over, and groups of channels cannot be formed."""
    x = ops.parameter([1, 4, 8, 8], np.float32)
    weight = only(result_model([operation(x, as_constant(normal(*shape), "W"))], [x]))
    assert weight.kind == "convolution"
    assert weight.uses[0].channel_axes == channels
    assert (weight.rows, weight.can_group) == (6, False)


def test_integers_computed_operands_and_constant_products_are_no_weights() -> None:
    """Integer tables, products of two activations or of two constants, and added biases are left alone."""
    ids = ops.parameter([-1], np.int64)
    x = features(8)
    outputs = [
        ops.gather(ops.constant(np.arange(20).reshape(5, 4)), ids, ops.constant(np.int64(0))),
        ops.matmul(x, x, False, True),
        ops.matmul(ops.constant(normal(4, 8)), ops.constant(normal(8, 4)), False, False),
        ops.add(x, ops.constant(normal(1, 1, 8))),
        ops.gather(ops.constant(normal(8)), ids, ops.constant(np.int64(0))),  # a vector has no rows
    ]
    assert find_weights(result_model(outputs, [ids, x])) == ()


def test_gather_along_another_axis_is_no_embedding() -> None:
    """Only rows of a table are looked up in an embedding."""
    ids = ops.parameter([-1], np.int64)
    table = as_constant(normal(8, 4), "E")
    assert find_weights(result_model([ops.gather(table, ids, ops.constant(np.int64(1)))], [ids])) == ()


def test_rotary_angles_are_no_weights() -> None:
    """A MatMul whose result only becomes the angle of sine and cosine holds frequencies, not weights."""
    positions = ops.parameter([1, 1, -1], np.float32)
    angles = ops.matmul(as_constant(normal(1, 8, 1), "frequencies"), positions, False, False)
    turned = ops.transpose(angles, ops.constant(np.array([0, 2, 1])))
    doubled = ops.concat([turned, turned], -1)
    assert find_weights(result_model([ops.cos(doubled), ops.sin(doubled)], [positions])) == ()


def test_exported_llama_has_exactly_its_linear_layers(llama: ov.Model) -> None:
    """An exported model gives embedding, seven projections a layer and the head, by their own names."""
    attention = [f"self_attn.{name}_proj" for name in "qkvo"]
    parts = attention + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    expected = [f"self.model.layers.{layer}.{part}.weight" for layer in (0, 1) for part in parts]
    expected += ["self.model.embed_tokens.weight", "self.lm_head.weight"]
    assert sorted(w.name for w in find_weights(llama)) == sorted(expected)


@pytest.mark.parametrize("mode", ["int8_asym", "int4_asym", "int4_sym", "nf4", "mxfp4"])
def test_compressed_model_has_no_weights_left(mode: str) -> None:
    """Compressed weights are not found again, in any format."""
    model = language_chain([normal(32, 32)], normal(40, 32))
    engine = Engine(model)
    compressed = engine.apply(
        engine.plan(Settings(mode=mode, group_size=None if mode in ("int8_asym", "mxfp4") else 32))
    )
    assert find_weights(compressed) == ()


def test_weights_are_the_same_whatever_the_storage(llama: ov.Model) -> None:
    """Half precision changes a weight's type and nothing else that is found."""
    found = find_weights(llama)
    halves = find_weights(cast_weights(llama, [w.name for w in found], "f16"))
    plain = [(w.name, w.shape, w.kind, w.is_last, w.activations) for w in found]
    assert sorted((w.name, w.shape, w.kind, w.is_last, w.activations) for w in halves) == sorted(plain)


@given(st.data())
def test_rows_to_shape_undoes_rows_view(data: st.DataObject) -> None:
    """Rows go back to the place they came from, for any axes, in one group or in several."""
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    axes = sorted(data.draw(st.sets(st.integers(0, len(shape) - 1), min_size=1)))
    channels = tuple(a for a in range(len(shape)) if a not in axes)
    weight = Weight("W", shape, "f32", (Use("M", 1, "matmul", channels, tuple(axes)),))
    values = np.arange(np.prod(shape)).reshape(shape)
    rows = rows_view(values, weight)
    assert rows.shape == (weight.rows, weight.columns)
    back, found = rows_to_shape(rows[:, None, :], weight)
    assert found == shape
    assert np.array_equal(back, values)
    if len(axes) == 1 and weight.columns % 2 == 0:
        split, grouped = rows_to_shape(rows.reshape(weight.rows, 2, -1), weight)
        assert grouped == (*shape[: axes[0]], 2, weight.columns // 2, *shape[axes[0] + 1 :])
        assert np.array_equal(split.reshape(shape), values)


@pytest.mark.parametrize(
    ("shape", "visible"),
    [([-1, -1, 8], True), ([-1, 8], True), ([-1, 2, -1, 8], True), ([8], False), ([-1, 1, 1, 1, 8], False)],
)
def test_vectors_of_channels_are_looked_at_in_any_arrangement(shape: list[int], visible: bool) -> None:
    """The activations of a MatMul are split into tokens, sequences or heads."""
    x = ops.parameter(shape, np.float32, name="x")
    product = ops.matmul(x, ops.constant(np.ones((4, 8), np.float32), name="W"), False, True)
    assert bool(only(result_model([product], [x])).activations) is visible


def test_rearranged_tokens_are_looked_at_before_they_are_rearranged() -> None:
    """Sequences that are laid out as one list of tokens are one activation; rearranged channels are another."""
    x = named(ops.parameter([-1, -1, 8], np.float32), "x")
    tokens = ops.unsqueeze(ops.reshape(x, np.array([-1, 8]), special_zero=False), np.int64(0))
    halves = named(ops.reshape(x, np.array([-1, 4]), special_zero=False), "halves")
    outputs = [
        ops.matmul(tokens, as_constant(normal(6, 8), "A"), False, True),
        ops.matmul(halves, as_constant(normal(6, 4), "B"), False, True),
    ]
    assert {w.name: w.activations for w in find_weights(result_model(outputs, [x]))} == {
        "A": ("x:0",),
        "B": ("halves:0",),
    }


def test_experts_that_see_the_same_tokens_share_the_activation_of_the_router() -> None:
    """Tokens that are repeated for each expert are looked at once; what differs from expert to expert is its own."""
    x = named(ops.parameter([-1, 8], np.float32), "x")
    each = ops.reshape(ops.tile(x, np.array([3, 1])), np.array([3, -1, 8]), special_zero=False)
    up = ops.matmul(each, as_constant(normal(3, 6, 8), "up"), False, True)
    down = ops.matmul(named(ops.relu(up), "hidden"), as_constant(normal(3, 8, 6), "down"), False, True)
    router = ops.matmul(x, as_constant(normal(3, 8), "router"), False, True)
    assert {w.name: w.activations for w in find_weights(result_model([down, router], [x]))} == {
        "up": ("x:0",),
        "down": ("hidden:0",),
        "router": ("x:0",),
    }


def reshaped(shape: tuple[int, ...], expected: tuple[int, ...], storage: str = "f32") -> ov.Model:
    """x -> MatMul with a Constant of one shape that a Reshape gives another, [O, K]."""
    x = features(expected[1])
    w = ops.reshape(as_constant(normal(*shape), "W", storage), np.array(expected), special_zero=False)
    return result_model([ops.matmul(x, w, False, True)], [x])


@pytest.mark.parametrize("group_size", [32, -1])
@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("shape", [(8, 2, 64), (1024,), (2, 4, 128), (128, 8)])
def test_behind_a_reshape_rows_are_those_of_the_operation(
    shape: tuple[int, ...], storage: str, group_size: int, tmp_path: Path
) -> None:
    """A Constant behind a Reshape is a weight in the shape that the MatMul sees; the plugin keeps it compressed."""
    model = reshaped(shape, (8, 128), storage)
    weight = only(model)
    assert (weight.shape, weight.reduction_axes, weight.activations) == ((8, 128), (1,), ("x:0",))
    engine = Engine(model)
    plan = engine.plan(Settings(mode="int4_asym", group_size=group_size, all_layers=True))
    compressed = engine.apply(plan)
    assert content(compressed)["W"][:2] == ("u4", (8, 4, 32) if group_size == 32 else (8, 128))
    assert plan.footprint == bin_size(compressed, tmp_path)
    data = normal(1, 3, 128, seed=5)
    assert distance(outputs_of(model, data), outputs_of(compressed, data)) < 0.15
    runtime = ov.Core().compile_model(compressed, "CPU").get_runtime_model()
    kinds = {
        node.get_rt_info()["layerType"].astype(str): node.input_value(1).get_element_type().get_type_name()
        for node in runtime.get_ordered_ops()
        if len(node.inputs()) > 1
    }
    assert kinds["FullyConnected"] == "u4"


def test_a_constant_that_is_read_in_two_shapes_keeps_its_own() -> None:
    """If a Constant has readers other than one Reshape, only its direct readers count."""
    x, y = features(16), ops.parameter([-1, 32], np.float32)
    w = as_constant(normal(8, 16), "W")
    turned = ops.reshape(w, np.array([4, 32]), special_zero=False)
    model = result_model([ops.matmul(y, turned, False, True), ops.matmul(x, w, False, True)], [x, y])
    weight = only(model)
    assert (weight.shape, len(weight.uses), weight.activations) == ((8, 16), 1, ("x:0",))
    engine = Engine(model)
    data = [normal(1, 3, 16, seed=5), normal(3, 32, seed=6)]
    assert distance(outputs_of(model, *data), outputs_of(engine.apply(engine.plan(Settings())), *data)) < 0.02
