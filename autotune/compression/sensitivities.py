"""How sensitive the weights of one model are by any metric, each measured once in a bank."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.compression.sensitivity import Int8Error, int8_error, output_error_per_element, sensitivity
from autotune.compression.settings import DATA_FREE_METRIC, OUTPUT_ERROR
from autotune.files import fingerprint

if TYPE_CHECKING:
    from autotune.compression.bank import Bank
    from autotune.compression.statistics import Statistics
    from autotune.compression.variants import RowReader, Variant
    from autotune.compression.weights import Weight

__all__ = ["Sensitivities"]


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
