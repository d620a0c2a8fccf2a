"""A stand-in for what has been prepared in a worker process: each question goes there and comes back as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.evaluation import Metric
    from autotune.search.worker_pool import WorkerPool

__all__ = ["Remote"]


class Remote:
    """`Prepared`, as far as the search itself asks, living in the first worker."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    @property
    def metrics(self) -> Mapping[str, Metric]:
        """See `Prepared`."""
        metrics: Mapping[str, Metric] = self._pool.call("metrics")
        return metrics

    def fingerprints(self) -> dict[str, str]:
        """See `Prepared`."""
        return dict(self._pool.call("fingerprints"))

    def original(self) -> dict[str, Any]:
        """See `Prepared`."""
        return dict(self._pool.call("original"))

    def report_fingerprint(self) -> str | None:
        """See `Prepared`."""
        found: str | None = self._pool.call("report_fingerprint")
        return found

    def report_texts(self) -> dict[str, Any]:
        """See `Prepared`."""
        return dict(self._pool.call("report_texts"))

    def counts(self) -> dict[str, tuple[int, int]]:
        """See `Prepared`: of all workers."""
        return self._pool.counts()

    def manifest(self) -> dict[str, Any]:
        """See `Prepared`: of all workers."""
        return self._pool.manifest()
