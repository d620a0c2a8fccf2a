"""Validation errors of a configuration, collected and reported together.

Validators raise `Invalid`, pydantic collects it with its own errors, `from_validation` converts them to messages, and
`report` makes one ConfigError of them.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Union

from pydantic import BaseModel, ValidationError

from autotune.common.formatting import shortened
from autotune.common.yaml import KeyPath, Source, dotted
from autotune.errors import ConfigError

SHOWN, BRIEF = 5, 300
"""Further problems that one message names, and the characters of each; the rest is counted."""


class Finding(NamedTuple):
    """One problem: its path from the top of its source, the message, and the source if it is another one."""

    path: KeyPath
    message: str
    source: Source | None = None

    def inside(self, path: KeyPath) -> Finding:
        """Return the finding relative to the value around `path`; one of another source is not changed."""
        return self if self.source is not None else self._replace(path=(*path, *self.path))


class Invalid(ValueError):
    """A value is wrong, for one or more reasons; paths are relative to that value."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings
        super().__init__("; ".join(f"{dotted(f.path)}: {f.message}" if f.path else f.message for f in findings))


def nearest(name: object, allowed: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` if one of the allowed names is close, else an empty text."""
    names = {candidate.lower().replace("-", "_"): candidate for candidate in allowed}
    close = difflib.get_close_matches(str(name).lower().replace("-", "_"), names, n=1, cutoff=0.6)
    return f" (did you mean {names[close[0]]!r}?)" if close else ""


def got(value: Any) -> str:
    """Format a value for an error message: short, and with its kind if that is the problem."""
    if value is None:
        return "nothing (null)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f"the text {shortened(value, 60)!r}"
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    if isinstance(value, (list, tuple)):
        return "a list" if value else "an empty list"
    return shortened(str(value), 60)


def from_validation(error: ValidationError, model: type[BaseModel], prefix: KeyPath = ()) -> list[Finding]:
    """Convert pydantic's errors about a `model` at `prefix` to findings.

    Of a value that may have several types, pydantic reports one error for each; they become one finding.
    """
    findings: list[Finding] = []
    expected: dict[KeyPath, list[str]] = {}
    for detail in error.errors(include_url=False):
        inside, is_union = _without_types(model, detail["loc"])
        path = (*prefix, *inside)
        cause = (detail.get("ctx") or {}).get("error")
        if isinstance(cause, Invalid):
            findings += [finding.inside(path) for finding in cause.findings]
        elif isinstance(cause, ValueError):
            findings.append(Finding(path, str(cause)))
        elif is_union and (phrase := _expected(detail, model)) is not None:
            expected.setdefault(path, []).append(phrase.removeprefix("one of "))
            message = f"must be {' or '.join(dict.fromkeys(expected[path]))}, got {got(detail['input'])}"
            findings = [finding for finding in findings if finding.path != path] + [Finding(path, message)]
        else:
            findings.append(Finding(path, _worded(detail, model)))
    return findings


def _without_types(model: type[BaseModel], path: KeyPath) -> tuple[KeyPath, bool]:
    """Drop the names of types that pydantic puts into the path of a value with several types; and whether it did.

    ``study.workers.constrained-int`` becomes ``study.workers``.
    """
    around: Any = model
    kept: list[str | int] = []
    dropped = False
    for part in path:
        around = _unwrapped(around)
        if typing.get_origin(around) in (Union, types.UnionType):
            dropped = True
            containers = (each for each in map(_unwrapped, typing.get_args(around)) if _is_container(each))
            around = next(containers, None)
            continue
        kept.append(part)
        if isinstance(around, type) and issubclass(around, BaseModel):
            field = around.model_fields.get(str(part))
            around = None if field is None else field.annotation
        else:
            inner = typing.get_args(around)
            around = (inner[-1] if isinstance(part, str) else inner[0]) if inner else None
    return tuple(kept), dropped


def _unwrapped(annotation: Any) -> Any:
    """Return an annotation without Annotated and Optional."""
    while typing.get_origin(annotation) is Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in typing.get_args(annotation) if member is not type(None)]
        return _unwrapped(members[0]) if len(members) == 1 else annotation
    return annotation


def _is_container(annotation: Any) -> bool:
    is_model = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return is_model or typing.get_origin(annotation) in (list, tuple, dict)


def _worded(detail: Any, model: type[BaseModel]) -> str:
    """Word one of pydantic's own errors: the value, and the allowed ones."""
    kind, value = detail["type"], detail["input"]
    if kind == "extra_forbidden":
        around = _model_at(model, detail["loc"][:-1])
        allowed = list(around.model_fields) if around is not None else []
        names = f"; the keys here are {', '.join(allowed)}" if allowed else ""
        return f"unknown key{nearest(detail['loc'][-1], allowed)}{names}"
    if kind == "missing":
        return "is missing"
    expected = _expected(detail, model)
    if expected is None:
        return f"{str(detail['msg'])[:1].lower()}{str(detail['msg'])[1:]}, got {got(value)}"
    advice = nearest(value, _choices(detail, model)) if kind in LITERAL else _advice(kind, value)
    return f"must be {expected}, got {got(value)}{advice}"


LITERAL = ("literal_error", "enum")


def _choices(detail: Any, model: type[BaseModel]) -> list[str]:
    """Return the allowed values of a literal."""
    return [str(choice) for choice in typing.get_args(_annotation_at(model, detail["loc"]))]


def _expected(detail: Any, model: type[BaseModel]) -> str | None:
    """Word what one of pydantic's own errors expects; None for an unknown kind."""
    kind, about = detail["type"], detail.get("ctx") or {}
    if kind in LITERAL:
        return f"one of {', '.join(_choices(detail, model)) or str(about.get('expected', '')).strip(chr(39))}"
    return {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "int_parsing": "a whole number",
        "float_type": "a number",
        "float_parsing": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "bool_parsing": "true or false",
        "string_type": "a text",
        "string_too_short": "a text that is not empty",
        "path_type": "a path",
        "dict_type": "a mapping",
        "model_type": "a mapping",
        "model_attributes_type": "a mapping",
        "list_type": "a list",
        "tuple_type": "a list",
        "greater_than_equal": f"at least {about.get('ge')}",
        "greater_than": f"more than {about.get('gt')}",
        "less_than_equal": f"at most {about.get('le')}",
        "less_than": f"less than {about.get('lt')}",
    }.get(kind)


def _advice(kind: str, value: Any) -> str:
    """Return a remedy for mistakes that are common in YAML."""
    if kind.startswith("bool") and isinstance(value, str) and value.lower() in ("yes", "on", "y", "no", "off", "n"):
        return f"; write {'true' if value.lower() in ('yes', 'on', 'y') else 'false'}"
    if kind.startswith(("int", "float")) and isinstance(value, str):
        return "; write it without quotes" if value.replace(".", "", 1).lstrip("+-").isdigit() else ""
    return ""


def _annotation_at(model: type[BaseModel], path: KeyPath) -> Any:
    """Return the annotation of the field at `path` without Optional, or None if it is not a field of a model."""
    around = _model_at(model, path[:-1])
    if around is None or not path or path[-1] not in around.model_fields:
        return None
    annotation = around.model_fields[str(path[-1])].annotation
    if typing.get_origin(annotation) in (Union, types.UnionType):
        kept = [part for part in typing.get_args(annotation) if part is not type(None)]
        return kept[0] if len(kept) == 1 else annotation
    return annotation


def _model_at(model: type[BaseModel], path: KeyPath) -> type[BaseModel] | None:
    """Return the model of the value at `path`, or None if it has none."""
    if not path:
        return model
    annotation = _annotation_at(model, path)
    return annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None


def report(findings: Sequence[Finding], source: Source) -> ConfigError:
    """Make one ConfigError: the first problem in full, then the others, in the order of the file."""

    def position(finding: Finding) -> tuple[bool, int]:
        # What is not in the file (a key left out, a default) comes last: it often follows from what is.
        in_file = finding.path == () or finding.path[:1] in source.lines or source.is_overridden(finding.path)
        return not in_file or finding.source is not None, source.line(finding.path) or 0

    unique = {(finding.path, finding.message): finding for finding in findings}
    ordered = sorted(unique.values(), key=position)
    errors = [(f.source or source).error(f.path, f.message) for f in ordered]
    first, others = errors[0], errors[1:]
    if not others:
        return first
    briefly = "; ".join(_brief(error, first.file) for error in others[:SHOWN])
    more = "; ..." if len(others) > SHOWN else ""
    problem = f"{first.problem} (and {len(others)} more: {briefly}{more})"
    return ConfigError(problem, file=first.file, line=first.line, key=first.key)


def _brief(error: ConfigError, file: Path | None) -> str:
    """Format an error as one of several: short, and with the file only if it differs."""
    key, problem = error.key, shortened(error.problem, BRIEF)
    if error.file is None or error.file != file or error.line is None:
        return str(ConfigError(problem, file=error.file, line=error.line, key=key))
    return f"line {error.line}: {f'{key}: ' if key else ''}{problem}"
