"""What a process holds in memory for itself, and a limit on it that cannot be kept."""

from __future__ import annotations

from autotune.errors import ConfigError

__all__ = ["check_memory", "own_memory"]


def own_memory(pid: int | None = None) -> int:
    """Bytes that a process (by default this one) holds; what is mapped from files does not count. 0 if it is gone."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def check_memory(limit: int | None, least: int) -> None:
    """Refuse a `study.memory_limit` in bytes that the original model alone, of `least` bytes, does not fit in.

    Raises:
        ConfigError: it does not; what a worker needs in all, `autotune plan` tells.
    """
    if limit is not None and limit < least:
        raise ConfigError(
            f"is {limit / 1e9:.2f} GB, less than the {least / 1e9:.2f} GB of the original model, which a worker has to "
            "hold to compare others with it; `autotune plan` tells what a worker needs in all",
            key="study.memory_limit",
        )
