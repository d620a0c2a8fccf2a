"""Registry of evaluators: entry points of the group `autotune.evaluators`, or `module:attribute`.

A module is imported when its evaluator is first used, so a broken plug-in fails for its own name only.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import TYPE_CHECKING, Any

from autotune.errors import ConfigError, PrerequisiteError
from autotune.evaluation.protocol import Evaluator, Metric

if TYPE_CHECKING:
    from pydantic import BaseModel

GROUP = "autotune.evaluators"
_METHODS = ("fingerprint", "reference", "evaluate", "original")


def available() -> list[tuple[str, str]]:
    """Return (name, origin) of every registered evaluator, sorted by name, without importing any."""
    return [(point.name, _origin(point)) for point in sorted(_entry_points(), key=lambda point: point.name)]


def create_evaluator(name: str, options: Mapping[str, Any] | None = None) -> Evaluator:
    """Create the evaluator `name` with its options.

    Args:
        name: a registered name, or ``module:attribute``.
        options: the mapping under the evaluator's name in model.yaml.

    Raises:
        ConfigError: there is no such evaluator, or an option is unknown or wrong; `key` is the option's path.
        PrerequisiteError: the evaluator cannot be imported.
    """
    kind = _load(name)
    values = dict(options or {})
    _check_options(name, kind, values)
    try:
        evaluator = kind(**values)
    except TypeError as error:
        raise ConfigError(f"invalid options: {error}. Correct or remove them.", key=f"evaluators.{name}") from error
    if not isinstance(evaluator, Evaluator):
        raise ConfigError(
            f"{_describe(kind)} does not create an evaluator. Name a class with the methods of "
            "autotune.evaluation.Evaluator.",
            key=f"evaluators.{name}",
        )
    return evaluator


def evaluator_metrics(name: str) -> Mapping[str, Metric]:
    """Return the metrics of the evaluator `name`, without creating one.

    Raises:
        ConfigError, PrerequisiteError: as `create_evaluator`.
    """
    metrics: Mapping[str, Metric] = _load(name).metrics
    return metrics


def evaluator_tasks(name: str) -> tuple[str, ...]:
    """Return the tasks whose models the evaluator `name` scores (its attribute `tasks`); text generation by default.

    Raises:
        ConfigError, PrerequisiteError: as `create_evaluator`.
    """
    return tuple(getattr(_load(name), "tasks", ("text-generation",)))


def evaluator_options(name: str) -> type[BaseModel] | None:
    """Return the pydantic model of the options of `name` (its attribute `Options`), or None.

    Raises:
        ConfigError, PrerequisiteError: as `create_evaluator`.
    """
    return _options_model(_load(name))


def _entry_points() -> Iterable[metadata.EntryPoint]:
    return metadata.entry_points(group=GROUP)


def _load(name: str) -> Any:
    kind = _import_attribute(name) if ":" in name else _load_entry_point(name)
    missing = [method for method in _METHODS if not callable(getattr(kind, method, None))]
    if not isinstance(getattr(kind, "metrics", None), Mapping):
        missing.append("metrics")
    if missing:
        raise ConfigError(
            f"{_describe(kind)} is not an evaluator: it lacks {', '.join(missing)}. See autotune.evaluation.Evaluator.",
            key=f"evaluators.{name}",
        )
    return kind


def _load_entry_point(name: str) -> Any:
    points = list(_entry_points())
    if not points:
        raise PrerequisiteError(
            f"no evaluator is registered, not even the built-in ones, so {name!r} cannot be found: autotune is on the "
            "import path but not installed. Install it (pip install -e . in its folder)."
        )
    found = [point for point in points if point.name == name]
    if not found:
        names = sorted({point.name for point in points})
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"Did you mean {near[0]}? " if near else ""
        raise ConfigError(
            f"unknown evaluator {name!r}. {hint}Available: {', '.join(names)}; or give one as module:attribute.",
            key=f"evaluators.{name}",
        )
    if len({point.value for point in found}) > 1:
        raise ConfigError(
            f"several packages register an evaluator {name!r}: {'; '.join(map(_origin, found))}. Uninstall one, or "
            "select one as module:attribute.",
            key=f"evaluators.{name}",
        )
    return _importing(name, _origin(found[0]), found[0].load)


def _import_attribute(name: str) -> Any:
    module_name, _, attribute = name.partition(":")

    def load() -> Any:
        value: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            value = getattr(value, part)
        return value

    if not module_name or not attribute:
        raise ConfigError(f"{name!r} is not of the form module:attribute.", key=f"evaluators.{name}")
    return _importing(name, name, load)


def _importing(name: str, origin: str, load: Any) -> Any:
    try:
        return load()
    except Exception as error:  # a plug-in's module may raise anything while it is imported
        raise PrerequisiteError(
            f"the evaluator {name!r} ({origin}) cannot be imported: {type(error).__name__}: {error}. Install its "
            "dependencies or fix it; the other evaluators are not affected."
        ) from error


def _options_model(kind: Any) -> type[BaseModel] | None:
    from pydantic import BaseModel

    model = getattr(kind, "Options", None)
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _check_options(name: str, kind: Any, values: Mapping[str, Any]) -> None:
    from pydantic import ValidationError

    from autotune.common.validation import from_validation
    from autotune.common.yaml import dotted

    model = _options_model(kind)
    if model is None:
        return
    try:
        model.model_validate(values)
    except ValidationError as error:
        first, *others = from_validation(error, model, ("evaluators", name))
        more = "".join(f"; {dotted(finding.path)}: {finding.message}" for finding in others)
        raise ConfigError(f"{first.message}{more}.", key=dotted(first.path)) from error


def _origin(point: metadata.EntryPoint) -> str:
    if point.dist is None:
        return point.value
    return f"{point.value} of {point.dist.name} {point.dist.version}"


def _describe(kind: Any) -> str:
    return f"{getattr(kind, '__module__', '')}:{getattr(kind, '__qualname__', kind)}".lstrip(":")
