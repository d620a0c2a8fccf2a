"""Engine for one original model: plans its compression, then applies the plan."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.files import fingerprint
from autotune.common.version import __version__
from autotune.compression.algorithms.awq.search import Scaling, by_label
from autotune.compression.algorithms.awq.selection import ChannelScales, marked
from autotune.compression.algorithms.gptq import Propagation, propagation
from autotune.compression.algorithms.scale_estimation import MAX_BLOCK
from autotune.compression.algorithms.sensitivity import measure_sensitivity, weighted_error
from autotune.compression.bank import Bank, Entry
from autotune.compression.calibration.calibrate import BLOCK, Depth
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.formats.encoding import Array
from autotune.compression.ir.assemble import assemble
from autotune.compression.ir.constants import model_digest
from autotune.compression.ir.layout import Packed, Variant, restore
from autotune.compression.ir.model_weights import BLOCK_ELEMENTS, ModelWeights
from autotune.compression.ir.sizes import Beside
from autotune.compression.ir.weights import Weight, compressed_already
from autotune.compression.plan import Plan, expanded_at_run_time, make_variants, percent_in_bits, weight_bits
from autotune.compression.settings import ALGORITHMS, OUTPUT_ERROR, Settings
from autotune.compression.targets import check_variants, fitted, target_problems
from autotune.compression.variants import CompressedWeight, Treatment, compress_weight
from autotune.errors import CompressionError, PlanError

if TYPE_CHECKING:
    import openvino as ov

ENGINE_VERSION = 11
"""Part of every key in the bank; changes whenever a variant's bytes change."""


class Engine:
    """Planning and compression of one original model; the model itself is never changed.

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
        gradients: Callable[[], Mapping[str, Array]] | None = None,
        distil: Callable[[ov.Model, Mapping[str, CompressedWeight]], None] | None = None,
        model_fingerprint: str = "",
        block_elements: int = BLOCK_ELEMENTS,
        targets: Sequence[str] = (),
        beside: Beside | None = None,
    ) -> None:
        """Find the weights of a model.

        Args:
            model: the original.
            bank: keeps variants; by default only small ones, in memory.
            statistics: returns the calibration statistics when they are first needed; None if there is no text.
            gradients: returns the mean squares of the gradients at outputs, see `sensitivity.measure_sensitivity`;
                raises PlanError if they cannot be measured.
            distil: trains a compressed model with these weights, by name, in place; None if there is no text.
            model_fingerprint: recorded in the compressed model.
            block_elements: elements of a weight that are compressed at a time; the result does not depend on it.
            targets: devices that every plan of this engine must fit, of `targets.TARGETS`.
            beside: sizes of further IRs of the model, which belong to every footprint.
        """
        self._source = ModelWeights(model, version=ENGINE_VERSION, block_elements=block_elements, beside=beside)
        self.model = model
        self.weights = tuple(self._source.weights.values())
        self.sizes = self._source.sizes
        self.counters = {"variants_computed": 0, "variants_reused": 0}
        self.seconds: dict[str, float] = {}  # of computing variants, by their algorithms
        self._bank = Bank(weights_in_memory=False) if bank is None else bank
        self._statistics = statistics
        self._get_gradients = gradients
        self._gradients: Mapping[str, Array] = {}
        self._distil = distil
        self._model_fingerprint = model_fingerprint
        self._targets = tuple(targets)
        self._scaled: tuple[tuple[str, bytes, bool | None], Array, Propagation | None] | None = None

    @property
    def activations(self) -> tuple[str, ...]:
        """Outputs that a calibration pass has to cover."""
        return tuple(dict.fromkeys(a for weight in self.weights for a in weight.activations))

    @cached_property
    def statistics(self) -> Statistics:
        """The calibration statistics.

        Raises:
            PlanError: there is no calibration text.
        """
        return self._get_statistics()()

    @cached_property
    def channel_scales(self) -> ChannelScales:
        """The groups of channels that AWQ can scale in this model, and their scales."""
        return ChannelScales(self._source, self._bank)

    def _get_statistics(self) -> Callable[[], Statistics]:
        if self._statistics is None:
            raise PlanError(
                f"these settings use activations ({', '.join(ALGORITHMS[1:])} or a data-aware sensitivity_metric) and "
                "need a calibration text; give one, or remove these settings"
            )
        return self._statistics

    def resolve(self, settings: Settings) -> Settings:
        """Fill in the defaults that depend on the target devices, and on whether there is a calibration text."""
        return fitted(settings, self._targets).resolved(calibrated=self._statistics is not None)

    def depth(self, settings: Settings) -> Depth:
        """Return the depth of second moments that these settings need: full for GPTQ, adapters and AWQ."""
        within_groups = not (settings.gptq or settings.lora_correction or settings.awq)
        # Groups of these sizes, or whole rows, are searched in blocks that lie within one block of the statistics.
        fits = settings.group_size in (None, -1) or BLOCK % settings.group_size == 0
        fits = fits and all(weight.columns % MAX_BLOCK == 0 for weight in self.weights if weight.activations)
        return "blocks" if within_groups and fits else "full"

    def plan(self, settings: Settings) -> Plan:
        """Resolve settings for this model.

        Raises:
            PlanError: the settings cannot be used, with or without this model, with the reason.
        """
        for problem in settings.problems():
            raise PlanError(f"{problem.key}: {problem.message}")
        settings = fitted(settings, self._targets)
        for problem in target_problems(settings, self._targets):
            raise PlanError(f"{problem.key}: {problem.message}")
        if not self.weights:
            raise PlanError(
                "this model has no float weights to compress; if it is already compressed, give the original model"
            )
        if settings.allocation == "budget":
            raise PlanError(
                "`allocation: budget` needs measured errors of each weight: run a search, or compress with `max_size` "
                "and `evaluation`"
            )
        settings = self.resolve(settings)
        if settings.needs_calibration:
            self._get_statistics()
        unweighted = self._measure_gradients(settings)
        scores: dict[str, float | None] = {}

        def score(metric: str, weight: Weight, variant: Variant) -> float:
            value = measure_sensitivity(
                metric, weight, variant, self._source, lambda: self.statistics, self._bank, self._gradients
            )
            scores[weight.name] = value if math.isfinite(value) else None
            return value

        variants, notes = make_variants(settings, self.weights, score)
        notes += unweighted
        check_variants(variants, self._targets)
        scalings: tuple[Scaling, ...] = ()
        if settings.awq:
            scalings, found = self.channel_scales.choose(
                variants, None if settings.awq_data_free or settings.ratio == 0 else self.statistics
            )
            notes += found
        kept = len(compressed_already(self.model))
        if kept:
            notes.append(
                f"{kept} weights of this model are already compressed and are not changed; these settings, and the "
                f"percentages, apply to the other {len(self.weights)}"
            )
        plan = self.plan_of(variants, scalings, notes)
        measured = {"metric": settings.sensitivity_metric, "values": scores} if scores else {}
        return replace(
            plan,
            sensitivity=measured,
            awq_data_free=bool(scalings) and settings.awq_data_free,
            distilled=settings.distillation and bool(variants),
        )

    def _measure_gradients(self, settings: Settings) -> list[str]:
        """Measure the gradients that the sensitivity metric uses; return a note if that is not possible."""
        if self._get_gradients is None or self._gradients:
            return []
        if settings.sensitivity_metric != OUTPUT_ERROR or not settings.ranks_by_activations:
            return []
        try:
            self._gradients = self._get_gradients()
        except PlanError as error:
            reason = str(error).removeprefix("distillation: ").partition("; compress it")[0]
            return [f"sensitivity_metric: output_error counts the outputs of all weights alike, for {reason}"]
        return []

    def plan_of(
        self, variants: Mapping[str, Variant], scalings: Sequence[Scaling] = (), notes: Sequence[str] = ()
    ) -> Plan:
        """Make a plan of these variants, with its sizes; the weights that are not named stay as they are."""
        variants = marked(variants, scalings)
        expanded, expansions = expanded_at_run_time(self.weights, variants)
        # Constants that get other values, with the cause, and the bytes of new ones.
        merges = [(s.merge, s.group.activation) for s in scalings if s.merge is not None]
        replaced = {name: activation for merge, activation in merges for name in merge.constants}
        added = [2 * scaling.group.width for scaling in scalings if scaling.merge is None]
        largest = self._source.largest_magnitude
        footprint = self.sizes.footprint(self.weights, variants, replaced, largest, added)
        return Plan(
            variants=variants,
            awq={s.group.activation: "merged" if s.merge else "inserted" for s in scalings},
            notes=(*notes, *expansions),
            footprint=footprint,
            bits_per_weight=weight_bits(self.weights, variants, self.sizes.nbytes),
            compression_rate=self.sizes.fp32 / footprint,
            int4_percent=percent_in_bits(self.weights, variants, range(5)),
            int8_percent=percent_in_bits(self.weights, variants, (8,)),
            expanded_percent=expanded,
        )

    def apply(self, plan: Plan) -> ov.Model:
        """Compress the model: take every variant from the bank or compute it, and assemble a new model.

        Raises:
            PlanError: the plan is one for another model.
            CompressionError: a weight holds values that cannot be compressed.
        """
        if plan.distilled and self._distil is None:
            raise PlanError("distillation trains on a calibration text; give one, or remove distillation")
        compressed = self.compressed_weights(plan)
        scaled = self._scaled_channels(plan)
        merges = [(scaling.merge, scale) for scaling, scale in scaled if scaling.merge is not None]
        divided = {n: by_label(scale, labels) for merge, scale in merges for n, labels in merge.constants.items()}
        # One weight at a time; arrays in the new model are not kept here.
        packed = ((each.rows.weight, each.variant, each.packed()) for each in compressed.values())
        inserted = [
            ([self._source.weights[name].uses[0] for name in scaling.weights], scale)
            for scaling, scale in scaled
            if scaling.merge is None
        ]
        recorded = replace(plan, sensitivity={}).as_dict()
        record = {"version": __version__, "model": self._model_fingerprint, "plan": recorded}
        model = assemble(self.model, packed, divided, inserted, record)
        if plan.distilled:
            assert self._distil is not None
            self._distil(model, compressed)
        return model

    def compressed_weights(self, plan: Plan) -> dict[str, CompressedWeight]:
        """Return the weights of a plan in the model's order, by name.

        Raises:
            PlanError: the plan is one for another model.
        """
        unknown_inputs = set(plan.awq) - set(self.channel_scales.groups) if plan.awq else set()
        for name in (*(plan.variants.keys() - self._source.weights.keys()), *unknown_inputs):
            raise PlanError(f"the plan is for another model: it compresses {name}, which this one does not have")
        scaled = self._scaled_channels(plan)
        inputs = {name: scale for scaling, scale in scaled for name in scaling.weights}
        merges = [(scaling.merge, scale) for scaling, scale in scaled if scaling.merge is not None]
        outputs = {n: by_label(scale, labels) for merge, scale in merges for n, labels in merge.producers.items()}
        found = {}
        for weight in self.weights:
            variant = plan.variants.get(weight.name)
            if variant is None:
                continue
            treatment = Treatment(
                input_scale=inputs[weight.name] if variant.awq else None,
                output_scale=outputs[weight.name] if variant.awq_output else None,
            )
            rows = self._source.rows(weight).scaled(treatment.input_scale, treatment.output_scale)
            pack = partial(self._packed, weight, variant, treatment)
            found[weight.name] = CompressedWeight(variant, rows, pack, treatment.input_scale, treatment.output_scale)
        return found

    def _scaled_channels(self, plan: Plan) -> list[tuple[Scaling, Array]]:
        """Return the channel scales of a plan."""
        if not plan.awq:
            return []
        statistics = None if plan.awq_data_free else self.statistics
        return self.channel_scales.of_plan(plan.awq, plan.variants, statistics)

    def restored(self, weight: Weight, variant: Variant) -> Array:
        """Return the values that a weight has when it is compressed, float32 [R, K]."""
        return restore(self._packed(weight, variant, Treatment()), weight, variant)

    def variant_error(self, weight: Weight, variant: Variant) -> float:
        """Compute the output error of a variant of one weight, tr(E H Eᵀ) over all its uses.

        E is the error of the weight and H the second moments of its input in full. An input without statistics (an
        embedding's, or any without a calibration text) counts as picking each row equally often.
        """
        activations = weight.activations if self._statistics is not None else ()
        of_inputs = [self.statistics.fingerprint, *activations] if activations else None
        key = fingerprint("variant_error", of_inputs, *self._variant_key(weight, variant, Treatment()))

        def compute() -> Mapping[str, Any]:
            error = self._source.rows(weight).whole() - self.restored(weight, variant)
            total = 0.0
            if len(activations) < len(weight.uses):
                total += float(np.square(error).sum(dtype=np.float64)) / weight.rows
            for activation in activations:
                total += weighted_error(error, self.statistics.array(activation, "second_moment"))
            return {"error": np.array([total])}

        return float(self._bank.get_or_compute(key, compute)["error"][0])

    def kept(self, what: str, variants: Mapping[str, Variant], compute: Callable[[], Entry]) -> Entry:
        """Return a measurement of this model with some of its weights in these variants; computed once in a bank.

        Args:
            what: names the measurement and its inputs other than the model: texts, device.
            variants: by weight name; weights that are not named are the original's.
            compute: measures it.
        """
        variant_keys = [
            [n, self._variant_key(self._source.weights[n], v, Treatment())] for n, v in sorted(variants.items())
        ]
        original = [self._model_fingerprint, sorted(self.sizes.digests.items())]
        return self._bank.get_or_compute(fingerprint("finding", what, original, variant_keys), compute)

    def digest(self, model: ov.Model) -> str:
        """Return 32 hex digits of a model's operations and bytes; see `constants.model_digest`."""
        return model_digest(model)

    def _moment_of(
        self, weight: Weight, scale: Array | None, activation_order: bool | None
    ) -> tuple[Array, Propagation | None]:
        """Return the second moments of a weight's input divided by an AWQ scale, and their factor in this order.

        Weights in succession that have the same input share them. The input of an embedding picks single rows.
        """
        if not weight.activations:
            return np.eye(weight.columns, dtype=np.float32), None
        key = (weight.activations[0], b"" if scale is None else scale.tobytes(), activation_order)
        if self._scaled is None or self._scaled[0] != key:
            moment: Array = self.statistics.array(weight.activations[0], "second_moment")
            if scale is not None:
                moment = moment / np.outer(scale, scale)
            try:
                spread = None if activation_order is None else propagation(moment, activation_order=activation_order)
            except CompressionError as error:
                raise CompressionError(f"{weight.name}: {error}") from error
            self._scaled = (key, moment, spread)
        return self._scaled[1], self._scaled[2]

    def _packed(self, weight: Weight, variant: Variant, treatment: Treatment) -> Packed:
        parts = self._variant_key(weight, variant, treatment)

        def compute() -> Mapping[str, Any]:
            needed, started = treatment, time.perf_counter()
            if variant.looks_at_activations:
                order = variant.gptq_act_order if variant.gptq else None
                moment, spread = self._moment_of(weight, treatment.input_scale, order)
                needed = replace(treatment, second_moment=moment, spread=spread)
            packed = compress_weight(self._source.rows(weight), variant, needed)
            self.counters["variants_computed"] += 1
            name = algorithm_names(variant)
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
            return packed

        before = self.counters["variants_computed"]
        entry = self._bank.get_or_compute(fingerprint("variant", *parts), compute)
        self.counters["variants_reused"] += before == self.counters["variants_computed"]
        return entry

    def _variant_key(self, weight: Weight, variant: Variant, treatment: Treatment) -> list[Any]:
        """Return plain data that identifies a variant's bytes, for the keys of the bank."""
        parts: list[Any] = [self._source.content_key(weight), variant.as_dict()]
        for scale in (treatment.input_scale, treatment.output_scale):
            parts.append(None if scale is None else fingerprint(scale.tobytes()))
        if variant.looks_at_activations:
            parts.append([self.statistics.fingerprint, weight.activations[0]] if weight.activations else ["rows"])
        return parts

    def original_bits_per_weight(self) -> float:
        """Return the mean bits of an element as the original stores its weights."""
        return weight_bits(self.weights, {}, self.sizes.nbytes)


def algorithm_names(variant: Variant) -> str:
    """Return the algorithms of a variant, joined by +; rounding if it has none."""
    switches = {
        "awq": variant.awq,
        "scale estimation": variant.scale_estimation,
        "gptq": variant.gptq,
        "lora": bool(variant.lora_rank),
    }
    return " + ".join(name for name, on in switches.items() if on) or "rounding"
