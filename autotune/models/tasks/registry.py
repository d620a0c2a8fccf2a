"""Find a task: by name, by ``module:TASK``, or from the files of a model."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.validation import nearest
from autotune.errors import ConfigError, reason
from autotune.models import tasks
from autotune.models.tasks.task import Task

if TYPE_CHECKING:
    import openvino as ov

DEFAULT = "text-generation"
_PARTS = ("encoder", "registry", "task")


@cache
def task_names() -> tuple[str, ...]:
    """Return the names of the built-in tasks, the default first: each module beside this one is a task."""
    found = [module.name for module in pkgutil.iter_modules(tasks.__path__) if module.name not in _PARTS]
    return tuple(sorted((name.replace("_", "-") for name in found), key=lambda name: (name != DEFAULT, name)))


def task_named(name: str) -> Task:
    """Return a built-in task, or the one that ``module:TASK`` names.

    Raises:
        ConfigError: there is none, or it cannot be imported.
    """
    if name in task_names():
        module, attribute = f"{tasks.__name__}.{name.replace('-', '_')}", "TASK"
    else:
        module, _, attribute = name.partition(":")
    if attribute != "TASK":
        raise ConfigError(
            f"unknown task {name!r}{nearest(name, task_names())}; the tasks are {', '.join(task_names())}; or give one "
            "as module:TASK",
            key="task",
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except Exception as error:
        raise ConfigError(
            f"{name!r} cannot be imported ({reason(error)}); name an installed module with an instance named TASK, or "
            f"one of {', '.join(task_names())}",
            key="task",
        ) from error
    if not isinstance(found, Task):
        raise ConfigError(
            f"{name!r} is a {type(found).__name__}; name an instance of a subclass of autotune.models.tasks.task.Task",
            key="task",
        )
    return found


def find_task(model: str | Path, name: str | None = None) -> Task:
    """Return the task of a local model; text generation for a hub id, and if config.json cannot be read.

    That is reported elsewhere.

    Args:
        model: its folder.
        name: as for `task_named`, instead of what the files say.

    Raises:
        ConfigError: as `task_named`.
    """
    folder = Path(model).expanduser()
    config, files = {}, []
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        files = [file.name for file in folder.iterdir()]
    config = config if isinstance(config, dict) else {}
    return task_of_files(config, files) if name is None else task_named(name).for_model(config)


def check_served(task: Task, folder: Path) -> None:
    """Refuse a model that does a task and cannot be tuned; see `Task.why_not_served`.

    Raises:
        ConfigError: with what works.
    """
    file, config = folder / "config.json", {}
    with suppress(OSError, ValueError, RecursionError):
        config = json.loads(file.read_text(encoding="utf-8"))
    problem = task.why_not_served(config) if isinstance(config, dict) and config else None
    if problem is not None:
        raise ConfigError(problem, file=file)


def task_of_files(config: Mapping[str, Any], files: Collection[str]) -> Task:
    """Return the task of a model with this config.json and files of these names; text generation if none says more."""
    found = (task for task in map(task_named, task_names()) if task.matches(config, files))
    return next(found, task_named(DEFAULT)).for_model(config)


def task_of_graph(model: ov.Model) -> Task:
    """Return the first task for which a model in memory can be run; text generation if there is none."""
    for task in map(task_named, task_names()):
        if task.why_not_scorable(model.inputs, model.outputs, states=len(model.get_variables())) is None:
            return task
    return task_named(DEFAULT)
