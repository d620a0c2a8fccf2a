"""Error of the time left that a search shows, over one run with an empty cache.

    python benchmarks/eta.py examples/demo/model.yaml --trials 30

The forecast is read once a second, as the terminal does. The error is the forecast divided by the time that was left,
minus 1. Before the first trial has finished there is no forecast.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import common  # noqa: F401  the import path

from autotune.config.config import load_config
from autotune.study.progress import SilentListener, StudyInfo
from autotune.study.run import run_search

Sample = tuple[float, float]
"""Seconds since the start, and the forecast of the seconds that are left."""


class Recorder(SilentListener):
    """Listener that keeps the forecast of each second."""

    def __init__(self, begun: float) -> None:
        self.begun, self.over = begun, threading.Event()
        self.samples: list[Sample] = []

    def started(self, info: StudyInfo) -> None:
        """See `Listener`."""
        threading.Thread(target=self.record, args=(info.remaining,), daemon=True).start()

    def record(self, remaining: Callable[[], float | None]) -> None:
        """Keep one forecast a second until the run is over."""
        while not self.over.wait(1.0):
            left = remaining()
            if left is not None:
                self.samples.append((time.monotonic() - self.begun, left))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--trials", type=int, default=30)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        changes = [f"output={scratch}/study", f"cache.directory={scratch}/cache", f"study.trials={options.trials}"]
        begun = time.monotonic()
        recorder = Recorder(begun)
        run_search(load_config(options.file, changes), listener=recorder)
        total = time.monotonic() - begun
        recorder.over.set()
    errors = [(at / total, left / (total - at) - 1, left) for at, left in recorder.samples if at < total - 5]
    print(f"{options.trials} trials in {total:.0f} s; first forecast after {recorder.samples[0][0]:.0f} s")
    print("share of the run   left   forecast   error")
    for tenth in range(1, 10):
        share, error, left = min(errors, key=lambda each: abs(each[0] - tenth / 10))
        print(f"{share:16.0%} {total * (1 - share):6.0f} {left:10.0f} {error:+7.0%}")
    later = [abs(error) for share, error, _ in errors if share >= 1 / 3]
    within = sum(error <= 0.3 for error in later) / len(later)
    print(f"from a third of the run on: median error {statistics.median(later):.0%}, within 30% in {within:.0%} of it")


if __name__ == "__main__":
    main()
