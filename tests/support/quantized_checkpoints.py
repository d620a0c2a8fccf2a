"""Quantized checkpoints of a float Llama, packed here by hand in NumPy after the descriptions of their formats.

Checked once against the packages that define them: AWQ against `unpack_reorder` of autoawq 0.2.9, AutoRound against
the layers of auto-round 0.16.1, compressed-tensors 0.20.1, and bitsandbytes 0.50.2.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import decode_e4m3, encode_e4m3
from autotune.compression.formats.table import NF4_LEVELS

Codes = npt.NDArray[np.uint8]
FloatArray = npt.NDArray[np.float32]
Tensors = dict[str, npt.NDArray[Any]]

AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
"""The neighbour that is at each position of a word."""


@dataclass(frozen=True, slots=True)
class Stored:
    """Content of a layer: codes [N, K], scales and zero points [N, G], the group of each channel.

    Codes are unsigned integers, or those of a table of levels; there are then no zero points.
    """

    codes: Codes
    scales: FloatArray
    zeros: Codes | None
    g_idx: npt.NDArray[np.int32]
    levels: FloatArray | None = None

    @property
    def values(self) -> FloatArray:
        if self.levels is not None:
            return self.levels[self.codes] * self.scales[:, self.g_idx]
        assert self.zeros is not None
        return (self.codes.astype(np.float32) - self.zeros[:, self.g_idx]) * self.scales[:, self.g_idx]


def quantize(
    weight: FloatArray, bits: int, groups: int, *, symmetric: bool, g_idx: npt.NDArray[np.int32] | None = None
) -> Stored:
    """Round each group of channels to the codes of its range; scales are those of float16."""
    rows, columns = weight.shape
    g_idx = (np.arange(columns) * groups // columns).astype(np.int32) if g_idx is None else g_idx
    codes = np.empty(weight.shape, np.uint8)
    scales = np.empty((rows, groups), np.float32)
    zeros = np.empty((rows, groups), np.uint8)
    top = (1 << bits) - 1
    for group in range(groups):
        part = weight[:, g_idx == group]
        low, high = np.minimum(part.min(1), 0), np.maximum(part.max(1), 0)
        if symmetric:
            high = np.maximum(high, -low)
            low = -high
        scale = np.maximum((high - low) / top, 1e-4).astype(np.float16).astype(np.float32)
        zero = np.full(rows, (top + 1) // 2) if symmetric else np.clip(np.rint(-low / scale), 0, top)
        scales[:, group], zeros[:, group] = scale, zero
        codes[:, g_idx == group] = np.clip(np.rint(part / scale[:, None] + zero[:, None]), 0, top)
    return Stored(codes, scales, zeros, g_idx)


def packed_words(values: Codes, bits: int) -> npt.NDArray[np.int32]:
    """Pack along the first axis, first value lowest; missing ones are 0."""
    each = 32 // bits
    values = np.pad(values, ((0, -len(values) % each), (0, 0)))
    words = np.zeros((len(values) // each, values.shape[1]), np.uint32)
    for i in range(each):
        words |= values[i::each].astype(np.uint32) << np.uint32(bits * i)
    return words.view(np.int32)


def gptq(stored: Stored, bits: int, *, less_one: bool) -> Tensors:
    """Pack as AutoGPTQ, or, if zero points are stored as they are, its second version and AutoRound."""
    assert stored.zeros is not None
    zeros = (stored.zeros - np.uint8(less_one)) & np.uint8((1 << bits) - 1)
    return {
        "qweight": packed_words(stored.codes.T, bits),
        "qzeros": packed_words(zeros, bits).T,
        "scales": stored.scales.T.astype(np.float16),
        "g_idx": stored.g_idx,
    }


def awq(stored: Stored) -> Tensors:
    """Pack as AutoAWQ's version gemm."""
    assert stored.zeros is not None

    def packed(values: Codes) -> npt.NDArray[np.int32]:
        eights = values.T.reshape(values.shape[1], -1, 8)[..., AWQ_ORDER]
        return packed_words(eights.reshape(-1, 8).T, 4).reshape(values.shape[1], -1)

    return {
        "qweight": packed(stored.codes),
        "qzeros": packed(stored.zeros),
        "scales": stored.scales.T.astype(np.float16),
    }


def pack_quantized(stored: Stored, bits: int, *, symmetric: bool, ordered: bool = False) -> Tensors:
    """Pack as compressed-tensors' format pack-quantized."""
    assert stored.zeros is not None
    tensors: Tensors = {
        "weight_packed": packed_words(stored.codes.T, bits).T,
        "weight_shape": np.array(stored.codes.shape, np.int64),
        "weight_scale": stored.scales,
    }
    tensors |= {} if symmetric else {"weight_zero_point": packed_words(stored.zeros, bits)}
    return tensors | ({"weight_g_idx": stored.g_idx} if ordered else {})


def int_quantized(stored: Stored, *, symmetric: bool) -> Tensors:
    """Pack as compressed-tensors' format int-quantized."""
    assert stored.zeros is not None
    tensors: Tensors = {"weight": (stored.codes ^ 128).view(np.int8), "weight_scale": stored.scales}
    return tensors | ({} if symmetric else {"weight_zero_point": (stored.zeros ^ 128).view(np.int8)})


def fp8_in_blocks(weight: FloatArray, block: tuple[int, int]) -> tuple[Stored, FloatArray]:
    """Round to E4M3 in blocks of rows and columns, with the scales [blocks, blocks] in float32."""
    rows, columns = weight.shape
    height, width = min(block[0], rows), min(block[1], columns)
    padded = np.pad(weight, ((0, -rows % height), (0, -columns % width)))
    blocks = padded.reshape(padded.shape[0] // height, height, -1, width)
    scales = (np.abs(blocks).max((1, 3)) / 448).astype(np.float32)
    each = np.repeat(np.repeat(scales, height, 0)[:rows], width, 1)[:, :columns]
    codes = encode_e4m3(weight / each)
    table = decode_e4m3(np.arange(256, dtype=np.uint8))
    return Stored(codes, np.ascontiguousarray(each), None, np.arange(columns, dtype=np.int32), table), scales


def nf4(weight: FloatArray, *, nested: bool) -> tuple[Stored, Tensors]:
    """Round to NF4 in blocks of 64, with float32 scales or, nested, 8-bit codes of them; pack as bitsandbytes."""
    rows, columns = weight.shape
    absmax = np.abs(weight.reshape(-1, 64)).max(1).astype(np.float32)
    state: dict[str, Any] = {"quant_type": "nf4", "blocksize": 64, "dtype": "float32", "shape": [rows, columns]}
    tensors: Tensors = {"weight.absmax": absmax, "weight.quant_map": np.array(NF4_LEVELS, np.float32)}
    if nested:
        table = np.linspace(-1, 1, 256, dtype=np.float32)
        offset = float(np.float32(absmax.mean()))
        centred = absmax - np.float32(offset)
        outer = np.array([np.abs(centred[i : i + 256]).max() for i in range(0, absmax.size, 256)], np.float32)
        each = np.repeat(outer, 256)[: absmax.size]
        codes = np.abs(centred[:, None] / each[:, None] - table).argmin(1).astype(np.uint8)
        absmax = table[codes] * each + np.float32(offset)
        tensors |= {"weight.absmax": codes, "weight.nested_absmax": outer, "weight.nested_quant_map": table}
        state |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": offset}
    levels = np.array(NF4_LEVELS, np.float32)
    scaled = weight.reshape(-1, 64) / absmax[:, None]
    codes = np.abs(scaled[..., None] - levels).argmin(-1).astype(np.uint8).reshape(rows, columns)
    pairs = codes.reshape(-1, 2)
    tensors["weight"] = (pairs[:, 0] << 4 | pairs[:, 1]).reshape(-1, 1)
    text = json.dumps(state).encode()
    tensors["weight.quant_state.bitsandbytes__nf4"] = np.frombuffer(text, np.uint8).copy()
    g_idx = (np.arange(columns) // 64).astype(np.int32)
    return Stored(codes, absmax.reshape(rows, -1), None, g_idx, levels), tensors


Pack = Callable[[FloatArray], tuple[Stored, Tensors]]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of checkpoint: what config.json says, and how a weight is packed."""

    section: Mapping[str, Any]
    pack: Pack


def _integers(pack: Callable[[Stored], Tensors], bits: int, group: int, *, symmetric: bool, ordered: bool) -> Pack:
    def packed(weight: FloatArray) -> tuple[Stored, Tensors]:
        columns = weight.shape[1]
        groups = 1 if group == -1 else columns // group
        g_idx = (np.arange(columns) * groups // columns).astype(np.int32)
        if ordered:
            g_idx = np.random.default_rng(columns).permutation(g_idx)  # the same for all weights of one width
        stored = quantize(weight, bits, groups, symmetric=symmetric, g_idx=g_idx)
        return stored, pack(stored)

    return packed


def gptq_kind(
    method: Mapping[str, Any], *, bits: int = 4, group: int = 32, symmetric: bool = False, ordered: bool = False,
    less_one: bool = True,
) -> Kind:  # fmt: skip
    """A checkpoint of AutoGPTQ or of AutoRound in its packing."""
    section = {"bits": bits, "group_size": group, "sym": symmetric, "desc_act": ordered, **method}
    return Kind(
        section,
        _integers(lambda s: gptq(s, bits, less_one=less_one), bits, group, symmetric=symmetric, ordered=ordered),
    )


def _compressed(form: str, pack: Pack, **weights: Any) -> Kind:
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return Kind(
        {"quant_method": "compressed-tensors", "format": form, "config_groups": groups, "ignore": ["lm_head"]}, pack
    )


def _packed_kind(bits: int, group: int, *, symmetric: bool, ordered: bool = False) -> Kind:
    pack = _integers(
        lambda s: pack_quantized(s, bits, symmetric=symmetric, ordered=ordered),
        bits,
        group,
        symmetric=symmetric,
        ordered=ordered,
    )
    return _compressed("pack-quantized", pack, num_bits=bits, type="int", symmetric=symmetric, strategy="group")


def _int_kind(*, symmetric: bool) -> Kind:
    pack = _integers(lambda s: int_quantized(s, symmetric=symmetric), 8, -1, symmetric=symmetric, ordered=False)
    return _compressed("int-quantized", pack, num_bits=8, type="int", symmetric=symmetric, strategy="channel")


def _fp8(block: tuple[int, int], part: str) -> Pack:
    def packed(weight: FloatArray) -> tuple[Stored, Tensors]:
        stored, scales = fp8_in_blocks(weight, block)
        return stored, {"weight": stored.codes, part: scales if scales.size > 1 else scales.reshape(())}

    return packed


def _llm_int8(weight: FloatArray) -> tuple[Stored, Tensors]:
    whole = np.abs(weight).max(1).astype(np.float32)
    codes = np.rint(weight / whole[:, None] * 127).astype(np.int8)
    unsigned = codes.view(np.uint8) ^ np.uint8(128)
    zeros = np.full((len(weight), 1), 128, np.uint8)
    stored = Stored(unsigned, (whole / np.float32(127))[:, None], zeros, np.zeros(weight.shape[1], np.int32))
    return stored, {"weight": codes, "SCB": whole, "weight_format": np.zeros((), np.uint8)}


_ROUND = {"quant_method": "auto-round"}
KINDS: dict[str, Kind] = {
    "GPTQ, 4 bits": gptq_kind({"quant_method": "gptq"}),
    "GPTQ, activation order": gptq_kind({"quant_method": "gptq"}, ordered=True),
    "GPTQ, symmetric, one group a row": gptq_kind(
        {"quant_method": "gptq", "checkpoint_format": "gptq"}, group=-1, symmetric=True
    ),
    "GPTQ version 2, 8 bits": gptq_kind(
        {"quant_method": "gptq", "checkpoint_format": "gptq_v2"}, bits=8, less_one=False
    ),
    "AWQ": Kind(
        {"quant_method": "awq", "bits": 4, "group_size": 32, "version": "gemm", "zero_point": True},
        _integers(awq, 4, 32, symmetric=False, ordered=False),
    ),
    "AutoRound, GPTQ packing": gptq_kind({**_ROUND, "packing_format": "auto_round:auto_gptq"}),
    "AutoRound, own packing": gptq_kind({**_ROUND, "packing_format": "auto_round"}, less_one=False),
    "AutoRound, AWQ packing": Kind(
        {**_ROUND, "bits": 4, "group_size": 32, "packing_format": "auto_round:auto_awq"},
        _integers(awq, 4, 32, symmetric=False, ordered=False),
    ),
    "compressed-tensors W4A16": _packed_kind(4, 32, symmetric=True),
    "compressed-tensors W4A16, asymmetric, activation order": _packed_kind(4, 32, symmetric=False, ordered=True),
    "compressed-tensors W8A16, packed": _packed_kind(8, -1, symmetric=True),
    "compressed-tensors W8A16": _int_kind(symmetric=True),
    "compressed-tensors W8A16, asymmetric": _int_kind(symmetric=False),
    "compressed-tensors FP8, a row": _compressed(
        "float-quantized", _fp8((1, 1 << 20), "weight_scale"), num_bits=8, type="float", strategy="channel"
    ),
    "compressed-tensors FP8, a tensor": _compressed(
        "float-quantized", _fp8((1 << 20, 1 << 20), "weight_scale"), num_bits=8, type="float", strategy="tensor"
    ),
    "fp8 in blocks": Kind(
        {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [48, 32]},
        _fp8((48, 32), "weight_scale_inv"),
    ),
    "bitsandbytes NF4": Kind(
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        lambda weight: nf4(weight, nested=False),
    ),
    "bitsandbytes NF4, nested": Kind(
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
        lambda weight: nf4(weight, nested=True),
    ),
    "bitsandbytes LLM.int8": Kind({"quant_method": "bitsandbytes", "load_in_8bit": True}, _llm_int8),
}
"""Kinds whose codes are kept, by a readable name."""


def as_tensors(arrays: Tensors, section: Mapping[str, Any]) -> dict[str, Any]:
    """Convert to torch; the codes of FP8 in its own type."""
    import torch

    floats = section["quant_method"] == "fp8" or section.get("format") == "float-quantized"
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
    return {
        name: tensor.view(torch.float8_e4m3fn) if floats and name == "weight" else tensor
        for name, tensor in tensors.items()
    }


def write_checkpoint(source: Path, out: Path, kind: Kind, *, files: int = 1) -> dict[str, Stored]:
    """Quantize the layers of a float Llama into a checkpoint; the embedding and the head stay float16."""
    from safetensors.torch import load_file, save_file

    out.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(source / name, out / name)
    config = json.loads((source / "config.json").read_text())
    config |= {"quantization_config": dict(kind.section), "dtype": "float16"}
    (out / "config.json").write_text(json.dumps(config))
    layers: dict[str, Stored] = {}
    tensors: dict[str, Any] = {}
    for name, tensor in load_file(source / "model.safetensors").items():
        if "_proj" not in name:
            tensors[name] = tensor.half()
            continue
        layer = name.removesuffix(".weight")
        layers[layer], parts = kind.pack(tensor.numpy())
        tensors |= {f"{layer}.{part}": value for part, value in as_tensors(parts, kind.section).items()}
    names = sorted(tensors)
    if files == 1:
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return layers
    for number in range(files):
        save_file({name: tensors[name] for name in names[number::files]}, out / f"part-{number}.safetensors")
    return layers


def torch_logits(source: Path, layers: Mapping[str, Stored], tokens: npt.NDArray[np.int64]) -> FloatArray:
    """Logits of the float model whose weights are what the checkpoint stands for, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    state = {name: value.half().float() for name, value in model.state_dict().items()}
    state |= {f"{name}.weight": torch.from_numpy(stored.values) for name, stored in layers.items()}
    model.load_state_dict(state)
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(tokens)).logits.numpy(), np.float32)
