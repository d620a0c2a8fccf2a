"""The sections of model.yaml below its top level, and the kinds of values that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

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
from autotune.common.units import parse_bytes, parse_duration
from autotune.common.validation import Finding, Invalid, got
from autotune.evaluation import SCORING_CONFIG
from autotune.evaluation.texts.sources import TextSource

__all__ = [
    "SAMPLERS",
    "CacheOptions",
    "Calibration",
    "Name",
    "RuntimeOptions",
    "Section",
    "StudyOptions",
    "base_dir",
]

Sampler = Literal["tpe", "nsga2", "gp", "random", "grid"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "gp", "random", "grid")


def base_dir(info: ValidationInfo) -> Path:
    """The folder that relative paths start from: the YAML file's, or the current one for objects made in code."""
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


class Section(BaseModel):
    """A part of model.yaml: no unknown keys, no silent conversions, never changed."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class Calibration(TextSource, Section):
    """The texts that the compression algorithms learn from."""

    path: TextPath | None = None
    """A UTF-8 text file, relative to this file's folder."""
    synthetic: bool = False
    """Texts that the model writes itself, by study.seed."""
    samples: Annotated[int, Field(ge=1)] = 128
    """How many windows of text."""
    sequence_length: Annotated[int, Field(ge=2)] = 512
    """Tokens in each window."""

    @field_validator("dataset")
    @classmethod
    def _local_dataset(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None else local_or_hub(value, base_dir(info))

    @model_validator(mode="after")
    def _one_source(self) -> Calibration:
        given = [key for key in ("path", "dataset", "name", "split", "column") if getattr(self, key) is not None]
        if self.synthetic and given:
            raise Invalid(*(Finding((key,), "is given beside synthetic: true; keep one") for key in given))
        if self.synthetic:
            return self
        if self.path is None and self.dataset is None:
            wanted = "path (a text file), dataset (with name and split) or synthetic: true"
            raise Invalid(Finding((), f"needs a text: {wanted}"))
        if self.path is not None and self.dataset is not None:
            raise Invalid(Finding(("path",), "is given beside dataset; keep one of the two"))
        if self.path is not None and given != ["path"]:
            raise Invalid(*(Finding((key,), "belongs to a dataset, not to a path; leave it out") for key in given[1:]))
        if self.split is None and self.dataset is not None and not Path(self.dataset).is_absolute():
            raise Invalid(Finding(("dataset",), "needs a split beside it, such as split: train"))
        return self


class StudyOptions(Section):
    """How the search goes."""

    trials: Annotated[int, Field(ge=1)] = 64
    """How many trials in all, those of earlier runs included."""
    timeout: Duration | None = None
    """The longest time of one run, e.g. 2h; seconds once read."""
    sampler: Sampler = "tpe"
    """Which of Optuna's samplers proposes the trials."""
    seed: Annotated[int, Field(ge=0)] = 0
    """What all random choices come from."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Trials at the same time, each in a process of its own that has its share of the cores; auto: two where cores and
    memory allow it, else one; 0 runs them in the search itself."""
    trial_timeout: Duration | None = None
    """The longest time of one trial, e.g. 10m, calibration not counted; a longer one is ended and fails."""
    patience: Annotated[int, Field(ge=1)] | None = None
    """End the search when so many trials in a row have not made the front better; null never does."""
    enqueue: list[dict[str, Any]] = Field(default_factory=list)
    """Settings to try first of all, e.g. [{mode: nf4, group_size: 64}]; what is left out has its default."""
    racing: bool = True
    """Stop scoring a trial once the front beats it: beyond doubt on the first texts, or before what decides nothing."""
    memory_limit: ByteSize | None = None
    """The most memory that a worker may hold for itself, e.g. 8GB; a trial that needs more is ended and fails."""


class RuntimeOptions(Section):
    """How OpenVINO runs the models that are scored."""

    device: Name = "CPU"
    """An OpenVINO device."""
    ov_config: dict[str, str | int | float | bool | None] = Field(default_factory=lambda: dict(SCORING_CONFIG))
    """OpenVINO properties, laid over those that make scores exact; null leaves a property to OpenVINO."""

    @field_validator("device")
    @classmethod
    def _as_openvino_has_it(cls, value: str) -> str:
        if value != value.upper():
            raise ValueError(f"must be an OpenVINO device such as CPU or GPU.0, got {value!r}; write {value.upper()}")
        return value

    @field_validator("ov_config", mode="before")
    @classmethod
    def _over_scoring(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        wrong = [key for key, each in value.items() if isinstance(each, (dict, list))]
        if wrong:
            raise Invalid(*(Finding((key,), f"must be a text or a number, got {got(value[key])}") for key in wrong))
        return {**SCORING_CONFIG, **value}


class CacheOptions(Section):
    """Where things that are computed once are kept."""

    directory: Annotated[Path | None, WithJsonSchema({"type": ["string", "null"]})] = None
    """A folder, relative to this file's; null is AUTOTUNE_CACHE or else the user's cache folder."""
    limit: ByteSize = DEFAULT_LIMIT
    """How much the layer bank may take on disk."""

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
