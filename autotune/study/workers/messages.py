"""What the search and its worker processes say to each other, and how it goes over a pipe."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from autotune.common.units import Constraint
from autotune.evaluation import Direction
from autotune.study.trials.racing import Rival
from autotune.study.trials.trial import Seen, TrialResult

if TYPE_CHECKING:
    from autotune.compression.settings import Settings

__all__ = [
    "Adopt",
    "Ask",
    "Begin",
    "Call",
    "Clock",
    "Done",
    "Raised",
    "Reply",
    "Returned",
    "Run",
    "Share",
    "Site",
    "Stage",
    "receive",
    "send",
]

LENGTH = 8


@dataclass(frozen=True)
class Begin:
    """To a worker, first of all: what to prepare, and how.

    Attributes:
        config: the study's configuration.
        prepare: (config, stage) -> `prepared.Prepared`.
        log_level: level of the root logger.
    """

    config: Any
    prepare: Callable[..., Any]
    log_level: int = 30


@dataclass(frozen=True)
class Adopt:
    """To a worker: what another one has found out already, so that this one need not; see `Prepared.adopt`."""

    found: Any


@dataclass(frozen=True)
class Share:
    """To a worker: how many threads it may use from now on."""

    threads: int


@dataclass(frozen=True)
class Site:
    """The part of a trial's workplace that is the same for all trials of a study; see `trial.Workplace`."""

    folder: Path
    objectives: Mapping[str, Direction]
    limits: Mapping[str, Constraint]
    original: Mapping[str, float]


@dataclass(frozen=True)
class Call:
    """To a worker: call a method, or get an attribute, of its `Prepared`; it answers with `Returned`."""

    name: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Run:
    """To a worker: do a trial; it answers with `Done`."""

    settings: Settings
    site: Site
    rivals: Sequence[Rival] = ()


@dataclass(frozen=True)
class Reply:
    """To a worker: the answer to its `Ask`."""

    seen: Seen


@dataclass(frozen=True)
class Stage:
    """From a worker: what it is at."""

    text: str


@dataclass(frozen=True)
class Clock:
    """From a worker: whether the time that passes now is the trial's own, or that of work which all trials share."""

    running: bool


@dataclass(frozen=True)
class Ask:
    """From a worker: has this plan been worked through, or is it being?"""

    plan: str


@dataclass(frozen=True)
class Returned:
    """From a worker: what a `Call` returned."""

    value: Any


@dataclass(frozen=True)
class Done:
    """From a worker: a trial's result, and what its `Prepared` now counts and records."""

    result: TrialResult
    counts: Mapping[str, tuple[int, int]]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Raised:
    """From a worker: an error that is not one trial's but the study's; it ends the search."""

    error: Exception


def send(stream: IO[bytes], message: Any) -> None:
    """Write one message.

    Raises:
        OSError: the other side is gone.
    """
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(LENGTH, "little") + data)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """Read one message.

    Raises:
        EOFError: the other side is gone.
    """
    header = stream.read(LENGTH)
    data = stream.read(int.from_bytes(header, "little")) if len(header) == LENGTH else b""
    if len(header) < LENGTH or len(data) < int.from_bytes(header, "little"):
        raise EOFError
    return pickle.loads(data)
