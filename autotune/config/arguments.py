"""The configuration that a command or an API function is given: a file, its content, a `Config`, or a model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from autotune.common.paths import absolute, local_model, slug
from autotune.common.yaml import read_yaml
from autotune.config.config import Config, config_from, load_config
from autotune.config.starter import init
from autotune.errors import UsageError
from autotune.models.hub import check_on_hub


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
    if output is not None:
        overrides = [*overrides, f"output={json.dumps(str(absolute(output, Path.cwd())))}"]
    if isinstance(config, Config):
        return config_from(config.as_dict(), overrides) if overrides else config
    if isinstance(config, Mapping):
        return config_from(config, overrides)
    if not isinstance(config, (str, Path)):
        raise UsageError(
            f"`config` must be a path, a model, a mapping or an autotune.Config, got {type(config).__name__}"
        )
    return load_config(config_file(config, note), overrides)


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
