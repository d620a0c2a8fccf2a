"""Layer bank: content-addressed store of computed arrays, in memory and on disk, shared by studies and processes."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt

from autotune.common.files import DAMAGE, read_tensors, write_tensors

Entry = Mapping[str, npt.NDArray[Any]]

log = logging.getLogger(__name__)

MEMORY_LIMIT = 2 << 30

SMALL = 64 << 10
"""Bytes: errors and channel scales are below, weights above."""


PROCESSES = 8
HIGH, LOW = 0.95, 0.9
"""Shares of the limit: from `HIGH` on, entries are deleted down to `LOW`. So the folder is seldom counted."""


class Bank:
    """Named arrays under content-addressed keys, in memory and on disk.

    The key of an entry holds everything that its bytes depend on, so an entry is never stale and two processes that
    write one at the same time write the same bytes; threads may share a bank. An entry carries a digest; a damaged one
    counts as absent.

    Attributes:
        directory: the folder on disk, or None for memory only.
        limit: bytes on disk, for up to `PROCESSES` processes; the least recently used entries are deleted first.
        counters: ``computed`` and ``reused`` entries in this process.
    """

    def __init__(
        self,
        directory: Path | None = None,
        *,
        limit: int = 20 << 30,
        memory_limit: int = MEMORY_LIMIT,
        weights_in_memory: bool = True,
    ) -> None:
        """Open or make a bank.

        Args:
            directory, limit: see the class.
            memory_limit: bytes in memory.
            weights_in_memory: False if each variant is used only once, to save memory.
        """
        self.directory = directory
        self.limit = limit
        self.counters = {"computed": 0, "reused": 0}
        self._memory: OrderedDict[str, Entry] = OrderedDict()
        self._memory_limit = memory_limit
        self._small_only = not weights_in_memory
        self._memory_used = 0
        self._lock = threading.Lock()
        self._disk_used: int | None = None
        self._added = 0  # bytes that this process wrote since it counted

    def get_or_compute(self, key: str, compute: Callable[[], Entry]) -> Entry:
        """Return the entry of a key; `compute` runs only if neither memory nor disk has it.

        Args:
            key: hex digits.
            compute: returns arrays of any dtype that safetensors knows; they must not be changed afterwards.
        """
        with self._lock:
            entry = self._memory.get(key)
            if entry is not None:
                self._memory.move_to_end(key)
        if entry is None:
            entry = self._load(key)
        reused = entry is not None
        if entry is None:
            entry = compute()
            self._save(key, entry)
        with self._lock:
            self.counters["reused" if reused else "computed"] += 1
            self._remember(key, entry)
        return entry

    def _remember(self, key: str, entry: Entry) -> None:
        if key in self._memory or (self._small_only and _nbytes(entry) > SMALL):
            return
        self._memory[key] = entry
        self._memory_used += _nbytes(entry)
        while self._memory_used > self._memory_limit and len(self._memory) > 1:
            self._memory_used -= _nbytes(self._memory.popitem(last=False)[1])

    def _path(self, key: str) -> Path | None:
        return None if self.directory is None else self.directory / key[:2] / f"{key}.safetensors"

    def _load(self, key: str) -> Entry | None:
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            entry = read_tensors(path, mapped=False)
            os.utime(path)
        except FileNotFoundError:
            return None  # another process has made room
        except DAMAGE as error:
            log.warning("%s is damaged (%s) and is computed again", path, error)
            return None
        return entry

    def _save(self, key: str, entry: Entry) -> None:
        path = self._path(key)
        if path is None:
            return
        try:
            write_tensors(path, entry, durable=False)
            self._make_room(path.stat().st_size)
        except FileNotFoundError:
            pass  # another process has made room already
        except OSError as error:
            log.warning("%s could not be written (%s); this entry will be computed again next time", path, error)

    def _make_room(self, added: int) -> None:
        assert self.directory is not None
        with self._lock:
            self._count_and_remove(added)

    def _count_and_remove(self, added: int) -> None:
        self._added += added
        # Other processes add entries too: the limit holds if each of `PROCESSES` counts after its share of the room.
        if self._disk_used is not None and self._added <= (self.limit - self._disk_used) / PROCESSES:
            return
        files = sorted(self._files())
        used = sum(size for _, size, _ in files)
        if used > HIGH * self.limit:
            for _, size, path in files:
                if used <= LOW * self.limit:
                    break
                path.unlink(missing_ok=True)
                used -= size
        self._disk_used, self._added = used, 0

    def _files(self) -> list[tuple[float, int, Path]]:
        assert self.directory is not None
        found = []
        for path in self.directory.glob("*/*.safetensors"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue
            found.append((status.st_mtime, status.st_size, path))
        return found


def _nbytes(entry: Entry) -> int:
    return sum(array.nbytes for array in entry.values())
