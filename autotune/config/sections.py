"""The sections of model.yaml, and the types of values that they share."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from autotune.common.cache import DEFAULT_LIMIT
from autotune.common.paths import absolute, local_or_hub, text_problem
from autotune.common.units import parse_bytes, parse_duration, parse_precision
from autotune.common.validation import Finding, Invalid, got
from autotune.evaluation import SCORING_CONFIG
from autotune.evaluation.texts.sources import TextSource

Sampler = Literal["tpe", "nsga2", "gp", "random", "grid"]
Device = Literal["CPU", "GPU", "NPU"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "gp", "random", "grid")


def base_dir(info: ValidationInfo) -> Path:
    """Return the folder that relative paths start from: that of the YAML file, in code the current one."""
    return Path((info.context or {}).get("base_dir") or Path.cwd())


def _text_path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"must be the path of a text file, got {got(value)}")
    path = absolute(value, base_dir(info))
    problem = text_problem(path)
    if problem is not None:
        raise ValueError(problem)
    return path


TextPath = Annotated[Path, BeforeValidator(_text_path), WithJsonSchema({"type": "string"})]
Name = Annotated[str, Field(min_length=1)]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration),
    WithJsonSchema({"type": ["string", "number"], "examples": ["2h", "90s", "1h 30m"]}),
]
ByteSize = Annotated[
    int,
    BeforeValidator(parse_bytes),
    WithJsonSchema({"type": ["string", "integer"], "examples": ["20GB", "500 MiB"]}),
]


def listed_targets(value: Any) -> Any:
    """Return target devices as a list without repeats; one may be given alone, and null is none."""
    listed = [value] if isinstance(value, str) else value
    return () if listed is None else tuple(dict.fromkeys(listed)) if isinstance(listed, (list, tuple)) else listed


_DEVICE = {"enum": list(get_args(Device))}
Targets = Annotated[
    tuple[Device, ...],
    BeforeValidator(listed_targets),
    WithJsonSchema({"anyOf": [_DEVICE, {"type": "array", "items": _DEVICE}, {"type": "null"}]}),
]


def _precision(value: Any) -> str | float:
    parse_precision(value)
    return float(value) if isinstance(value, (int, float)) else str(value).strip()


PrecisionText = Annotated[
    str | float,
    BeforeValidator(_precision),
    WithJsonSchema({"type": ["string", "number"], "examples": ["3%", 0.0001]}),
]


class Section(BaseModel):
    """A part of model.yaml: immutable, without unknown keys and implicit conversions."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Calibration(TextSource, Section):
    """The texts that calibrate the compression algorithms."""

    path: TextPath | None = None
    """A UTF-8 text file, relative to this file's folder; for models for text and images also a jsonl file of prompts
    {image: FILE, text: TEXT}."""
    synthetic: bool = False
    """Generate the texts with the model itself; study.seed is the seed."""
    samples: Annotated[int, Field(ge=1)] = 128
    """Number of windows."""
    sequence_length: Annotated[int, Field(ge=2)] = 512
    """Tokens in each window."""

    @field_validator("dataset")
    @classmethod
    def _local_dataset(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None else local_or_hub(value, base_dir(info))

    @model_validator(mode="after")
    def _one_source(self) -> Calibration:
        selecting = [key for key in ("name", "split", "column") if getattr(self, key) is not None]
        if self.synthetic and (given := [key for key in (*self.sources, *selecting) if key != "synthetic"]):
            raise Invalid(
                *(Finding((key,), "cannot be combined with synthetic: true; remove one of the two") for key in given)
            )
        if not self.sources:
            forms = "path (a text file), dataset (with name and split), texts (a list) or synthetic: true"
            raise Invalid(Finding((), f"needs a text: {forms}"))
        if len(self.sources) > 1:
            raise Invalid(
                Finding((self.sources[0],), f"cannot be combined with {self.sources[1]}; remove one of the two")
            )
        if self.dataset is None and selecting:
            message = f"belongs to a dataset, not to {self.sources[0]}; remove it"
            raise Invalid(*(Finding((key,), message) for key in selecting))
        if self.split is None and self.dataset is not None and not Path(self.dataset).is_absolute():
            raise Invalid(Finding(("dataset",), "needs a split, such as split: train"))
        return self


class StudyOptions(Section):
    """Trials, sampler, time limits and workers of the search."""

    trials: Annotated[int, Field(ge=1)] = 64
    """Number of trials, including those of earlier runs."""
    timeout: Duration | None = None
    """Time limit of one run, e.g. 2h; no trial starts after it. In seconds once parsed."""
    sampler: Sampler = "tpe"
    """The Optuna sampler that proposes trials."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Seed of all random choices."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Number of worker processes, which share the cores; auto: two if cores and memory allow it, else one; 0: run
    trials in the process of the search."""
    trial_timeout: Duration | None = None
    """Time limit of one trial without calibration, e.g. 10m; a trial that takes longer is stopped and fails."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """Stop the search after this number of trials in a row without a better front; null: no such limit."""
    enqueue: list[dict[str, Any]] = Field(default_factory=list)
    """Settings of the first trials, e.g. [{mode: nf4, group_size: 64}]; keys that are left out have their default."""
    racing: bool = True
    """Stop scoring a trial that is dominated with high confidence, and skip evaluators that no objective needs."""
    precision: PrecisionText | None = None
    """Score a trial that may be on the front until the standard error of the first objective that is scored is at most
    this, e.g. 3% of the score, or 0.0001 in its unit; needs racing. null: score such a trial on all texts."""
    memory_limit: ByteSize | None = None
    """Limit of a worker's private memory, e.g. 8GB; a trial that needs more is stopped and fails."""

    @model_validator(mode="after")
    def _precision_needs_racing(self) -> StudyOptions:
        if self.precision is not None and not self.racing:
            raise Invalid(Finding(("precision",), "has no effect with racing: false; remove one of the two"))
        return self


class RuntimeOptions(Section):
    """OpenVINO device and properties for the models that are scored."""

    device: Name = "CPU"
    """An OpenVINO device."""
    ov_config: dict[str, str | int | float | bool | None] = Field(default_factory=lambda: dict(SCORING_CONFIG))
    """OpenVINO properties in addition to those that make scores exact; null: OpenVINO's default for a property."""
    deployed: bool = False
    """Score the front once more as users run it, with OpenVINO's defaults for activations and KV cache."""
    search: dict[
        Literal["INFERENCE_PRECISION_HINT", "KV_CACHE_PRECISION", "DYNAMIC_QUANTIZATION_GROUP_SIZE"],
        Annotated[list[str | Annotated[int, Field(ge=0)] | None], Field(min_length=1)],
    ] = Field(default_factory=dict)
    """Properties to choose for the front's models at the end, each with the values to try; null: OpenVINO's default.
    E.g. {KV_CACHE_PRECISION: [f16, u8, u4], DYNAMIC_QUANTIZATION_GROUP_SIZE: [0, 32]}."""

    @field_validator("device")
    @classmethod
    def _as_openvino_has_it(cls, value: str) -> str:
        if value != value.upper():
            raise ValueError(f"must be an OpenVINO device such as CPU or GPU.0, got {value!r}; write {value.upper()}")
        return value

    @field_validator("search")
    @classmethod
    def _check_search(cls, value: dict[str, list[Any]]) -> dict[str, list[Any]]:
        allowed = {
            "INFERENCE_PRECISION_HINT": ("f32", "bf16", "f16"),
            "KV_CACHE_PRECISION": ("f32", "bf16", "f16", "u8", "u4"),
        }
        findings = []
        for key, values in value.items():
            forms = allowed.get(key)
            wrong = [v for v in values if v is not None and (v not in forms if forms else not isinstance(v, int))]
            if wrong:
                meant = "numbers such as 0, 32 or 128" if forms is None else ", ".join(forms)
                findings.append(Finding((key,), f"has the value {got(wrong[0])}; possible are {meant}, and null"))
            elif len(set(values)) < len(values):
                findings.append(Finding((key,), "has a value twice; name each once"))
        if findings:
            raise Invalid(*findings)
        return value

    @property
    def settings(self) -> list[dict[str, Any]]:
        """The combinations of the values of `search`, in their order; empty without a search."""
        return [dict(zip(self.search, chosen, strict=True)) for chosen in product(*self.search.values()) if chosen]

    @field_validator("ov_config", mode="before")
    @classmethod
    def _check_racing(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        wrong = [key for key, each in value.items() if isinstance(each, (dict, list))]
        if wrong:
            raise Invalid(*(Finding((key,), f"must be a text or a number, got {got(value[key])}") for key in wrong))
        return {**SCORING_CONFIG, **value}


class CacheOptions(Section):
    """Folder and size limit of the cache."""

    directory: Annotated[Path | None, WithJsonSchema({"type": ["string", "null"]})] = None
    """A folder, relative to that of this file; null: AUTOTUNE_CACHE, or the user's cache folder if it is not set."""
    limit: ByteSize = DEFAULT_LIMIT
    """Limit of the layer bank's size on disk."""

    @field_validator("directory", mode="before")
    @classmethod
    def _absolute(cls, value: Any, info: ValidationInfo) -> Any:
        if not isinstance(value, (str, Path)) or not str(value):
            if value is None:
                return None
            raise ValueError(f"must be a folder or null, got {got(value)}")
        path = absolute(value, base_dir(info))
        if path.is_file():
            raise ValueError(f"is a file: {path}; give a folder")
        return path
