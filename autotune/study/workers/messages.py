"""Messages between the search and its worker processes, and their encoding on a pipe."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, TypeAlias

from autotune.study.trials.racing import Rival
from autotune.study.trials.trial import PlanStatus, Site, TrialResult

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.config.config import Config
    from autotune.models.source import SourceModel
    from autotune.study.session import Session

LENGTH = 8

Scoring: TypeAlias = Literal["front_scores", "deployed_scores", "runtime_scores", "runtime_times"]
"""Names of the methods of `Session` that score a model of the final front."""


@dataclass(frozen=True)
class Begin:
    """To a worker, first of all: how to open its session.

    Attributes:
        config: the study's configuration.
        open_session: (config, stage) -> session; pickled by reference.
        log_level: level of the root logger.
    """

    config: Config
    open_session: Callable[[Config, Callable[[str], None]], Session]
    log_level: int = 30


@dataclass(frozen=True)
class SetSource:
    """To a worker: the original model with its fingerprints, found by another worker."""

    source: SourceModel


@dataclass(frozen=True)
class Share:
    """To a worker: the number of threads to use from now on."""

    threads: int


@dataclass(frozen=True)
class Describe:
    """To a worker: describe the study's inputs, see `Session.describe`; it answers with a `Description`."""

    original: bool
    report: bool


@dataclass(frozen=True)
class ScoreFront:
    """To a worker: score a model of the final front by a method of `Session`; it answers with `FrontScores`."""

    settings: Settings
    scoring: Scoring = "front_scores"


@dataclass(frozen=True)
class Run:
    """To a worker: run a trial; it answers with `Done`."""

    settings: Settings
    site: Site
    rivals: Sequence[Rival] | None = None


@dataclass(frozen=True)
class Reply:
    """To a worker: the answer to its `GetStatus`."""

    status: PlanStatus


@dataclass(frozen=True)
class Stage:
    """From a worker: a progress message."""

    text: str


@dataclass(frozen=True)
class Clock:
    """From a worker: from now on time counts as the trial's own (`running`) or as work shared by all trials."""

    running: bool


@dataclass(frozen=True)
class GetStatus:
    """From a worker: ask for the status of a plan in the study."""

    plan: str


@dataclass(frozen=True)
class FrontScores:
    """From a worker: scores of a model, see `Scoring`."""

    scores: Mapping[str, Any]


@dataclass(frozen=True)
class Done:
    """From a worker: a trial's result, and the session's counts and manifest as of now."""

    result: TrialResult
    counts: Mapping[str, tuple[int, int]]
    manifest: Mapping[str, Any]


@dataclass(frozen=True)
class Raised:
    """From a worker: an error of the study rather than of one trial; it ends the search."""

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
