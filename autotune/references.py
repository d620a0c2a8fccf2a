"""Where the original model's answers are kept: one safetensors file for each evaluator, options and model."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune import __version__
from autotune.files import fingerprint, locked
from autotune.tensors import DAMAGE, read_tensors, write_tensors

if TYPE_CHECKING:
    from autotune.evaluation import Evaluator, Reference

__all__ = ["ReferenceStore", "reference_key"]

_log = logging.getLogger(__name__)


def reference_key(
    name: str,
    evaluator: Evaluator,
    *,
    model_fingerprint: str,
    tokenizer_fingerprint: str,
    ov_config: Mapping[str, Any],
) -> str:
    """The key of a reference: changes with anything that could change its numbers."""
    versions = [__version__, version("openvino")]
    return fingerprint(
        name, evaluator.fingerprint(), model_fingerprint, tokenizer_fingerprint, dict(ov_config), versions
    )


class ReferenceStore:
    """References on disk, shared by processes and studies.

    A file is written under a lock and appears in one step. Its checksum is verified when it is opened; a damaged file
    is computed again. What comes back is mapped from the file, not read: worker processes share one copy of it in
    memory, however large.

    Attributes:
        counters: ``created`` (computed now), ``reused`` (found on disk), ``damaged`` (found, but computed again).
    """

    def __init__(self, directory: Path) -> None:
        """Keep references in `directory`, which is created when the first one is written."""
        self.directory = directory
        self.counters = {"created": 0, "reused": 0, "damaged": 0}
        self._opened: dict[str, Reference] = {}

    def get_or_create(self, key: str, create: Callable[[], Reference]) -> tuple[Reference, bool]:
        """Return (the reference of `key`, was it created now?); `create` runs once, however many processes ask."""
        if key in self._opened:
            return self._opened[key], False
        path = self.directory / f"{key}.safetensors"
        found = self._open(path)
        if found is None:
            with locked(path):
                found = self._open(path)  # another process may have been faster
                if found is None:
                    return self._create(key, path, create), True
        self.counters["reused"] += 1
        self._opened[key] = found
        return found, False

    def _create(self, key: str, path: Path, create: Callable[[], Reference]) -> Reference:
        self.counters["damaged"] += path.exists()
        write_tensors(path, create())
        self.counters["created"] += 1
        reference = read_tensors(path)
        self._opened[key] = reference
        return reference

    def _open(self, path: Path) -> Reference | None:
        if not path.exists():
            return None
        try:
            return read_tensors(path)
        except DAMAGE as error:
            _log.warning("the cached reference %s is damaged (%s); it is computed again", path, error)
            return None
