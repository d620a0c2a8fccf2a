"""Read the arguments of commands and API functions: configurations in any form, settings, size limits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from numbers import Integral, Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from pydantic import ValidationError

from autotune.common.paths import absolute, local_model, slug
from autotune.common.units import parse_bytes
from autotune.common.validation import from_validation
from autotune.common.yaml import Source, dotted, read_yaml
from autotune.config.config import Config, config_from, load_config, load_configs
from autotune.config.sections import Calibration
from autotune.config.starter import init
from autotune.errors import ConfigError, UsageError
from autotune.evaluation.texts.sources import text_source
from autotune.models.hub import check_on_hub
from autotune.models.tasks.registry import DEFAULT, find_task, task_named

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.config.sections import Device
    from autotune.evaluation.texts.sources import Texts

SOURCE_KEYS = {"path", "synthetic", "dataset", "name", "split", "column", "texts", "tokens"}
"""Options of a text source: one that is given replaces all of them."""


def as_config(
    config: str | Path | Mapping[str, Any] | Config,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    *,
    note: Callable[[str], None] = lambda text: None,
) -> Config:
    """Return the configuration that the Python API was given in any form.

    Args:
        config: a model.yaml, its content, a configuration, or a model (see `config_file`).
        overrides: as for `load_config`.
        output: replaces the study's folder; relative to the current folder.
        note: receives the name of a file that is written.

    Raises:
        UsageError: `config` is something else.
        ConfigError: anything wrong with the data or the overrides.
    """
    overrides = [*overrides, *_output(output)]
    if isinstance(config, Config):
        return config_from(config.as_dict(), overrides) if overrides else config
    if isinstance(config, Mapping):
        return config_from(config, overrides)
    if not isinstance(config, (str, Path)):
        raise UsageError(
            f"`config` must be a path, a model, a mapping or an autotune.Config, got {type(config).__name__}"
        )
    return load_config(config_file(config, note), overrides)


def as_configs(
    config: str | Path | Mapping[str, Any] | Sequence[Config],
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
) -> list[Config]:
    """Return the configurations of several models, as `as_config` does that of one."""
    overrides = [*overrides, *_output(output)]
    if isinstance(config, (str, Path, Mapping)):
        return load_configs(config, overrides)
    if not isinstance(config, Sequence) or not config:
        raise UsageError("`config` must be a path, a mapping or a list of autotune.Config")
    return [as_config(each, overrides) for each in config]


def _output(output: str | Path | None) -> list[str]:
    if output is None:
        return []
    try:
        return [f"output={json.dumps(str(absolute(output, Path.cwd())))}"]
    except ValueError as error:
        raise UsageError(f"`output` has {error}") from error


def config_file(config: str | Path, note: Callable[[str], None]) -> Path:
    """Return the model.yaml to search: the file itself, or for a model the file ``NAME.yaml`` in the current folder.

    If that file does not exist, it is written with the defaults of `init`. A second search finds and continues it.

    Args:
        config: a file, a Hugging Face id, or a Hugging Face or OpenVINO folder.
        note: receives a sentence about the file of a model.

    Raises:
        UsageError: neither a file nor a model, or ``NAME.yaml`` is of another model.
        PrerequisiteError: neither the hub nor its local cache has this model.
    """
    path = Path(config).expanduser()
    if path.is_file() or path.suffix in (".yaml", ".yml"):
        return path
    model = str(config)
    if (path / "study.db").is_file():
        raise UsageError(f"{path} is the folder of a study; to continue it, name its file: {path / 'model.yaml'}")
    try:
        folder = local_model(model, Path.cwd())
    except ValueError as error:
        raise UsageError(f"{model}: {error}; give a model.yaml, a Hugging Face id, or the folder of a model") from None
    file = Path(f"{slug(model)}.yaml")
    if file.exists():
        data = read_yaml(file).data
        named = data.get("model") if isinstance(data, dict) else None
        if named != model and (folder is None or absolute(str(named), file.absolute().parent) != folder):
            raise UsageError(
                f"{file} is the file of another model, {named}. Write one under another name: "
                f"autotune init {model} -o FILE.yaml, and search that file"
            )
        note(f"the configuration is {file}, which exists already")
        return file
    if folder is None:
        check_on_hub(model)
    init(model, file)
    note(f"{file} is written with the defaults of `autotune init`; edit it to change them")
    return file


def read_settings(arguments: Mapping[str, Any]) -> Settings:
    """Read the settings and the effort among the arguments of `autotune.compress`.

    Raises:
        UsageError: an argument has a wrong type, a codebook cannot be read, or an effort needs a calibration text.
    """
    from autotune.compression.formats.table import parse_codebook
    from autotune.compression.settings import EFFORTS, SETTINGS, Settings

    types: dict[str, Any] = {"switch": bool, "integer": Integral, "number": Real, "text": str, "list": Iterable}
    values = {name: arguments[name] for name in SETTINGS}
    for name, info in SETTINGS.items():
        if name == "codebook" and isinstance(values[name], str):
            try:
                values[name] = parse_codebook(values[name])
            except ValueError as error:
                raise UsageError(f"`codebook`: {error}") from None
        value = values[name]
        fits = isinstance(value, types[info.kind])
        fits = fits and isinstance(value, (bool, str)) == (info.kind in ("switch", "text"))  # True is an Integral
        if not fits and not (value is None and info.default is None):
            raise UsageError(f"`{name}` must be a {info.kind}, got {value!r}")
        if info.kind == "list":
            values[name] = tuple(value)
    settings, effort = Settings(**values), arguments["effort"]
    if effort not in EFFORTS:
        raise UsageError(f"`effort` must be one of {', '.join(EFFORTS)}, got {effort!r}")
    if EFFORTS[effort] and arguments["calibration"] is None:
        raise UsageError(f"`effort` {effort} compresses by activations and needs a text for them: add `calibration`")
    if arguments["max_size"] is not None:  # each weight gets GPTQ and scale estimation where they help
        return replace(settings, distillation=settings.distillation or "distillation" in EFFORTS[effort])
    return settings.with_effort(effort)


def calibration_from(texts: Texts | None, samples: int, sequence_length: int) -> Calibration | None:
    """Check calibration texts in any form that the Python API takes; None stays None.

    Raises:
        UsageError: there is no such file, or an array of another shape or type.
        ConfigError: a wrong key or value.
    """
    if texts is None:
        return None
    source = text_source(texts, "calibration")
    data = {"samples": samples, "sequence_length": sequence_length, **source}
    if "tokens" in source:
        data |= {"samples": len(source["tokens"]), "sequence_length": len(source["tokens"][0])}
    try:
        return Calibration.model_validate(data)
    except ValidationError as error:
        first, *_ = from_validation(error, Calibration)
        raise Source(None, data).error(("calibration", *first.path), first.message) from error


def read_size(
    settings: Settings, max_size: int | str | None, evaluation: Any, allow: Sequence[str], runtime_compressed: bool
) -> int | None:
    """Read a size limit in bytes, and refuse arguments that exclude each other with it, or without one.

    Raises:
        UsageError: the limit cannot be read, or arguments exclude each other.
    """
    if max_size is None:
        if allow or not runtime_compressed or evaluation is not None:
            raise UsageError(
                "`evaluation`, `allow` and `runtime_compressed=False` need `max_size`; without it use `mode`"
            )
        return None
    try:
        limit = parse_bytes(max_size)
    except ValueError as error:
        raise UsageError(f"`max_size`: {error}") from error
    if set(allow) - {"int2", "int3"}:
        raise UsageError(f"`allow` must be int2 or int3, got {', '.join(allow)}")
    if "int3" in allow and runtime_compressed:
        raise UsageError("`allow` int3: the CPU expands it when it loads a model; add `runtime_compressed=False`")
    if evaluation is None:
        raise UsageError("`max_size` measures the error of each format and needs a text for it: add `evaluation`")
    default = type(settings)(ignored_scope=settings.ignored_scope, distillation=settings.distillation)
    for name in type(settings).__dataclass_fields__:
        if getattr(settings, name) != getattr(default, name):
            raise UsageError(f"`max_size` chooses format and algorithms of each weight; leave out `{name}`")
    return limit


def evaluation_config(
    *,
    file: Path | None,
    reference: str | None,
    names: Sequence[str] | None,
    options: Mapping[str, Mapping[str, Any]],
    cache: Path | None = None,
    trust_remote_code: bool = False,
    task: str | None = None,
) -> Config:
    """Make the configuration of an evaluation: a study's file, or defaults, overridden by the command line's options.

    Args:
        file: a model.yaml, or None.
        reference: the original; None is the file's model.
        names: the evaluators to use; None is all of the file, or the default ones of the task.
        options: evaluator -> its options; None means that an option is not given.
        cache: folder for what is computed once; None is the file's, or the default.
        trust_remote_code: allow code that comes with the original to run, in addition to the setting in the file.
        task: what the original does; None is the file's, or found from the original.

    Raises:
        UsageError: neither file nor reference, or an option for an evaluator that is not used.
        ConfigError: an unknown evaluator or a wrong option.
    """
    if file is None and reference is None:
        raise UsageError("give the original as `reference`, or a model.yaml that names it as `config`")
    data: dict[str, Any] = {} if file is None else load_config(file).as_dict()
    if task is not None:
        data["task"] = task
    found = find_task(reference or str(data["model"]), data.get("task"))
    available = data.get("evaluators") or found.evaluators
    chosen = {name: dict(available.get(name, {})) for name in names or available}
    for name, values in options.items():
        given = {key: value for key, value in values.items() if value is not None}
        if name == task_named(DEFAULT).loss.evaluator and name not in chosen:
            name = found.loss.evaluator  # the text of --text
        if given and name not in chosen:
            option = next(iter(given))
            raise UsageError(f"`{option}` belongs to the evaluator {name}, which is not among {', '.join(chosen)}")
        if not SOURCE_KEYS.isdisjoint(given):
            chosen[name] = {key: value for key, value in chosen[name].items() if key not in SOURCE_KEYS}
        if name in chosen:
            chosen[name].update(given)
    data = {key: data[key] for key in ("model", "task", "runtime", "cache", "trust_remote_code") if key in data}
    data["evaluators"] = chosen
    if reference is not None:
        data["model"] = reference
    if cache is not None:
        data["cache"] = {**data.get("cache", {}), "directory": str(cache)}
    if trust_remote_code:
        data["trust_remote_code"] = True
    try:
        return Config.model_validate(data)
    except ValidationError as error:
        first, *_ = from_validation(error, Config)
        raise ConfigError(first.message, key=dotted(first.path)) from error


def read_targets(target: str | Sequence[str] | None) -> tuple[Device, ...]:
    """Check the devices that the Python API was given in any form.

    Raises:
        UsageError: an unknown device.
    """
    from autotune.config.sections import Device, listed_targets

    targets: tuple[Device, ...] = listed_targets(target)
    for name in targets:
        if name not in get_args(Device):
            raise UsageError(f"`target` must be one or several of {', '.join(get_args(Device))}, got {name!r}")
    return targets


def changes_of(target: str | Sequence[str] | None = None, effort: str | None = None, **options: Any) -> list[str]:
    """Return the assignments ``a.b=c`` of the arguments of `api.search` that are given; `options` are of the study."""
    devices = None if target is None else [target] if isinstance(target, str) else [*target]
    values = {"target": devices, "effort": effort, **{f"study.{key}": value for key, value in options.items()}}
    return [f"{key}={value}" for key, value in values.items() if value is not None]
