"""Read search spaces from mappings, YAML files and presets.

Presets are the YAML files in the packages that the entry points of the group ``autotune.search_spaces`` name; autotune
brings `search_spaces`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NamedTuple

from autotune.common.paths import absolute
from autotune.common.validation import Finding, Invalid, got, nearest, report
from autotune.common.yaml import Source, parse_yaml, read_yaml
from autotune.config.space.parse import SpaceReader
from autotune.config.space.space import SearchSpace
from autotune.errors import ConfigError

ENTRY_POINTS = "autotune.search_spaces"
OWN_PACKAGE = "search_spaces"


class Preset(NamedTuple):
    """A named space: its name, a description in one line, and the package that contains it."""

    name: str
    description: str
    origin: str


def load_space(spec: str | Mapping[str, Any], *, base_dir: Path) -> SearchSpace:
    """Load a search space.

    Args:
        spec: a preset's name, the path of a YAML file (ends in .yaml or .yml, or contains a slash), or a mapping.
        base_dir: the folder that a relative path starts from.

    Raises:
        ConfigError: no such preset or file, or an invalid space; names the file, line and key.
    """
    try:
        return read_space(spec, base_dir=base_dir)
    except Invalid as error:
        raise report(error.findings, Source(None, spec)) from None


def read_space(spec: Any, *, base_dir: Path) -> SearchSpace:
    """Load a search space as `load_space` does, for callers that collect problems.

    Raises:
        Invalid: no such preset or file, or an invalid space; with every problem.
    """
    if isinstance(spec, SearchSpace):
        return spec
    if isinstance(spec, Mapping):
        return SpaceReader(spec, base_dir).space("inline")
    if not isinstance(spec, str):
        raise Invalid(Finding((), f"must be a preset's name, a path or a mapping of parameters, got {got(spec)}"))
    if spec.endswith((".yaml", ".yml")) or "/" in spec or "\\" in spec:
        try:
            return _file(absolute(spec, base_dir))
        except ValueError as error:
            raise error if isinstance(error, Invalid) else Invalid(Finding((), str(error))) from None
    return _preset(spec)


def presets() -> list[Preset]:
    """Return all installed presets by name, without those that cannot be read."""
    found = []
    for name, file, origin in _preset_files():
        try:
            data = parse_yaml(file.read_text("utf-8")).data
        except (ConfigError, OSError, UnicodeDecodeError):
            continue
        description = data.get("description", "") if isinstance(data, dict) else ""
        found.append(Preset(name, str(description), origin))
    return sorted(found)


def _file(path: Path) -> SearchSpace:
    if not path.exists():
        raise Invalid(Finding((), f"no such file: {path}; check the path, or name a preset (see `autotune spaces`)"))
    try:
        source = read_yaml(path)
    except ConfigError as error:
        if error.line is None:  # not a problem in the file but of its name, which stands where the space is named
            raise Invalid(Finding((), f"{path} {error.problem}")) from None
        raise Invalid(Finding((), error.problem, Source(path, None, {(): error.line}))) from None
    return _from_source(source, path.stem)


def _preset(name: str) -> SearchSpace:
    found = [(file, origin) for preset, file, origin in _preset_files() if preset == name]
    if not found:
        names = sorted({preset for preset, _, _ in _preset_files()})
        hint = f"; the presets are {', '.join(names)}" if names else "; no package of presets could be read"
        raise Invalid(Finding((), f"unknown preset {name!r}{nearest(name, names)}{hint}; a path ends in .yaml"))
    if len(found) > 1:
        origins = " and ".join(origin for _, origin in found)
        raise Invalid(Finding((), f"the preset {name!r} comes from both {origins}; name one by its path"))
    file, _ = found[0]
    return _from_source(parse_yaml(file.read_text("utf-8"), file=Path(str(file))), name)


def _preset_files() -> Iterator[tuple[str, Traversable, str]]:
    """Yield (name, file, package) of every preset, without the packages that cannot be imported."""
    packages = dict.fromkeys(point.value for point in entry_points(group=ENTRY_POINTS))
    # A checkout on the import path that is not installed has no entry points.
    packages.setdefault(OWN_PACKAGE)
    for package in packages:
        try:
            importlib.import_module(package)
            members = sorted(files(package).iterdir(), key=lambda member: member.name)
        except Exception:  # a package of a third party may raise anything; the other presets still work
            continue
        for member in members:
            stem, dot, ending = member.name.rpartition(".")
            if dot and ending in ("yaml", "yml") and member.is_file():
                yield stem, member, package


def _from_source(source: Source, name: str) -> SearchSpace:
    """Parse the space of a file; its problems name that file."""
    findings = [Finding(path, message, source) for path, message in source.problems]
    if source.data is None:
        raise Invalid(Finding((), f"{source.file} is empty; write at least a mode into it"))
    if not isinstance(source.data, dict):
        raise Invalid(Finding((), f"must be a mapping of parameters, got {got(source.data)}", source))
    try:
        space = SpaceReader(source.data, source.file.parent if source.file else Path()).space(name)
    except Invalid as error:
        findings += [finding._replace(source=source) for finding in error.findings]
    if findings:
        raise Invalid(*findings)
    return space
