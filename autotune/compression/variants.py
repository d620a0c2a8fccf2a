"""One weight in one variant: read, scaled, quantized and packed block by block, never the whole model at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.common.threads import in_parallel
from autotune.compression.algorithms.gptq import Propagation, quantize_columns, quantize_with_best_scales
from autotune.compression.algorithms.scale_estimation import blocks_of, estimate_scale
from autotune.compression.formats.encoding import encode_e4m3
from autotune.compression.formats.quantize import (
    BITS,
    FORMATS,
    Array,
    Codes,
    Format,
    codebook_format,
    decode,
    encode,
    initial_scale,
    pack,
    packed_bytes,
    read_scale,
    store_scale,
    stored_value,
    unpack,
    with_second_order_scale,
)
from autotune.compression.formats.table import LARGEST_FLOAT16
from autotune.compression.ir.constants import all_finite, raw_bytes, type_name, widen_bf16, widen_f16
from autotune.compression.ir.weights import Weight, rows_to_shape, rows_view
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

__all__ = [
    "Packed",
    "Part",
    "RowReader",
    "Treatment",
    "Variant",
    "compress_weight",
    "largest_magnitude",
    "layout",
    "read_rows",
    "restore",
]

BLOCK_ELEMENTS = 1 << 19
"""Elements of a block of rows: few enough for the caches, enough to hide what a block costs by itself."""

SCALE_DTYPES = {"f16": np.float16, "f8e8m0": np.uint8, "f8e4m3": np.uint8}

RowReader = Callable[[int, int], Array]


@dataclass(frozen=True, slots=True)
class Variant:
    """A format plus the algorithms applied to one weight.

    Attributes:
        mode: name of the format.
        group_size: consecutive input channels that share a scale; -1 is one group a row.
        codebook: the user's table of the mode ``codebook``; empty for all others.
        scale_estimation: scales and zero points are searched on the calibration activations.
        gptq: each column's rounding error is made up for by the later columns.
        gptq_act_order: they go in the order of falling activation energy; False without GPTQ.
        awq: input channels carry the AWQ scale of their activation.
        awq_output: output channels are divided by the AWQ scale of the layer that follows.
        lora_rank: rank of the adapters that make up for a part of the error; 0 is none.
        lora_iterations: how often weight and adapters are fitted to each other in turn.
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
        """What plain rounding depends on: mode, group size and codebook."""
        return (self.mode, self.group_size, self.codebook)

    @property
    def looks_at_activations(self) -> bool:
        """Whether its bytes depend on the second moments of its own input."""
        return self.scale_estimation or self.gptq or self.lora_rank > 0

    def groups(self, weight: Weight) -> int:
        """Groups a row, G."""
        return 1 if self.group_size == -1 else weight.columns // self.group_size

    def as_dict(self) -> dict[str, Any]:
        """Plain data; `Variant(**data)` is its inverse."""
        # Not dataclasses.asdict, which copies deeply: this is called for every weight of every trial.
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Treatment:
    """The arrays that a variant's algorithms need.

    Attributes:
        input_scale: float32 [K], multiplied into the columns (AWQ), or None.
        output_scale: float32 [R], divided out of the rows (AWQ of the next layer), or None.
        second_moment: float32 [K, K] of the activations that the scaled weight sees, or None.
        spread: how errors of its columns are carried on (GPTQ), or None.
    """

    input_scale: Array | None = None
    output_scale: Array | None = None
    second_moment: Array | None = None
    spread: Propagation | None = None

    def scaled(self, values: Array, start: int) -> Array:
        """Rows of the weight from `start` on, [n, K], with both scales applied."""
        if self.input_scale is not None:
            values = values * self.input_scale
        if self.output_scale is not None:
            values = values / self.output_scale[start : start + len(values), None]
        return values


Packed = Mapping[str, Codes]
"""A compressed weight: part of its `layout` -> the bytes of that constant, flat uint8, in the constant's axis order.

Parts whose content the layout tells are left out.
"""


@dataclass(frozen=True, slots=True)
class Part:
    """One constant of a compressed weight.

    Attributes:
        element_type: OpenVINO's short name.
        shape: in elements.
        content: the bytes, where they follow from shapes and variant alone.
    """

    element_type: str
    shape: tuple[int, ...]
    content: bytes | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the packed constant."""
        return packed_bytes(math.prod(self.shape), BITS[self.element_type])


def layout(weight: Weight, variant: Variant) -> dict[str, Part]:
    """The constants of a weight in this variant, from shapes alone: what graph, sizes and bank agree on.

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
        parts["codebook"] = Part(fmt.table_storage, table.shape, stored.tobytes())
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


def restore(packed: Packed, weight: Weight, variant: Variant) -> Array:
    """The weight that packed constants stand for, adapters left out: float32 [R, K]."""
    fmt = variant.format
    if "second_order_scale" in packed:
        fmt = replace(fmt, second_order_scale=float(packed["second_order_scale"].view(np.float32)[0]))
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
    return decode(codes, scale, zero, fmt).reshape(weight.rows, weight.columns)


def read_rows(node: ov.Node, weight: Weight) -> RowReader:
    """A reader of float32 [n, K] blocks of rows of the constant, converted block by block.

    The reader raises CompressionError where a block holds NaN or infinity.
    """
    kind = type_name(node)
    values = raw_bytes(node).view(np.uint16) if kind == "bf16" else node.data
    rows = rows_view(values.reshape(weight.shape), weight)
    widen = _WIDEN.get(kind, _converted)

    def read(start: int, stop: int) -> Array:
        block = rows[start:stop]
        if not all_finite(block, kind):
            raise CompressionError(f"{weight.name}: holds values that are not finite; check where the model comes from")
        return widen(block)

    return read


def largest_magnitude(read: RowReader, weight: Weight, treatment: Treatment) -> float:
    """Of all elements of a weight with its scales applied."""

    def of_rows(start: int) -> float:
        return float(np.abs(treatment.scaled(read(start, min(start + step, weight.rows)), start)).max())

    step = max(1, BLOCK_ELEMENTS // weight.columns)
    return max(in_parallel(of_rows, range(0, weight.rows, step)))


def _converted(values: npt.NDArray[Any]) -> Array:
    return values.astype(np.float32)


_WIDEN: Mapping[str, Callable[[npt.NDArray[Any]], Array]] = {"bf16": widen_bf16, "f16": widen_f16}


def compress_weight(read: RowReader, weight: Weight, variant: Variant, treatment: Treatment) -> Packed:
    """Quantize and pack one weight.

    The result does not depend on the number of threads: blocks are fixed by the shape, and rows do not interact.

    Raises:
        CompressionError: the weight holds NaN, infinity, or values too large for a float16 scale.
    """
    fmt = variant.format
    groups = variant.groups(weight)
    rows, columns = weight.rows, weight.columns
    step = max(1, BLOCK_ELEMENTS // columns)
    starts = range(0, rows, step)

    def values_of(start: int) -> Array:
        return treatment.scaled(read(start, min(start + step, rows)), start)

    if fmt.scale_storage == "f8e4m3":
        largest = largest_magnitude(read, weight, treatment)
        if largest / fmt.largest > LARGEST_FLOAT16:
            raise _too_large(weight, largest)
        fmt = with_second_order_scale(fmt, largest)
    codes = _PackedCodes(weight, groups, fmt.bits)
    scales = np.empty((rows, groups, 1), SCALE_DTYPES[fmt.scale_storage])
    zeros = np.empty((rows, groups, 1), np.uint8) if fmt.has_zero_point else None
    blocks = None
    if variant.scale_estimation and not variant.gptq:
        assert treatment.second_moment is not None
        blocks = blocks_of(treatment.second_moment, columns // groups)

    def block(start: int) -> None:
        values = values_of(start)
        stop = start + len(values)
        values = values.reshape(len(values), groups, -1)
        scale, zero = initial_scale(values, fmt)
        if np.abs(scale).max() > LARGEST_FLOAT16:
            raise _too_large(weight, float(np.abs(values).max()))
        found, scale, zero = _quantized(values, scale, zero, variant, treatment, blocks, fmt)
        codes.put(start, found)
        scales[start:stop] = store_scale(scale, fmt)
        if zeros is not None and zero is not None:
            zeros[start:stop] = zero

    in_parallel(block, starts)
    parts = {
        "weight": codes.packed(),
        "scale": _bytes(rows_to_shape(scales, weight)[0]),
    }
    if zeros is not None:
        parts["zero_point"] = pack(rows_to_shape(zeros, weight)[0], fmt.bits)
    if fmt.second_order_scale:
        parts["second_order_scale"] = _bytes(np.array([fmt.second_order_scale], np.float32))
    return parts


def _quantized(
    values: Array,
    scale: Array,
    zero: Array | None,
    variant: Variant,
    treatment: Treatment,
    blocks: Array | None,
    fmt: Format,
) -> tuple[Codes, Array, Array | None]:
    """Codes of some rows, [n, G, g], with the scale and zero point that they belong to, from those of the range.

    Args:
        values: the rows.
        scale, zero: from `initial_scale`.
        variant, treatment: the weight's.
        blocks: second moments for scale estimation alone, from `blocks_of`; None without.
        fmt: the variant's format.
    """
    if variant.gptq:
        assert treatment.second_moment is not None
        assert treatment.spread is not None
        if variant.scale_estimation:
            found = quantize_with_best_scales(values, scale, zero, treatment.second_moment, treatment.spread, fmt)
        else:
            found = quantize_columns(values, stored_value(scale, fmt), zero, treatment.spread, fmt)
        return found.codes, found.scale, found.zero
    if blocks is not None:
        scale, zero = estimate_scale(values, scale, zero, blocks, fmt)
    if variant.looks_at_activations or fmt.second_order_scale:
        # Plain rounding does not see that a float16 scale is rounded, since NNCF's does not; these do.
        scale = stored_value(scale, fmt)
    return encode(values, scale, zero, fmt), scale, zero


def _too_large(weight: Weight, magnitude: float) -> CompressionError:
    return CompressionError(
        f"{weight.name}: values up to {magnitude:.3g} need a scale that float16 cannot hold; add the weight to "
        "ignored_scope"
    )


class _PackedCodes:
    """Takes the codes of a weight, some rows at a time, and packs them: at once, where rows stay as they are.

    Where the constant's axes are in another order, elements that share a byte come from several rows.
    """

    def __init__(self, weight: Weight, groups: int, bits: int) -> None:
        self._weight = weight
        self._bits = bits
        rank = len(weight.shape)
        in_order = weight.reduction_axes == tuple(range(rank - len(weight.reduction_axes), rank))
        self._row_bytes = weight.columns * bits // 8 if in_order and weight.columns * bits % 8 == 0 else 0
        shape = (weight.rows, self._row_bytes) if self._row_bytes else (weight.rows, groups, weight.columns // groups)
        self._rows = np.empty(shape, np.uint8)

    def put(self, start: int, codes: Codes) -> None:
        """Rows from `start` on, uint8 [n, G, g]."""
        rows = pack(codes, self._bits).reshape(len(codes), -1) if self._row_bytes else codes
        self._rows[start : start + len(codes)] = rows

    def packed(self) -> Codes:
        """The bytes of the constant, flat."""
        if self._row_bytes:
            return self._rows.reshape(-1)
        return pack(rows_to_shape(self._rows, self._weight)[0], self._bits)


def _bytes(array: npt.NDArray[Any]) -> Codes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
