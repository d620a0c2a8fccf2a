from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from builders import (
    as_constant,
    chain,
    constants,
    content,
    decoded,
    decompressed,
    distance,
    features,
    language_chain,
    named,
    normal,
    outputs_of,
    result_model,
)
from openvino import opset15 as ops

from autotune.compression.engine import Engine
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.assemble import assemble
from autotune.compression.ir.constants import raw_bytes, type_name
from autotune.compression.settings import Settings

ALL_FORMATS = [("int8_asym", -1), ("int8_sym", -1), ("int4_asym", 32), ("int4_sym", -1), ("nf4", 16), ("mxfp4", 32)]
ALL_FORMATS += [("fp4", 32), ("nvfp4", 16), ("fp8_e4m3", 32), ("mxfp8_e4m3", 32), ("int3_sym", 32), ("int2_sym", 16)]
ALL_FORMATS += [("cb4", 32), ("codebook", -1)]
TABLE = tuple((np.arange(-10, 11) / 10).tolist())
FARTHEST = {8: 0.1, 4: 0.2, 3: 0.3, 2: 0.6}
"""Bound of the relative error of normal weights, by bits."""


def compress(model: ov.Model, mode: str, group_size: int = -1, **settings: Any) -> ov.Model:
    engine = Engine(model)
    size = None if FORMATS[mode].fixed_group_size else group_size
    table = TABLE if mode == "codebook" else ()
    return engine.apply(engine.plan(Settings(mode=mode, group_size=size, codebook=table, **settings)))


def path_to(model: ov.Model, operation: str) -> list[str]:
    """Types (with target types of Converts) on the way from the packed constant to the named operation."""
    node = next(n for n in model.get_ordered_ops() if n.get_friendly_name() == operation).input_value(1).get_node()
    path = []
    while True:
        kind = node.get_type_name()
        path.append(f"Convert({type_name(node)})" if kind == "Convert" else kind)
        if kind == "Constant":
            return path[::-1]
        node = node.input_value(0).get_node()


@pytest.mark.parametrize(
    ("mode", "group_size", "path"),
    [
        ("int8_asym", -1, ["Subtract", "Multiply"]),
        ("int8_sym", -1, ["Multiply"]),
        ("int4_asym", 16, ["Subtract", "Multiply", "Reshape"]),
        ("int4_asym", -1, ["Subtract", "Multiply"]),
        ("int4_sym", 16, ["Multiply", "Reshape"]),
        ("int4_sym", 32, ["Multiply"]),
        ("nf4", 16, ["Multiply", "Reshape"]),
        ("mxfp4", 32, ["Multiply"]),
        ("fp4", 16, ["Multiply", "Reshape"]),
        ("nvfp4", 16, ["Multiply", "Reshape"]),
        ("fp8_e4m3", -1, ["Multiply"]),
        ("int3_sym", 16, ["Subtract", "Multiply", "Reshape"]),
        ("int2_sym", -1, ["Subtract", "Multiply"]),
    ],
)
@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
def test_decompression_has_the_pattern_that_plugins_fuse(
    mode: str, group_size: int, path: list[str], storage: str
) -> None:
    """Convert to float16, zero point, scale, Reshape where there are groups, one Convert to what the MatMul reads."""
    model = compress(chain([normal(8, 32)], storage=storage), mode, group_size, all_layers="int8" not in mode)
    assert path_to(model, "M0") == ["Constant", "Convert(f16)", *path, "Convert(f32)"]
    found = constants(model)
    fmt = FORMATS[mode]
    assert type_name(found["W0"]) == fmt.storage
    assert type_name(found["W0/scale"]) == fmt.scale_storage
    assert ("W0/zero_point" in found) == (fmt.has_zero_point or fmt.is_offset)
    if fmt.has_zero_point:
        assert type_name(found["W0/zero_point"]) == fmt.storage


def test_codebooks_are_looked_up_before_they_are_scaled() -> None:
    """The weight's name goes to the table, as in NNCF; indices of four bits become bytes for the Gather."""
    model = compress(chain([normal(8, 32)]), "cb4", 16, all_layers=True)
    assert path_to(model, "M0") == [
        *("Constant", "Convert(f16)", "Gather", "Multiply", "Reshape", "Convert(f32)"),
    ]
    found = constants(model)
    kinds = {name: type_name(found[name]) for name in ("W0", "W0_nncf_codebook_idxs", "W0/scale")}
    assert kinds == {"W0": "f8e4m3", "W0_nncf_codebook_idxs": "u4", "W0/scale": "f16"}
    found = constants(compress(chain([normal(8, 32)]), "codebook", 16, all_layers=True))
    kinds = {name: type_name(found[name]) for name in ("W0", "W0_nncf_codebook_idxs", "W0/scale")}
    assert kinds == {"W0": "f16", "W0_nncf_codebook_idxs": "u8", "W0/scale": "f16"}


def test_weights_that_are_computed_with_in_half_precision_need_no_convert() -> None:
    """A float16 weight of a float16 MatMul ends without a Convert."""
    x = ops.parameter([-1, -1, 32], np.float16)
    weight = named(ops.constant(normal(8, 32).astype(np.float16)), "W")
    model = compress(result_model([named(ops.matmul(x, weight, False, True), "M")], [x]), "int8_asym")
    assert path_to(model, "M") == ["Constant", "Convert(f16)", "Subtract", "Multiply"]


@pytest.mark.parametrize(("mode", "group_size"), ALL_FORMATS)
@pytest.mark.parametrize("port", [0, 1])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("batched", [False, True])
def test_every_layout_computes_with_what_is_stored(
    mode: str, group_size: int, port: int, transposed: bool, batched: bool
) -> None:
    """Whatever port, transposition and rank, outputs are those of the decoded weight, which is near the original."""
    values = normal(*((3,) if batched else ()), 64, 64)
    weight = as_constant(values, "W")
    x = named(ops.parameter([3, 64, 64], np.float32), "x")
    y = ops.matmul(weight, x, transposed, False) if port == 0 else ops.matmul(x, weight, False, transposed)
    model = result_model([y], [x])
    compressed = compress(model, mode, group_size, all_layers="int8" not in mode)
    restored = decoded(compressed, "W").reshape(values.shape)
    assert distance(values, restored) < FARTHEST[FORMATS[mode].bits]
    data = normal(3, 64, 64, seed=1)
    expected = outputs_of(decompressed(model, compressed), data)
    assert distance(expected, outputs_of(compressed, data)) < 2e-3


@pytest.mark.parametrize("mode", [mode for mode, _ in ALL_FORMATS])
def test_embeddings_and_convolutions_compute_with_what_is_stored(mode: str) -> None:
    """Tables and kernels, in backup precision or in four bits, give the outputs of their decoded values."""
    all_layers = "int8" not in mode
    model = language_chain([normal(32, 32)], normal(40, 32), tied=True)
    compressed = compress(model, mode, -1, all_layers=all_layers)
    stored = constants(compressed)
    expected = "u8" if mode == "codebook" else FORMATS[mode].storage
    assert type_name(stored.get("E_nncf_codebook_idxs", stored["E"])) == expected
    ids = np.arange(40).reshape(2, 20)
    assert distance(outputs_of(decompressed(model, compressed), ids), outputs_of(compressed, ids)) < 2e-3

    x = ops.parameter([1, 4, 8, 8], np.float32)
    y = ops.convolution(x, as_constant(normal(8, 4, 3, 3), "C"), [1, 1], [1, 1], [1, 1], [1, 1])
    model = result_model(
        [ops.group_convolution(y, as_constant(normal(2, 3, 4, 1, 1), "G"), [1, 1], [0, 0], [0, 0], [1, 1])], [x]
    )
    compressed = compress(model, mode, -1, all_layers=all_layers)
    assert type_name(constants(compressed)["G"]) in ("u8", "i8", "f8e4m3")
    image = normal(1, 4, 8, 8, seed=3)
    assert distance(outputs_of(decompressed(model, compressed), image), outputs_of(compressed, image)) < 2e-3


@pytest.mark.parametrize("storage", ["f16", "bf16"])
def test_embeddings_converted_after_the_lookup_are_compressed(storage: str) -> None:
    """A half-precision table whose rows are converted only once they are looked up keeps its type on the way."""
    ids = ops.parameter([-1, -1], np.int64)
    table = named(ops.constant(normal(40, 32), dtype=getattr(ov.Type, storage)), "E")
    model = result_model([ops.convert(ops.gather(table, ids, ops.constant(np.int64(0))), np.float32)], [ids])
    compressed = compress(model, "int8_asym")
    assert type_name(constants(compressed)["E"]) == "u8"
    indices = np.arange(40).reshape(2, 20)
    rows = outputs_of(compressed, indices).reshape(40, 32)
    assert distance(decoded(compressed, "E"), rows) < 0.005


def test_other_readers_of_a_weight_get_its_decoded_values() -> None:
    """A bias-like second use of the same constant reads the compressed weight too, once in the file."""
    x = features(16)
    weight = as_constant(normal(16, 16), "W")
    model = result_model([ops.add(ops.matmul(x, weight, False, True), ops.reduce_sum(weight, np.array([1])))], [x])
    compressed = compress(model, "int8_asym")
    assert "W/original" not in constants(compressed)
    data = normal(1, 3, 16, seed=1)
    assert distance(outputs_of(decompressed(model, compressed), data), outputs_of(compressed, data)) < 2e-3


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16", "f64"])
def test_divided_constants_keep_type_and_shape(storage: str) -> None:
    """A gain over a scale is the nearest value that its own storage type has, and nothing else changes."""
    rng = np.random.default_rng(4)
    values, scale = normal(1, 1, 64), np.exp(rng.normal(size=64)).astype(np.float32)
    x = features(64)
    model = result_model([ops.multiply(x, as_constant(values, "gain", storage))], [x])
    divided = assemble(model, [], {"gain": scale}, [], {})
    found = constants(divided)["gain"]
    assert (type_name(found), tuple(found.get_output_shape(0))) == (storage, (1, 1, 64))
    exact = values / scale
    if storage == "bf16":
        bits = raw_bytes(found).view(np.uint16).astype(np.int64)
        below, here, above = (((bits + step) << 16).astype(np.uint32).view(np.float32) for step in (-1, 0, 1))
        distances = [np.abs(value - exact.ravel()) for value in (below, here, above)]
        assert np.all(distances[1] <= np.minimum(distances[0], distances[2]))
    else:
        expected = exact.astype({"f16": np.float16, "f32": np.float32, "f64": np.float64}[storage])
        assert raw_bytes(found).tobytes() == expected.tobytes()
    assert content(model)["gain"] != content(divided)["gain"]


def digest(model: ov.Model, folder: Path) -> tuple[bytes, bytes]:
    ov.save_model(model, folder / "source.xml", compress_to_fp16=False)
    return (folder / "source.xml").read_bytes(), (folder / "source.bin").read_bytes()


def addresses(model: ov.Model) -> dict[str, int]:
    return {name: raw_bytes(node).ctypes.data for name, node in constants(model).items()}


@pytest.mark.parametrize("mode", ["int8_asym", "int4_asym", "mxfp4"])
def test_source_model_is_not_changed(llama: ov.Model, tmp_path: Path, mode: str) -> None:
    """Operations, names, types and every byte of the original are what they were, and it still runs."""
    before, operations, where = digest(llama, tmp_path), len(llama.get_ordered_ops()), addresses(llama)
    compress(llama, mode, -1)
    assert digest(llama, tmp_path) == before
    assert len(llama.get_ordered_ops()) == operations
    assert addresses(llama) == where


def test_unchanged_constants_are_shared(llama: ov.Model) -> None:
    """Uncompressed weights share the original's memory."""
    compressed = compress(llama, "int4_sym", 32, backup_mode="none", ratio=0.5)
    before, after = addresses(llama), addresses(compressed)
    replaced = {name for name in after if f"{name}/scale" in after}
    assert 0 < len(replaced) < 16
    assert {name: after.get(name) for name in before if name not in replaced} == {
        name: address for name, address in before.items() if name not in replaced
    }


def test_inputs_outputs_and_names_are_kept(llama: ov.Model) -> None:
    """A compressed model is called as the original is: ports, their names, types and shapes."""
    compressed = compress(llama, "int4_sym", 32)
    for ports in ("inputs", "outputs"):
        before, after = getattr(llama, ports), getattr(compressed, ports)
        assert [p.get_names() for p in after] == [p.get_names() for p in before]
        assert [(p.get_partial_shape(), p.get_element_type()) for p in after] == [
            (p.get_partial_shape(), p.get_element_type()) for p in before
        ]
    assert [s.get_friendly_name() for s in compressed.get_sinks()] == [s.get_friendly_name() for s in llama.get_sinks()]


def test_names_are_unique_and_the_weights_keep_theirs(llama: ov.Model) -> None:
    """The packed constant has the weight's name, and no name occurs twice."""
    compressed = compress(llama, "int4_asym", 32)
    names = [node.get_friendly_name() for node in compressed.get_ordered_ops()]
    assert len(names) == len(set(names))
    assert {weight.name for weight in Engine(llama).weights} <= set(names)


def test_the_plan_is_recorded_in_the_model(llama: ov.Model, tmp_path: Path) -> None:
    """rt_info of the saved file tells version, original and the whole plan."""
    engine = Engine(llama, model_fingerprint="0123abcd")
    plan = engine.plan(Settings(mode="int4_sym", group_size=32, ratio=0.5))
    ov.save_model(engine.apply(plan), tmp_path / "m.xml", compress_to_fp16=False)
    model = ov.Core().read_model(tmp_path / "m.xml")
    assert model.get_rt_info(["autotune", "model"]).astype(str) == "0123abcd"
    expected = replace(plan, sensitivity={}).as_dict()  # what led to it is not part of it
    assert json.loads(model.get_rt_info(["autotune", "plan"]).astype(str)) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    "build", [lambda: language_chain([normal(32, 32)], normal(40, 32)), lambda: chain([normal(8, 32)])]
)
def test_saving_and_reading_keeps_every_byte(build: Callable[[], ov.Model], tmp_path: Path) -> None:
    """A compressed model that was saved and read has the same constants."""
    for mode, group_size in ALL_FORMATS:
        compressed = compress(build(), mode, group_size)
        ov.save_model(compressed, tmp_path / f"{mode}.xml", compress_to_fp16=False)
        again = content(ov.Core().read_model(tmp_path / f"{mode}.xml"))
        assert {n: c for n, c in content(compressed).items() if not n.startswith("Constant_")}.items() <= again.items()
