"""How many threads this process may use: all the cores it has, or its share of them beside other workers."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

__all__ = [
    "ENVIRONMENT",
    "all_cores",
    "environment_for",
    "limited_to",
    "share",
    "take_share",
    "thread_limit",
    "usable_cores",
]

ENVIRONMENT = "AUTOTUNE_THREADS"
"""The environment variable that tells a process its share."""

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that libraries read when they are loaded: hence a share must be known when a process starts."""


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int) -> int:
    """Threads of each of so many workers."""
    return max(1, usable_cores() // workers)


def take_share(threads: int) -> None:
    """Use so many threads from now on, as a worker that was told so by its environment."""
    os.environ[ENVIRONMENT] = str(threads)


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Use so many threads inside, to see how fast a worker with them is."""
    before = os.environ.get(ENVIRONMENT, "")
    take_share(threads)
    try:
        yield
    finally:
        os.environ[ENVIRONMENT] = before


_blocks_of_all = 0


@contextmanager
def all_cores() -> Iterator[None]:
    """Lift the limit inside: for work of one worker that the others wait for."""
    global _blocks_of_all
    _blocks_of_all += 1
    try:
        yield
    finally:
        _blocks_of_all -= 1


def thread_limit() -> int | None:
    """This process's share of the cores, or None where it has them for itself."""
    if _blocks_of_all:
        return None
    value = os.environ.get(ENVIRONMENT, "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def environment_for(threads: int) -> Mapping[str, str]:
    """The environment variables of a process that is to use `threads` threads."""
    return dict.fromkeys((ENVIRONMENT, *LIBRARIES), str(threads))
