"""The constants that a compressed weight consists of, and the variant that they follow from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import Array, Codes, encode_e4m3, packed_bytes, unpack
from autotune.compression.formats.quantize import decode, read_scale
from autotune.compression.formats.table import BITS, FORMATS, Format, codebook_format
from autotune.compression.ir.weights import Weight

SCALE_DTYPES = {"f16": np.float16, "f32": np.float32, "f8e8m0": np.uint8, "f8e4m3": np.uint8}
"""NumPy's type for each storage type of scales."""


@dataclass(frozen=True, slots=True)
class Variant:
    """A format plus the algorithms applied to one weight.

    Attributes:
        mode: name of the format.
        group_size: consecutive input channels that share a scale; -1 is one group a row.
        codebook: the user's table of the mode ``codebook``; empty for all others.
        scale_estimation: scales and zero points are searched on the calibration activations.
        gptq: later columns compensate the rounding error of each column.
        gptq_act_order: they go in the order of falling activation energy; False without GPTQ.
        awq: input channels carry the AWQ scale of their activation.
        awq_output: output channels are divided by the AWQ scale of the layer that follows.
        lora_rank: rank of the adapters that compensate a part of the error; 0 is none.
        lora_iterations: number of times that weight and adapters are fitted to each other.
    """

    mode: str
    group_size: int = -1
    codebook: tuple[float, ...] = ()
    scale_estimation: bool = False
    gptq: bool = False
    gptq_act_order: bool = False
    awq: bool = False
    awq_output: bool = False
    lora_rank: int = 0
    lora_iterations: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "codebook", tuple(self.codebook))  # a list where it was read from JSON

    @property
    def format(self) -> Format:
        """The row of the format table."""
        return codebook_format(self.codebook) if self.codebook else FORMATS[self.mode]

    @property
    def grid(self) -> tuple[Any, ...]:
        """Parameters of plain rounding: mode, group size and codebook."""
        return (self.mode, self.group_size, self.codebook)

    @property
    def looks_at_activations(self) -> bool:
        """True if its bytes depend on the second moments of its own input."""
        return self.scale_estimation or self.gptq or self.lora_rank > 0

    def groups(self, weight: Weight) -> int:
        """Groups a row, G."""
        return 1 if self.group_size == -1 else weight.columns // self.group_size

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `Variant(**data)` is its inverse."""
        # Not dataclasses.asdict, which copies deeply: this is called for every weight of every trial.
        return {name: getattr(self, name) for name in self.__slots__}


Packed = Mapping[str, Codes]
"""A compressed weight: part of its `layout` -> the bytes of that constant, flat uint8, in the constant's axis order.

Parts with a content in the layout are left out.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One constant of a compressed weight.

    Attributes:
        element_type: OpenVINO's short name.
        shape: in elements.
        content: the bytes if they follow from shapes and variant alone.
    """

    element_type: str
    shape: tuple[int, ...]
    content: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the packed constant."""
        return packed_bytes(math.prod(self.shape), BITS[self.element_type])


def layout(weight: Weight, variant: Variant) -> dict[str, Part]:
    """Compute the constants of a weight in this variant from shapes alone; graph, sizes and bank follow it.

    The reduction axis is split into (groups, group size) where a row has several groups; a scale has ones there.
    """
    fmt = variant.format
    groups = variant.groups(weight)
    if groups == 1:
        shape = weight.shape
        scale_shape = tuple(1 if axis in weight.reduction_axes else size for axis, size in enumerate(weight.shape))
    else:
        (axis,) = weight.reduction_axes
        before, after = weight.shape[:axis], weight.shape[axis + 1 :]
        shape, scale_shape = (*before, groups, variant.group_size, *after), (*before, groups, 1, *after)
    parts = {"weight": Part(fmt.storage, shape), "scale": Part(fmt.scale_storage, scale_shape)}
    if fmt.has_zero_point:
        parts["zero_point"] = Part(fmt.storage, scale_shape)
    elif fmt.is_offset:
        parts["zero_point"] = Part("i8", (), bytes([-fmt.lowest]))
    if fmt.scale_storage == "f8e4m3":
        parts["second_order_scale"] = Part("f32", (1,) * len(scale_shape))
    if fmt.table_storage:
        table = np.array(fmt.levels, np.float32)
        stored = encode_e4m3(table) if fmt.table_storage == "f8e4m3" else table.astype(np.float16)
        parts["codebook"] = Part(fmt.table_storage, table.shape, None if fmt.learns_levels else stored.tobytes())
        parts["codebook_axis"] = Part("i64", (), bytes(8))
    if groups > 1:
        parts["shape"] = Part("i64", (len(weight.shape),), np.array(weight.shape, np.int64).tobytes())
    if variant.lora_rank:
        for name, shape in (
            ("lora_a", (variant.lora_rank, weight.columns)),
            ("lora_b", (weight.rows, variant.lora_rank)),
        ):
            parts[name] = Part("u8", shape)
            parts[f"{name}_scale"] = Part("f16", (shape[0], 1))
            parts[f"{name}_zero_point"] = Part("u8", (shape[0], 1))
    return parts


def unpacked(packed: Packed, weight: Weight, variant: Variant) -> tuple[Codes, Array, Array | None, Format]:
    """Read packed constants: codes uint8 [R, G, g], scale and zero point float32 [R, G, 1], and the format.

    The format has the levels and the second-order scale of this weight, if it has its own.
    """
    fmt = variant.format
    if "second_order_scale" in packed:
        fmt = replace(fmt, second_order_scale=float(packed["second_order_scale"].view(np.float32)[0]))
    if "codebook" in packed:
        fmt = replace(fmt, levels=tuple(packed["codebook"].view(np.float16).tolist()))
    parts = layout(weight, variant)
    groups = variant.groups(weight)

    def rows(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        shaped = values.reshape(parts[name].shape)
        if groups == 1:
            last = tuple(range(-len(weight.reduction_axes), 0))
            return np.moveaxis(shaped, weight.reduction_axes, last).reshape(weight.rows, 1, -1)
        (axis,) = weight.reduction_axes
        return np.moveaxis(shaped, (axis, axis + 1), (-2, -1)).reshape(weight.rows, groups, -1)

    codes = rows("weight", unpack(packed["weight"], fmt.bits, weight.size))
    scale = rows("scale", read_scale(packed["scale"].view(SCALE_DTYPES[fmt.scale_storage]), fmt))
    zero = None
    if fmt.has_zero_point:
        levels = unpack(packed["zero_point"], fmt.bits, weight.rows * groups)
        zero = rows("zero_point", levels.astype(np.float32))
    return codes, scale, zero, fmt


def restore(packed: Packed, weight: Weight, variant: Variant) -> Array:
    """Dequantize packed constants, without adapters: float32 [R, K]."""
    codes, scale, zero, fmt = unpacked(packed, weight, variant)
    return decode(codes, scale, zero, fmt).reshape(weight.rows, weight.columns)
