"""Arrays on disk in safetensors files that carry a checksum, and come back read-only."""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.files import atomic_write

__all__ = ["DAMAGE", "read_tensors", "write_tensors"]

DAMAGE = (ValueError, KeyError, TypeError, OSError)
"""What `read_tensors` raises for a file that is not whole."""

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

Arrays = Mapping[str, npt.NDArray[Any]]


def write_tensors(path: Path, arrays: Arrays, *, durable: bool = True) -> None:
    """Write arrays so that `path` appears in one step; see `files.atomic_write` for `durable`."""
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_write(path, durable=durable) as temporary:
        save_file(contiguous, temporary, metadata={_CHECKSUM: _checksum(contiguous.items())})


def read_tensors(path: Path, *, mapped: bool = True) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a file that `write_tensors` wrote, read-only, verified against its checksum.

    Mapped arrays cost no memory, but hold a file descriptor for as long as one of them lives: right for a few large
    files, not for thousands of small ones. Otherwise the file is read into memory.

    The layout (8 bytes of header length, a JSON header, raw little-endian data) is safetensors' own; its reader is
    not used because it copies every array into memory.

    Raises:
        ValueError, KeyError, TypeError, OSError: the file is damaged.
    """
    if mapped:
        with path.open("rb") as stream:
            # The views keep the mapping alive. numpy.memmap would do, at several times the cost for a small file.
            plain = np.frombuffer(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    else:
        plain = np.fromfile(path, np.uint8)
        plain.flags.writeable = False
    size = len(plain)
    length = int.from_bytes(plain[:8].tobytes(), "little")
    if not 0 < length <= size - 8:
        raise ValueError("its header is cut off")
    header = json.loads(plain[8 : 8 + length].tobytes())
    expected = header.pop("__metadata__")[_CHECKSUM]
    arrays: dict[str, npt.NDArray[Any]] = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = _DTYPES[entry["dtype"]]
        if end - begin != math.prod(entry["shape"]) * dtype.itemsize or 8 + length + end > size:
            raise ValueError(f"the array {name} is cut off")
        arrays[name] = plain[8 + length + begin : 8 + length + end].view(dtype).reshape(entry["shape"])
    if _checksum(arrays.items()) != expected:
        raise ValueError("its checksum does not match")
    return arrays


def _checksum(arrays: Iterable[tuple[str, npt.NDArray[Any]]]) -> str:
    import xxhash

    digest = xxhash.xxh3_128()
    for name, array in sorted(arrays):
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
