"""Compute how many workers fit into memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.common.machine import available_memory
from autotune.common.threads import usable_cores

if TYPE_CHECKING:
    from autotune.config.config import Config

USUAL_WORKERS = 2
"""Number of workers if they fit. On two cores, two workers took 75% of the time of one worker with two threads
(`benchmarks/search.py --workers`). More workers or cores have not been measured."""

WORKER_BYTES = 2_000_000_000
"""Memory of a worker without its models: libraries, scored batches, compressed weights of earlier trials."""

MODELS = 2
"""Upper bound of a worker's models in originals: it holds its compressed model twice, plain and compiled."""


def worker_count(config: Config, original: int) -> int:
    """Choose the number of workers: the configured one, or as many as help and fit.

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
