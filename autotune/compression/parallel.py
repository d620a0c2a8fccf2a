"""Threads over independent blocks of work."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from autotune.threads import thread_limit, usable_cores

if TYPE_CHECKING:
    from threadpoolctl import ThreadpoolController

__all__ = ["cores", "in_parallel", "one_blas_thread"]

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
