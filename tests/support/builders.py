"""Small models that the compression tests are made of, and readers of what became of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset15 as ops

from autotune.compression.formats.encoding import E2M1_LEVELS, decode_e4m3, unpack
from autotune.compression.formats.table import BITS, NF4_LEVELS
from autotune.compression.ir.constants import raw_bytes, read_f32, type_name

FloatArray = npt.NDArray[np.float32]
Content = dict[str, tuple[str, tuple[int, ...], bytes]]


def normal(*shape: int, seed: int = 0) -> FloatArray:
    """Normal numbers that float16 and bfloat16 hold exactly (8 significant bits), float32."""
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(mantissa * 128) / 128, exponent).astype(np.float32)


def as_constant(values: FloatArray, name: str, storage: str = "f32") -> ov.Node:
    """The output of a Constant in this storage type, through a Convert to float32 where it is another."""
    node = ops.constant(values, dtype=getattr(ov.Type, storage))
    node.set_friendly_name(name)
    return node if storage == "f32" else ops.convert(node, np.float32)


def named(node: ov.Node, name: str) -> ov.Node:
    """The node with a friendly name."""
    node.set_friendly_name(name)
    return node


def result_model(outputs: Sequence[ov.Node], inputs: Sequence[ov.Node]) -> ov.Model:
    """A model of these outputs."""
    return ov.Model([ops.result(output) for output in outputs], list(inputs), "small")


def features(width: int) -> ov.Node:
    """A float32 input named x, [B, T, width]."""
    return named(ops.parameter([-1, -1, width], np.float32, name="x"), "x")


def chain(weights: Sequence[FloatArray], *, storage: str = "f32") -> ov.Model:
    """x -> MatMul with W0 [O, K] -> MatMul with W1 ...; operations M0, M1, ..."""
    node = x = features(weights[0].shape[1])
    for i, values in enumerate(weights):
        node = named(ops.matmul(node, as_constant(values, f"W{i}", storage), False, True), f"M{i}")
    return result_model([node], [x])


def language_chain(weights: Sequence[FloatArray], embedding: FloatArray, *, tied: bool = False) -> ov.Model:
    """ids -> Gather of E [V, K] -> MatMuls with W0, W1, ... -> head: MatMul with H [V, K], or with E if tied."""
    ids = named(ops.parameter([-1, -1], np.int64, name="input_ids"), "input_ids")
    table = as_constant(embedding, "E")
    node = named(ops.gather(table, ids, ops.constant(np.int64(0))), "embed")
    for i, values in enumerate(weights):
        node = named(ops.matmul(node, as_constant(values, f"W{i}"), False, True), f"M{i}")
    head = table if tied else as_constant(normal(*embedding.shape, seed=77), "H")
    return result_model([named(ops.matmul(node, head, False, True), "head")], [ids])


def gated_block(width: int = 32, inner: int = 64, *, also_uses: str | None = None) -> ov.Model:
    """norm -> gain -> gate, up -> Swish(gate) * up -> down, as in Llama; constants gain, gate, up, down.

    `also_uses` adds another consumer of the "norm" output, of "up"'s output, of the "product", or of the "gain".
    """
    x = features(width)
    gain = as_constant(1 + np.abs(normal(1, 1, width, seed=1)), "gain")
    normed = named(ops.multiply(ops.normalize_l2(x, np.array([2]), 1e-6, "add"), gain), "normed")
    gate = named(ops.matmul(normed, as_constant(normal(inner, width, seed=2), "gate"), False, True), "gate_proj")
    up = named(ops.matmul(normed, as_constant(normal(inner, width, seed=3), "up"), False, True), "up_proj")
    product = named(ops.multiply(ops.swish(gate), up), "product")
    down = named(ops.matmul(product, as_constant(normal(width, inner, seed=4), "down"), False, True), "down_proj")
    outputs = [ops.add(x, down)]
    other = {"norm": normed, "up": up, "product": product, "gain": gain}
    if also_uses is not None:
        outputs.append(ops.tanh(other[also_uses]))
    return result_model(outputs, [x])


def with_norm_gains(model: ov.Model) -> ov.Model:
    """Insert a gain after every norm of an exported Llama whose gains, being ones, were folded away."""
    rng = np.random.default_rng(11)
    for node in model.get_ordered_ops():
        name = node.get_friendly_name()
        if name.endswith("norm/aten::mul/Multiply"):
            targets = list(node.output(0).get_target_inputs())
            width = node.get_output_partial_shape(0)[2].get_length()
            values = rng.uniform(0.3, 3, (1, 1, width)).astype(np.float32)
            gain = as_constant(values, name.replace("/aten::mul/Multiply", ".weight"))
            product = named(ops.multiply(node, gain), f"{name}_1")
            for target in targets:
                target.replace_source_output(product.output(0))
    model.validate_nodes_and_infer_types()
    return model


def constants(model: ov.Model) -> dict[str, ov.Node]:
    """The Constants of a model by friendly name."""
    return {n.get_friendly_name(): n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"}


def cast_weights(model: ov.Model, names: Sequence[str], storage: str) -> ov.Model:
    """A copy whose named float32 Constants are stored in another type, with a Convert to float32 behind them."""
    copy = model.clone()
    for name, old in constants(copy).items():
        if name in names:
            new = as_constant(read_f32(old), name, storage)
            old.set_friendly_name(f"{name}/old")
            for target in old.output(0).get_target_inputs():
                target.replace_source_output(new.output(0))
    return copy


def content(model: ov.Model) -> Content:
    """Type, shape and bytes of every Constant by friendly name."""
    return {
        name: (type_name(node), tuple(node.get_output_shape(0)), raw_bytes(node).tobytes())
        for name, node in constants(model).items()
    }


def by_name(found: Content) -> Content:
    """Named constants, axes of size one left out: with one group a row, NNCF keeps an axis for it and we do not."""
    return {
        name: (kind, tuple(size for size in shape if size != 1), data)
        for name, (kind, shape, data) in found.items()
        if "Constant_" not in name
    }


def differing(a: Content, b: Content) -> list[str]:
    """Names of the constants in which the content of two models differs."""
    a, b = by_name(a), by_name(b)
    return [name for name in sorted({*a, *b}) if a.get(name) != b.get(name)]


def bin_size(model: ov.Model, folder: Path) -> int:
    """Bytes of the model's weights file as OpenVINO writes it."""
    ov.save_model(model, folder / "saved.xml", compress_to_fp16=False)
    return (folder / "saved.bin").stat().st_size


def outputs_of(model: ov.Model, *inputs: npt.NDArray[Any], index: int = 0) -> FloatArray:
    """One output in float32 on the CPU, all compressed weights and activations in float32."""
    config = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    return np.array(ov.Core().compile_model(model, "CPU", config)(list(inputs))[index], np.float32)


def logits(model: ov.Model, tokens: npt.NDArray[np.int64], config: Mapping[str, str] | None = None) -> FloatArray:
    """Logits [n, T, V] of a causal language model in float32, from an empty cache."""
    scoring = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
    compiled = ov.Core().compile_model(model, "CPU", {**scoring, **(config or {})})
    count, length = tokens.shape
    arguments = {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.tile(np.arange(length), (count, 1)),
        "beam_idx": np.arange(count, dtype=np.int32),
        "cache_position": np.arange(length),
    }
    inputs = {port.get_any_name(): arguments[port.get_any_name()] for port in compiled.inputs}
    return np.array(compiled(inputs)[0], np.float32)


def distance(a: FloatArray, b: FloatArray) -> float:
    """Norm of the difference over the norm of `a`."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def decoded(model: ov.Model, name: str) -> FloatArray:
    """A compressed weight as its constants stand for, computed here from their bytes: [..., G, g] or as stored."""
    found = constants(model)
    node = found.get(f"{name}_nncf_codebook_idxs", found[name])
    kind, shape = type_name(node), tuple(node.get_output_shape(0))
    codes: npt.NDArray[Any] = unpack(raw_bytes(node), BITS[kind], int(np.prod(shape))).reshape(shape).astype(np.int64)
    if node is not found[name]:
        table = found[name]
        levels = decode_e4m3(raw_bytes(table)) if type_name(table) == "f8e4m3" else table.data
        codes = np.asarray(levels, np.float64)[codes]
    elif kind in ("i8", "i4"):
        half = 128 if kind == "i8" else 8
        codes = (codes + half) % (2 * half) - half
    elif kind == "nf4":
        codes = np.array(NF4_LEVELS)[codes]
    elif kind == "f4e2m1":
        codes = np.where(codes >= 8, -1, 1) * E2M1_LEVELS[codes % 8]
    elif kind == "f8e4m3":
        codes = decode_e4m3(codes.astype(np.uint8))
    scale = found[f"{name}/scale"]
    if type_name(scale) == "f8e8m0":
        step = np.float16(2.0 ** (raw_bytes(scale).astype(np.float64) - 127))
    elif type_name(scale) == "f8e4m3":
        step = np.float16(decode_e4m3(raw_bytes(scale)) * found[f"{name}/second_order_scale"].data.item())
    else:
        step = scale.data.astype(np.float64)
    step = step.astype(np.float64).reshape(tuple(scale.get_output_shape(0)))
    if f"{name}/zero_point" in found:
        zero = found[f"{name}/zero_point"]
        shape = tuple(zero.get_output_shape(0))
        codes = codes - unpack(raw_bytes(zero), BITS[type_name(zero)], int(np.prod(shape))).reshape(shape)
    return np.asarray(codes * step, np.float32)


def decompressed(original: ov.Model, compressed: ov.Model) -> ov.Model:
    """The original with every weight replaced by what the compressed model stores for it, in float32."""
    model, stored = original.clone(), constants(compressed)
    for name, old in constants(model).items():
        if f"{name}/scale" in stored:
            new = ops.constant(decoded(compressed, name).reshape(tuple(old.get_output_shape(0))))
        elif (
            name in stored
            and type_name(old) in ("f32", "f16")
            and raw_bytes(old).tobytes() != raw_bytes(stored[name]).tobytes()
        ):
            new = ops.constant(read_f32(stored[name]))  # a gain that AWQ divided
        else:
            continue
        for target in old.output(0).get_target_inputs():
            target.replace_source_output(new.output(0))
    return model
