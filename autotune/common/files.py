"""Fingerprints, atomic writes and locks: how anything of ours gets onto a disk that others read too.

Arrays on disk in safetensors files that carry a checksum, and come back read-only.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = [
    "DAMAGE",
    "atomic_write",
    "fingerprint",
    "fingerprint_file",
    "get_or_create_directory",
    "locked",
    "read_tensors",
    "write_tensors",
]


def fingerprint(*parts: Any) -> str:
    """32 hex digits (the first 128 bits of SHA-256) of strings, bytes or anything JSON can write canonically.

    Each part is hashed with its kind and length, so that ("ab", "c") and ("a", "bc") differ.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, (bytes, bytearray, memoryview)):
            kind, data = b"b", bytes(part)
        elif isinstance(part, str):
            kind, data = b"s", part.encode()
        else:
            kind, data = b"j", json.dumps(part, sort_keys=True, separators=(",", ":"), default=str).encode()
        digest.update(kind + len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:32]


def fingerprint_file(path: Path) -> str:
    """32 hex digits of a file's content, read in blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path` in one step, on failure nothing stays.

    With `durable` the bytes are on the disk before the name is; without, a power cut may leave a file that is cut
    short, which is good enough where readers check a digest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path` (a `.lock` file beside it), across processes."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def get_or_create_directory(path: Path, create: Callable[[Path], None]) -> tuple[Path, bool]:
    """Return (`path`, created now?): `create` fills a temporary folder that becomes `path` in one step.

    However many processes ask at once, `create` runs once; a folder that was half written when its process
    died is never seen, because only the finished one carries the name.
    """
    if path.is_dir():
        return path, False
    with locked(path):
        if path.is_dir():
            return path, False
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        temporary.mkdir(parents=True)
        try:
            create(temporary)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return path, True


DAMAGE = (ValueError, KeyError, TypeError, OSError)
"""What `read_tensors` raises for a file that is not whole."""

_CHECKSUM = "xxh3_128"
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}

Arrays: TypeAlias = "Mapping[str, npt.NDArray[Any]]"


def write_tensors(path: Path, arrays: Arrays, *, durable: bool = True) -> None:
    """Write arrays so that `path` appears in one step; see `files.atomic_write` for `durable`."""
    import numpy as np
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
    import numpy as np

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
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        if end - begin != math.prod(entry["shape"]) * dtype.itemsize or 8 + length + end > size:
            raise ValueError(f"the array {name} is cut off")
        arrays[name] = plain[8 + length + begin : 8 + length + end].view(dtype).reshape(entry["shape"])
    if _checksum(arrays.items()) != expected:
        raise ValueError("its checksum does not match")
    return arrays


def _checksum(arrays: Iterable[tuple[str, npt.NDArray[Any]]]) -> str:
    import numpy as np
    import xxhash

    digest = xxhash.xxh3_128()
    for name, array in sorted(arrays):
        digest.update(json.dumps([name, array.dtype.str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
