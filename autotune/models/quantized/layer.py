"""One quantized layer of a checkpoint in the terms of OpenVINO: codes, scales and zero points."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import Array, Codes, decode_e4m3, pack
from autotune.compression.formats.table import BITS, FORMATS, LARGEST_FLOAT16, NF4_LEVELS, Format
from autotune.compression.ir.layout import SCALE_DTYPES, Packed, Variant
from autotune.compression.ir.weights import Weight, rows_to_shape

LEVELS: Mapping[str, Array] = {
    "nf4": np.array(NF4_LEVELS, np.float32),
    "fp8_e4m3": decode_e4m3(np.arange(256, dtype=np.uint8)),
}
"""Number of each code, by the mode; those of integers are the codes less the zero point."""


@dataclass(frozen=True, slots=True)
class KeptVariant(Variant):
    """The variant of a kept layer, with the type that holds its scales exactly."""

    scale_storage: str = "f16"

    @property
    def format(self) -> Format:
        """The row of the format table, with this type of scales."""
        return replace(FORMATS[self.mode], scale_storage=self.scale_storage)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Layer:
    """One quantized layer.

    Attributes:
        codes: uint8 [N, K], channels of one group side by side.
        scales: float32 [N, G].
        zeros: uint8 [N, G]; None if codes are numbers of a table.
        kind: ``int4``, ``int8``, or a mode of `LEVELS`.
        order: int64 [K], the channel at each position of `codes`; None if channels keep their positions.
    """

    codes: Codes
    scales: Array
    zeros: Codes | None
    kind: str
    order: npt.NDArray[np.int64] | None = None

    @property
    def values(self) -> Array:
        """The dequantized weight, float32 [N, K], in the original order of channels."""
        rows, groups = self.scales.shape
        if self.zeros is None:
            levels = LEVELS[self.kind][self.codes].reshape(rows, groups, -1)
        else:
            levels = self.codes.reshape(rows, groups, -1).astype(np.float32) - self.zeros[..., None]
        values = (levels * self.scales[..., None]).reshape(rows, -1)
        return values if self.order is None else values[:, np.argsort(self.order)]

    @property
    def variant(self) -> KeptVariant:
        """The equivalent variant: integers are symmetric if every zero point is the middle code."""
        groups = self.scales.shape[1]
        mode = self.kind
        if self.zeros is not None:
            middle = 1 << (BITS[FORMATS[f"{mode}_sym"].storage] - 1)
            mode = f"{mode}_{'sym' if bool((self.zeros == middle).all()) else 'asym'}"
        exact = bool((np.abs(self.scales) <= LARGEST_FLOAT16).all()) and np.array_equal(
            self.scales.astype(np.float16).astype(np.float32), self.scales
        )
        group_size = -1 if groups == 1 else self.codes.shape[1] // groups
        return KeptVariant(mode, group_size, scale_storage="f16" if exact else "f32")

    def packed(self, weight: Weight) -> Packed:
        """Return the constants of `weight` in `variant`."""
        form = self.variant.format
        rows, groups = self.scales.shape
        codes = self.codes
        if form.family == "symmetric":
            codes = codes ^ np.uint8(1 << (form.bits - 1))  # subtracts the middle code in two's complement
        scales = self.scales.astype(SCALE_DTYPES[form.scale_storage]).reshape(rows, groups, 1)
        parts = {
            "weight": pack(rows_to_shape(codes.reshape(rows, groups, -1), weight)[0], form.bits),
            "scale": np.ascontiguousarray(rows_to_shape(scales, weight)[0]).reshape(-1).view(np.uint8),
        }
        if form.has_zero_point:
            assert self.zeros is not None
            parts["zero_point"] = pack(rows_to_shape(self.zeros[..., None], weight)[0], form.bits)
        return parts


def make_layer(
    codes: Codes,
    scales: Array,
    zeros: Codes | None,
    kind: str,
    of_channel: npt.NDArray[np.int64] | None = None,
) -> Layer:
    """Check the shapes of a layer, and put the channels of each group side by side.

    Args:
        codes: uint8 [N, K].
        scales: float32 [N, G].
        zeros: uint8 [N, G]; None for symmetric integers and for tables.
        kind: see `Layer`.
        of_channel: int64 [K], the group of each channel; None if groups are consecutive channels.

    Raises:
        ValueError: the shapes do not fit, or groups differ in size.
    """
    rows, columns = codes.shape
    groups = scales.shape[-1]
    if zeros is None and kind not in LEVELS:
        zeros = np.full(scales.shape, 1 << (BITS[FORMATS[f"{kind}_sym"].storage] - 1), np.uint8)
    if len(scales) != rows or columns % groups or (zeros is not None and zeros.shape != scales.shape):
        zero_points = "" if zeros is None else f", zero points {list(zeros.shape)}"
        raise ValueError(f"codes {[rows, columns]}, scales {list(scales.shape)}{zero_points}")
    order = None
    if of_channel is not None:
        counts = np.bincount(of_channel, minlength=groups).tolist() if of_channel.min() >= 0 else []
        if len(of_channel) != columns or counts != [columns // groups] * groups:
            raise ValueError(f"the groups of its {columns} channels differ in size")
        order = np.argsort(of_channel, kind="stable")
        if bool((order == np.arange(columns)).all()):
            order = None
    return Layer(
        codes=np.ascontiguousarray(codes if order is None else codes[:, order]),
        scales=np.ascontiguousarray(scales),
        zeros=None if zeros is None else np.ascontiguousarray(zeros),
        kind=kind,
        order=order,
    )


def spread(scales: Array, rows: int, columns: int, block: tuple[int, int]) -> Array:
    """Repeat the scales of blocks of a matrix for each row and group of columns that they apply to.

    Args:
        scales: float32 [ceil(rows / height), ceil(columns / width)].
        rows, columns: shape of the matrix.
        block: height and width of a block; the last ones may be cut off.

    Returns:
        float32 [rows, groups]; a group is the largest size that divides the width and the columns.

    Raises:
        ValueError: the number of scales is another.
    """
    height, width = block
    expected = (-(-rows // height), -(-columns // width))
    if scales.shape != expected:
        raise ValueError(f"codes {[rows, columns]}, scales {list(scales.shape)}, not {list(expected)}")
    group = columns if width >= columns else math.gcd(width, columns)
    of_rows = np.repeat(scales, height, axis=0)[:rows]
    return np.asarray(np.repeat(of_rows, -(-min(width, columns) // group), axis=1)[:, : columns // group])
