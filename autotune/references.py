"""Where the original model's answers are kept: one safetensors file for each evaluator, options and model."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune import __version__
from autotune.files import atomic_write, fingerprint, locked

if TYPE_CHECKING:
    from autotune.evaluation import Evaluator, Reference

__all__ = ["ReferenceStore", "reference_key"]

_log = logging.getLogger(__name__)
_CHECKSUM = "xxh3_128"
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "I16": np.dtype(np.int16),
    "U16": np.dtype(np.uint16),
    "F16": np.dtype(np.float16),
    "I32": np.dtype(np.int32),
    "U32": np.dtype(np.uint32),
    "F32": np.dtype(np.float32),
    "F64": np.dtype(np.float64),
    "I64": np.dtype(np.int64),
    "U64": np.dtype(np.uint64),
}


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
        arrays = {name: np.ascontiguousarray(array) for name, array in create().items()}
        _write(path, arrays)
        del arrays
        self.counters["created"] += 1
        reference = _read(path)
        self._opened[key] = reference
        return reference

    def _open(self, path: Path) -> Reference | None:
        if not path.exists():
            return None
        try:
            return _read(path)
        except (ValueError, KeyError, TypeError, OSError) as error:
            _log.warning("the cached reference %s is damaged (%s); it is computed again", path, error)
            return None


def _write(path: Path, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    from safetensors.numpy import save_file

    with atomic_write(path) as temporary:
        save_file(dict(arrays), temporary, metadata={_CHECKSUM: _checksum(arrays.items())})


def _read(path: Path) -> Reference:
    """Map the arrays of a safetensors file, read-only, and verify them against the checksum in its header.

    The layout (8 bytes of header length, a JSON header, raw little-endian data) is safetensors' own; its reader is
    not used because it copies every array into memory.

    Raises:
        ValueError, KeyError, TypeError, OSError: the file is damaged.
    """
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        size = path.stat().st_size
        if not 0 < length <= size - 8:
            raise ValueError("its header is cut off")
        header = json.loads(stream.read(length))
    expected = header.pop("__metadata__")[_CHECKSUM]
    data = np.memmap(path, dtype=np.uint8, mode="r") if size > 8 + length else np.empty(0, np.uint8)
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        if end - begin != math.prod(entry["shape"]) * dtype.itemsize or 8 + length + end > size:
            raise ValueError(f"the array {name} is cut off")
        # A plain view of the mapping: numpy.memmap's own slicing is slow and hides what it is.
        arrays[name] = np.asarray(data)[8 + length + begin : 8 + length + end].view(dtype).reshape(entry["shape"])
    if _checksum(arrays.items()) != expected:
        raise ValueError("its checksum does not match")
    return arrays


def _checksum(arrays: Iterable[tuple[str, np.ndarray[Any, Any]]]) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for name, array in sorted(arrays):
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
