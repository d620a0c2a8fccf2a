"""The time left of a search: every stage counts, and it is never zero while work remains."""

from __future__ import annotations

import pytest

from autotune.study.planning import eta
from autotune.study.planning.eta import Expected, RunForecast

REFERENCE, CALIBRATION, SINGLE, VERIFY, TRIAL, SCORED, WRITING = 8.0, 8.0, 1.5, 6.0, 10.0, 6.0, 5.0


class Simulation:
    """A search with one worker whose stages take known times; keeps (now, forecast) at every step."""

    def __init__(
        self, trials: int, *, budgets: bool, report: bool = True, deferred: bool = False, settings: int = 0
    ) -> None:
        self.now = 0.0
        self.trials, self.budgets, self.report, self.deferred = trials, budgets, report, deferred
        self.settings = settings
        named = frozenset({"perplexity"} if report else ())
        both = frozenset({"perplexity", "similarity"})
        self.forecast = RunForecast(
            Expected(8192, budgets, 8192, named, both, deployed=settings and 3, settings=settings), lambda: self.now
        )
        self.samples: list[tuple[float, float | None]] = []

    def stage(self, message: str, seconds: float, trial: int | None = None) -> None:
        self.forecast.stage(message, trial)
        for _ in range(4):
            self.samples.append((self.now, self.forecast.left()))
            self.now += seconds / 4

    def counted(self, message: str, models: int, seconds: float) -> None:
        """Work on models one after the other, each of which is reported when it is done."""
        for done in range(models):
            count = f"{done} of {models} models" if done else f"{models} models"
            self.stage(message.format(count), seconds)

    def run(self) -> list[tuple[float, float, float]]:
        """Return (share of the run, forecast, seconds that were left) of every sample with a forecast."""
        self.stage("loading the model", 5)
        self.stage("the original model's reference for similarity", TRIAL - SCORED)
        self.stage("the original model's reference for perplexity", REFERENCE / 2)
        self.stage("the original model's reference for perplexity, part 1", REFERENCE / 2)
        self.forecast.started(self.trials, 0, 0)
        front = 0
        for trial in range(self.trials):
            self.forecast.trial_started(trial)
            self.stage("planning", 0.1, trial)
            if trial == 2:
                for window in range(1, 9):
                    self.stage(f"calibrating: {window} of 8 windows", CALIBRATION / 8, trial)
            if trial == 4 and self.budgets:
                for weight in range(1, 31):
                    self.stage(f"measuring weight {weight} of 30", SINGLE, trial)
                for plan in range(23):
                    self.stage(f"verifying a plan of {plan:,} bytes", VERIFY, trial)
                self.stage("errors of 30 weights", 0.1, trial)
            self.stage("scoring: perplexity", SCORED, trial)
            if not self.deferred:
                self.stage("scoring: similarity", TRIAL - SCORED, trial)
            front += trial % 2
            self.forecast.trial_finished(trial, trial + 1, front, on_front=bool(trial % 2))
        if self.report:
            self.stage("preparing the report texts", REFERENCE)
        each = SCORED * self.report + (TRIAL - SCORED) * self.deferred
        if each:
            self.stage(f"scoring the front: {front} models", each)
            for done in range(1, front):
                self.stage(f"scoring the front: {done} of {front} models", each)
        if self.settings:
            kinds = f"{self.settings} runtime settings"
            self.counted("scoring the front as deployed: {}", front, 3 * TRIAL)
            self.counted(f"scoring with {kinds}: {{}}", front, self.settings * TRIAL)
            for model in range(1, front + 1):
                self.stage(f"measuring the speed of {kinds}: {model} of {front} models", self.settings * TRIAL)
        self.stage("writing the report", WRITING)
        end = self.now
        return [(now / end, left, end - now) for now, left in self.samples if left is not None]


@pytest.fixture(autouse=True)
def idle_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The load of the machine that tests run on has no effect."""
    monkeypatch.setattr(eta, "slowdown", lambda: 1.0)


@pytest.mark.parametrize(
    ("budgets", "report", "deferred", "settings"),
    [
        (False, True, False, 0),
        (True, True, True, 0),
        (False, True, True, 0),
        (False, False, True, 0),
        (False, False, False, 2),
    ],
)
def test_from_a_third_on_the_forecast_is_within_30_percent(
    budgets: bool, report: bool, deferred: bool, settings: int
) -> None:
    """With and without error measurement, held-out texts, deployment, scores of the front alone; and never zero."""
    samples = Simulation(30, budgets=budgets, report=report, deferred=deferred, settings=settings).run()
    assert all(left > 0 for _, left, _ in samples)
    for share, left, actual in samples:
        if share > 1 / 3 and actual > 5:
            assert abs(left - actual) <= 0.3 * actual, (share, left, actual)


def test_during_the_error_measurement_the_trials_after_it_count() -> None:
    """The longest stage began after a few trials: the forecast then has the other trials, too."""
    simulation = Simulation(14, budgets=True)
    samples = simulation.run()
    waiting = [left for share, left, actual in samples if actual > 9 * TRIAL]
    assert min(waiting) > 6 * TRIAL


def test_a_deadline_ends_the_trials() -> None:
    """With a timeout, the trials take no longer than it allows, and the stages after them count."""
    now = [0.0]
    forecast = RunForecast(Expected(report=frozenset()), lambda: now[0])
    forecast.started(100, 0, 0, deadline=50.0)
    forecast.trial_started(0)
    forecast.stage("scoring: perplexity", 0)
    now[0] = 10.0
    forecast.trial_finished(0, 1, 1, on_front=True)
    assert forecast.left() == pytest.approx(40 + 10 + eta.REPORT_SECONDS)
