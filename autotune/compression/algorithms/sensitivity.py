"""Sensitivity metrics: the cost of storing a weight in few bits.

Five metrics are those of NNCF 3.4.0. They start from the error of the int8_asym round trip per channel, for any
mode. NNCF divides by the machine epsilon of the *stored* weight type, so that float16 and float32 files of one model
are ranked differently. Here the epsilon is always that of float32.

The metric `output_error` is the error of the mode itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from autotune.common.files import fingerprint
from autotune.common.threads import in_parallel
from autotune.compression.algorithms.scale_estimation import blocks_of, output_error
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.formats.encoding import Array
from autotune.compression.formats.quantize import initial_scale, round_trip, stored_value
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.model_weights import BLOCK_ELEMENTS, ModelWeights, Rows
from autotune.compression.ir.weights import Weight
from autotune.compression.settings import DATA_FREE_METRIC, OUTPUT_ERROR

EPSILON = float(np.finfo(np.float32).eps)


def measure_sensitivity(
    metric: str,
    weight: Weight,
    variant: Variant,
    source: ModelWeights,
    statistics: Callable[[], Statistics],
    bank: Bank,
    gradients: Mapping[str, Array] = MappingProxyType({}),
) -> float:
    """Measure the sensitivity of a weight; weights with small values go to few bits first.

    Args:
        metric: one of `settings.SENSITIVITY_METRICS`.
        weight: the weight.
        variant: format and group size in question.
        source: the model of the weight.
        statistics: returns the calibration statistics; called only by metrics that need them.
        bank: keeps what is measured.
        gradients: mean squares of the gradients at the output channels of operations, float32 [R] by their names, for
            output_error; the outputs of an operation that is not there count as they are.

    Returns:
        The metric's value; infinite if the input of the weight cannot be calibrated, so that it stays at more bits.
    """
    if metric == OUTPUT_ERROR:
        return _output_error_of_uses(weight, variant, source, statistics, bank, gradients)

    def compute() -> Mapping[str, Any]:
        return {"error": np.array(int8_error(source.rows(weight)))}

    key = fingerprint("int8_error", *source.content_key(weight))
    error = Int8Error(*(float(part) for part in bank.get_or_compute(key, compute)["error"]))
    activation = None
    if metric != DATA_FREE_METRIC and weight.kind == "matmul":
        if not weight.activations:
            return math.inf
        activation = statistics().scalar(weight.activations[0], metric)
    return sensitivity(metric, error, activation)


class Int8Error(NamedTuple):
    """Error of the int8_asym round trip.

    Attributes:
        largest_mean_square: maximum over output channels of the mean square error over input channels.
        norm: Frobenius norm of the error.
    """

    largest_mean_square: float
    norm: float


def int8_error(rows: Rows) -> Int8Error:
    """Measure the int8_asym round trip of a weight, block by block."""
    fmt = FORMATS["int8_asym"]
    largest, squares = 0.0, 0.0
    for start in rows.starts:
        values = rows.block(start)[:, None, :]
        scale, zero = initial_scale(values, fmt)
        error = np.square(round_trip(values, scale, zero, fmt) - values)
        largest = max(largest, float(error.mean(axis=-1).max()))
        squares += float(error.sum(dtype=np.float64))
    return Int8Error(largest, squares**0.5)


def sensitivity(metric: str, error: Int8Error, activation: float | None) -> float:
    """Compute one of NNCF's metrics from its two parts.

    Args:
        metric: any but `output_error`.
        error: the weight's int8 error.
        activation: the activation's part: mean over samples of the largest (max_activation_variance) or mean
            (mean_activation_variance) channel variance over tokens, mean over channels of the largest magnitude
            (mean_activation_magnitude), or twice the mean square (hessian_input_activation). None where the input
            is not a MatMul's activation (embeddings): sensitivity 0, as in NNCF.
    """
    weight_part = 1.0 / (error.largest_mean_square + EPSILON)
    if metric == DATA_FREE_METRIC:
        return weight_part
    if activation is None:
        return 0.0
    return (error.norm if metric == "hessian_input_activation" else weight_part) * activation


def _output_error_of_uses(
    weight: Weight,
    variant: Variant,
    source: ModelWeights,
    statistics: Callable[[], Statistics],
    bank: Bank,
    gradients: Mapping[str, Array],
) -> float:
    """Measure the output error of all uses of a weight together."""
    if any(use.kind != "embedding" and use.activation is None for use in weight.uses):
        return math.inf
    total = 0.0
    for use in weight.uses:
        of_input = None if use.activation is None else [statistics().fingerprint, use.activation]
        squares = gradients.get(use.node)

        def compute(activation: str | None = use.activation, squares: Array | None = squares) -> Mapping[str, Any]:
            moment = None if activation is None else statistics().array(activation, "second_moment")
            return {"error": np.array([output_error_per_element(source.rows(weight), variant, moment, squares)])}

        of_output = None if squares is None else fingerprint(squares.tobytes())
        key = fingerprint("output_error", (*source.content_key(weight), variant.grid, of_input, of_output))
        total += float(bank.get_or_compute(key, compute)["error"][0])
    return total


def output_error_per_element(rows: Rows, variant: Variant, moment: Array | None, squares: Array | None = None) -> float:
    """Compute the mean square error that plain rounding brings to the output, by element of the weight.

    It is e H eᵀ summed over rows e of the error, H the second moments of the input within each group (blocks of at
    most 128 channels). By element, because `ratio` counts elements: taking the cheapest ones first is then the greedy
    solution of the knapsack problem that a ratio poses (Dantzig, 1957).

    Args:
        rows: of the weight.
        variant: format and group size in question.
        moment: float32 [K, K]; None for an embedding, whose input picks each row equally often.
        squares: mean squares of the gradients at the outputs, float32 [R], by which the rows' errors are multiplied:
            the sum is then about twice the divergence that it causes. An embedding has one for each column.
    """
    weight, fmt = rows.weight, variant.format
    groups = variant.groups(weight)
    group = weight.columns // groups
    unit = 1 / weight.rows if moment is None else float(np.diagonal(moment).mean())
    blocks = np.ones((groups, group), np.float32) if moment is None else blocks_of(moment, group)

    def of_block(start: int) -> float:
        values = rows.block(start).reshape(-1, groups, group)
        scale, zero = initial_scale(values, fmt)
        error = round_trip(values, stored_value(scale, fmt), zero, fmt) - values
        if squares is not None and moment is None:
            error *= np.sqrt(squares).reshape(groups, group)
        found = output_error(error, blocks)[..., 0].sum(axis=1)
        if squares is not None and moment is not None:
            found *= squares[start : start + len(found)]
        return float(found.sum(dtype=np.float64))

    return unit * sum(in_parallel(of_block, rows.starts)) / weight.size


def weighted_error(error: Array, moment: Array, *, rows_at_once: int | None = None) -> float:
    """Compute the output error tr(E H Eᵀ) of a weight, with all interactions of its columns.

    Args:
        error: float32 [R, K], E.
        moment: float32 [K, K], H, the second moments of the input.
        rows_at_once: rows of a block; by default as many as `Rows` reads at once.
    """

    def of_rows(start: int) -> float:
        rows = error[start : start + step]
        return float(np.einsum("rk,rk->", rows @ moment, rows, dtype=np.float64))

    step = rows_at_once or max(1, BLOCK_ELEMENTS // error.shape[1])
    return sum(in_parallel(of_rows, range(0, len(error), step)))
