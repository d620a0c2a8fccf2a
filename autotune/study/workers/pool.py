"""Pools that run trials: the common protocol, and the pool that runs them in the current process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from autotune.study.trials.clock import StageClock
from autotune.study.trials.racing import Rival
from autotune.study.trials.trial import PlanStatus, Site, TrialResult, Workplace, run_trial

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.study.progress import Listener
    from autotune.study.session import Session
    from autotune.study.storage.attributes import Description
    from autotune.study.workers.messages import Scoring


class Stopped(KeyboardInterrupt):
    """A signal asks the search to end.

    Attributes:
        signal: its number.
    """

    def __init__(self, signal: int) -> None:
        self.signal = signal
        super().__init__(signal)


@dataclass(frozen=True, slots=True)
class Finished:
    """A finished trial."""

    number: int
    result: TrialResult


@dataclass(frozen=True, slots=True)
class Later:
    """Status of a plan while an earlier trial's plan is still undecided: ask again."""


LATER = Later()
StatusOf: TypeAlias = Callable[[int, str], PlanStatus | Later]
"""(trial number, plan key) -> status of the plan in the study."""


class Pool(Protocol):
    """Runs trials. Signal handlers call `stop`, from any thread."""

    def describe(self, *, original: bool = False, report: bool = False) -> Description:
        """Describe the study's inputs; see `Session.describe`."""

    def open(self, site: Site, status: StatusOf) -> None:
        """Set the data that all trials share, and the function that looks plans up in the study."""

    @property
    def free(self) -> bool:
        """Return True if a trial can begin now."""

    def start(self, number: int, settings: Settings, rivals: Sequence[Rival] | None) -> None:
        """Begin a trial, raced against these rivals (see `run_trial`); only while the pool is free."""

    def wait(self, seconds: float) -> Finished | None:
        """Wait until a trial has finished, for at most this time.

        Raises:
            Stopped: a stop signal came.
            AutotuneError: the study itself cannot go on.
        """

    def front_scores(
        self, models: Sequence[Settings], scoring: Scoring = "front_scores"
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """Score models of the final front by a method of `Session`, while no trial is running.

        Yields:
            (index of the model, its scores), in order of completion.

        Raises:
            Stopped: a stop signal came.
            AutotuneError: an error that is not one model's.
        """

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """Count what was (computed, reused): statistics, references, variants, scores."""

    def manifest(self) -> Mapping[str, Any]:
        """Make the study's `manifest.json` as of now."""

    def stop(self, signal: int) -> None:
        """Raise `Stopped` in the thread that waits."""

    def close(self) -> None:
        """End every worker; running trials are lost."""


def run_in_session(
    session: Session,
    settings: Settings,
    site: Site,
    rivals: Sequence[Rival] | None,
    *,
    status: Callable[[str], PlanStatus],
    stage: Callable[[str], None],
) -> TrialResult:
    """Run one trial with the tools of a session, and record when its stages began; see `run_trial`."""
    clock = StageClock(stage)

    def status_of(plan: str) -> PlanStatus:
        with clock.waiting():
            return status(plan)

    before, session.stage = getattr(session, "stage", stage), clock
    try:
        place = Workplace(site, session.plan, session.bounds, session.engine, session.score, status_of, clock)
        result = run_trial(settings, place, rivals)
    finally:
        session.stage = before
    return replace(result, attrs={**result.attrs, "stages": clock.close()})


class InProcessPool:
    """Runs trials in the search's own process, one after the other: for tests and debuggers."""

    def __init__(self, session: Session, listener: Listener) -> None:
        self._session = session
        self._listener = listener
        self._task: tuple[int, Settings, Sequence[Rival] | None] | None = None

    def describe(self, *, original: bool = False, report: bool = False) -> Description:
        """See `Pool`."""
        return self._session.describe(original=original, report=report)

    def open(self, site: Site, status: StatusOf) -> None:
        """See `Pool`."""
        self._site, self._status_of = site, status

    @property
    def free(self) -> bool:
        """See `Pool`."""
        return self._task is None

    def start(self, number: int, settings: Settings, rivals: Sequence[Rival] | None) -> None:
        """See `Pool`."""
        self._task = (number, settings, rivals)

    def wait(self, seconds: float) -> Finished | None:
        """Run the trial that was started; see `Pool`."""
        if self._task is None:
            time.sleep(seconds)
            return None
        number, settings, rivals = self._task
        result = run_in_session(
            self._session,
            settings,
            self._site,
            rivals,
            status=partial(self._status, number),
            stage=lambda text: self._listener.stage(text, number),
        )
        self._task = None
        return Finished(number, result)

    def _status(self, number: int, plan: str) -> PlanStatus:
        status = self._status_of(number, plan)
        assert not isinstance(status, Later)  # no other trial is running
        return status

    def front_scores(
        self, models: Sequence[Settings], scoring: Scoring = "front_scores"
    ) -> Iterator[tuple[int, Mapping[str, Any]]]:
        """See `Pool`."""
        for index, settings in enumerate(models):
            yield index, getattr(self._session, scoring)(settings)

    def counts(self) -> Mapping[str, tuple[int, int]]:
        """See `Pool`."""
        return self._session.counts()

    def manifest(self) -> Mapping[str, Any]:
        """See `Pool`."""
        return self._session.manifest()

    def stop(self, signal: int) -> None:
        """See `Pool`; only an exception can interrupt a trial in this process."""
        raise Stopped(signal)

    def close(self) -> None:
        """See `Pool`."""
