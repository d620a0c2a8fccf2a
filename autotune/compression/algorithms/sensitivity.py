"""Sensitivity metrics: which weights lose least at few bits.

Five are NNCF 3.4.0's, and look at 8 bits whatever the mode; `output_error` is the error of the mode itself.

NNCF's five all start from the error of the int8_asym round trip per channel. NNCF divides by the machine epsilon of the
*stored* weight type, so that its ranking changes between float16 and float32 files of one model; here the epsilon is
always float32's, and the ranking depends on the numbers only.

How sensitive the weights of one model are by any metric, each measured once in a bank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.files import fingerprint
from autotune.common.threads import in_parallel
from autotune.compression.algorithms.scale_estimation import blocks_of, output_error
from autotune.compression.formats.quantize import FORMATS, Array, initial_scale, round_trip, stored_value
from autotune.compression.ir.weights import Weight
from autotune.compression.settings import DATA_FREE_METRIC, OUTPUT_ERROR
from autotune.compression.variants import BLOCK_ELEMENTS, RowReader, Variant

if TYPE_CHECKING:
    from autotune.compression.bank import Bank
    from autotune.compression.calibration.statistics import Statistics
    from autotune.compression.ir.weights import Weight
    from autotune.compression.variants import RowReader, Variant

__all__ = ["Int8Error", "Sensitivities", "int8_error", "output_error_per_element", "sensitivity", "weighted_error"]

EPSILON = float(np.finfo(np.float32).eps)


@dataclass(frozen=True, slots=True)
class Int8Error:
    """Error of the int8_asym round trip.

    Attributes:
        largest_mean_square: maximum over output channels of the mean square error over input channels.
        norm: Frobenius norm of the error.
    """

    largest_mean_square: float
    norm: float


def int8_error(read: RowReader, weight: Weight) -> Int8Error:
    """Measure the int8_asym round trip of a weight, block by block."""
    fmt = FORMATS["int8_asym"]
    largest, squares = 0.0, 0.0
    step = max(1, BLOCK_ELEMENTS // weight.columns)
    for start in range(0, weight.rows, step):
        rows = read(start, min(start + step, weight.rows))[:, None, :]
        scale, zero = initial_scale(rows, fmt)
        error = np.square(round_trip(rows, scale, zero, fmt) - rows)
        largest = max(largest, float(error.mean(axis=-1).max()))
        squares += float(error.sum(dtype=np.float64))
    return Int8Error(largest, squares**0.5)


def sensitivity(metric: str, error: Int8Error, activation: float | None) -> float:
    """The metric's value; weights with small values go to few bits first.

    Args:
        metric: one of `settings.SENSITIVITY_METRICS`.
        error: the weight's int8 error.
        activation: the activation's part: mean over samples of the largest (max_activation_variance) or mean
            (mean_activation_variance) channel variance over tokens, mean over channels of the largest magnitude
            (mean_activation_magnitude), or twice the mean square (hessian_input_activation). None where the input
            is not a MatMul's activation (embeddings): sensitivity 0, as in NNCF.
    """
    weight_part = 1.0 / (error.largest_mean_square + EPSILON)
    if metric == "weight_quantization_error":
        return weight_part
    if activation is None:
        return 0.0
    return (error.norm if metric == "hessian_input_activation" else weight_part) * activation


def weighted_error(error: Array, moment: Array) -> float:
    """The output error tr(E H Eᵀ) of a weight, with all interactions of its columns.

    Args:
        error: float32 [R, K], E.
        moment: float32 [K, K], H, the second moments of the input.
    """

    def of_rows(start: int) -> float:
        rows = error[start : start + step]
        return float(np.einsum("rk,rk->", rows @ moment, rows, dtype=np.float64))

    step = max(1, BLOCK_ELEMENTS // error.shape[1])
    return sum(in_parallel(of_rows, range(0, len(error), step)))


def output_error_per_element(read: RowReader, weight: Weight, variant: Variant, moment: Array | None) -> float:
    """Mean square error that plain rounding brings to the output, by element of the weight.

    It is e H eᵀ summed over rows e of the error, H the second moments of the input within each group (blocks of at
    most 128 channels). By element, because `ratio` counts elements: taking the cheapest ones first is then the greedy
    solution of the knapsack problem that a ratio poses (Dantzig, 1957).

    Args:
        read, weight: the weight.
        variant: format and group size in question.
        moment: float32 [K, K]; None for an embedding, whose input picks each row equally often.
    """
    fmt = variant.format
    groups = variant.groups(weight)
    group = weight.columns // groups
    unit = 1 / weight.rows if moment is None else float(np.diagonal(moment).mean())
    blocks = np.ones((groups, group), np.float32) if moment is None else blocks_of(moment, group)

    def of_rows(start: int) -> float:
        rows = read(start, min(start + step, weight.rows)).reshape(-1, groups, group)
        scale, zero = initial_scale(rows, fmt)
        error = round_trip(rows, stored_value(scale, fmt), zero, fmt) - rows
        return float(output_error(error, blocks).sum(dtype=np.float64))

    step = max(1, BLOCK_ELEMENTS // weight.columns)
    return unit * sum(in_parallel(of_rows, range(0, weight.rows, step))) / weight.size


class Sensitivities:
    """The sensitivities of a model's weights."""

    def __init__(
        self,
        reader: Callable[[Weight], RowReader],
        content: Callable[[Weight], list[Any]],
        statistics: Callable[[], Statistics],
        bank: Bank,
    ) -> None:
        """Measure nothing yet.

        Args:
            reader: reads a weight's rows.
            content: what a weight's numbers depend on, for keys.
            statistics: gives the calibration statistics, which some metrics look at.
            bank: keeps what is measured.
        """
        self._reader, self._content, self._statistics, self._bank = reader, content, statistics, bank

    def score(self, metric: str, weight: Weight, variant: Variant) -> float:
        """The metric's value for a weight that may get this variant; infinite where its input cannot be looked at."""
        if metric == OUTPUT_ERROR:
            return self._output_error(weight, variant)
        key = fingerprint("int8_error", *self._content(weight))

        def compute() -> Mapping[str, Any]:
            error = int8_error(self._reader(weight), weight)
            return {"error": np.array([error.largest_mean_square, error.norm])}

        largest, norm = self._bank.get_or_compute(key, compute)["error"]
        activation = None
        if metric != DATA_FREE_METRIC and weight.kind == "matmul":
            if not weight.activations:
                return math.inf  # what cannot be looked at stays at more bits
            activation = self._statistics().scalar(weight.activations[0], metric)
        return sensitivity(metric, Int8Error(float(largest), float(norm)), activation)

    def _output_error(self, weight: Weight, variant: Variant) -> float:
        """Of all uses of a weight together."""
        if any(use.kind != "embedding" and use.activation is None for use in weight.uses):
            return math.inf  # what cannot be looked at stays at more bits
        looked_up = any(use.kind == "embedding" for use in weight.uses)
        total = 0.0
        for activation in (*weight.activations, *([None] if looked_up else [])):
            of_input = None if activation is None else [self._statistics().fingerprint, activation]
            described = (*self._content(weight), variant.grid, of_input)

            def compute(activation: str | None = activation) -> Mapping[str, Any]:
                moment = None if activation is None else self._statistics().array(activation, "second_moment")
                return {"error": np.array([output_error_per_element(self._reader(weight), weight, variant, moment)])}

            total += float(self._bank.get_or_compute(fingerprint("output_error", described), compute)["error"][0])
        return total
