"""Who does a search's trials: worker processes as a rule (`worker_pool`), or the search's own process (`Here`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from autotune.study.trials.racing import Rival
from autotune.study.trials.trial import Seen, TrialResult, Workplace, plan_saver, run_trial
from autotune.study.workers.messages import Site

if TYPE_CHECKING:
    from autotune.compression.settings import Settings
    from autotune.study.progress import Listener
    from autotune.study.workers.prepared import Prepared

__all__ = ["LATER", "Answer", "Finished", "Here", "Later", "Pool", "Stopped"]


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
    """A trial that is over."""

    number: int
    result: TrialResult


@dataclass(frozen=True, slots=True)
class Later:
    """The answer to a trial that asks about its plan: one before it has not said yet which plan it has; ask again."""


LATER = Later()
Answer: TypeAlias = Callable[[int, str], Seen | Later]
"""Who knows (of trial number, plan key) what was done already."""


class Pool(Protocol):
    """Does trials. Whoever is told of a stop signal calls `stop`, from any thread or signal handler."""

    def prepared(self) -> Prepared:
        """Model, evaluators and references, wherever they live."""

    def open(self, site: Site, answer: Answer) -> None:
        """Say what is the same for all trials, and who knows what was done already."""

    @property
    def free(self) -> bool:
        """Whether a trial could begin now."""

    def start(self, number: int, settings: Settings, rivals: Sequence[Rival]) -> None:
        """Begin a trial, raced against these rivals; only where one can."""

    def wait(self, seconds: float) -> Finished | None:
        """Wait for a trial to be over, or for some time at most.

        Raises:
            Stopped: a stop signal came.
            AutotuneError: something is wrong with the study itself.
        """

    def report_scores(self, models: Sequence[Settings]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Score models on the report texts, once no trial is at work any more; see `Prepared.report_scores`.

        Yields:
            (index of the model, its scores), in the order in which they are there.

        Raises:
            Stopped: a stop signal came.
            AutotuneError: something is wrong that is not one model's fault.
        """

    def stop(self, signal: int) -> None:
        """Have whoever waits raise `Stopped`."""

    def close(self) -> None:
        """End every worker; trials at work are lost."""


class Here:
    """Trials in the search's own process, one after the other: for tests and debuggers."""

    def __init__(self, prepared: Prepared, listener: Listener) -> None:
        self._prepared = prepared
        self._listener = listener
        self._task: tuple[int, Settings, Sequence[Rival]] | None = None

    def prepared(self) -> Prepared:
        """See `Pool`."""
        return self._prepared

    def open(self, site: Site, answer: Answer) -> None:
        """See `Pool`."""
        self._site, self._answer = site, answer

    @property
    def free(self) -> bool:
        """See `Pool`."""
        return self._task is None

    def start(self, number: int, settings: Settings, rivals: Sequence[Rival]) -> None:
        """See `Pool`."""
        self._task = (number, settings, rivals)

    def wait(self, seconds: float) -> Finished | None:
        """See `Pool`; the trial is done here."""
        if self._task is None:
            time.sleep(seconds)
            return None
        number, settings, rivals = self._task
        place = Workplace(
            engine=self._prepared.engine,
            score=self._prepared.score,
            objectives=self._site.objectives,
            limits=self._site.limits,
            original=self._site.original,
            save_plan=plan_saver(self._site.folder),
            earlier=partial(self._earlier, number),
            stage=lambda text: self._listener.stage(text, number),
        )
        result = run_trial(settings, place, rivals)
        self._task = None
        return Finished(number, result)

    def _earlier(self, number: int, plan: str) -> Seen:
        seen = self._answer(number, plan)
        assert not isinstance(seen, Later)  # there are no others at work
        return seen

    def report_scores(self, models: Sequence[Settings]) -> Iterator[tuple[int, dict[str, Any]]]:
        """See `Pool`."""
        for index, settings in enumerate(models):
            yield index, self._prepared.report_scores(settings)

    def stop(self, signal: int) -> None:
        """See `Pool`; a trial in this process can only be interrupted by an exception."""
        raise Stopped(signal)

    def close(self) -> None:
        """See `Pool`."""
