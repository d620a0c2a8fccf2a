"""Fingerprints, atomic writes, file locks, and tensors on disk, for files that several processes share."""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    import numpy.typing as npt


def fingerprint(*parts: Any) -> str:
    """Hash strings, bytes or plain data: 32 hex digits (the first 128 bits of SHA-256).

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
    """Hash a file's content: 32 hex digits."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


@contextmanager
def atomic_write(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path in the same folder; on success it replaces `path` atomically, on failure it is deleted.

    With `durable` the bytes are flushed to the disk before the rename. Without it a power cut may truncate the file,
    which is enough if readers check a digest.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _temporary(path)
    temporary.touch()
    lock = _lock_temporary(temporary)
    try:
        yield temporary
        if durable:
            with temporary.open("rb+") as stream:
                os.fsync(stream.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that belongs to `path` (a `.lock` file next to it), across processes."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        yield


def get_or_create_directory(path: Path, create: Callable[[Path], None]) -> tuple[Path, bool]:
    """Create a folder atomically unless it exists; return `path` and whether it was created now.

    `create` fills a temporary folder, which is then renamed to `path`. It runs once even if several processes call this
    at the same time. A folder left incomplete by a killed process never has the name `path`.
    """
    if path.is_dir():
        return path, False
    with locked(path):
        if path.is_dir():
            return path, False
        with temporary_folder(path) as temporary:
            create(temporary)
            os.replace(temporary, path)
    return path, True


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """Create a folder with a temporary name beside `path`; it is deleted at the end, if it still has that name.

    Folders that killed processes left for the same `path` are deleted.
    """
    remove_leftovers(path.parent.glob(f".{escape(path.name)}.*.tmp"))
    temporary = _temporary(path)
    temporary.mkdir(parents=True)
    lock = _lock_temporary(temporary)
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def remove_leftovers(temporary: Iterable[Path]) -> None:
    """Delete the temporary files and folders that killed processes left: those that can be locked."""
    for path in list(temporary):
        with suppress(OSError):
            if (lock := lock_path(path, exclusive=True)) is not None:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
                os.close(lock)


def _lock_temporary(path: Path) -> int | None:
    try:
        return lock_path(path, exclusive=True)
    except BlockingIOError:  # another process takes it for a leftover
        return None


def lock_path(path: Path, *, exclusive: bool) -> int | None:
    """Lock a file or folder until the returned descriptor is closed; None if there is none, or if there are no locks.

    A lock that is not exclusive waits for one that is.

    Raises:
        BlockingIOError: `exclusive`, and another process has locked it.
    """
    if os.name != "posix" or not path.exists():
        return None
    import fcntl

    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB if exclusive else fcntl.LOCK_SH)
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, BlockingIOError):
            raise
        return None  # some network file systems have no locks
    return descriptor


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")


DAMAGE = (ValueError, KeyError, TypeError, OSError)
"""Exceptions that `read_tensors` raises for a damaged file."""

_CHECKSUM = "xxh3_128"
_DTYPES = {"BOOL": "bool"} | {
    f"{kind}{bits}": f"{code}{bits // 8}"
    for kind, code, sizes in (("U", "u", (8, 16, 32, 64)), ("I", "i", (8, 16, 32, 64)), ("F", "f", (16, 32, 64)))
    for bits in sizes
}

Arrays: TypeAlias = "Mapping[str, npt.NDArray[Any]]"


def write_tensors(path: Path, arrays: Arrays, *, durable: bool = True) -> None:
    """Write arrays into a safetensors file with a checksum; atomic, and `durable` as in `atomic_write`."""
    import numpy as np
    from safetensors.numpy import save_file

    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    with atomic_write(path, durable=durable) as temporary:
        save_file(contiguous, temporary, metadata={_CHECKSUM: _checksum(contiguous.items())})


def read_tensors(path: Path, *, mapped: bool = True) -> dict[str, npt.NDArray[Any]]:
    """Read the arrays of a file that `write_tensors` wrote, read-only, and verify their checksum.

    With `mapped` the arrays are memory-mapped: they cost no memory, but hold a file descriptor as long as one of them
    exists. Use it for a few large files, not for thousands of small ones.

    The layout (8 bytes of header length, a JSON header, raw little-endian data) is safetensors' own; its reader is
    not used because it copies every array into memory.

    Raises:
        ValueError, KeyError, TypeError, OSError: the file is damaged.
    """
    try:
        return _read_tensors(path, mapped)
    except (AttributeError, OverflowError, RecursionError) as error:  # a header of other kinds of JSON
        raise ValueError(f"its header cannot be read ({type(error).__name__})") from error


def _read_tensors(path: Path, mapped: bool) -> dict[str, npt.NDArray[Any]]:
    import numpy as np

    if mapped:
        with path.open("rb") as stream:
            # The views keep the mapping alive. numpy.memmap does the same, several times slower for a small file.
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
        if begin < 0 or end - begin != math.prod(entry["shape"]) * dtype.itemsize or 8 + length + end > size:
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
