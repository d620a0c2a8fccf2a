"""What a process holds in memory for itself, limits on it, and room for how many workers there is."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.common.threads import usable_cores

if TYPE_CHECKING:
    from autotune.config.config import Config

__all__ = ["own_memory", "worker_count"]

USUAL_WORKERS = 2
"""Where there is room for them: on two cores their studies took three quarters of the time of one worker with two
threads (`benchmarks/search.py --workers`). More of them, or more cores, have not been measured."""

WORKER_BYTES = 2_000_000_000
"""What a worker holds beside its models: libraries, batches that are scored, compressed weights of earlier trials."""

MODELS = 2
"""A worker holds its compressed model twice, as it is and compiled, together no more than so many originals."""

CGROUP = Path("/sys/fs/cgroup")
"""What a container may use stands here, in files; the system's own numbers are those of the whole machine."""


def own_memory(pid: int | None = None) -> int:
    """Bytes that a process (by default this one) holds; what is mapped from files does not count. 0 if it is gone."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def worker_count(config: Config, original: int) -> int:
    """How many workers a study has: those it asks for, or as many as help and have room.

    Args:
        config: the study's.
        original: bytes of the original model.
    """
    if config.study.workers != "auto":
        return max(1, config.study.workers)
    if config.runtime.device != "CPU" or usable_cores() < USUAL_WORKERS:
        return 1
    needed = config.study.memory_limit or WORKER_BYTES + MODELS * original
    return USUAL_WORKERS if USUAL_WORKERS * needed <= available_memory() else 1


def available_memory() -> int:
    """Bytes that could be taken without swapping, by this machine's or this container's account."""
    import psutil

    found = [int(psutil.virtual_memory().available)]
    with suppress(OSError, ValueError):  # no container, or one without a limit
        most, used = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        found.append(int(most) - int(used))
    return max(0, min(found))
