"""Number of threads of this process, and parallel work over independent blocks.

A process uses all the cores that it may run on, or its share if it is one of several workers.
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

ENVIRONMENT = "AUTOTUNE_THREADS"
"""Environment variable with the number of threads of a process."""

LIBRARIES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables that libraries read when they are loaded, so they must be set before a process starts."""


def cores() -> int:
    """Return the number of threads that this process should use."""
    return thread_limit() or usable_cores()


def thread_limit() -> int | None:
    """Return this process's share of the cores, or None if it has no limit."""
    if _blocks_of_all:
        return None
    value = os.environ.get(ENVIRONMENT, "")
    return int(value) if value.isdigit() and int(value) > 0 else None


def usable_cores() -> int:
    """Return the number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def share(workers: int) -> int:
    """Return the threads of each of so many workers."""
    return max(1, usable_cores() // workers)


def take_share(threads: int) -> None:
    """Use so many threads from now on."""
    os.environ[ENVIRONMENT] = str(threads)


@contextmanager
def limited_to(threads: int) -> Iterator[None]:
    """Use so many threads inside the context."""
    before = os.environ.get(ENVIRONMENT, "")
    take_share(threads)
    try:
        yield
    finally:
        os.environ[ENVIRONMENT] = before


_blocks_of_all = 0


@contextmanager
def all_cores() -> Iterator[None]:
    """Lift the limit inside the context, for work of one worker that the others wait for."""
    global _blocks_of_all
    _blocks_of_all += 1
    try:
        yield
    finally:
        _blocks_of_all -= 1


def environment_for(threads: int) -> Mapping[str, str]:
    """Return the environment variables of a process that uses `threads` threads."""
    return dict.fromkeys((ENVIRONMENT, *LIBRARIES), str(threads))


Item = TypeVar("Item")
Result = TypeVar("Result")


def in_parallel(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Map `work` over `items` with as many threads as this process may use; results in the order of the items.

    NumPy releases the interpreter lock, so threads are enough. Matrix products inside `work` run on one thread each:
    all cores are in use, and the result must not depend on how a product is divided among threads.
    """
    with one_blas_thread(), ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Compute matrix products and factorizations on one thread, so that the bits do not depend on the cores."""
    # SciPy has a BLAS library of its own.
    with _blas_libraries("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        yield


@cache
def _blas_libraries(with_scipy: bool) -> ThreadpoolController:
    """Find the loaded libraries; takes milliseconds, longer than many products."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController()
