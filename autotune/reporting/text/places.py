"""Paths as a study's files show them: relative to the study's folder, without the folders of the author's machine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autotune.results.records import StudyResults

SHARED = 3
"""Fewest parts of the folder that two paths share, such as ``/home/ann``: a relative path names what is below it."""


def relative_path(path: str, folder: Path | None) -> str | None:
    """Return `path` from the study's folder on; None if it would name folders near the root of the file system.

    A hub id and a path that is relative already stay as they are.
    """
    if not Path(path).is_absolute():
        return path
    try:
        shared = os.path.commonpath([path, str(folder)])
    except ValueError:  # no folder, or another drive
        return None
    return Path(os.path.relpath(path, folder)).as_posix() if len(Path(shared).parts) >= SHARED else None


def shown(value: Any, folder: Path | None) -> Any:
    """Return nested configuration with every absolute path relative to the study's folder, or as ``…/name``."""
    if isinstance(value, Mapping):
        return {key: shown(item, folder) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [shown(item, folder) for item in value]
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    found = relative_path(value, folder)
    return f"…/{Path(value).name}" if found is None else found


def without_folders(text: str, results: StudyResults) -> str:
    """Return a message with the study's folder as ``.``, the home folder as ``~``, and the model by its name."""
    model = str(results.config.get("model", ""))
    names = {str(results.folder): ".", str(Path.home()): "~", **({model: results.model} if model[:1] == "/" else {})}
    for path in sorted(names, key=len, reverse=True):
        text = text.replace(path, names[path]) if len(Path(path).parts) > 1 else text
    return text
