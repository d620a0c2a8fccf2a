"""model.yaml as typed and validated data.

Errors that can be found before work starts are reported here, with file, line and key. All paths (model, output, texts,
prompts, a space's file, the cache's folder) are relative to the folder of the YAML file. In code they are relative to
the current folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from autotune.common.paths import absolute, local_model, slug
from autotune.common.units import Constraint
from autotune.common.validation import Finding, from_validation, got, report
from autotune.common.yaml import Source, dump_yaml, read_yaml
from autotune.config.candidates import Candidate, read_candidates
from autotune.config.evaluators import (
    default_objectives,
    known_evaluators,
    read_constraints,
    read_evaluators,
    read_objectives,
    read_report,
    with_memory,
)
from autotune.config.sections import (
    CacheOptions,
    Calibration,
    Name,
    RuntimeOptions,
    Section,
    StudyOptions,
    Targets,
    base_dir,
)
from autotune.config.space.parse import space_schema
from autotune.config.space.presets import read_space
from autotune.config.space.restrict import restrict
from autotune.config.space.space import SearchSpace
from autotune.errors import ConfigError, PlanError
from autotune.models.companions import has_chat_template
from autotune.models.tasks.registry import find_task, task_named
from autotune.models.tasks.task import WIKITEXT, Task

DEFAULT_CALIBRATION = {**WIKITEXT, "split": "train"}


def _evaluator_names(info: ValidationInfo) -> list[str] | None:
    """Return the names of the study's evaluators, also if one of their options is wrong; None if they are unknown."""
    valid = info.data.get("evaluators")
    return list(valid) if valid is not None else (info.context or {}).get("evaluators")


def _task(data: Mapping[str, Any]) -> Task:
    """Return the task of a study whose keys before `evaluators` are validated; that of a hub id is found later."""
    return find_task(str(data.get("model", "")), data.get("task"))


def _space(value: Any, info: ValidationInfo) -> SearchSpace:
    space = restrict(read_space(value, base_dir=base_dir(info)), info.data.get("target") or ())
    return space.with_effort(info.data.get("effort", "fast"))


class Config(Section):
    """A study as model.yaml describes it, with defaults filled in and absolute paths.

    The arguments are the keys of the file; sections are mappings. Relative paths start from the current folder.

    Raises:
        pydantic.ValidationError: anything wrong with the arguments.

    Example:
        >>> import autotune
        >>> config = autotune.Config(
        ...     model="examples/demo/model",
        ...     space={"mode": ["int8_asym", "nf4"]},
        ...     evaluators={"perplexity": {"path": "examples/demo/search.txt"}},
        ... )
        >>> config.objectives
        {'kl_divergence': 'minimize', 'footprint': 'minimize'}
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, title="model.yaml of autotune")

    model: Name
    """A Hugging Face id, a local Hugging Face folder, or an OpenVINO folder; a local folder relative to this file's."""
    task: Name | None = None
    """What the model does: text-generation, text-embedding, text-reranking, visual-text, or module:TASK; null: found
    from its files. See the how-to guide to embeddings and rerankers."""
    output: Annotated[Path, WithJsonSchema({"type": ["string", "null"]})] = Field(default=None, validate_default=True)
    """The study's folder, relative to this file's; by default reports/ and the model's name."""
    calibration: Calibration = Field(default_factory=lambda: Calibration.model_validate(DEFAULT_CALIBRATION))
    """The texts that calibrate the compression algorithms; different from the texts of the evaluators."""
    target: Targets = ()
    """The devices that the compressed model must run on: CPU, GPU, NPU, or a list of them; they restrict the space.
    null: no restriction."""
    effort: Literal["fast", "best", "extreme"] = "fast"
    """How much time each model may take to be more accurate. fast: as the space says. best: with GPTQ and scale
    estimation. extreme: also with distillation, on the points of the front."""
    space: Annotated[
        SearchSpace,
        BeforeValidator(_space),
        WithJsonSchema({"anyOf": [{"type": "string", "description": "A preset or a YAML file."}, space_schema()]}),
    ] = Field(default="int4", validate_default=True)
    """The settings that trials may have: a preset, a YAML file, or a mapping of parameters."""
    candidates: Annotated[
        tuple[Candidate, ...],
        BeforeValidator(lambda value, info: read_candidates(value, base_dir(info))),
        WithJsonSchema({"type": "array", "items": {"type": ["string", "object"]}}),
    ] = ()
    """Models and settings from elsewhere that are scored first: folders, hub ids, or {name: ..., config: {...}} with
    the settings of NNCF or optimum-intel."""
    evaluators: Annotated[
        dict[str, dict[str, Any]],
        WithJsonSchema({"type": "object", "additionalProperties": {"type": ["object", "null"]}, "minProperties": 1}),
    ] = Field(default_factory=lambda data: _task(data).evaluators, validate_default=True)
    """The evaluators that score models, by name (or module:attribute), with their options."""
    objectives: dict[str, Literal["minimize", "maximize"]] = Field(default=None, validate_default=True)
    """The metrics to optimize (or footprint, relative_error), each with its direction."""
    constraints: Annotated[
        dict[str, Constraint],
        WithJsonSchema({"type": "object", "additionalProperties": {"type": "string", "pattern": "^\\s*[<>]=.+$"}}),
    ] = Field(default_factory=dict)
    """Limits on metrics of the models on the front, e.g. footprint: "<= 1.2 GB", memory: "<= 6 GB at 8192 tokens"."""
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
    """The held-out texts that the front is scored on at the end, as options by evaluator, e.g. {perplexity: {path:
    report.txt}}; null: the unused rest of the search's own texts; false: none."""
    study: StudyOptions = StudyOptions()
    """Trials, sampler, time limits and workers of the search."""
    runtime: RuntimeOptions = RuntimeOptions()
    """OpenVINO device and properties for the models that are scored."""
    cache: CacheOptions = CacheOptions()
    """Folder and size limit of the cache."""
    trust_remote_code: bool = False
    """Allow code that comes with a hub model to run on this machine."""

    @model_validator(mode="before")
    @classmethod
    def _memory_at_a_length(cls, data: Any, info: ValidationInfo) -> Any:
        return with_memory(data, lambda: find_task(absolute(str(data.get("model")), base_dir(info)), data.get("task")))

    @field_validator("model")
    @classmethod
    def _find_model(cls, value: str, info: ValidationInfo) -> str:
        folder = local_model(value, base_dir(info))
        return value if folder is None else str(folder)

    @field_validator("task")
    @classmethod
    def _find_task(cls, value: str | None) -> str | None:
        try:
            _ = None if value is None else task_named(value)
        except ConfigError as error:
            raise ValueError(error.problem) from error
        return value

    @field_validator("output", mode="before")
    @classmethod
    def _absolute_output(cls, value: Any, info: ValidationInfo) -> Path:
        if value is None:
            value = Path("reports") / slug(info.data.get("model", "model"))
        if not isinstance(value, (str, Path)) or not str(value):
            raise ValueError(f"must be a folder, got {got(value)}")
        path = absolute(value, base_dir(info))
        if path.is_file():
            raise ValueError(f"is a file: {path}; give a folder")
        return path

    @field_validator("evaluators", mode="before")
    @classmethod
    def _known_evaluators(cls, value: Any, info: ValidationInfo) -> dict[str, dict[str, Any]]:
        if info.context is not None:
            info.context["evaluators"] = known_evaluators(value)
        template = has_chat_template(Path(info.data.get("model", "")).expanduser())
        return read_evaluators(value, base_dir(info), _task(info.data), chat_template=template)

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
        return read_report(value, info.data.get("evaluators"), base_dir(info))

    @field_validator("constraints", mode="before")
    @classmethod
    def _known_constraints(cls, value: Any, info: ValidationInfo) -> dict[str, Constraint]:
        return read_constraints(value, _evaluator_names(info))

    @property
    def needs_calibration(self) -> bool:
        """Return True if a point of the space, or a candidate, needs calibration statistics."""
        settings = (each.settings.resolved(calibrated=True) for each in self.candidates)
        return self.space.needs_calibration or any(each.needs_calibration for each in settings)

    def candidate(self, name: str) -> Candidate:
        """Return the candidate of this name.

        Raises:
            PlanError: there is none.
        """
        for candidate in self.candidates:
            if candidate.name == name:
                return candidate
        raise PlanError(f"the configuration has no candidate {name!r}; add it to `candidates` again")

    def as_dict(self) -> dict[str, Any]:
        """Return plain data with absolute paths; written as YAML it loads as an equal Config."""
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
            **({"task": self.task} if self.task else {}),
            "output": str(self.output),
            "calibration": sections["calibration"],
            **({"target": list(self.target)} if self.target else {}),
            "space": self.space.as_dict(),
            **({"candidates": [each.as_data() for each in self.candidates]} if self.candidates else {}),
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
        """Return `as_dict` as the text of a model.yaml."""
        return dump_yaml(self.as_dict())


def config_from(data: Mapping[str, Any], overrides: Sequence[str] = ()) -> Config:
    """Check the content of a model.yaml that is given as a mapping; paths are relative to the current folder.

    Args:
        data: keys and values as in the file.
        overrides: as for `load_config`.

    Raises:
        ConfigError: anything wrong with the data or the overrides.
    """
    return _single(_source(data, overrides))


def _source(data: Mapping[str, Any], overrides: Sequence[str]) -> Source:
    source = Source(None, deepcopy(dict(data)))
    for assignment in overrides:
        source.override(assignment)
    return source


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read and validate a model.yaml.

    Args:
        path: the file.
        overrides: ``a.b=c`` assignments (`--set`) that replace keys of the file; `c` is YAML.

    Raises:
        ConfigError: the file or an override is invalid. The message has the first problem in full, the others in
            short.
    """
    return _single(_read(path, overrides))


def _single(source: Source) -> Config:
    if "models" in source.data:
        raise source.error(
            ("models",),
            "lists several models, which `autotune search` and, in Python, `autotune.sweep` take; use `model` here",
        )
    return _checked(source)


def load_model_config(path: str | Path) -> Config:
    """Read the model.yaml of a study without what concerns scores, for work that builds models only.

    Its evaluators are not imported, so that a study from elsewhere does not choose code that runs; those of the result
    are the defaults.

    Raises:
        ConfigError: as `load_config`.
    """
    source = _read(path, ())
    scores = ("evaluators", "report", "objectives", "constraints")
    return _checked(replace(source, data={key: value for key, value in source.data.items() if key not in scores}))


def load_configs(path: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> list[Config]:
    """Read a model.yaml, or its content, that may name several models; return a configuration for each.

    The folder of each study is inside ``output`` (by default `reports`), under the model's short name.

    Raises:
        ConfigError: as `load_config`; or ``models`` is not a list of different models, or ``model`` is also given.
    """
    source = _source(path, overrides) if isinstance(path, Mapping) else _read(path, overrides)
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
        raise source.error(
            key, f"two models have the short name {twice!r} and would share one folder; search them from separate files"
        )
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
    invalid = {finding.path for finding in findings}
    base_dir = None if source.file is None else source.file.absolute().parent
    try:
        config = Config.model_validate(source.data, context={"base_dir": base_dir})
    except ValidationError as error:
        findings += [finding for finding in from_validation(error, Config) if finding.path not in invalid]
    if findings:
        raise report(findings, source)
    return config


def config_schema() -> dict[str, Any]:
    """Return the JSON Schema of model.yaml for editors: keys and types, without the checks of several keys together."""
    schema = Config.model_json_schema()
    several = "Several models instead of `model`: one study for each, and a comparison at the end."
    schema["properties"]["models"] = {
        "type": "array",
        "items": {"type": "string"},
        "minItems": 1,
        "description": several,
    }
    schema["required"] = [key for key in schema.get("required", ()) if key != "model"]
    schema["oneOf"] = [{"required": ["model"]}, {"required": ["models"]}]
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}
