"""How many threads this process may use: all the cores it has, or its share of them beside other workers."""

from __future__ import annotations

import os
from collections.abc import Mapping

__all__ = ["ENVIRONMENT", "environment_for", "thread_limit", "usable_cores"]

ENVIRONMENT = "AUTOTUNE_THREADS"
"""The environment variable that tells a process its share."""

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that libraries read when they are loaded: hence a share must be known when a process starts."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_limit() -> int | None:
    """This process's share of the cores, or None where it has them for itself."""
    value = os.environ.get(ENVIRONMENT, "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def environment_for(threads: int) -> Mapping[str, str]:
    """The environment variables of a process that is to use `threads` threads."""
    return dict.fromkeys((ENVIRONMENT, *LIBRARIES), str(threads))
