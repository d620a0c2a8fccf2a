"""How many threads this process may use: all the cores it has, or its share of them beside other workers.

Threads over independent blocks of work.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = [
    "ENVIRONMENT",
    "all_cores",
    "cores",
    "environment_for",
    "in_parallel",
    "limited_to",
    "one_blas_thread",
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


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map `work` over `items` with one thread for each core of this process; results in the order of the items.

    NumPy releases the interpreter lock, so threads are enough. Matrix products inside `work` run on one thread each:
    the cores are taken already, and the result must not depend on how a product is divided among threads.
    """
    with one_blas_thread(), ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Matrix products and factorizations inside give the same bits whatever the number of cores."""
    # SciPy brings a library of its own.
    with _blas_libraries("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        yield


@cache
def _blas_libraries(with_scipy: bool) -> ThreadpoolController:
    """The libraries that are loaded; finding them takes milliseconds, longer than many a product."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()


def cores() -> int:
    """Threads that this process should use at once."""
    return thread_limit() or usable_cores()
