"""Plan of a compression: a map from weight to variant, made from shapes, statistics and settings alone."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from autotune.common.files import fingerprint
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.layout import Variant, layout
from autotune.compression.ir.weights import Weight
from autotune.compression.knapsack import cheapest_subset
from autotune.compression.settings import INT8_MODES, OUTPUT_ERROR, Settings
from autotune.errors import PlanError

NEARLY = 0.005
"""A ratio counts as reached so far below it."""

MIN_ADJUSTED_GROUP_SIZE = 32

Score = Callable[[str, Weight, Variant], float]
"""(metric, weight, format and group size in question) -> sensitivity."""


@dataclass(frozen=True)
class Plan:
    """The variant of every weight of one model, with notes and sizes.

    Attributes:
        variants: variant of each weight that is compressed, by name, in the model's order; the others stay.
        awq: activations that are divided by a channel scale -> ``merged`` into the constants and weights before them,
            or ``inserted`` as a Multiply.
        awq_data_free: those scales come from the weights alone.
        distilled: scales, norm gains and biases are trained after the compression.
        notes: adjustments and algorithms that were not applied, with the weight's name and the reason.
        footprint: bytes of the weight files: `openvino_model.bin`, or those of all IRs of a model in parts.
        bits_per_weight: bits of packed weights, scales and zero points by element, over all weights.
        compression_rate: size with all float constants in float32, over `footprint`.
        int4_percent: share of the weights' elements in formats of at most 4 bits.
        int8_percent: the same for 8 bits.
        expanded_percent: share of the weights' elements that the CPU expands when the model is loaded, for it cannot
            compute from their format: they save disk space, not memory.
        sensitivity: ``metric`` and ``values`` (weight -> number, None for what could not be looked at), where a
            ratio left a choice; it decides nothing any more, so `key` knows nothing of it.
    """

    variants: Mapping[str, Variant]
    awq: Mapping[str, str]
    notes: tuple[str, ...]
    footprint: int
    bits_per_weight: float
    compression_rate: float
    int4_percent: float
    int8_percent: float
    expanded_percent: float
    awq_data_free: bool = False
    distilled: bool = False
    sensitivity: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key(self) -> str:
        """Equal exactly where the models are equal (for one original and one set of statistics)."""
        variants = {name: variant.as_dict() for name, variant in self.variants.items()}
        after = ["distilled"] if self.distilled else []
        return fingerprint(variants, dict(self.awq), self.awq_data_free, *after)[:16]

    @property
    def depends_on_calibration(self) -> bool:
        """Return True if the bytes of the model depend on calibration statistics."""
        scaled = bool(self.awq) and not self.awq_data_free
        return scaled or self.distilled or any(variant.looks_at_activations for variant in self.variants.values())

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON; `Plan.from_dict` is its inverse."""
        return {
            "key": self.key,
            "footprint": self.footprint,
            "bits_per_weight": self.bits_per_weight,
            "compression_rate": self.compression_rate,
            "int4_percent": self.int4_percent,
            "int8_percent": self.int8_percent,
            "expanded_percent": self.expanded_percent,
            "awq": dict(self.awq),
            "awq_data_free": self.awq_data_free,
            "distilled": self.distilled,
            "notes": list(self.notes),
            "variants": {name: variant.as_dict() for name, variant in self.variants.items()},
            **({"sensitivity": dict(self.sensitivity)} if self.sensitivity else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Plan:
        """Read a plan back."""
        values = {key: value for key, value in data.items() if key != "key"}
        values["variants"] = {name: Variant(**variant) for name, variant in data["variants"].items()}
        values["awq"], values["notes"] = dict(data["awq"]), tuple(data["notes"])
        return cls(**values)


def make_variants(settings: Settings, weights: Sequence[Weight], score: Score) -> tuple[dict[str, Variant], list[str]]:
    """Resolve settings for the weights of one model, all but channel scales.

    Args:
        settings: valid settings.
        weights: all weights of the model.
        score: measures sensitivities; called only if `ratio` leaves a choice.

    Returns:
        Variants by name, and notes.

    Raises:
        PlanError: a pattern of ignored_scope matches nothing, or a group size does not divide and the fallback says
            ``error``.
    """
    notes: list[str] = []
    ignored = _ignored(settings.ignored_scope, weights)
    eligible = [weight for weight in weights if weight.name not in ignored]
    if settings.mode in INT8_MODES:
        return {weight.name: Variant(settings.mode) for weight in eligible}, notes

    chosen: dict[str, Variant] = {}
    left: set[str] = set()
    sizes, indivisible = _group_sizes(settings, _ratio_defining(settings, eligible), notes)
    if settings.group_size_fallback == "ignore":
        left = indivisible
    primary = {
        weight.name: _variant(settings.mode, sizes[weight.name], weight, settings.codebook)
        for weight in eligible
        if weight.name in sizes
    }
    for weight in _primary(settings, [weight for weight in eligible if weight.name in sizes], primary, score):
        chosen[weight.name] = _with_algorithms(settings, weight, primary[weight.name], notes)
    variants = {}
    for weight in eligible:
        if weight.name in chosen:
            variants[weight.name] = chosen[weight.name]
        elif settings.effective_backup_mode != "none" and weight.name not in left:
            variants[weight.name] = _backup(settings, weight, notes)
    return variants, notes


def _variant(mode: str, group_size: int, weight: Weight, codebook: tuple[float, ...] = ()) -> Variant:
    # A group as wide as the row is one group a row: one name for what is one model.
    return Variant(mode, -1 if group_size == weight.columns else group_size, codebook)


def _backup(settings: Settings, weight: Weight, notes: list[str]) -> Variant:
    """Return the backup variant of a weight; groups of a backup mode are used only if they divide the row."""
    mode = settings.effective_backup_mode
    fmt = FORMATS[mode]
    group_size = settings.effective_group_size if mode == "fp8_e4m3" else fmt.group_size
    if group_size == -1 or (weight.can_group and weight.columns % group_size == 0):
        return _variant(mode, group_size, weight)
    why = f"{weight.name}: groups of {group_size} do not fit its {weight.columns} input channels"
    if fmt.fixed_group_size:
        notes.append(f"{why}, the only groups of the backup mode {mode}; int8_asym instead")
        return Variant("int8_asym")
    notes.append(f"{why}; {mode} with one group per row instead")
    return Variant(mode)


def _with_algorithms(settings: Settings, weight: Weight, variant: Variant, notes: list[str]) -> Variant:
    """Add the algorithms that can be applied to this weight to its variant; add a note for the others."""
    algorithms = [name for name in ("scale_estimation", "gptq", "lora_correction") if getattr(settings, name)]
    if not algorithms:
        return variant
    if len(weight.activations) != 1 or len(weight.uses) != 1:
        notes.append(f"{weight.name}: no {' or '.join(algorithms)}, which need a weight with one input and one use")
        return variant
    variant = replace(
        variant,
        scale_estimation=settings.scale_estimation,
        gptq=settings.gptq,
        gptq_act_order=settings.gptq and settings.gptq_act_order,
    )
    if not settings.lora_correction:
        return variant
    fits = len(weight.shape) == 2 and weight.uses[0].port == 1 and settings.lora_rank < min(weight.shape)
    if not fits:
        notes.append(f"{weight.name}: no lora_correction, since adapters of rank {settings.lora_rank} do not fit it")
        return variant
    return replace(variant, lora_rank=settings.lora_rank, lora_iterations=settings.lora_iterations)


def _ignored(patterns: Iterable[str], weights: Sequence[Weight]) -> set[str]:
    """Find the weights whose own name, or that of an operation, equals a pattern or matches it in full."""
    ignored: set[str] = set()
    for pattern in patterns:
        try:
            expression = re.compile(pattern)
        except re.error as error:
            raise PlanError(
                f"ignored_scope: {pattern!r} is not a regular expression ({error}); write a backslash before each "
                "special character of a name"
            ) from error
        matched = {
            weight.name
            for weight in weights
            for name in (weight.name, *(use.node for use in weight.uses))
            if name == pattern or expression.fullmatch(name)
        }
        if not matched:
            near = difflib.get_close_matches(pattern, [weight.name for weight in weights], 1, 0.3)
            hint = f"; the nearest weight is {near[0]}" if near else ""
            raise PlanError(
                f"ignored_scope: {pattern!r} matches no weight and no operation of this model{hint}. Patterns match "
                "whole names: write .*name.* for a part of one"
            )
        ignored |= matched
    return ignored


def _ratio_defining(settings: Settings, weights: Sequence[Weight]) -> list[Weight]:
    """Select the weights that `ratio` counts: MatMuls but the last; with all_layers also the last and embeddings."""
    body = [weight for weight in weights if weight.kind == "matmul" and not weight.is_last]
    if settings.all_layers:
        body += [weight for weight in weights if weight.kind == "matmul" and weight.is_last]
        body += [weight for weight in weights if weight.kind == "embedding" and weight.can_group]
    return body


def _adjusted(columns: int, group_size: int) -> int | None:
    """Find the largest power of two that divides `columns`, is below `group_size`, and at least 32."""
    size = 1 << (min(columns, group_size).bit_length() - 1)
    while size >= MIN_ADJUSTED_GROUP_SIZE:
        if columns % size == 0:
            return size
        size //= 2
    return None


def _group_sizes(settings: Settings, weights: Sequence[Weight], notes: list[str]) -> tuple[dict[str, int], set[str]]:
    """Choose the group size of each weight that can have the primary mode; collect the names of the others."""
    group_size = settings.effective_group_size
    sizes: dict[str, int] = {}
    indivisible: dict[str, int] = {}
    for weight in weights:
        if group_size == -1 or weight.columns % group_size == 0:
            sizes[weight.name] = group_size
            continue
        adjusted = _adjusted(weight.columns, group_size)
        if settings.group_size_fallback == "adjust" and not settings.format.fixed_group_size and adjusted is not None:
            sizes[weight.name] = adjusted
            notes.append(
                f"{weight.name}: group size {group_size} does not divide its {weight.columns} input channels; "
                f"{adjusted} instead"
            )
        else:
            indivisible[weight.name] = weight.columns
    if indivisible and settings.group_size_fallback == "error":
        shown = ", ".join(f"{name} ({columns} input channels)" for name, columns in list(indivisible.items())[:5])
        more = f" and {len(indivisible) - 5} more" if len(indivisible) > 5 else ""
        raise PlanError(
            f"group_size: {group_size} does not divide the input channels of {shown}{more}; use a divisor, -1, or "
            "group_size_fallback: adjust"
        )
    instead = (
        "left as it is" if settings.group_size_fallback == "ignore" else f"{settings.effective_backup_mode} instead"
    )
    for name, columns in indivisible.items():
        notes.append(f"{name}: group size {group_size} does not divide its {columns} input channels; {instead}")
    return sizes, set(indivisible)


def _primary(
    settings: Settings, weights: Sequence[Weight], variants: Mapping[str, Variant], score: Score
) -> Sequence[Weight]:
    """Choose the weights that get the primary mode.

    With NNCF's metrics as NNCF: from the least sensitive one on, as long as the share of elements stays below the
    ratio; the first one that would reach it ends the choice. With output_error: those of least total error among
    all choices that come within `NEARLY` of the ratio. Ratio 1 means all, and (other than in NNCF) ratio 0 none.
    """
    if settings.ratio in (0, 1):
        return weights if settings.ratio else ()
    if settings.sensitivity_metric is None:
        raise ValueError("the sensitivity metric must be resolved before planning")
    metric = settings.sensitivity_metric
    scores = {weight.name: score(metric, weight, variants[weight.name]) for weight in weights}
    total = sum(weight.size for weight in weights)
    if metric == OUTPUT_ERROR:
        sizes = [weight.size for weight in weights]
        costs = [scores[weight.name] * weight.size for weight in weights]
        limit = settings.ratio * total
        return [weights[i] for i in cheapest_subset(sizes, costs, limit, limit - NEARLY * total)]
    chosen: list[Weight] = []
    taken = 0
    for weight in sorted(weights, key=lambda w: scores[w.name]):
        if (taken + weight.size) / total >= settings.ratio:
            break
        taken += weight.size
        chosen.append(weight)
    return chosen


def weight_bits(weights: Sequence[Weight], variants: Mapping[str, Variant], stored: Callable[[Weight], int]) -> float:
    """Compute the mean bits of an element over all weights, with scales and zero points."""
    total = 0
    for weight in weights:
        variant = variants.get(weight.name)
        total += 8 * (
            stored(weight)
            if variant is None
            else sum(part.nbytes for part in layout(weight, variant).values() if part.content is None)
        )
    return total / max(sum(weight.size for weight in weights), 1)


def percent_in_bits(weights: Sequence[Weight], variants: Mapping[str, Variant], bits: Container[int]) -> float:
    """Compute the share of the weights' elements in formats of any of these numbers of bits, 0 to 100."""
    matching = sum(w.size for w in weights if w.name in variants and variants[w.name].format.bits in bits)
    return 100 * matching / max(sum(weight.size for weight in weights), 1)


def expanded_at_run_time(weights: Sequence[Weight], variants: Mapping[str, Variant]) -> tuple[float, list[str]]:
    """Measure the share of elements that the CPU expands when it loads the model, 0 to 100; add notes."""
    found = []
    for weight in weights:
        if weight.name not in variants:
            continue
        kept = variants[weight.name].format.runtime_compressed
        expanded = next((use.operation for use in weight.uses if use.operation not in kept), None)
        if expanded is not None:
            found.append((weight, f"{variants[weight.name].mode}: the CPU expands {expanded} weights in this format"))
    notes = [
        f"{what} when the model is loaded ({count} of them); that saves disk space, not memory"
        for what, count in Counter(what for _, what in found).items()
    ]
    return 100 * sum(weight.size for weight, _ in found) / max(sum(weight.size for weight in weights), 1), notes
