"""The settings of one compression, with the names and defaults of NNCF's `compress_weights`.

A field of `Settings` carries its description (`SettingInfo`). CLI options, space parameters, commands in reports and
table columns are derived from it, so a new setting is declared here alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import pairwise
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from autotune.compression.formats.table import (
    FORMATS,
    LARGEST_FLOAT16,
    MOST_LEVELS,
    Format,
    codebook_format,
    float16,
)

Fallback = Literal["adjust", "ignore", "error"]
Allocation = Literal["ratio", "budget", "candidate"]
Kind: TypeAlias = Literal["switch", "integer", "number", "text", "list"]
ALLOCATIONS: tuple[Allocation, ...] = ("ratio", "budget")

MIXED = "mixed"
"""The mode of a plan that chooses a format for each weight."""

MOST_BITS = 64
"""A budget up to this is bits a weight, one above it bytes."""

INT8_MODES = ("int8_asym", "int8_sym")
"""Modes that compress all weights alike."""

MODES = tuple(FORMATS)
ALGORITHMS = ("awq", "scale_estimation", "gptq", "lora_correction")
"""Algorithms that reduce the quantization error, from activations; in the order in which they are applied."""

EFFORTS: Mapping[str, tuple[str, ...]] = {
    "fast": (),
    "best": ("gptq", "scale_estimation"),
    "extreme": ("gptq", "scale_estimation", "distillation"),
}
"""The switches that each effort turns on; measured gains and costs are in docs/how-to/choose-the-effort.md."""

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
    """A setting that cannot be used: its name, the reason and the remedy."""

    key: str
    message: str


@dataclass(frozen=True, slots=True)
class SettingInfo:
    """The description of one setting: the source of CLI options, space parameters and table columns.

    Attributes:
        help: what the setting does, without its choices and default.
        choices: the allowed words, if it is one of a list.
        unset: the default in words, if the default is None.
        minimum: the smallest number that is allowed.
        search_order: 1 if a search draws it first, 2 if it draws it after those, 0 if a whole space has one value.
        requires: the switch that must be on for the setting to have an effect.
        kind: the kind of value, from the field's type.
        default: the field's default.
    """

    help: str
    choices: tuple[str, ...] = ()
    unset: str = ""
    minimum: int | None = None
    search_order: int = 0
    requires: str | None = None
    kind: Kind = "text"
    default: Any = None


def describe(help: str, **attributes: Any) -> dict[str, SettingInfo]:
    """Make the metadata of a field that users can set; the attributes are those of `SettingInfo`."""
    return {"info": SettingInfo(help, **attributes)}


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one compression. The plan made from them has the variant of each weight.

    `SETTINGS` has the descriptions of the fields that users can set.

    Attributes:
        lora_iterations: alternating fits of weight and adapters.
        allocation: ``ratio``; ``budget`` if a format is chosen for each weight within `budget`; ``candidate`` for a
            model that exists already.
        candidate: name of the candidate of a study that has these settings or is this model.
        budget: bits a weight up to `MOST_BITS`, bytes above it.
    """

    mode: str = field(
        default="int8_asym", metadata=describe("Number format of the weights.", choices=MODES, search_order=1)
    )
    group_size: int | None = field(
        default=None,
        metadata=describe(
            "Consecutive input channels that share a scale; -1: one group per row.",
            unset="128; 32 for mxfp4 and mxfp8_e4m3; 16 for nvfp4; -1 for int8 and codebooks",
            search_order=1,
        ),
    )
    codebook: tuple[float, ...] = field(
        default=(),
        metadata=describe(
            "Levels of mode codebook, 2 to 256 rising numbers: 0,0.5,1 or a .npy, .json or text file.", unset="none"
        ),
    )
    ratio: float = field(
        default=1.0,
        metadata=describe(
            "Share of the weights, by elements, that get the mode; the others get the backup mode. From 0 (none) to 1.",
            search_order=1,
        ),
    )
    backup_mode: str | None = field(
        default=None,
        metadata=describe(
            "Format of embeddings, the last layer and the weights outside the ratio; none: original precision.",
            choices=BACKUP_MODES,
            unset="int8_asym; for 8-bit floating-point modes the mode itself",
            search_order=2,
        ),
    )
    sensitivity_metric: str | None = field(
        default=None,
        metadata=describe(
            "Ranking of the weights if the ratio is below 1: the most sensitive get the backup mode.",
            choices=SENSITIVITY_METRICS,
            unset="output_error with a calibration text, else weight_quantization_error",
            search_order=1,
        ),
    )
    all_layers: bool = field(
        default=False, metadata=describe("Let embeddings and the last layer get the mode, too.", search_order=1)
    )
    awq: bool = field(
        default=False,
        metadata=describe(
            "Scale input channels by the size of their activations before rounding (AWQ).", search_order=2
        ),
    )
    awq_data_free: bool = field(
        default=False,
        metadata=describe("Compute AWQ scales from the weights alone, also with a calibration text.", requires="awq"),
    )
    scale_estimation: bool = field(
        default=False,
        metadata=describe(
            "Search scales and zero points with the least error on the calibration text.", search_order=2
        ),
    )
    gptq: bool = field(
        default=False,
        metadata=describe(
            "Quantize column by column; later columns compensate the error of earlier ones (GPTQ).", search_order=2
        ),
    )
    gptq_act_order: bool = field(
        default=True,
        metadata=describe("Quantize columns in order of falling activation energy.", requires="gptq", search_order=2),
    )
    lora_correction: bool = field(
        default=False,
        metadata=describe("Add low-rank adapters that compensate a part of the quantization error.", search_order=2),
    )
    lora_rank: int = field(
        default=8, metadata=describe("Rank of the adapters.", minimum=1, requires="lora_correction", search_order=2)
    )
    lora_iterations: int = 3
    distillation: bool = field(
        default=False,
        metadata=describe(
            "Train scales, norm gains and biases of the compressed model on the calibration text, so that it answers "
            "like the original. Same size.",
            search_order=2,
        ),
    )
    ignored_scope: tuple[str, ...] = field(
        default=(),
        metadata=describe(
            "Weights to leave in original precision: the name of a weight or node, or a regular expression for it."
        ),
    )
    group_size_fallback: Fallback = field(
        default="adjust",
        metadata=describe(
            "If the group size does not divide a weight's input channels: adjust it to the largest power of two "
            "from 32 that does (backup mode if there is none), ignore the weight, or stop with an error.",
            choices=get_args(Fallback),
        ),
    )
    allocation: Allocation = "ratio"
    budget: float | None = None
    candidate: str = ""

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Read settings from plain data; unknown names are ignored, missing and None values have their defaults."""
        present = {name: data[name] for name in cls.__slots__ if data.get(name) is not None}
        values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in present.items()}
        return cls(**values)

    @property
    def format(self) -> Format:
        """Format of the mode."""
        return codebook_format(self.codebook) if self.codebook else FORMATS[self.mode]

    @property
    def effective_group_size(self) -> int:
        """Group size in use: fixed by the format, as set, or the default of the mode."""
        fmt = FORMATS[self.mode]
        return fmt.group_size if self.group_size is None or fmt.fixed_group_size else self.group_size

    @property
    def effective_backup_mode(self) -> str:
        """Backup mode in use: as set, or the default of the mode."""
        return FORMATS[self.mode].backup if self.backup_mode is None else self.backup_mode

    def with_effort(self, effort: str) -> Settings:
        """Turn on the switches of an effort, one of `EFFORTS`, that the mode takes and that contradict no setting."""
        switches: dict[str, Any] = dict.fromkeys(EFFORTS[effort], True)
        if self.mode in MODES and not FORMATS[self.mode].takes_algorithms:
            switches = {name: on for name, on in switches.items() if name not in ALGORITHMS}
        if self.lora_correction:
            switches.pop("gptq", None)
        return replace(self, **switches)

    def resolved(self, *, calibrated: bool) -> Settings:
        """Fill in the defaults that depend on whether there is a calibration text."""
        if self.allocation != "ratio":
            return self
        metric = self.sensitivity_metric or (OUTPUT_ERROR if calibrated else DATA_FREE_METRIC)
        return replace(
            self, sensitivity_metric=metric, awq_data_free=self.awq_data_free or (self.awq and not calibrated)
        )

    @property
    def ranks_by_activations(self) -> bool:
        """Return True if activations decide which weights get the mode; for `resolved` settings."""
        return 0 < self.ratio < 1 and self.sensitivity_metric not in (None, DATA_FREE_METRIC)

    @property
    def needs_calibration(self) -> bool:
        """Return True if planning or applying these settings reads calibration statistics; for `resolved` settings."""
        if self.allocation == "candidate":
            return False
        if self.allocation == "budget" or self.ranks_by_activations or self.distillation:
            return True
        algorithms = {name for name in ALGORITHMS if getattr(self, name)}
        return self.ratio > 0 and bool(algorithms - ({"awq"} if self.awq_data_free else set()))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON and tables; with a budget, without the settings that it replaces."""
        if self.allocation == "candidate":
            return {"mode": self.mode, "allocation": self.allocation, "candidate": self.candidate}
        if self.allocation == "budget":
            kept = ("mode", "allocation", "budget", "group_size_fallback", "distillation")
            return {**{name: getattr(self, name) for name in kept}, "ignored_scope": list(self.ignored_scope)}
        backup = self.effective_backup_mode if self.mode in MODES else self.backup_mode
        lists = {"ignored_scope": list(self.ignored_scope), "codebook": list(self.codebook)}
        found = {**asdict(self), **lists, "backup_mode": backup}
        left_out = ("allocation", "budget", *(() if self.candidate else ("candidate",)))
        return {name: value for name, value in found.items() if name not in left_out}

    def problems(self) -> Iterator[Problem]:
        """Find every reason why these settings cannot be used with any model."""
        if self.allocation == "budget" and (self.budget is None or self.budget <= 0):
            yield Problem("budget", f"must be bits a weight or bytes, above 0, got {self.budget}")
        if self.allocation != "ratio":
            return
        for name, info in SETTINGS.items():
            value = getattr(self, name)
            if info.choices and value is not None and value not in info.choices:
                yield Problem(name, f"unknown {name.replace('_', ' ')} {value!r}; one of {', '.join(info.choices)}")
        if self.mode not in MODES:
            return
        if not 0 <= self.ratio <= 1:
            yield Problem("ratio", f"must be between 0 and 1, got {self.ratio}")
        if self.group_size is not None and (self.group_size == 0 or self.group_size < -1):
            yield Problem("group_size", f"must be a positive number or -1 (one group a row), got {self.group_size}")
        fmt = FORMATS[self.mode]
        if fmt.fixed_group_size and self.group_size not in (None, fmt.group_size):
            message = f"{self.mode} has group size {fmt.group_size}, got {self.group_size}; remove it"
            yield Problem("group_size", message)
        yield from self._codebook_problems()
        if self.mode in INT8_MODES:
            for key in ("ratio", "all_layers"):
                if getattr(self, key) != (1.0 if key == "ratio" else False):
                    message = f"{self.mode} compresses every weight to 8 bits, so {key} has no effect; remove it"
                    yield Problem(key, message)
        if self.gptq and self.lora_correction:
            yield Problem("lora_correction", "gptq and lora_correction cannot be combined; use one of them")
        if self.lora_correction and (self.lora_rank < 1 or self.lora_iterations < 1):
            yield Problem("lora_rank", "rank and iterations of lora_correction must be at least 1")
        if not fmt.takes_algorithms:
            for key in ALGORITHMS:
                if getattr(self, key):
                    yield Problem(key, f"{key} is not supported for the 8-bit mode {self.mode}; remove it")

    def _codebook_problems(self) -> Iterator[Problem]:
        table = self.codebook
        if self.mode != "codebook":
            if table:
                yield Problem("codebook", f"{self.mode} has fixed levels; a codebook needs mode codebook")
        elif not 2 <= len(table) <= MOST_LEVELS:
            yield Problem("codebook", f"must be a table of 2 to {MOST_LEVELS} numbers, got {len(table) or 'none'}")
        elif not all(abs(value) <= LARGEST_FLOAT16 for value in table):
            yield Problem("codebook", f"must hold finite numbers up to {LARGEST_FLOAT16}, as float16 stores them")
        elif any(low >= high for low, high in pairwise(float16(value) for value in table)):
            message = "must hold different numbers in rising order, different also in float16, which stores them"
            yield Problem("codebook", message)


def _kind(hint: Any) -> Kind:
    """Name the kind of value of a field's type; None besides another type does not count."""
    (plain, *_) = [each for each in (get_args(hint) or (hint,)) if each is not type(None)]
    if get_origin(hint) is tuple:
        return "list"
    kinds: dict[Any, Kind] = {bool: "switch", int: "integer", float: "number"}
    return kinds.get(plain, "text")


SETTINGS: Mapping[str, SettingInfo] = {
    each.name: replace(each.metadata["info"], kind=_kind(get_type_hints(Settings)[each.name]), default=each.default)
    for each in fields(Settings)
    if "info" in each.metadata
}
"""Every setting that users can set, in the order of the fields."""
