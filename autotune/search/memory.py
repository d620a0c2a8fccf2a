"""What a process holds in memory for itself."""

from __future__ import annotations

__all__ = ["own_memory"]


def own_memory(pid: int | None = None) -> int:
    """Bytes that a process (by default this one) holds; what is mapped from files does not count. 0 if it is gone."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))
