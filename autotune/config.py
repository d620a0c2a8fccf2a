"""model.yaml as typed, validated data.

Everything that can be known to be wrong before work starts is refused here, with file, line and key. Paths of inputs
(model, texts, prompts, a space's file, the cache's folder) start from the folder of the YAML file; `output` starts from
the current folder, where the user waits for the results.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from autotune.cache import DEFAULT_LIMIT
from autotune.errors import ConfigError
from autotune.evaluation import SCORING_CONFIG
from autotune.evaluator_options import (
    default_objectives,
    known_evaluators,
    read_constraints,
    read_evaluators,
    read_objectives,
    read_report,
)
from autotune.findings import Finding, Invalid, from_validation, got, report
from autotune.local_files import absolute, local_model, local_or_hub, slug, text_problem
from autotune.quantities import Constraint, parse_bytes, parse_duration
from autotune.spaces import SearchSpace, read_space, space_schema
from autotune.yaml_source import Source, dump_yaml, read_yaml

__all__ = [
    "SAMPLERS",
    "CacheOptions",
    "Calibration",
    "Config",
    "RuntimeOptions",
    "StudyOptions",
    "TextSource",
    "config_schema",
    "load_config",
    "load_configs",
]

Sampler = Literal["tpe", "nsga2", "gp", "random", "grid"]
SAMPLERS: tuple[Sampler, ...] = ("tpe", "nsga2", "gp", "random", "grid")

WIKITEXT = {"dataset": "Salesforce/wikitext", "name": "wikitext-2-raw-v1"}
DEFAULT_CALIBRATION = {**WIKITEXT, "split": "train"}
DEFAULT_EVALUATORS: dict[str, dict[str, Any]] = {
    "similarity": {
        "prompts": "default",
        "max_new_tokens": 128,
        "embedder": "sentence-transformers/all-mpnet-base-v2",
    },
    "perplexity": {**WIKITEXT, "split": "test", "sequence_length": 512, "samples": 16},
}


def _base_dir(info: ValidationInfo) -> Path:
    """The folder that relative paths start from: the YAML file's, or the current one for objects made in code."""
    return Path((info.context or {}).get("base_dir") or Path.cwd())


def _text_path(value: Any, info: ValidationInfo) -> Path:
    if not isinstance(value, (str, Path)) or not str(value):
        raise ValueError(f"must be the path of a text file, got {got(value)}")
    path = absolute(value, _base_dir(info))
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


class TextSource(Section):
    """Where texts come from: one UTF-8 file, one column of a dataset (hub or local), or the model itself."""

    path: TextPath | None = None
    """A UTF-8 text file, relative to this file's folder."""
    dataset: Name | None = None
    """A dataset of the Hugging Face hub, e.g. Salesforce/wikitext, or a local one."""
    name: Name | None = None
    """The dataset's configuration, e.g. wikitext-2-raw-v1."""
    split: Name | None = None
    """The dataset's split, e.g. train or test."""
    column: Name | None = None
    """The dataset's column that holds the texts; by default text, or the only column of strings."""
    synthetic: bool = False
    """Texts that the model writes itself, by study.seed."""

    @field_validator("dataset")
    @classmethod
    def _local_dataset(cls, value: str | None, info: ValidationInfo) -> str | None:
        return value if value is None else local_or_hub(value, _base_dir(info))

    @model_validator(mode="after")
    def _one_source(self) -> TextSource:
        given = self.model_fields_set
        if self.synthetic:
            beside = [key for key in ("path", "dataset", "name", "split", "column") if getattr(self, key) is not None]
            if beside:
                raise Invalid(*(Finding((key,), "is given beside synthetic: true; keep one") for key in beside))
            return self
        if self.path is None and self.dataset is None:
            wanted = "path (a text file), dataset (with name and split) or synthetic: true"
            raise Invalid(Finding((), f"needs a text: {wanted}"))
        if self.path is not None and self.dataset is not None:
            raise Invalid(Finding(("path",), "is given beside dataset; keep one of the two"))
        if self.path is not None:
            beside = [key for key in ("name", "split", "column") if key in given and getattr(self, key) is not None]
            if beside:
                raise Invalid(*(Finding((key,), "belongs to a dataset, not to a path; leave it out") for key in beside))
        elif self.split is None and not Path(str(self.dataset)).is_absolute():
            raise Invalid(Finding(("dataset",), "needs a split beside it, such as split: train"))
        return self


class Calibration(TextSource):
    """The texts that the compression algorithms learn from."""

    samples: Annotated[int, Field(ge=1)] = 128
    """How many windows of text."""
    sequence_length: Annotated[int, Field(ge=2)] = 512
    """Tokens in each window."""


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
    workers: Annotated[int, Field(ge=0)] = 1
    """Trials at the same time, each in a process of its own that shares the cores; 0 runs them in the search itself."""
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
        path = absolute(value, _base_dir(info))
        if path.is_file():
            raise ValueError(f"is a file: {path}; give a folder")
        return path


def _evaluator_names(info: ValidationInfo) -> list[str] | None:
    """The study's evaluators, where they are known even though an option of theirs may be wrong; else None."""
    named = info.data.get("evaluators")
    return list(named) if named is not None else (info.context or {}).get("evaluators")


def _space(value: Any, info: ValidationInfo) -> SearchSpace:
    return read_space(value, base_dir=_base_dir(info))


class Config(Section):
    """A study as model.yaml describes it, defaults filled in and paths absolute."""

    model_config = ConfigDict(arbitrary_types_allowed=True, title="model.yaml of autotune")

    model: Name
    """A Hugging Face id, a local Hugging Face folder, or an OpenVINO folder; a local folder relative to this file's."""
    output: Annotated[Path, WithJsonSchema({"type": ["string", "null"]})] = Field(default=None, validate_default=True)
    """The study's folder, relative to the current folder; by default reports/ and the model's name."""
    calibration: Calibration = Field(default_factory=lambda: Calibration.model_validate(DEFAULT_CALIBRATION))
    """The texts that the compression algorithms learn from; not those that scores come from."""
    space: Annotated[
        SearchSpace,
        BeforeValidator(_space),
        WithJsonSchema({"anyOf": [{"type": "string", "description": "A preset or a YAML file."}, space_schema()]}),
    ] = Field(default="int4", validate_default=True)
    """What may be tried: a preset, a YAML file, or the space itself."""
    evaluators: Annotated[
        dict[str, dict[str, Any]],
        WithJsonSchema({"type": "object", "additionalProperties": {"type": ["object", "null"]}, "minProperties": 1}),
    ] = Field(default=DEFAULT_EVALUATORS, validate_default=True)
    """How models are scored: evaluators by name (or module:attribute) with their options."""
    objectives: dict[str, Literal["minimize", "maximize"]] = Field(default=None, validate_default=True)
    """What the search improves: metrics (or footprint, relative_error) and which way is better."""
    constraints: Annotated[
        dict[str, Constraint],
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "pattern": "^\\s*[<>]=.+$"}}),
    ] = Field(default_factory=dict)
    """Limits that a model must keep, e.g. footprint: "<= 1.2 GB"."""
    report: Annotated[
        dict[str, dict[str, Any]] | Literal[False] | None,
        WithJsonSchema(
            {
                "anyOf": [
                    {"const": False},
                    {"type": "null"},
                    {"type": "object", "additionalProperties": {"type": "object"}},
                ]
            }
        ),
    ] = None
    """The texts that the front is scored on once more in the end, as options by evaluator, e.g. {perplexity: {path:
    report.txt}}; null takes what the search leaves of its own texts, false does without."""
    study: StudyOptions = StudyOptions()
    """How the search goes."""
    runtime: RuntimeOptions = RuntimeOptions()
    """How OpenVINO runs the models that are scored."""
    cache: CacheOptions = CacheOptions()
    """Where things that are computed once are kept."""
    trust_remote_code: bool = False
    """Whether code that comes with a hub model may run on this machine."""

    @field_validator("model")
    @classmethod
    def _find_model(cls, value: str, info: ValidationInfo) -> str:
        folder = local_model(value, _base_dir(info))
        return value if folder is None else str(folder)

    @field_validator("output", mode="before")
    @classmethod
    def _absolute_output(cls, value: Any, info: ValidationInfo) -> Path:
        if value is None:
            value = Path("reports") / slug(info.data.get("model", "model"))
        if not isinstance(value, (str, Path)) or not str(value):
            raise ValueError(f"must be a folder, got {got(value)}")
        path = absolute(value, Path.cwd())
        if path.is_file():
            raise ValueError(f"is a file: {path}; give a folder")
        return path

    @field_validator("evaluators", mode="before")
    @classmethod
    def _known_evaluators(cls, value: Any, info: ValidationInfo) -> dict[str, dict[str, Any]]:
        if info.context is not None:
            info.context["evaluators"] = known_evaluators(value)
        return read_evaluators(value, _base_dir(info))

    @field_validator("objectives", mode="before")
    @classmethod
    def _known_objectives(cls, value: Any, info: ValidationInfo) -> dict[str, str]:
        evaluators = _evaluator_names(info)
        if value is None:
            return default_objectives(evaluators) if evaluators else {"footprint": "minimize"}
        return read_objectives(value, evaluators)

    @field_validator("report", mode="before")
    @classmethod
    def _known_report(cls, value: Any, info: ValidationInfo) -> Any:
        return read_report(value, info.data.get("evaluators"), _base_dir(info))

    @field_validator("constraints", mode="before")
    @classmethod
    def _known_constraints(cls, value: Any, info: ValidationInfo) -> dict[str, Constraint]:
        return read_constraints(value, _evaluator_names(info))

    def as_dict(self) -> dict[str, Any]:
        """Plain data with absolute paths; as YAML it loads as an equal Config."""
        sections = {
            name: {
                key: str(value) if isinstance(value, Path) else value
                for key, value in getattr(self, name)
                if name != "calibration" or not (value is None or value is False)
            }
            for name in ("calibration", "study", "runtime", "cache")
        }
        return {
            "model": self.model,
            "output": str(self.output),
            "calibration": sections["calibration"],
            "space": self.space.as_dict(),
            "evaluators": {name: dict(options) for name, options in self.evaluators.items()},
            **({} if self.report is None else {"report": self.report}),
            "objectives": dict(self.objectives),
            "constraints": {name: constraint.text for name, constraint in self.constraints.items()},
            "study": sections["study"],
            "runtime": {**sections["runtime"], "ov_config": dict(self.runtime.ov_config)},
            "cache": sections["cache"],
            "trust_remote_code": self.trust_remote_code,
        }

    def to_yaml(self) -> str:
        """`as_dict` as the text of a model.yaml."""
        return dump_yaml(self.as_dict())


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and check a model.yaml.

    Args:
        path: the file.
        overrides: ``a.b=c`` assignments of the command line (`--set`), laid over the file; `c` is YAML.

    Raises:
        ConfigError: anything wrong with the file or the overrides. The first problem is told in full, the others
            briefly after it.
    """
    source = _read(path, overrides)
    if "models" in source.data:
        raise source.error(("models",), "names several studies, which `autotune search` alone runs; here give `model`")
    return _checked(source)


def load_configs(path: str | Path, overrides: Sequence[str] = ()) -> list[Config]:
    """Read a model.yaml that may name several models: one configuration for each of ``models``, otherwise alike.

    Each study's folder is inside ``output`` (by default `reports`), under the model's short name.

    Raises:
        ConfigError: as `load_config`; or ``models`` is no list of different models, or ``model`` stands beside it.
    """
    source = _read(path, overrides)
    if "models" not in source.data:
        return [_checked(source)]
    models, key = source.data["models"], ("models",)
    if not isinstance(models, list) or not models or not all(isinstance(model, str) and model for model in models):
        raise source.error(key, f"must be a list of models, got {got(models)}")
    if "model" in source.data:
        raise source.error(key, "give either model or models, and not both")
    names = [slug(model) for model in models]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise source.error(key, f"two of them have the short name {twice!r}, so their folders would be one")
    common = {key: value for key, value in source.data.items() if key != "models"}
    output = common.get("output", "reports")
    return [
        _checked(replace(source, data={**common, "model": model, "output": f"{output}/{name}"}))
        for model, name in zip(models, names, strict=True)
    ]


def _read(path: str | Path, overrides: Sequence[str]) -> Source:
    path = Path(path)
    if not path.exists():
        raise ConfigError("no such file; `autotune init MODEL` writes a model.yaml to start from", file=path)
    source = read_yaml(path)
    for assignment in overrides:
        source.override(assignment)
    if source.data is None:
        raise ConfigError("is empty; `autotune init MODEL` writes a model.yaml to start from", file=path)
    if not isinstance(source.data, dict):
        problem = f"must be a mapping of keys such as `model: ...`, got {got(source.data)}"
        raise ConfigError(problem, file=path, line=source.line(()))
    return source


def _checked(source: Source) -> Config:
    findings = [Finding(where, message) for where, message in source.problems]
    unread = {finding.path for finding in findings}
    assert source.file is not None
    try:
        config = Config.model_validate(source.data, context={"base_dir": source.file.absolute().parent})
    except ValidationError as error:
        findings += [finding for finding in from_validation(error, Config) if finding.path not in unread]
    if findings:
        raise report(findings, source)
    return config


def config_schema() -> dict[str, Any]:
    """JSON Schema of model.yaml, for editors; it knows keys and types, `load_config` knows what fits together."""
    schema = Config.model_json_schema()
    several = "Several models instead of `model`: a study for each, compared in the end."
    schema["properties"]["models"] = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": several,
    }
    schema["required"] = [key for key in schema.get("required", ()) if key != "model"]
    schema["oneOf"] = [{"required": ["model"]}, {"required": ["models"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
