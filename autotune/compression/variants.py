"""Compression of one weight into one variant: scaled, quantized and packed block by block."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.common.threads import in_parallel, one_blas_thread
from autotune.compression.algorithms.codebook import fit_levels
from autotune.compression.algorithms.gptq import Propagation, quantize_columns, quantize_with_best_scales
from autotune.compression.algorithms.lora import cost_beside, fit_adapters
from autotune.compression.algorithms.scale_estimation import blocks_of, estimate_scale
from autotune.compression.algorithms.sensitivity import weighted_error
from autotune.compression.formats.encoding import Array, Codes, pack
from autotune.compression.formats.quantize import (
    encode,
    initial_scale,
    store_scale,
    stored_value,
    with_second_order_scale,
)
from autotune.compression.formats.table import LARGEST_FLOAT16, Format
from autotune.compression.ir.layout import SCALE_DTYPES, Packed, Variant, restore
from autotune.compression.ir.model_weights import Rows
from autotune.compression.ir.weights import Weight, rows_to_shape
from autotune.errors import CompressionError

ADAPTER_ROWS = 128
"""Rows whose output error is computed at a time when adapters are compared."""


@dataclass(frozen=True, slots=True)
class Treatment:
    """The arrays that a variant's algorithms need.

    Attributes:
        input_scale: float32 [K], multiplied into the columns (AWQ), or None.
        output_scale: float32 [R], divided out of the rows (AWQ of the next layer), or None.
        second_moment: float32 [K, K] of the activations that the scaled weight sees, or None.
        spread: propagation of the errors of its columns (GPTQ), or None.
    """

    input_scale: Array | None = None
    output_scale: Array | None = None
    second_moment: Array | None = None
    spread: Propagation | None = None


@dataclass(frozen=True, slots=True)
class CompressedWeight:
    """A weight of a compressed model.

    Attributes:
        variant: its format and algorithms.
        rows: what its codes and scales stand for: the original's rows, scaled by AWQ.
        packed: returns its constants.
        input_scale, output_scale: of AWQ, see `Treatment`.
    """

    variant: Variant
    rows: Rows
    packed: Callable[[], Packed]
    input_scale: Array | None
    output_scale: Array | None


def compress_weight(rows: Rows, variant: Variant, treatment: Treatment) -> Packed:
    """Scale, quantize and pack one weight.

    The result does not depend on the number of threads: blocks are fixed by the shape, and rows do not interact.

    Raises:
        CompressionError: the weight holds NaN, infinity, or values too large for a float16 scale.
    """
    rows = rows.scaled(treatment.input_scale, treatment.output_scale)
    if variant.lora_rank:
        return _compress_with_adapters(rows, variant, treatment)
    weight, fmt = rows.weight, variant.format
    groups = variant.groups(weight)
    if fmt.scale_storage == "f8e4m3":
        largest = rows.largest_magnitude()
        if largest / fmt.largest > LARGEST_FLOAT16:
            raise _too_large(weight, largest)
        fmt = with_second_order_scale(fmt, largest)
    if fmt.learns_levels:
        moment = treatment.second_moment
        fmt = replace(fmt, levels=fit_levels(rows, groups, fmt, None if moment is None else np.diagonal(moment)))
    codes = _PackedCodes(weight, groups, fmt.bits)
    scales = np.empty((weight.rows, groups, 1), SCALE_DTYPES[fmt.scale_storage])
    zeros = np.empty((weight.rows, groups, 1), np.uint8) if fmt.has_zero_point else None
    blocks = None
    if variant.scale_estimation and not variant.gptq:
        assert treatment.second_moment is not None
        blocks = blocks_of(treatment.second_moment, weight.columns // groups)
    elif fmt.learns_levels and not variant.looks_at_activations:
        # Scales of the ranges do not fit levels of least error: KL on the demo model 3.37e-3, searched 2.91e-3.
        blocks = np.ones((groups, weight.columns // groups), np.float32)

    def compress_block(start: int) -> None:
        values = rows.block(start)
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

    in_parallel(compress_block, rows.starts)
    parts = {
        "weight": codes.packed(),
        "scale": _bytes(rows_to_shape(scales, weight)[0]),
    }
    if zeros is not None:
        parts["zero_point"] = pack(rows_to_shape(zeros, weight)[0], fmt.bits)
    if fmt.learns_levels:
        parts["codebook"] = _bytes(np.array(fmt.levels, np.float16))
    if fmt.second_order_scale:
        parts["second_order_scale"] = _bytes(np.array([fmt.second_order_scale], np.float32))
    return parts


def _compress_with_adapters(rows: Rows, variant: Variant, treatment: Treatment) -> Packed:
    """Quantize one weight and fit adapters to its error; of all iterations the one with the least output error.

    Args:
        rows: the scaled weight.
        variant: with a `lora_rank` above 0.
        treatment: with the second moments in full.
    """
    assert treatment.second_moment is not None
    moment, weight = treatment.second_moment, rows.weight
    target = rows.whole()
    alone = replace(variant, lora_rank=0, lora_iterations=0)
    best: dict[str, Codes] = {}
    least = np.inf
    rest = target
    # The first iteration only finds the adapters for which scale estimation is then done.
    inner, now = Treatment(), replace(alone, scale_estimation=False)
    for _ in range(max(2 if variant.scale_estimation else 1, variant.lora_iterations)):
        packed = compress_weight(Rows.of(weight, rest), now, inner)
        error = target - restore(packed, weight, now)
        with one_blas_thread():
            adapters, b, a = fit_adapters(error, moment, variant.lora_rank)
            product = b @ a
            if variant.scale_estimation:
                inner, now = Treatment(second_moment=cost_beside(a, moment)), alone
        loss = weighted_error(error - product, moment, rows_at_once=ADAPTER_ROWS)
        if loss < least:
            least, best = loss, {**packed, **adapters}
        rest = target - product
    return best


def _quantized(
    values: Array,
    scale: Array,
    zero: Array | None,
    variant: Variant,
    treatment: Treatment,
    blocks: Array | None,
    fmt: Format,
) -> tuple[Codes, Array, Array | None]:
    """Quantize some rows: codes [n, G, g] with their scale and zero point.

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
        # Plain rounding ignores that the stored scale is rounded to float16, as NNCF's does; these do not.
        scale = stored_value(scale, fmt)
    return encode(values, scale, zero, fmt), scale, zero


def _too_large(weight: Weight, magnitude: float) -> CompressionError:
    return CompressionError(
        f"{weight.name}: values up to {magnitude:.3g} need a scale that float16 cannot hold; add the weight to "
        "ignored_scope"
    )


class _PackedCodes:
    """The packed codes of a weight, added some rows at a time.

    Rows are packed at once if they are contiguous in the constant. If its axes are in another order, elements that
    share a byte come from several rows, and packing waits for all of them.
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
        """Add the rows from `start` on, uint8 [n, G, g]."""
        rows = pack(codes, self._bits).reshape(len(codes), -1) if self._row_bytes else codes
        self._rows[start : start + len(codes)] = rows

    def packed(self) -> Codes:
        """Return the bytes of the constant, flat."""
        if self._row_bytes:
            return self._rows.reshape(-1)
        return pack(rows_to_shape(self._rows, self._weight)[0], self._bits)


def _bytes(array: npt.NDArray[Any]) -> Codes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
