"""Clock of the stages of a trial or of the preparation: where the time went."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NAMES = (
    (re.compile(r"scoring: (.+)"), r"scoring \1"),
    (re.compile(r"the original model's reference.*"), "reference"),
    (re.compile(r"(calibrating|generating).*"), "calibration"),
    (re.compile(r"(loading|exporting).*"), "export"),
    (re.compile(r"planning"), "planning"),
    (re.compile(r"compressing"), "compression"),
    (re.compile(r"compiling"), "compilation"),
)
"""Pattern of a progress message -> stage."""

OTHER = "allocation"
"""Stage of the other messages: those of measuring and verifying plans."""


class StageClock:
    """Records when each stage begins and ends; a stage ends with the next progress message.

    Attributes:
        spans: finished stages as ``[name, start in seconds since the epoch, seconds]``.
    """

    def __init__(self, stage: Callable[[str], None]) -> None:
        """Pass every progress message on to `stage`."""
        self.spans: list[list[Any]] = []
        self._stage = stage
        self._name, self._since = "planning", time.time()

    def __call__(self, message: str) -> None:
        """Begin the stage of a progress message."""
        self._switch(stage_name(message))
        self._stage(message)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Record the time inside as waiting for others."""
        before = self._name
        self._switch("waiting")
        try:
            yield
        finally:
            self._switch(before)

    def close(self) -> list[list[Any]]:
        """End the last stage, and return the spans."""
        self._switch(self._name)
        return self.spans

    def _switch(self, name: str) -> None:
        now = time.time()
        last = self.spans[-1] if self.spans else None
        if last is not None and last[0] == self._name and abs(last[1] + last[2] - self._since) < 1e-3:
            last[2] = now - last[1]
        elif now - self._since >= 1e-4:
            self.spans.append([self._name, self._since, now - self._since])
        self._name, self._since = name, now


def stage_name(message: str) -> str:
    """Return the stage of a progress message."""
    for pattern, name in NAMES:
        if (match := pattern.fullmatch(message)) is not None:
            return match.expand(name)
    return OTHER
