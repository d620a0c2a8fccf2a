"""Settings of one compression: names and defaults of NNCF's `compress_weights`, validation, and descriptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any, Literal, NamedTuple, get_args

from autotune.common.formatting import DASH, is_missing, size
from autotune.compression.formats.table import (
    FORMATS,
    LARGEST_FLOAT16,
    MOST_LEVELS,
    Format,
    codebook_format,
    float16,
)

__all__ = [
    "ALGORITHMS",
    "ALLOCATIONS",
    "BACKUP_MODES",
    "MIXED",
    "MODES",
    "MOST_BITS",
    "SENSITIVITY_METRICS",
    "Allocation",
    "Fallback",
    "Problem",
    "Settings",
    "default_backup",
    "describe_algorithms",
    "describe_budget",
    "describe_settings",
]

Fallback = Literal["adjust", "ignore", "error"]
Allocation = Literal["ratio", "budget"]
ALLOCATIONS: tuple[Allocation, ...] = ("ratio", "budget")

MIXED = "mixed"
"""The mode of plans in which every weight has its own mode."""

MOST_BITS = 64
"""A budget up to this is bits a weight, one above it bytes."""

INT8_MODES = ("int8_asym", "int8_sym")
"""Modes that compress every weight, whatever it is, in one way."""

MODES = tuple(FORMATS)
ALGORITHMS = ("awq", "scale_estimation", "gptq", "lora_correction")
"""Algorithms for weights in formats with `takes_algorithms`; each uses activations."""

BACKUP_MODES = ("none", "int8_asym", "int8_sym", "fp8_e4m3", "mxfp8_e4m3")
DATA_FREE_METRIC = "weight_quantization_error"
DATA_METRICS = (
    "hessian_input_activation",
    "mean_activation_variance",
    "max_activation_variance",
    "mean_activation_magnitude",
)
OUTPUT_ERROR = "output_error"
SENSITIVITY_METRICS = (DATA_FREE_METRIC, *DATA_METRICS, OUTPUT_ERROR)


class Problem(NamedTuple):
    """An invalid setting: its name, and a message with the reason and the remedy."""

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of one compression; the plan made from them has the variant of every weight.

    Attributes:
        mode: primary format, one of `MODES`.
        group_size: consecutive input channels that share a scale; -1 is one group a row; None is the mode's default
            (128; 32 for mxfp4 and mxfp8_e4m3, 16 for nvfp4; -1 for int8 and codebooks).
        codebook: table of the mode ``codebook``: 2 to 256 different numbers in rising order.
        ratio: share of the ratio-defining weights, counted by elements, that get `mode`; the rest gets
            `backup_mode`. 0 means none of them (NNCF reads 0 as 1).
        backup_mode: format of embeddings, last layer and the weights outside the ratio; ``none`` leaves them as
            they are; None is the mode itself for the 8-bit floating-point modes, int8_asym for all others.
            fp8_e4m3 has the group size of the mode.
        sensitivity_metric: which weights count as sensitive when ratio < 1; None is output_error where there are
            statistics and weight_quantization_error where there are none.
        all_layers: embeddings and last layer also belong to the ratio-defining set.
        awq: activation-aware scaling of input channels.
        awq_data_free: scales of awq from the weights alone, also where there is a calibration text; without one
            they always are.
        scale_estimation: scales and zero points searched for the least error on the calibration activations.
        gptq: columns are quantized one after the other, each one's error made up for by those that follow.
        gptq_act_order: the columns go in the order of falling activation energy, not as they stand.
        lora_correction: adapters of low rank make up for a part of the quantization error.
        lora_rank: their rank.
        lora_iterations: how often weight and adapters are fitted to each other in turn.
        ignored_scope: weight or node names, or regular expressions in full match, left in their original precision.
        group_size_fallback: what to do where group_size does not divide a weight's input channels: ``adjust`` it to
            the largest power of two that does and is at least 32 (else backup), ``ignore`` the weight (left as it
            is), or ``error``.
    """

    mode: str = "int8_asym"
    group_size: int | None = None
    codebook: tuple[float, ...] = ()
    ratio: float = 1.0
    backup_mode: str | None = None
    sensitivity_metric: str | None = None
    all_layers: bool = False
    awq: bool = False
    awq_data_free: bool = False
    scale_estimation: bool = False
    gptq: bool = False
    gptq_act_order: bool = True
    lora_correction: bool = False
    lora_rank: int = 8
    lora_iterations: int = 3
    ignored_scope: tuple[str, ...] = ()
    group_size_fallback: Fallback = "adjust"
    allocation: Allocation = "ratio"
    budget: float | None = None

    @property
    def format(self) -> Format:
        """The format of the mode."""
        return codebook_format(self.codebook) if self.codebook else FORMATS[self.mode]

    @property
    def effective_group_size(self) -> int:
        """The group size in force: the format's own, the one asked for, or the mode's default."""
        fmt = FORMATS[self.mode]
        return fmt.group_size if self.group_size is None or fmt.fixed_group_size else self.group_size

    @property
    def effective_backup_mode(self) -> str:
        """The backup mode in force: the one asked for, or the mode's default."""
        return FORMATS[self.mode].backup if self.backup_mode is None else self.backup_mode

    @property
    def needs_statistics(self) -> bool:
        """True if a calibration pass is needed to plan or apply these settings."""
        data_aware = [name for name in ALGORITHMS if not (name == "awq" and self.awq_data_free)]
        return any(getattr(self, name) for name in data_aware) or (
            0 < self.ratio < 1 and self.sensitivity_metric in (*DATA_METRICS, OUTPUT_ERROR)
        )

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON and tables; with a budget, without what says nothing about it."""
        if self.allocation == "budget":
            kept = ("mode", "allocation", "budget", "group_size_fallback")
            return {**{name: getattr(self, name) for name in kept}, "ignored_scope": list(self.ignored_scope)}
        backup = self.effective_backup_mode if self.mode in MODES else self.backup_mode
        lists = {"ignored_scope": list(self.ignored_scope), "codebook": list(self.codebook)}
        found = {**asdict(self), **lists, "backup_mode": backup}
        return {name: value for name, value in found.items() if name not in ("allocation", "budget")}

    def problems(self) -> Iterator[Problem]:
        """Yield every reason why these settings cannot be used with any model."""
        if self.allocation == "budget":
            if self.budget is None or self.budget <= 0:
                yield Problem("budget", f"must be bits a weight or bytes, above 0, got {self.budget}")
            return
        if self.mode not in MODES:
            yield Problem("mode", f"unknown mode {self.mode!r}; one of {', '.join(MODES)}")
            return
        if self.backup_mode is not None and self.backup_mode not in BACKUP_MODES:
            yield Problem("backup_mode", f"unknown backup mode {self.backup_mode!r}; one of {', '.join(BACKUP_MODES)}")
        if self.sensitivity_metric is not None and self.sensitivity_metric not in SENSITIVITY_METRICS:
            names = ", ".join(SENSITIVITY_METRICS)
            yield Problem("sensitivity_metric", f"unknown metric {self.sensitivity_metric!r}; one of {names}")
        if self.group_size_fallback not in get_args(Fallback):
            names = ", ".join(get_args(Fallback))
            yield Problem("group_size_fallback", f"unknown fallback {self.group_size_fallback!r}; one of {names}")
        if not 0 <= self.ratio <= 1:
            yield Problem("ratio", f"must be between 0 and 1, got {self.ratio}")
        if self.group_size is not None and (self.group_size == 0 or self.group_size < -1):
            yield Problem("group_size", f"must be a positive number or -1 (one group a row), got {self.group_size}")
        fmt = FORMATS[self.mode]
        if fmt.fixed_group_size and self.group_size not in (None, fmt.group_size):
            message = f"{self.mode} has group size {fmt.group_size}, got {self.group_size}; leave it out"
            yield Problem("group_size", message)
        yield from self._codebook_problems()
        if self.mode in INT8_MODES:
            for key in ("ratio", "all_layers"):
                if getattr(self, key) != (1.0 if key == "ratio" else False):
                    message = f"{self.mode} compresses every weight to 8 bits, so {key} means nothing; leave it out"
                    yield Problem(key, message)
        if self.gptq and self.lora_correction:
            yield Problem(
                "lora_correction", "gptq leaves no error that adapters of low rank could catch; choose one of the two"
            )
        if self.lora_correction and (self.lora_rank < 1 or self.lora_iterations < 1):
            yield Problem("lora_rank", "rank and iterations of lora_correction must be at least 1")
        if not fmt.takes_algorithms:
            for key in ALGORITHMS:
                if getattr(self, key):
                    yield Problem(key, f"{self.mode} has 8 bits, which leave {key} nothing to win back; leave it out")

    def _codebook_problems(self) -> Iterator[Problem]:
        table = self.codebook
        if self.mode != "codebook":
            if table:
                yield Problem("codebook", f"{self.mode} has levels of its own; give a codebook with mode codebook only")
        elif not 2 <= len(table) <= MOST_LEVELS:
            yield Problem("codebook", f"must be a table of 2 to {MOST_LEVELS} numbers, got {len(table) or 'none'}")
        elif not all(abs(value) <= LARGEST_FLOAT16 for value in table):
            yield Problem("codebook", f"must hold finite numbers up to {LARGEST_FLOAT16}, as float16 stores them")
        elif any(low >= high for low, high in pairwise(float16(value) for value in table)):
            message = "must hold different numbers in rising order, different also in float16, which stores them"
            yield Problem("codebook", message)


SHORT_NAMES = {"awq": "AWQ", "scale_estimation": "SE", "gptq": "GPTQ", "lora_correction": "LoRA"}
"""Usual abbreviations of the algorithms, in the order in which they are applied."""


def describe_settings(settings: Mapping[str, Any], *, short: bool = False) -> str:
    """Name the settings that are not defaults on one line.

    Args:
        settings: as `Settings.as_dict` or a row of the trials' table returns them; keys and values may be missing.
        short: ``int4_asym g64 r0.8 all AWQ+SE`` instead of
            ``int4_asym, group size 64, ratio 0.8, all layers, AWQ + SE``.
    """
    given = {key: value for key, value in settings.items() if not is_missing(value)}
    if "mode" not in given:
        return DASH
    mode = str(given["mode"])
    if given.get("allocation") == "budget" and "budget" in given:
        text = describe_budget(float(given["budget"]))
        return f"{mode} {text.replace(' bits a weight', 'b').replace(' ', '')}" if short else f"{mode}, at most {text}"
    parts = [mode]
    if "group_size" in given and not (mode in FORMATS and FORMATS[mode].fixed_group_size):
        group = int(given["group_size"])
        long = "per channel" if group == -1 else f"group size {group}"
        parts.append(f"g{group}" if short else long)
    if float(given.get("ratio", 1)) < 1:
        parts.append(f"r{float(given['ratio']):.3g}" if short else f"ratio {float(given['ratio']):g}")
    if given.get("all_layers"):
        parts.append("all" if short else "all layers")
    backup = str(given.get("backup_mode", default_backup(mode)))
    if backup != default_backup(mode) and not mode.startswith("int8"):
        parts.append(f"backup {backup}")
    algorithms = describe_algorithms(given, separator="+" if short else " + ")
    return (" " if short else ", ").join([*parts, algorithms] if algorithms else parts)


def describe_algorithms(settings: Mapping[str, Any], *, separator: str = " + ") -> str:
    """Name the algorithms that are on, e.g. ``AWQ + SE``; LoRA with its rank."""
    given = {key: value for key, value in settings.items() if not is_missing(value)}
    names = {key: name for key, name in SHORT_NAMES.items() if given.get(key)}
    if "gptq" in names and not given.get("gptq_act_order", True):
        names["gptq"] = "GPTQ in channel order"
    if "lora_correction" in names and "lora_rank" in given:
        names["lora_correction"] += f" {int(given['lora_rank'])}"
    return separator.join(names.values())


def describe_budget(budget: float) -> str:
    """Format the size limit of a plan: ``4.5 bits a weight``, or ``13.8 MB``."""
    return f"{budget:g} bits a weight" if budget <= MOST_BITS else size(budget)


def default_backup(mode: str) -> str:
    """Return the backup mode of a mode if the settings name none."""
    return FORMATS[mode].backup if mode in FORMATS else "int8_asym"
