"""Table of packings: how quantized checkpoints store the codes, scales and zero points of a layer.

A packing is an entry of `PACKINGS` with a function that reads one layer. Shapes below are those of a layer with the
weight [N, K], of b bits, in G groups of input channels. W[n, k] = scale[n, g] (code[n, k] - zero[n, g]).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import Array, Codes
from autotune.models.quantized.layer import LEVELS, Layer, make_layer, spread

Read = Callable[[str], npt.NDArray[Any] | None]
"""Return a part of the layer: floats as float32, 8-bit floats as their bits; None if there is no such part."""

_AWQ_POSITIONS = (0, 4, 1, 5, 2, 6, 3, 7)
"""Position in a 32-bit word of each of eight neighbours, so that a kernel gets even and odd ones by one mask."""


@dataclass(frozen=True, slots=True)
class Packing:
    """A way to store quantized layers.

    Attributes:
        marker: the part that only quantized layers have.
        parts: all parts that take the place of ``weight`` in a float model.
        read: makes the layer of its parts and the quantization section of config.json.
    """

    marker: str
    parts: tuple[str, ...]
    read: Callable[[Read, Mapping[str, Any]], Layer]


def unpack_words(words: npt.NDArray[np.int32], bits: int) -> Codes:
    """Unpack the codes in each row of 32-bit words, the first in the lowest bits: uint8 [n, m * 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = (unsigned[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)


def _needed(read: Read, part: str) -> npt.NDArray[Any]:
    found = read(part)
    if found is None:
        raise ValueError(f"the tensor {part} is missing")
    return found


def _gptq(read: Read, section: Mapping[str, Any]) -> Layer:
    """Read a layer of AutoGPTQ, GPTQModel or AutoRound.

    qweight  int32 [K b / 32, N]   codes, packed along K
    qzeros   int32 [G, N b / 32]   zero points, packed along N; less one, unless the format is version 2
    scales   float [G, N]
    g_idx    int32 [K]             the group of each input channel; absent if groups are consecutive channels
    """
    scales, packed_zeros = _needed(read, "scales").T, _needed(read, "qzeros")
    bits = 32 * packed_zeros.shape[1] // len(scales)  # some layers may have other bits than config.json says
    if bits not in (4, 8):
        raise ValueError(f"it has {bits} bits")
    codes = unpack_words(_needed(read, "qweight").T, bits)
    zeros = unpack_words(packed_zeros, bits).T
    if not _stores_zero_points(section):
        zeros = (zeros + np.uint8(1)) & np.uint8((1 << bits) - 1)  # 0 is stored as the largest code
    of_channel = read("g_idx")
    channels = None if of_channel is None else of_channel.astype(np.int64)
    return make_layer(codes, scales, zeros, f"int{bits}", channels)


def _stores_zero_points(section: Mapping[str, Any]) -> bool:
    """Return True if zero points are stored as they are, and not less one."""
    packing = auto_round_packing(section)
    if packing is None:
        return bool(section.get("checkpoint_format", "gptq") == "gptq_v2")
    return "gptqmodel" in packing or "gptq" not in packing


def auto_round_packing(section: Mapping[str, Any]) -> str | None:
    """Return the packing that AutoRound names, such as ``auto_round:auto_gptq``; None of other methods."""
    if "auto-round" not in str(section.get("quant_method")):
        return None
    return str(section.get("packing_format") or section.get("backend") or "auto_round:auto_gptq")


def _awq(read: Read, section: Mapping[str, Any]) -> Layer:
    """Read a layer of AutoAWQ's version "gemm", of 4 bits.

    qweight  int32 [K, N / 8]   codes, packed along N in the order of `_AWQ_POSITIONS`
    qzeros   int32 [G, N / 8]   zero points, packed alike
    scales   float [G, N]
    """

    def unpacked(part: str) -> Codes:
        fields = unpack_words(_needed(read, part), 4)
        return fields.reshape(len(fields), -1, 8)[..., _AWQ_POSITIONS].reshape(len(fields), -1).T

    return make_layer(unpacked("qweight"), _needed(read, "scales").T, unpacked("qzeros"), "int4")


def _compressed_tensors(read: Read, section: Mapping[str, Any]) -> Layer:
    """Read a layer of llm-compressor. Its format is seen from its parts.

    weight_packed      int32 [N, ceil(K b / 32)]   codes, packed along K
    weight_shape       int64 [2]                   N and K
    weight_scale       float [N, G], [N, 1], [1], or one number for each block of rows and columns
    weight_zero_point  int32 [ceil(N b / 32), G]   packed along N; absent if symmetric
    weight_g_idx       int32 [K]                   the group of each input channel; absent if consecutive

    Or, in place of the first two, ``weight`` int8 [N, K], with zero points int8, or ``weight`` in E4M3. Signed codes
    and zero points are stored plus 2^(b - 1) where they are packed.
    """
    words = read("weight_packed")
    if words is None:
        return _plain(read, section)
    rows, columns = (int(size) for size in _needed(read, "weight_shape"))
    bits = 4 if words.shape[1] == -(-columns // 8) else 8
    codes = unpack_words(words, bits)[:, :columns]
    zeros = read("weight_zero_point")
    if zeros is not None:
        packed = zeros.dtype == np.int32
        zeros = unpack_words(zeros.T, bits).T[:rows] if packed else (zeros + (1 << (bits - 1))).astype(np.uint8)
    scales = _scales(_needed(read, "weight_scale"), codes, None)
    of_channel = read("weight_g_idx")
    channels = None if of_channel is None else of_channel.astype(np.int64)
    return make_layer(codes, scales, zeros, f"int{bits}", channels)


def _plain(read: Read, section: Mapping[str, Any]) -> Layer:
    """Read a layer that keeps its weight, in int8 or E4M3, beside the scales (``weight_scale`` or, the same, _inv)."""
    weight = _needed(read, "weight")
    inverse = read("weight_scale_inv")
    stored = _needed(read, "weight_scale") if inverse is None else inverse
    scales = _scales(stored, weight, _block(section))
    if weight.dtype not in (np.int8, np.uint8):
        raise ValueError("its weight is neither int8 nor E4M3")
    if weight.dtype == np.uint8:
        return make_layer(weight, scales, None, "fp8_e4m3")
    zeros = read("weight_zero_point")
    if zeros is not None:
        zeros = _spread_like(scales, (zeros.astype(np.int16) + 128).astype(np.uint8))
    return make_layer(weight.view(np.uint8) ^ np.uint8(128), scales, zeros, "int8")


def _spread_like(scales: Array, zeros: Codes) -> Codes:
    """Repeat zero points for each row and group, as their scales were."""
    return np.asarray(np.broadcast_to(zeros.reshape(-1, 1) if zeros.ndim < 2 else zeros, scales.shape))


def _scales(stored: Array, codes: npt.NDArray[Any], block: tuple[int, int] | None) -> Array:
    """Return scales [N, G] of scales for a tensor, rows, groups of a row, or blocks."""
    rows, columns = codes.shape
    if stored.size == 1:
        return spread(stored.reshape(1, 1), rows, columns, (rows, columns))
    stored = stored.reshape(rows, 1) if stored.ndim == 1 else stored
    if stored.shape[1] > 1 and block is not None:
        return spread(stored, rows, columns, block)
    if block is not None and len(stored) != rows:
        return spread(stored, rows, columns, block)
    return stored


def _block(section: Mapping[str, Any]) -> tuple[int, int] | None:
    """Return height and width of the blocks with one scale each; None if there are none."""
    block = section.get("weight_block_size")
    for group in (section.get("config_groups") or {}).values():
        block = block or (group.get("weights") or {}).get("block_structure")
    return (int(block[0]), int(block[1])) if block else None


def _bitsandbytes(read: Read, section: Mapping[str, Any]) -> Layer:
    """Read a layer of bitsandbytes: NF4 in blocks of a flattened weight, or LLM.int8.

    weight                  uint8 [N K / 2, 1]   codes, the first in the upper bits; or int8 [N, K]
    weight.absmax           float32 [blocks]     scales; or uint8, codes of the numbers in weight.nested_quant_map
                                                 times weight.nested_absmax, plus an offset
    weight.quant_state...   uint8                JSON: shape, block sizes, offset
    SCB                     float32 [N]          of LLM.int8: 127 times the scale
    """
    weight = _needed(read, "weight")
    whole = read("SCB")
    if whole is not None:
        scales = (whole / np.float32(127)).astype(np.float32).reshape(-1, 1)
        return make_layer(weight.view(np.uint8) ^ np.uint8(128), scales, None, "int8")
    state = json.loads(_needed(read, "weight.quant_state.bitsandbytes__nf4").tobytes())
    rows, columns = state["shape"]
    size = int(state["blocksize"])
    absmax = _needed(read, "weight.absmax")
    if absmax.dtype == np.uint8:
        table, outer = _needed(read, "weight.nested_quant_map"), _needed(read, "weight.nested_absmax")
        steps = np.repeat(outer, int(state["nested_blocksize"]))[: absmax.size]
        absmax = table[absmax] * steps + np.float32(state["nested_offset"])
    if columns % size or not np.allclose(_needed(read, "weight.quant_map"), LEVELS["nf4"], atol=1e-6):
        raise ValueError(f"codes {[rows, columns]} in blocks of {size} that cross its rows, or of other numbers")
    pairs = weight.reshape(-1).view(np.uint8)
    codes = np.stack([pairs >> np.uint8(4), pairs & np.uint8(15)], axis=1).reshape(rows, columns)
    return make_layer(codes, absmax.reshape(rows, columns // size), None, "nf4")


_STATE = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "quant_state.bitsandbytes__nf4")
_ACTIVATIONS = ("input_scale", "input_zero_point", "output_scale", "activation_scale")

PACKINGS: Mapping[str, Packing] = {
    "gptq": Packing("qweight", ("qweight", "qzeros", "scales", "g_idx"), _gptq),
    "awq": Packing("qweight", ("qweight", "qzeros", "scales"), _awq),
    "compressed-tensors": Packing(
        "weight_scale",
        (
            *("weight", "weight_packed", "weight_shape", "weight_scale", "weight_zero_point", "weight_g_idx"),
            *_ACTIVATIONS,
        ),
        _compressed_tensors,
    ),
    "fp8": Packing("weight_scale_inv", ("weight", "weight_scale_inv", *_ACTIVATIONS), _plain),
    "fbgemm_fp8": Packing("weight_scale", ("weight", "weight_scale", "input_scale_ub", *_ACTIVATIONS), _plain),
    "bitsandbytes 4-bit": Packing("weight.absmax", ("weight", *(f"weight.{part}" for part in _STATE)), _bitsandbytes),
    "bitsandbytes 8-bit": Packing("SCB", ("weight", "SCB", "weight_format"), _bitsandbytes),
}
"""Packings whose codes OpenVINO has, by name. `methods.packing_of` chooses one by config.json."""
