"""Plan, then apply: the engine for one original model."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune import __version__
from autotune.common.files import fingerprint
from autotune.compression.algorithms.awq.groups import find_groups
from autotune.compression.algorithms.awq.search import Scaling, by_label
from autotune.compression.algorithms.awq.selection import ChannelScales, marked, possible
from autotune.compression.algorithms.gptq import Propagation, propagation
from autotune.compression.algorithms.lora import compress_with_adapters
from autotune.compression.algorithms.scale_estimation import MAX_BLOCK
from autotune.compression.algorithms.sensitivity import Sensitivities, weighted_error
from autotune.compression.bank import Bank, Entry
from autotune.compression.calibration.calibrate import BLOCK, Depth
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.formats.quantize import Array
from autotune.compression.ir.assemble import assemble
from autotune.compression.ir.constants import model_digest
from autotune.compression.ir.sizes import Sizes
from autotune.compression.ir.weights import Weight, compressed_already, find_weights
from autotune.compression.plan import Plan, expanded_at_run_time, make_variants, percent_in_bits, weight_bits
from autotune.compression.settings import ALGORITHMS, Settings
from autotune.compression.variants import (
    Packed,
    RowReader,
    Treatment,
    Variant,
    compress_weight,
    largest_magnitude,
    read_rows,
    restore,
)
from autotune.errors import PlanError

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["ENGINE_VERSION", "Engine"]

ENGINE_VERSION = 9
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
        allocate: Callable[[Settings], Plan] | None = None,
    ) -> None:
        """Look at a model.

        Args:
            model: the original.
            bank: where variants are kept; by default only small ones, in memory.
            statistics: gives the calibration statistics when they are first needed; None if there is no text.
            model_fingerprint: recorded in the compressed model.
            allocate: gives the plan of settings with a budget, which takes measurements; None refuses them.
        """
        self.model = model
        self.weights = find_weights(model)
        self.sizes = Sizes(model)
        self.counters = {"variants_computed": 0, "variants_reused": 0}
        self._bank = Bank(weights_in_memory=False) if bank is None else bank
        self._statistics = statistics
        self._model_fingerprint = model_fingerprint
        self._allocate = allocate
        nodes = model.get_ordered_ops()
        self._constants = {n.get_friendly_name(): n for n in nodes if n.get_type_name() == "Constant"}
        self._by_name = {weight.name: weight for weight in self.weights}
        self._magnitudes: dict[str, float] = {}
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

    @cached_property
    def channel_scales(self) -> ChannelScales:
        """Where AWQ can scale channels in this model, and by how much."""
        groups = find_groups(self.model, self.weights)
        return ChannelScales(
            groups, self._by_name, self._constants, self._reader, self._content, self.sizes.digests, self._bank
        )

    @cached_property
    def _sensitivities(self) -> Sensitivities:
        return Sensitivities(self._reader, self._content, lambda: self.statistics, self._bank)

    def _check_text(self) -> None:
        if self._statistics is None:
            raise PlanError(
                f"these settings look at activations ({', '.join(ALGORITHMS[1:])} or a data-aware sensitivity_metric) "
                "and need a calibration text; name one or leave these settings out"
            )

    def resolve(self, settings: Settings) -> Settings:
        """Fill in the defaults that depend on whether there is a calibration text."""
        return settings.resolved(calibrated=self._statistics is not None)

    def depth(self, settings: Settings) -> Depth:
        """How much of the second moments these settings look at: GPTQ, adapters and AWQ at all, others in groups."""
        within_groups = not (settings.gptq or settings.lora_correction or settings.awq)
        # Groups of these sizes, whole rows among them, are searched in blocks that none of the known ones cuts.
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
        if not self.weights:
            raise PlanError(
                "this model has no float weights to compress; if it is compressed already, name the original"
            )
        if settings.allocation == "budget":
            if self._allocate is None:
                raise PlanError("allocation: a budget is spent by measured errors, which only a study has")
            return self._allocate(settings)
        settings = self.resolve(settings)
        if settings.needs_calibration:
            self._check_text()
        scores: dict[str, float | None] = {}

        def score(metric: str, weight: Weight, variant: Variant) -> float:
            value = self._sensitivities.score(metric, weight, variant)
            scores[weight.name] = value if math.isfinite(value) else None
            return value

        variants, notes = make_variants(settings, self.weights, score)
        scalings = self._worthwhile(settings, variants, notes) if settings.awq else ()
        kept = len(compressed_already(self.model))
        if kept:
            notes.append(
                f"{kept} weights are compressed in this model already and stay as they are; these settings, and the "
                f"percentages, are of the other {len(self.weights)}"
            )
        plan = self.plan_of(variants, scalings, notes)
        known = {"metric": settings.sensitivity_metric, "values": scores} if scores else {}
        return replace(plan, sensitivity=known, awq_data_free=bool(scalings) and settings.awq_data_free)

    def plan_of(
        self, variants: Mapping[str, Variant], scalings: Sequence[Scaling] = (), notes: Sequence[str] = ()
    ) -> Plan:
        """A plan of these variants, with its sizes; the weights that are not named stay as they are."""
        variants = marked(variants, scalings)
        expanded, expansions = expanded_at_run_time(self.weights, variants)
        replaced, added = _changes(scalings)
        footprint = self.sizes.footprint(self.weights, variants, replaced, self._largest, added)
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
        """Compress: take every variant from the bank or compute it, and assemble a new model.

        Raises:
            PlanError: the plan is one for another model.
            CompressionError: a weight holds values that cannot be compressed.
        """
        unknown_inputs = set(plan.awq) - set(self.channel_scales.groups) if plan.awq else set()
        for name in (*(set(plan.variants) - set(self._by_name)), *unknown_inputs):
            raise PlanError(f"the plan is for another model: it compresses {name}, which this one does not have")
        scaled = self._scaled_by(plan)
        inputs = {name: scale for scaling, scale in scaled for name in scaling.weights}
        merges = [(scaling.merge, scale) for scaling, scale in scaled if scaling.merge is not None]
        outputs = {n: by_label(scale, labels) for merge, scale in merges for n, labels in merge.producers.items()}
        divided = {n: by_label(scale, labels) for merge, scale in merges for n, labels in merge.constants.items()}

        def compressed() -> Iterator[tuple[Weight, Variant, Packed]]:
            # One at a time: what is in the new model need not be kept here.
            for weight in self.weights:
                variant = plan.variants.get(weight.name)
                if variant is None:
                    continue
                treatment = Treatment(
                    input_scale=inputs[weight.name] if variant.awq else None,
                    output_scale=outputs[weight.name] if variant.awq_output else None,
                )
                yield weight, variant, self._packed(weight, variant, treatment)

        inserted = [
            ([self._by_name[name].uses[0] for name in scaling.weights], scale)
            for scaling, scale in scaled
            if scaling.merge is None
        ]
        record = {
            "version": __version__,
            "model": self._model_fingerprint,
            "plan": replace(plan, sensitivity={}).as_dict(),
        }
        return assemble(self.model, compressed(), divided, inserted, record)

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

    def kept(self, what: str, variants: Mapping[str, Variant], compute: Callable[[], Entry]) -> Entry:
        """What was found out about this model with some of its weights in these variants; computed once in a bank.

        Args:
            what: names the finding, and everything that it depends on beside the model: texts, device.
            variants: by weight name; weights that are not named are the original's.
            compute: finds it out.
        """
        treated = [[n, self._variant_key(self._by_name[n], v, Treatment())] for n, v in sorted(variants.items())]
        original = [self._model_fingerprint, sorted(self.sizes.digests.items())]
        return self._bank.get_or_compute(fingerprint("finding", what, original, treated), compute)

    def digest(self, model: ov.Model) -> str:
        """32 hex digits of a model's operations and bytes; see `digest.model_digest`."""
        return model_digest(model)

    def _reader(self, weight: Weight) -> RowReader:
        return read_rows(self._constants[weight.name], weight)

    def _largest(self, weight: Weight) -> float:
        """The largest magnitude in a weight; looked for once."""
        digest = self.sizes.digests[weight.name]
        if digest not in self._magnitudes:
            self._magnitudes[digest] = largest_magnitude(self._reader(weight), weight, Treatment())
        return self._magnitudes[digest]

    def _content(self, weight: Weight) -> list[Any]:
        """What a variant's bytes depend on, of the weight itself."""
        return [
            ENGINE_VERSION,
            self.sizes.digests[weight.name],
            weight.element_type,
            weight.shape,
            weight.reduction_axes,
        ]

    def _moment_of(
        self, weight: Weight, scale: Array | None, activation_order: bool | None
    ) -> tuple[Array, Propagation | None]:
        """Second moments of a weight's input and their factor; a table of rows is looked up, each as it is."""
        if weight.activations:
            return self._scaled_moment(weight.activations[0], scale, activation_order)
        return np.eye(weight.columns, dtype=np.float32), None

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

    def _worthwhile(self, settings: Settings, variants: Mapping[str, Variant], notes: list[str]) -> tuple[Scaling, ...]:
        """The scalings that lower the error of their weights."""
        statistics = None if settings.awq_data_free or settings.ratio == 0 else self.statistics
        found = possible(variants, self.channel_scales.groups.values(), inserting=statistics is not None)
        if statistics is not None:
            found = tuple(s for s in found if all(self._by_name[name].activations for name in s.weights))
        scales = self.channel_scales.search(found, variants, statistics)
        chosen = tuple(s for s, scale in zip(found, scales, strict=True) if (scale != 1).any())
        if len(chosen) < len(found):
            idle = len(found) - len(chosen)
            notes.append(f"awq: {idle} of {len(found)} inputs gain too little by a channel scale and have none")
        elif not found:
            notes.append("awq: no weight of this model can take a channel scale; it changes nothing")
        return chosen

    def _scaled_by(self, plan: Plan) -> list[tuple[Scaling, Array]]:
        """The scalings of a plan with their scales."""
        scalings = []
        for activation, where in plan.awq.items():
            group = self.channel_scales.groups[activation]
            names = tuple(name for name in group.weights if name in plan.variants and plan.variants[name].awq)
            scalings.append(Scaling(group, names, group.merge if where == "merged" else None))
        if not scalings:
            return []
        statistics = None if plan.awq_data_free else self.statistics
        return list(zip(scalings, self.channel_scales.search(scalings, plan.variants, statistics), strict=True))

    def _packed(self, weight: Weight, variant: Variant, treatment: Treatment) -> Packed:
        parts = self._variant_key(weight, variant, treatment)

        def compute() -> Mapping[str, Any]:
            needed = treatment
            if variant.looks_at_activations:
                order = variant.gptq_act_order if variant.gptq else None
                moment, spread = self._moment_of(weight, treatment.input_scale, order)
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
            parts.append([self.statistics.fingerprint, weight.activations[0]] if weight.activations else ["rows"])
        return parts

    def original_bits_per_weight(self) -> float:
        """Mean bits of an element as the original stores its weights."""
        return weight_bits(self.weights, {}, self.sizes.nbytes)


def _changes(scalings: Sequence[Scaling]) -> tuple[dict[str, str], list[int]]:
    """Constants that get other values, with the reason, and the bytes of constants that are new."""
    replaced = {
        name: scaling.group.activation
        for scaling in scalings
        if scaling.merge is not None
        for name in scaling.merge.constants
    }
    return replaced, [2 * scaling.group.width for scaling in scalings if scaling.merge is None]
