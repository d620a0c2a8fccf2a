"""What a study's storage says has happened: read anew for every trial, so that a continued study knows what it knew."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from autotune.search.trial import TrialResult

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["INTERRUPTED", "History", "is_interrupted", "point_key", "result_of"]

INTERRUPTED = "interrupted"
"""Type of the error of a trial whose process ended before it did. Such a trial counts for nothing: it is done again."""


def point_key(params: Mapping[str, Any]) -> str:
    """A point of the space as text; floats are rounded as ranges with a step are."""
    return json.dumps({k: round(v, 10) if isinstance(v, float) else v for k, v in params.items()}, sort_keys=True)


class History:
    """The trials of a study, oldest first, and the questions the search asks of them."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        self.trials = list(trials)

    @cached_property
    def standing(self) -> list[FrozenTrial]:
        """All trials that were not interrupted."""
        return [trial for trial in self.trials if not is_interrupted(trial)]

    @property
    def position(self) -> int:
        """Which trial of an undisturbed study comes next; seeds the sampler, so that interruptions leave no trace."""
        return len(self.standing) - len(self.waiting)

    @cached_property
    def waiting(self) -> list[FrozenTrial]:
        """Trials put into the queue by someone (also a dashboard) and not yet begun."""
        return [trial for trial in self.trials if trial.state.name == "WAITING"]

    @cached_property
    def running(self) -> list[FrozenTrial]:
        """Trials that have begun and are not over."""
        return [trial for trial in self.trials if trial.state.name == "RUNNING"]

    @cached_property
    def to_retry(self) -> list[FrozenTrial]:
        """Interrupted trials whose point was known and which nobody has begun or queued again."""
        again = {trial.user_attrs.get("retry_of") for trial in self.trials}
        known = (trial for trial in self.trials if is_interrupted(trial) and "settings" in trial.user_attrs)
        return [trial for trial in known if trial.number not in again]

    @cached_property
    def finished(self) -> list[FrozenTrial]:
        """Finished trials that did (or failed to do) work of their own: what a budget of trials counts."""
        return [t for t in self.standing if t.state.is_finished() and "duplicate_of" not in t.user_attrs]

    @cached_property
    def points(self) -> set[str]:
        """Keys of all points that were tried or are queued."""
        return {point_key(fixed_params(t) if t.state.name == "WAITING" else t.params) for t in self.standing}

    @property
    def duplicates_in_a_row(self) -> int:
        """How many of the latest finished trials only repeated a plan."""
        count = 0
        for trial in reversed([t for t in self.standing if t.state.is_finished()]):
            if "duplicate_of" not in trial.user_attrs:
                break
            count += 1
        return count

    def earlier(self, plan: str) -> tuple[int, TrialResult] | None:
        """The trial that worked through `plan` itself, by number and result."""
        for trial in self.finished:
            if trial.user_attrs.get("plan") == plan:
                return trial.number, result_of(trial)
        return None

    def at_work_on(self, plan: str) -> int | None:
        """The trial that is being worked on and has this plan."""
        return next((trial.number for trial in self.running if trial.user_attrs.get("plan") == plan), None)


def is_interrupted(trial: FrozenTrial) -> bool:
    """Whether the trial's process ended before the trial."""
    error = trial.user_attrs.get("error")
    return isinstance(error, Mapping) and error.get("type") == INTERRUPTED


def fixed_params(trial: FrozenTrial) -> dict[str, Any]:
    """The parameters a queued trial was queued with."""
    return dict(trial.system_attrs.get("fixed_params", {}))


RESULT_ATTRS = frozenset(
    [
        "plan",
        "plan_file",
        "footprint",
        "bits_per_weight",
        "compression_rate",
        "int4_percent",
        "int8_percent",
        "metrics",
        "beaten_by",
        "beaten_after",
        "estimate",
        "error",
    ]
)


def result_of(trial: FrozenTrial) -> TrialResult:
    """A finished trial's result as `run_trial` gave it (without times and counts, which were its own)."""
    attrs = {key: value for key, value in trial.user_attrs.items() if key in RESULT_ATTRS}
    values = None if trial.values is None else tuple(trial.values)
    state = {"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "fail")
    return TrialResult(state, values, attrs, dict(trial.constraints))  # type: ignore[arg-type]
