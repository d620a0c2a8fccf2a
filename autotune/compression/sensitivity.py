"""Sensitivity metrics of NNCF 3.4.0: which weights lose least at few bits.

All five start from the error of the int8_asym round trip per channel. NNCF divides by the machine epsilon of the
*stored* weight type, so that its ranking changes between float16 and float32 files of one model; here the epsilon is
always float32's, and the ranking depends on the numbers only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from autotune.compression.formats import FORMATS, initial_scale, round_trip
from autotune.compression.variants import BLOCK_ELEMENTS, RowReader
from autotune.compression.weights import Weight

__all__ = ["Int8Error", "int8_error", "sensitivity"]

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
