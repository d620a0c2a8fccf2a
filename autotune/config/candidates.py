"""Candidates: models and settings from elsewhere, which a study scores beside its own trials.

A candidate is a model that any tool has written, or the settings of NNCF or optimum-intel by value. Settings are
converted to autotune's, which have NNCF's names; their calibration text is the study's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from autotune.common.paths import local_model, slug
from autotune.common.validation import Finding, Invalid, got, nearest
from autotune.compression.describe import describe_settings
from autotune.compression.settings import DATA_FREE_METRIC, MIXED, MODES, SETTINGS, Settings
from autotune.errors import ConfigError
from autotune.models.tasks.task import Task

KEYS = ("name", "model", "config")
OPTIMUM_KEYS = ("bits", "sym", "quant_method", "backup_precision", "dtype", "weight_format", "dataset", "num_samples")
"""Keys of `OVWeightQuantizationConfig` that have another name in NNCF."""

WITHOUT_EFFECT = ("dataset", "num_samples", "tokenizer", "processor", "statistics_path", "dq_group_size", "weight_only")
"""Keys that do not change how weights are stored, or name texts, which are the study's."""

NNCF_METRIC = "max_activation_variance"
"""NNCF's default sensitivity metric with a data set; without one it is `weight_quantization_error`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A candidate of `candidates` in model.yaml.

    Attributes:
        name: how tables show it; unique in a study.
        model: hub id or absolute path of a folder; empty for settings by value.
        config: NNCF's or optimum-intel's settings by value; empty for a model.
        settings: what a trial of this candidate has.
    """

    name: str
    model: str
    config: Mapping[str, Any]
    settings: Settings

    @property
    def origin(self) -> str:
        """Origin of its trial."""
        return f"candidate: {self.name}"

    def as_data(self) -> dict[str, Any]:
        """Return the form for YAML."""
        what: dict[str, Any] = {"model": self.model} if self.model else {"config": dict(self.config)}
        return {"name": self.name, **what}


def check_in_parts(candidates: Sequence[Candidate], task: Task) -> None:
    """Refuse candidates that are models in parts: trials are scored with the parts of the study.

    Args:
        candidates: of a study.
        task: of its model.

    Raises:
        ConfigError: one is a model.
    """
    models = [each.name for each in candidates if each.model and task.in_parts]
    if models:
        raise ConfigError(
            f"{models[0]} is a model, and those for {task.name} have several IRs, of which a study has only its own. "
            "Give the settings by value ({name: ..., config: {...}}), or score the model by `autotune evaluate`",
            key="candidates",
        )


def read_candidates(value: Any, base_dir: Path) -> tuple[Candidate, ...]:
    """Read the list of `candidates`; a text is a model, a mapping has ``model`` or ``config`` and perhaps ``name``.

    Raises:
        Invalid: with every problem.
    """
    if isinstance(value, tuple):
        return value
    if value is None:
        return ()
    if not isinstance(value, list):
        raise Invalid(Finding((), f"must be a list of models or of settings, got {got(value)}"))
    found: list[Candidate] = []
    findings: list[Finding] = []
    for index, entry in enumerate(value):
        try:
            candidate = _read(entry, base_dir)
        except Invalid as error:
            findings += [finding._replace(path=(index, *finding.path)) for finding in error.findings]
            continue
        if candidate.name in [other.name for other in found]:
            message = f"a second candidate has the name {candidate.name!r}; give them different names by `name`"
            findings.append(Finding((index,), message))
        found.append(candidate)
    if findings:
        raise Invalid(*findings)
    return tuple(found)


def _read(entry: Any, base_dir: Path) -> Candidate:
    if isinstance(entry, str):
        entry = {"model": entry}
    if not isinstance(entry, Mapping):
        raise Invalid(Finding((), f"must be a folder, a hub id, or a mapping with model or config, got {got(entry)}"))
    for key in entry:
        if key not in KEYS:
            hint = nearest(key, KEYS)
            raise Invalid(Finding((key,), f"unknown key{hint}; a candidate has name, and either model or config"))
    if ("model" in entry) == ("config" in entry):
        raise Invalid(Finding((), "needs either model (a folder or a hub id) or config (settings by value)"))
    for key in ("name", "model"):
        if key in entry and not (isinstance(entry[key], str) and entry[key]):
            raise Invalid(Finding((key,), f"must be a text, got {got(entry[key])}"))
    if "model" in entry:
        try:
            folder = local_model(entry["model"], base_dir)
        except ValueError as error:
            raise Invalid(Finding(("model",), str(error))) from None
        model = entry["model"] if folder is None else str(folder)
        name = entry.get("name") or (model if folder is None else slug(model))
        return Candidate(name, model, {}, Settings(mode=MIXED, allocation="candidate", candidate=name))
    config = entry["config"]
    if not isinstance(config, Mapping):
        raise Invalid(Finding(("config",), f"must be a mapping of settings, got {got(config)}"))
    try:
        settings = settings_of(config)
    except Invalid as error:
        found = (finding._replace(path=("config", *finding.path)) for finding in error.findings)
        raise Invalid(*found) from None
    named = entry.get("name") or describe_settings(settings.as_dict())
    return Candidate(named, "", dict(config), replace(settings, candidate=named))


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Convert the arguments of `nncf.compress_weights`, or of optimum-intel's `OVWeightQuantizationConfig`.

    Args:
        config: plain data, as JSON or YAML has it; enumerations may be given by name.

    Raises:
        Invalid: a key or value that autotune does not have.
    """
    given = {key: _plain(value) for key, value in config.items() if value is not None}
    if "quantization_config1" in given:
        message = "is the first of two steps, which one setting cannot express; give the finished model as `model`"
        raise Invalid(Finding(("quantization_config1",), message))
    if "quantization_configs" in given:  # of a pipeline of several models
        parts = given["quantization_configs"]
        if not isinstance(parts, Mapping) or not isinstance(parts.get("lm_model"), Mapping):
            message = "has no lm_model; a candidate is the configuration of a language model"
            raise Invalid(Finding(("quantization_configs",), message))
        return settings_of(parts["lm_model"])
    values = {key: value for key, value in given.items() if key not in (*OPTIMUM_KEYS, *WITHOUT_EFFECT)}
    calibrated = "dataset" in given or "mode" in given  # NNCF's data set is an argument that is no setting
    if "mode" not in given:
        values |= _of_optimum(given)
    if "ignored_scope" in values:
        values["ignored_scope"] = _scope(values["ignored_scope"])
    for key in values:
        if key not in SETTINGS:
            raise Invalid(Finding((key,), f"is not a setting{nearest(key, SETTINGS)}; remove it"))
    values["mode"] = str(values["mode"]).lower()
    if values["mode"].startswith("int8"):
        kept = ("mode", "ignored_scope")
        values = {key: value for key, value in values.items() if key in kept}
    elif values.get("ratio", 1.0) < 1 and "sensitivity_metric" not in values:
        values["sensitivity_metric"] = NNCF_METRIC if calibrated else DATA_FREE_METRIC
    for key in ("backup_mode", "sensitivity_metric", "group_size_fallback"):
        if key in values:
            values[key] = str(values[key]).lower()
    if values.get("awq") and not calibrated:
        values["awq_data_free"] = True
    try:
        settings = Settings.from_dict(values)
        problems = [Finding((problem.key,), problem.message) for problem in settings.problems()]
    except TypeError as error:
        raise Invalid(Finding((), f"has a value of a wrong type ({error}); correct it")) from None
    if problems:
        raise Invalid(*problems)
    return settings


def _plain(value: Any) -> Any:
    """Return an enumeration's value; other values are unchanged."""
    return value.value if hasattr(value, "value") and hasattr(value, "name") else value


def _of_optimum(given: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the keys of optimum-intel that NNCF names otherwise."""
    dtype = given.get("dtype") or given.get("weight_format")
    bits = given.get("bits", 4 if dtype == "int4" else 8)
    if dtype in (None, "int4", "int8"):
        mode = f"int{bits}_{'sym' if given.get('sym', False) else 'asym'}"
    else:
        mode = str(dtype)
    if mode not in MODES:
        problem = f"gives the format {mode}, which does not exist; choose 4 or 8 bits, or a format of `autotune schema`"
        raise Invalid(Finding(("dtype" if dtype else "bits",), problem))
    method = str(given.get("quant_method", "default")).lower()
    if method not in ("default", "awq"):
        raise Invalid(Finding(("quant_method",), f"must be default or awq for compressed weights, got {method!r}"))
    values: dict[str, Any] = {"mode": mode, **({"awq": True} if method == "awq" else {})}
    if "backup_precision" in given:
        values["backup_mode"] = given["backup_precision"]
    return values


def _scope(scope: Any) -> tuple[str, ...]:
    """Convert an ignored scope of NNCF to names and patterns."""
    if not isinstance(scope, Mapping):
        return tuple(scope)
    unknown = [key for key in scope if key not in ("names", "patterns") and scope[key]]
    if unknown:
        raise Invalid(Finding(("ignored_scope", unknown[0]), "is not supported; list names or patterns instead"))
    return (*scope.get("names", ()), *scope.get("patterns", ()))
