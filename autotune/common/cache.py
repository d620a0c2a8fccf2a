"""Cache folder for results that are computed once: exported models, statistics, references, compressed weights."""

from __future__ import annotations

import os
import shutil
import stat
import time
import weakref
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from autotune.common.files import lock_path
from autotune.errors import UsageError

ENVIRONMENT = "AUTOTUNE_CACHE"
"""Environment variable with the cache folder, used if no other is given."""

DEFAULT_LIMIT = 20 * 1000**3
LEFTOVER_AGE = 86_400
"""Seconds after which a temporary file is one that a killed process left."""

ROOMS = ("models", "statistics", "references", "bank", "distillation")


@dataclass(frozen=True, slots=True)
class Cache:
    """A folder with one subfolder for each kind of result, created when something is written into it.

    Attributes:
        directory: absolute path.
        limit: bytes that the layer bank may take on disk.
    """

    directory: Path
    limit: int = DEFAULT_LIMIT

    @classmethod
    def resolve(cls, directory: str | Path | None = None, *, limit: int = DEFAULT_LIMIT) -> Cache:
        """Locate the cache: in `directory`, else in the folder in AUTOTUNE_CACHE, else in the user's cache folder.

        A relative path starts from the current folder, ``~`` is the user's home.

        Raises:
            UsageError: there is a file where the folder should be, or every user of the machine can write into it.
        """
        chosen = directory or os.environ.get(ENVIRONMENT)
        if not chosen:
            from platformdirs import user_cache_dir

            chosen = user_cache_dir("autotune", appauthor=False)
        path = Path(chosen).expanduser().absolute()
        if path.exists() and not path.is_dir():
            raise UsageError(f"the cache folder {path} is a file; name a folder by cache.directory or {ENVIRONMENT}")
        # Everything read from the cache is trusted, and a checksum does not show who wrote a file.
        if os.name == "posix" and path.is_dir() and path.stat().st_mode & stat.S_IWOTH:
            raise UsageError(
                f"the cache folder {path} can be written by every user of this machine, who could exchange the models "
                f"in it. Run `chmod o-w {path}`, or set {ENVIRONMENT} to a folder inside it such as {path / 'autotune'}"
            )
        return cls(path, limit)

    @property
    def models(self) -> Path:
        """Folder of the models exported to OpenVINO."""
        return self.directory / "models"

    @property
    def statistics(self) -> Path:
        """Folder of the calibration statistics."""
        return self.directory / "statistics"

    @property
    def references(self) -> Path:
        """Folder of the results that evaluators keep of original models."""
        return self.directory / "references"

    @property
    def bank(self) -> Path:
        """Folder of the compressed weights."""
        return self.directory / "bank"

    @property
    def distillation(self) -> Path:
        """Folder of the checkpoints of distillations that are not finished."""
        return self.directory / "distillation"

    def sizes(self) -> dict[str, int]:
        """Measure the bytes of files in each subfolder."""
        return {room: folder_size(self.directory / room) for room in ROOMS}

    def remove_leftovers(self) -> None:
        """Delete temporary files and folders that are a day old, of processes that were killed; looks once a day.

        A look takes 20 ms for 4,600 files.
        """
        last, oldest = self.directory / ".leftovers-removed", time.time() - LEFTOVER_AGE
        with suppress(OSError):
            if last.stat().st_mtime > oldest:
                return
        with suppress(OSError):
            last.touch()
        for room in ROOMS:
            for path in [*(self.directory / room).rglob(".*.tmp")]:
                with suppress(OSError):
                    if path.stat().st_mtime < oldest:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()

    def hold(self, owner: object) -> None:
        """Keep other processes from clearing the cache as long as `owner` exists; on POSIX systems."""
        with suppress(OSError):
            self.directory.mkdir(parents=True, exist_ok=True)
        if (lock := lock_path(self.directory, exclusive=False)) is not None:
            weakref.finalize(owner, os.close, lock)

    def clear(self) -> int:
        """Delete all subfolders (and no other files in the folder); return the bytes freed.

        Raises:
            UsageError: another process holds the cache.
        """
        before = sum(self.sizes().values())
        try:
            lock = lock_path(self.directory, exclusive=True)
        except BlockingIOError:
            raise UsageError(
                f"the cache {self.directory} is in use by a search, or by another process of autotune; clear it when "
                "that has ended"
            ) from None
        try:
            for room in ROOMS:
                shutil.rmtree(self.directory / room, ignore_errors=True)
        finally:
            if lock is not None:
                os.close(lock)
        return before - sum(self.sizes().values())


def folder_size(folder: Path) -> int:
    """Measure the bytes of the files in a folder; a file that another process deletes meanwhile counts as zero."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:
            continue
    return total
