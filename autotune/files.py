"""Fingerprints, atomic writes and locks: how anything of ours gets onto a disk that others read too."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["atomic_write", "fingerprint", "fingerprint_file", "get_or_create_directory", "locked"]


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
