"""Plan, then apply: the engine for one original model."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune import __version__
from autotune.compression.awq import AwqGroup, Member, find_groups, search_scale
from autotune.compression.bank import Bank
from autotune.compression.digest import model_digest
from autotune.compression.formats import Array
from autotune.compression.gptq import Propagation, propagation
from autotune.compression.graph import assemble
from autotune.compression.lora import compress_with_adapters
from autotune.compression.plan import Plan, expanded_at_run_time, make_variants, percent_in_bits, weight_bits
from autotune.compression.sensitivity import (
    Int8Error,
    int8_error,
    output_error_per_element,
    sensitivity,
    weighted_error,
)
from autotune.compression.settings import ALGORITHMS, DATA_FREE_METRIC, OUTPUT_ERROR, Settings
from autotune.compression.sizes import Sizes
from autotune.compression.statistics import Statistics
from autotune.compression.variants import Packed, RowReader, Treatment, Variant, compress_weight, read_rows, restore
from autotune.compression.weights import Weight, find_weights
from autotune.errors import PlanError
from autotune.files import fingerprint

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["ENGINE_VERSION", "Engine"]

ENGINE_VERSION = 3
"""Part of every key in the bank; changes whenever a variant's bytes change."""


class Engine:
    """Plans and compresses one original model; the model itself is never changed.

    Attributes:
        model: the original.
        weights: all its weights.
        sizes: exact sizes.
        counters: ``variants_computed`` and ``variants_reused`` of this engine.
    """

    def __init__(
        self,
        model: ov.Model,
        *,
        bank: Bank | None = None,
        statistics: Callable[[], Statistics] | None = None,
        model_fingerprint: str = "",
    ) -> None:
        """Look at a model.

        Args:
            model: the original.
            bank: where variants are kept; in memory only by default.
            statistics: gives the calibration statistics when they are first needed; None if there is no text.
            model_fingerprint: recorded in the compressed model.
        """
        self.model = model
        self.weights = find_weights(model)
        self.sizes = Sizes(model)
        self.counters = {"variants_computed": 0, "variants_reused": 0}
        self._bank = Bank() if bank is None else bank
        self._statistics = statistics
        self._model_fingerprint = model_fingerprint
        names = {weight.name for weight in self.weights}
        self._constants = {n.get_friendly_name(): n for n in model.get_ordered_ops() if n.get_friendly_name() in names}
        self._by_name = {weight.name: weight for weight in self.weights}
        self._groups = {group.activation: group for group in find_groups(model, self.weights)}
        self._scaled: tuple[tuple[str, bytes, bool | None], Array, Propagation | None] | None = None

    @property
    def activations(self) -> tuple[str, ...]:
        """Every output that a calibration pass has to look at."""
        return tuple(dict.fromkeys(a for weight in self.weights for a in weight.activations))

    @cached_property
    def statistics(self) -> Statistics:
        """The calibration statistics.

        Raises:
            PlanError: there is no calibration text.
        """
        self._check_text()
        assert self._statistics is not None
        return self._statistics()

    def _check_text(self) -> None:
        if self._statistics is None:
            raise PlanError(
                f"these settings look at activations ({', '.join(ALGORITHMS)} or a data-aware sensitivity_metric) and "
                "need a calibration text; name one or leave these settings out"
            )

    def resolve(self, settings: Settings) -> Settings:
        """Fill in the defaults that depend on whether there is a calibration text."""
        if settings.sensitivity_metric is not None:
            return settings
        data_aware = self._statistics is not None
        return replace(settings, sensitivity_metric=OUTPUT_ERROR if data_aware else DATA_FREE_METRIC)

    def plan(self, settings: Settings) -> Plan:
        """Resolve settings for this model.

        Raises:
            PlanError: the settings cannot be used, with or without this model, with the reason.
        """
        for problem in settings.problems():
            raise PlanError(f"{problem.key}: {problem.message}")
        if not self.weights:
            raise PlanError(
                "this model has no float weights to compress; if it is compressed already, name the original"
            )
        settings = self.resolve(settings)
        if settings.needs_statistics:
            self._check_text()
        scores: dict[str, float | None] = {}

        def score(metric: str, weight: Weight, variant: Variant) -> float:
            value = self._score(metric, weight, variant)
            scores[weight.name] = value if math.isfinite(value) else None
            return value

        plan = self.plan_of(*make_variants(settings, self.weights, tuple(self._groups.values()), score))
        known = {"metric": settings.sensitivity_metric, "values": scores} if scores else {}
        return replace(plan, sensitivity=known)

    def plan_of(self, variants: Mapping[str, Variant], awq: Sequence[str] = (), notes: Sequence[str] = ()) -> Plan:
        """A plan of these variants, with its sizes; the weights that are not named stay as they are."""
        expanded, expansions = expanded_at_run_time(self.weights, variants)
        gains = {self._groups[a].gain: a for a in awq}
        footprint = self.sizes.footprint(self.weights, variants, {gain: a for gain, a in gains.items() if gain})
        return Plan(
            variants=variants,
            awq=tuple(awq),
            notes=(*notes, *expansions),
            footprint=footprint,
            bits_per_weight=weight_bits(self.weights, variants, self.sizes.nbytes),
            compression_rate=self.sizes.fp32 / footprint,
            int4_percent=percent_in_bits(self.weights, variants, range(5)),
            int8_percent=percent_in_bits(self.weights, variants, (8,)),
            expanded_percent=expanded,
        )

    def apply(self, plan: Plan) -> ov.Model:
        """Compress: take every variant from the bank or compute it, and assemble a new model.

        Raises:
            PlanError: the plan is one for another model.
            CompressionError: a weight holds values that cannot be compressed.
        """
        for name in (*(set(plan.variants) - set(self._by_name)), *(set(plan.awq) - set(self._groups))):
            raise PlanError(f"the plan is for another model: it compresses {name}, which this one does not have")
        scales = {activation: self._awq_scale(self._groups[activation], plan) for activation in plan.awq}
        by_weight = {name: a for a in plan.awq for name in self._groups[a].weights}
        by_producer = {self._groups[a].producer: a for a in plan.awq}
        compressed = []
        for weight in self.weights:
            variant = plan.variants.get(weight.name)
            if variant is None:
                continue
            treatment = Treatment(
                input_scale=scales[by_weight[weight.name]] if variant.awq else None,
                output_scale=scales[by_producer[weight.name]] if variant.awq_output else None,
            )
            compressed.append((weight, variant, self._packed(weight, variant, treatment)))
        gains = {self._groups[a].gain: scale for a, scale in scales.items()}
        record = {
            "version": __version__,
            "model": self._model_fingerprint,
            "plan": replace(plan, sensitivity={}).as_dict(),
        }
        return assemble(self.model, compressed, {gain: scale for gain, scale in gains.items() if gain}, record)

    def restored(self, weight: Weight, variant: Variant) -> Array:
        """A weight as its compressed form stands for it, float32 [R, K]; compressed now where the bank has it not."""
        return restore(self._packed(weight, variant, Treatment()), weight, variant)

    def variant_error(self, weight: Weight, variant: Variant) -> float:
        """What a variant of one weight costs the outputs that it feeds: tr(E H Eᵀ) over all its uses.

        E is the error of the weight and H the second moments of its input in full. An input that is not looked at (an
        embedding's, or any without a calibration text) counts as picking each row equally often.
        """
        activations = weight.activations if self._statistics is not None else ()
        of_inputs = [self.statistics.fingerprint, *activations] if activations else None
        key = fingerprint("variant_error", of_inputs, *self._variant_key(weight, variant, Treatment()))

        def compute() -> Mapping[str, Any]:
            error = self._reader(weight)(0, weight.rows) - self.restored(weight, variant)
            total = 0.0
            if len(activations) < len(weight.uses):
                total += float(np.square(error).sum(dtype=np.float64)) / weight.rows
            for activation in activations:
                total += weighted_error(error, self.statistics.array(activation, "second_moment"))
            return {"error": np.array([total])}

        return float(self._bank.get_or_compute(key, compute)["error"][0])

    def digest(self, model: ov.Model) -> str:
        """32 hex digits of a model's operations and bytes; see `digest.model_digest`."""
        return model_digest(model)

    def _reader(self, weight: Weight) -> RowReader:
        return read_rows(self._constants[weight.name], weight)

    def _content(self, weight: Weight) -> list[Any]:
        """What a variant's bytes depend on, of the weight itself."""
        return [
            ENGINE_VERSION,
            self.sizes.digests[weight.name],
            weight.element_type,
            weight.shape,
            weight.reduction_axes,
        ]

    def _scaled_moment(
        self, activation: str, scale: Array | None, activation_order: bool | None
    ) -> tuple[Array, Propagation | None]:
        """Second moments of an activation divided by an AWQ scale, and their factor; weights in a row share them.

        `activation_order` is that of the factor; None is without one.
        """
        key = (activation, b"" if scale is None else scale.tobytes(), activation_order)
        if self._scaled is None or self._scaled[0] != key:
            moment: Array = self.statistics.array(activation, "second_moment")
            if scale is not None:
                moment = moment / np.outer(scale, scale)
            spread = None if activation_order is None else propagation(moment, activation_order=activation_order)
            self._scaled = (key, moment, spread)
        return self._scaled[1], self._scaled[2]

    def _score(self, metric: str, weight: Weight, variant: Variant) -> float:
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
            activation = self.statistics.scalar(weight.activations[0], metric)
        return sensitivity(metric, Int8Error(float(largest), float(norm)), activation)

    def _output_error(self, weight: Weight, variant: Variant) -> float:
        """Of all uses of a weight together."""
        if any(use.kind != "embedding" and use.activation is None for use in weight.uses):
            return math.inf  # what cannot be looked at stays at more bits
        looked_up = any(use.kind == "embedding" for use in weight.uses)
        total = 0.0
        for activation in (*weight.activations, *([None] if looked_up else [])):
            of_input = None if activation is None else [self.statistics.fingerprint, activation]
            described = (*self._content(weight), variant.grid, of_input)

            def compute(activation: str | None = activation) -> Mapping[str, Any]:
                moment = None if activation is None else self.statistics.array(activation, "second_moment")
                return {"error": np.array([output_error_per_element(self._reader(weight), weight, variant, moment)])}

            total += float(self._bank.get_or_compute(fingerprint("output_error", described), compute)["error"][0])
        return total

    def _awq_scale(self, group: AwqGroup, plan: Plan) -> Array:
        """The channel scale of a group for the variants of its weights."""
        members = [Member(self._by_name[n], plan.variants[n], self._reader(self._by_name[n])) for n in group.weights]
        described = [(*self._content(m.weight), m.variant.grid) for m in members]
        key = fingerprint("awq", described, self.statistics.fingerprint, group.activation)

        def compute() -> Mapping[str, Any]:
            return {"scale": search_scale(members, self.statistics.array(group.activation, "second_moment"))}

        return np.asarray(self._bank.get_or_compute(key, compute)["scale"])

    def _packed(self, weight: Weight, variant: Variant, treatment: Treatment) -> Packed:
        parts = self._variant_key(weight, variant, treatment)

        def compute() -> Mapping[str, Any]:
            needed = treatment
            if variant.looks_at_activations:
                order = variant.gptq_act_order if variant.gptq else None
                moment, spread = self._scaled_moment(weight.activations[0], treatment.input_scale, order)
                needed = replace(treatment, second_moment=moment, spread=spread)
            compress = compress_with_adapters if variant.lora_rank else compress_weight
            packed = compress(self._reader(weight), weight, variant, needed)
            self.counters["variants_computed"] += 1
            return packed

        before = self.counters["variants_computed"]
        entry = self._bank.get_or_compute(fingerprint("variant", *parts), compute)
        self.counters["variants_reused"] += before == self.counters["variants_computed"]
        return entry

    def _variant_key(self, weight: Weight, variant: Variant, treatment: Treatment) -> list[Any]:
        """What a variant's bytes depend on."""
        parts: list[Any] = [self._content(weight), variant.as_dict()]
        for scale in (treatment.input_scale, treatment.output_scale):
            parts.append(None if scale is None else fingerprint(scale.tobytes()))
        if variant.looks_at_activations:
            parts.append([self.statistics.fingerprint, weight.activations[0]])
        return parts

    def original_bits_per_weight(self) -> float:
        """Mean bits of an element as the original stores its weights."""
        return weight_bits(self.weights, {}, self.sizes.nbytes)
