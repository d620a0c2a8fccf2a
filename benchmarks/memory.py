"""Peak memory of a piece of work, sampled while it runs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Peak", "anonymous_memory", "peak_memory"]

INTERVAL = 0.005
"""Seconds between samples."""


def anonymous_memory() -> int:
    """Bytes of this process that no file backs: a mapped model does not count, what is made of it does."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * sum(int(fields[name].split()[0]) for name in ("RssAnon", "RssShmem"))


class Peak:
    """The largest growth seen so far.

    Attributes:
        nbytes: bytes above the start.
    """

    def __init__(self) -> None:
        self._start = anonymous_memory()
        self.nbytes = 0

    def sample(self) -> None:
        """Look now."""
        self.nbytes = max(self.nbytes, anonymous_memory() - self._start)


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Sample while the body runs."""
    peak = Peak()
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(INTERVAL):
            peak.sample()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield peak
    finally:
        stop.set()
        thread.join()
        peak.sample()
