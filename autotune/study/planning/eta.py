"""Forecast the time that a search still takes, stage by stage, from its progress messages."""

from __future__ import annotations

import os
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from autotune.models.tasks.text_generation import PLAN_TOKENS, SINGLE_TOKENS
from autotune.study.progress import COUNT
from autotune.study.trials.deployed import PARTS

if TYPE_CHECKING:
    from autotune.config.config import Config
    from autotune.study.progress import Listener

REPORT_SECONDS = 4.0
"""Processor time of writing the report of 10 trials of the demo model: 3.6 to 4.3 s; of 36 made-up trials: 3.7 s."""

VERIFIED_PLANS = 24
"""Plans that are measured to correct the table of errors: 23 on the demo model."""

MEASUREMENTS = 2
"""Measurements of one weight in the table of errors."""

RECENT = 12
"""Finished trials whose mean is the forecast for the others."""

FRONT_GROWTH = 0.7
"""Share of the trials on the front at their end that are still on it at the end of the study."""

SHARED = re.compile(r"calibrating|measuring|verifying|errors of|the model writes|the original model|planning")
"""Stages of a trial that later trials do not repeat, and planning, in which a trial waits for those."""

REFERENCE = re.compile(r"the original model's reference for ([^,]+)")

DEPLOYED = re.compile("scoring the front as deployed")
RUNTIME = re.compile(r"scoring (\d+ models )?with")

MOST_SLOWED = 3.0
"""At a load of 9 a core, the report took between 2 and 7 times its processor time."""


@dataclass(frozen=True)
class Expected:
    """Stages of a search, as far as its configuration determines them.

    Attributes:
        calibration_tokens: tokens of the calibration; 0 without.
        measures_errors: the space has budgets, which wait for measured errors.
        scored_tokens: tokens of the evaluator perplexity; its reference gives the speed of a forward pass.
        report: the evaluators that score the front on held-out texts; None if those of the trials may.
        evaluators: all of them; those that no trial has run by then score the front on the search text, too.
        deployed: scores of each front model as deployed, see `DeployedScorer`.
        settings: combinations of `runtime.search`, with which each front model is scored and timed.
    """

    calibration_tokens: int = 0
    measures_errors: bool = False
    scored_tokens: int = PLAN_TOKENS
    report: frozenset[str] | None = None
    evaluators: frozenset[str] = frozenset()
    deployed: int = 0
    settings: int = 0

    @classmethod
    def of(cls, config: Config) -> Expected:
        """Read the expected stages from a configuration."""
        options: Mapping[str, Any] = config.evaluators.get("perplexity") or {}
        samples, length = options.get("samples") or 16, options.get("sequence_length") or 512
        calibration = config.calibration
        tokens = calibration.samples * calibration.sequence_length if config.space.needs_calibration else 0
        report = config.report
        return cls(
            calibration_tokens=tokens,
            measures_errors="budget" in config.space.allocations,
            scored_tokens=samples * length,
            report=None if report is None else frozenset(report or ()),
            evaluators=frozenset(config.evaluators),
            deployed=len(PARTS) if config.runtime.deployed else 0,
            settings=len(config.runtime.settings),
        )


@dataclass
class Part:
    """One stage that runs once: not begun, running with its progress, or done.

    Attributes:
        since: when it began; None before.
        done, total: steps, if the stage counts them.
        last: when the last step ended.
        over: it has ended, or is never needed.
    """

    since: float | None = None
    done: int = 0
    total: int = 0
    last: float = 0.0
    over: bool = False

    def step(self, now: float, done: int, total: int) -> None:
        """Record that `done` of `total` steps are complete."""
        self.since = now if self.since is None else self.since
        self.done, self.total, self.last = done, max(total, done), now

    def left(self, now: float, prior: float) -> float:
        """Return the seconds that are left; `prior` is the forecast of the whole stage, while nothing is measured."""
        if self.over:
            return 0.0
        if self.since is None:
            return prior
        elapsed = now - self.since
        if self.done:
            each, remaining = (self.last - self.since) / self.done, self.total - self.done
            return each * remaining - min(now - self.last, 0.9 * each) if remaining else 0.1 * each
        return max(prior - elapsed, 0.1 * elapsed)


@dataclass
class Running:
    """A running trial: its stages' seconds by evaluator, without what later trials do not repeat."""

    seconds: dict[str, float] = field(default_factory=dict)
    stage: str = ""
    since: float = 0.0
    evaluator: str = ""


class RunForecast:
    """Forecast of one run, updated by its events."""

    def __init__(self, expected: Expected, clock: Callable[[], float] = time.monotonic) -> None:
        """Expect every stage; `clock` is for tests."""
        self.expected, self.clock = expected, clock
        self.total = self.count = self.front = 0
        self.workers = 1
        self.deadline: float | None = None
        self.references: dict[str, float] = {}  # seconds of each evaluator's reference
        self.running: dict[int, Running] = {}
        self.members: deque[bool] = deque(maxlen=RECENT)
        self.own: deque[dict[str, float]] = deque(maxlen=RECENT)
        self.calibration = Part(over=not expected.calibration_tokens)
        self.singles, self.verified = (Part(over=not expected.measures_errors) for _ in range(2))
        self.preparing = Part(over=expected.report == frozenset())
        self.held_out, self.report = Part(), Part()
        self.deployed = Part(over=not expected.deployed)
        self.runtime, self.speed = (Part(over=not expected.settings) for _ in range(2))
        self.weights = 0
        self._measures: int | None = None
        self._common = ("", 0.0)

    def started(self, total: int, count: int, front: int, deadline: float | None = None) -> None:
        """Record that trials begin; `deadline` is the time at which no further trial begins."""
        self._stage_of_study("", self.clock())
        self.total, self.count, self.front, self.deadline = total, count, front, deadline

    def trial_started(self, number: int) -> None:
        """Record a new trial."""
        self.running[number] = Running(since=self.clock())
        self.workers = max(self.workers, len(self.running))

    def trial_finished(self, number: int, count: int, front: int, *, on_front: bool) -> None:
        """Record the end of a trial, the number of finished ones, the size of the front, and whether it is on it."""
        trial = self.running.pop(number, None)
        if trial is not None:
            self._close(trial, self.clock())
            if trial.seconds:
                self.own.append(trial.seconds)
        self.members.append(on_front)
        self.count, self.front = count, front

    def stage(self, message: str, trial: int | None) -> None:
        """Record a progress message."""
        now = self.clock()
        if trial is None:
            self._stage_of_study(message, now)
            return
        at = self.running.get(trial)
        if at is None:
            return
        if at.stage.startswith("calibrating") and not message.startswith("calibrating"):
            self.calibration.over = True
        self._close(at, now)
        at.stage, at.since = message, now
        if message.startswith("scoring: "):
            at.evaluator = message.removeprefix("scoring: ")
        found = COUNT.search(message)
        steps = (int(found[1]), int(found[2])) if found else (0, 0)
        if message.startswith(("calibrating", "the model writes")):
            self.calibration.step(now, *steps)
        elif message.startswith(("measuring", "verifying", "errors of")):
            self._measuring(message, trial, now, steps)

    def _measuring(self, message: str, trial: int, now: float, steps: tuple[int, int]) -> None:
        """Record a step of the error measurement; the other workers read the result of the first."""
        self._measures = trial if self._measures is None else self._measures
        if trial != self._measures:
            return
        if message.startswith("measuring weight"):
            self.weights = steps[1]
            self.singles.step(now, max(steps[0] - 1, 0), steps[1])
            return
        self.singles.over = self.singles.over or message.startswith(("verifying", "errors of"))
        if message.startswith("verifying"):
            plans = 0 if self.verified.since is None else self.verified.done + 1
            self.verified.step(now, plans, max(VERIFIED_PLANS, plans + 1))
        elif message.startswith("errors of"):
            self.verified.over = True

    def _stage_of_study(self, message: str, now: float) -> None:
        """Record a stage outside trials."""
        before, since = self._common
        self._common = (message, now)
        if (made := REFERENCE.match(before)) and self.preparing.since is None:
            self.references[made[1]] = self.references.get(made[1], 0.0) + now - since
        found = COUNT.search(message)
        steps = (int(found[1]), int(found[2])) if found else (0, 0)
        if message.startswith("preparing the report texts"):
            self.preparing.step(now, 0, 0)
        elif DEPLOYED.match(message):
            self.held_out.over = self.preparing.over = True
            self.deployed.step(now, *steps)
        elif RUNTIME.match(message):
            self.held_out.over = self.preparing.over = self.deployed.over = True
            self.runtime.step(now, *steps)
        elif message.startswith("measuring the speed"):
            self.runtime.over = True
            self.speed.step(now, max(steps[0] - 1, 0), steps[1])  # it is sent before the model's measurement
        elif message.startswith("scoring the front"):
            self.preparing.over = True
            total = re.search(r"(\d+) models", message)
            self.held_out.step(now, steps[0], int(total[1]) if total else 0)
        elif message.startswith("writing the report"):
            for part in (self.held_out, self.preparing, self.deployed, self.runtime, self.speed):
                part.over = True
            self.report.step(now, 0, 0)

    def _close(self, trial: Running, now: float) -> None:
        if trial.stage and not SHARED.match(trial.stage):
            name = trial.evaluator
            trial.seconds[name] = trial.seconds.get(name, 0.0) + now - trial.since

    def left(self) -> float | None:
        """Return the seconds until the report is written; None until a trial has finished."""
        now = self.clock()
        report = self.report.left(now, REPORT_SECONDS * slowdown())
        if self.report.since is not None:
            return report
        if not self.own:
            return None
        held_out = (0.0 if self.held_out.over else self._held_out(now)) + self._deployed(now)
        if any(part.since is not None for part in (self.preparing, self.held_out, self.deployed, self.runtime)):
            return held_out + report
        trials = self._trials(now)
        if self.deadline is not None:
            trials = min(trials, max(0.0, self.deadline - now) + self._each())
        return max(trials + held_out + report, 1.0)

    def _each(self) -> float:
        """Return the mean seconds of a recent trial's own work."""
        return sum(sum(seconds.values()) for seconds in self.own) / len(self.own)

    def _trials(self, now: float) -> float:
        """Return the seconds until the last trial has finished."""
        each = self._each()
        done = 0.0
        for trial in self.running.values():
            seconds = sum(trial.seconds.values())
            seconds += now - trial.since if trial.stage and not SHARED.match(trial.stage) else 0.0
            done += min(seconds / each, 0.9) if each else 0.0
        remaining = max(self.total - self.count - done, 0.1 * len(self.running))
        once = self.calibration.left(now, self._seconds(self.expected.calibration_tokens))
        if remaining > len(self.running) or self._measures in self.running:
            once += self.singles.left(now, self._seconds(self.weights * MEASUREMENTS * SINGLE_TOKENS))
            once += self.verified.left(now, self._seconds(VERIFIED_PLANS * PLAN_TOKENS))
        return once + remaining * each / self.workers

    def _held_out(self, now: float) -> float:
        """Return the seconds until the front is scored on the held-out texts."""
        models = self._models()
        # The references on the held-out texts take about as long as those on the search texts.
        preparing = self.preparing.left(now, sum(self.references.values()))
        return preparing + self.held_out.left(now, models * self._front() / self.workers)

    def _models(self) -> float:
        """Return the size of the front at the end."""
        rate = FRONT_GROWTH * sum(self.members) / len(self.members) if self.members else 0.0
        return self.front + rate * max(self.total - self.count, 0)

    def _deployed(self, now: float) -> float:
        """Return the seconds until the front is scored as deployed and its speed is measured.

        Scoring a model with one setting takes about as long as a trial, and measuring its speed as long as the scores.
        """
        each, settings = self._models() * self._each(), self.expected.settings
        scoring = self.deployed.left(now, self.expected.deployed * each / self.workers)
        return scoring + self.runtime.left(now, settings * each / self.workers) + self.speed.left(now, settings * each)

    def _front(self) -> float:
        """Return the seconds of scoring a model at the end: on held-out texts, and what the trials left out.

        An evaluator that no trial has run takes about as long as its reference; if that came from the cache, it counts
        as long as the others.
        """
        expected, found = self.expected, dict[str, float]()
        for seconds in self.own:
            for name, value in seconds.items():
                found[name] = found.get(name, 0.0) + value / len(self.own)
        usual = sum(found.values())
        left_out = {name: self.references.get(name, usual) for name in expected.evaluators - set(found)}
        reported = {**found, **left_out}
        chosen = set(found) if expected.report is None else {"", *expected.report}
        again = sum(value for name, value in reported.items() if name in chosen)
        return again + sum(left_out.values())

    def _seconds(self, tokens: int) -> float:
        """Return the seconds of so many tokens in forward passes; 0 if the reference came from the cache."""
        return tokens * self.references.get("perplexity", 0.0) / max(self.expected.scored_tokens, 1)


def slowdown() -> float:
    """Return by how much other work slows this machine down: its load divided by its cores, from 1 to `MOST_SLOWED`."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return min(MOST_SLOWED, max(1.0, load / (os.cpu_count() or 1)))


class StageTimer:
    """Listener that passes everything on and shows the stages to a forecast."""

    def __init__(self, listener: Listener, forecast: RunForecast) -> None:
        self._listener, self._forecast = listener, forecast

    def stage(self, message: str, trial: int | None = None) -> None:
        """See `Listener`."""
        self._forecast.stage(message, trial)
        self._listener.stage(message, trial)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._listener, name)
