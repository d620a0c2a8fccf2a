"""Run one trial: plan the settings, reuse or reject the plan, compress the model, score it.

This module does not depend on Optuna. `run_trial` gets its tools as arguments and returns a `TrialResult`, so that
a test can call it with fakes and a worker process can call it away from the study.
"""

from __future__ import annotations

import errno
import gc
import json
import math
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from autotune.common.files import atomic_write
from autotune.common.units import Constraint, Precision
from autotune.compression.settings import Settings
from autotune.errors import ConfigError, EvaluationError, PrerequisiteError, StudyError
from autotune.evaluation import Direction, Example, Measurement, Metric, is_english
from autotune.evaluation.scores import FOOTPRINT, RELATIVE_TO
from autotune.study.trials.racing import Dominated, Race, Rival

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan
    from autotune.models.source import SourceModel

PLAN_METRICS: Mapping[str, Metric] = {
    "footprint": FOOTPRINT,
    "bits_per_weight": Metric(
        "minimize", "bits", "stored bits per compressible weight, scales and zero points included"
    ),
    "compression_rate": Metric("maximize", "", "size in float32 divided by the footprint"),
    "int4_percent": Metric("maximize", "%", "share of the weights stored in 4 bits"),
    "int8_percent": Metric("maximize", "%", "share of the weights stored in 8 bits"),
}
"""Metrics that follow from the plan alone. A constraint on one of them is checked before compressing, as are bounds."""

TRACEBACK_CHARACTERS = 4000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
ANSWER_CHARACTERS = 2000
COUNTERS = ("variants_computed", "variants_reused")
COSTS = ("seconds_", "variants_", "tokens")
"""Beginnings of the attributes that a repeated plan does not take from its trial."""


@dataclass(frozen=True, slots=True)
class TrialResult:
    """Outcome of one trial: everything that the study records of it.

    Attributes:
        state: ``complete`` (values are finite), ``pruned`` (the plan violates a constraint and was not compressed, or
            the front dominated the trial while it was scored), ``fail`` (see ``attrs["error"]``) or ``twin`` (another
            running trial has the same plan; this trial gets its result).
        values: objective values in the order of the objectives; None unless complete.
        attrs: user attributes of the study's schema.
        constraints: name -> violation; feasible where none is positive.
    """

    state: Literal["complete", "pruned", "fail", "twin"]
    values: tuple[float, ...] | None = None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Twin:
    """A running trial, by number, that has the same plan."""

    number: int


PlanStatus: TypeAlias = tuple[int, TrialResult] | Twin | None
"""Status of a plan in the study: the finished trial with its result, the running trial, or None for a new plan."""


@dataclass(frozen=True)
class Site:
    """Data that all trials of a study share.

    Attributes:
        folder: the study's folder.
        objectives: metric name -> direction, in the study's order.
        limits: metric name -> constraint.
        original: metric name -> the original model's value, for `relative_error`.
        precision: of the scores of a trial that may be on the front; None scores it on all texts.
    """

    folder: Path
    objectives: Mapping[str, Direction]
    limits: Mapping[str, Constraint]
    original: Mapping[str, float]
    precision: Precision | None = None


@dataclass(frozen=True)
class Workplace:
    """Tools of a trial.

    Attributes:
        site: data that all trials of the study share.
        plan: settings -> plan; raises PlanError.
        bounds: plan -> metric -> the best value that its model can have, for metrics that are limited and follow from
            the plan only so far.
        engine: compresses plans.
        score: measures the candidate, which compresses its model on demand. In a race scoring stops as soon as the
            model is dominated, and metrics that decide nothing are left out.
        status: plan key -> status of that plan in the study.
        stage: receives progress messages.
    """

    site: Site
    plan: Callable[[Settings], Plan]
    bounds: Callable[[Plan], Mapping[str, float]]
    engine: Engine
    score: Callable[[Candidate, Race | None], Mapping[str, Measurement]]
    status: Callable[[str], PlanStatus]
    stage: Callable[[str], None]


class Candidate:
    """A plan and its compressed model, which is built on first access.

    Attributes:
        plan: the trial's plan.
        digest: of the model's bytes; None until the model is built, or until a record supplies it.
        seconds: time that building the model took; 0 before.
        tokens: stage -> number of tokens in forward passes of the model.
    """

    def __init__(self, engine: Engine, plan: Plan, stage: Callable[[str], None]) -> None:
        """Compress nothing yet.

        Args:
            engine: compresses the plan.
            plan: made by this engine.
            stage: receives a message when compression begins.
        """
        self._engine, self._stage = engine, stage
        self._before = dict(engine.counters)
        self._seconds_before = dict(getattr(engine, "seconds", {}))
        self.plan = plan
        self.digest: str | None = None
        self.seconds = 0.0
        self.tokens: dict[str, int] = {}

    @property
    def built(self) -> bool:
        """Return True if the model is built."""
        return "model" in self.__dict__

    @cached_property
    def model(self) -> Any:
        """The compressed model."""
        self._stage("compressing")
        started = time.perf_counter()
        given: SourceModel | None = getattr(self.plan, "source", None)  # a model that exists already
        model = self._engine.apply(self.plan) if given is None else given.read()
        self.digest = self._engine.digest(model)
        self.seconds = time.perf_counter() - started
        return model

    def algorithms(self) -> dict[str, float]:
        """Return the seconds of the variants computed since the candidate was created, by their algorithms."""
        now = getattr(self._engine, "seconds", {})
        elapsed = {name: seconds - self._seconds_before.get(name, 0.0) for name, seconds in now.items()}
        return {name: seconds for name, seconds in elapsed.items() if seconds > 0}

    def counted(self) -> dict[str, int]:
        """Count the variants computed and reused since the candidate was created."""
        counters = self._engine.counters
        return {name: counters.get(name, 0) - self._before.get(name, 0) for name in COUNTERS}


def run_trial(settings: Settings, place: Workplace, rivals: Sequence[Rival] | None = None) -> TrialResult:
    """Run one trial. Errors become a ``fail`` result; KeyboardInterrupt passes through.

    Args:
        settings: the point to try.
        place: tools of the trial.
        rivals: the front that the trial is raced against; None measures every metric.

    Raises:
        ConfigError, PrerequisiteError: the study's set-up is wrong, e.g. its calibration text is too short.
        StudyError: the disk is full or read-only.
    """
    attrs: dict[str, Any] = {}
    try:
        place.stage("planning")
        started = time.perf_counter()
        plan = place.plan(settings)
        planning = time.perf_counter() - started
        attrs["plan"] = plan.key
        status = place.status(plan.key)
        if isinstance(status, Twin):
            return TrialResult("twin", attrs={**attrs, "duplicate_of": status.number})
        if status is not None:
            return duplicate(*status)
        attrs["plan_file"] = save_plan(plan, place.site.folder)
        attrs |= {name: getattr(plan, name) for name in PLAN_METRICS}
        limits = place.site.limits
        violations = {name: limits[name].violation(attrs[name]) for name in limits if name in PLAN_METRICS}
        over = any(violation > 0 for violation in violations.values())
        bounds = {} if over else place.bounds(plan)
        certain = {name: beyond for name in bounds if (beyond := limits[name].violation(bounds[name])) > 0}
        if over or certain:
            return TrialResult("pruned", attrs=attrs, constraints={**violations, **certain})
        return scored(Candidate(place.engine, plan, place.stage), planning, attrs, violations, place, rivals)
    except (ConfigError, PrerequisiteError):
        raise  # a wrong set-up would fail every trial
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StudyError(
                f"cannot write to disk ({error}). Every finished trial is kept; free disk space, then run the same "
                "command to continue."
            ) from error
        return TrialResult("fail", attrs={**attrs, "error": describe(error)})
    except Exception as error:  # an error inside a trial fails that trial, never the study
        return TrialResult("fail", attrs={**attrs, "error": describe(error)})
    finally:
        gc.collect()  # the compressed model is large and may sit in reference cycles of its bindings


def scored(
    candidate: Candidate,
    planning: float,
    attrs: dict[str, Any],
    violations: Mapping[str, float],
    place: Workplace,
    rivals: Sequence[Rival] | None,
) -> TrialResult:
    """Score the candidate and turn the measurements into objective values and constraint violations."""
    site = place.site
    started = time.perf_counter()
    numbers = {name: float(attrs[name]) for name in PLAN_METRICS}
    of_plan = {name: numbers[name] for name in site.objectives if name in numbers}
    measured_limits = {name: limit for name, limit in site.limits.items() if name not in numbers}
    race = None
    if rivals is not None or site.precision is not None:
        every = rivals is None
        race = Race(site.objectives, rivals or (), of_plan, measured_limits, site.precision, every_metric=every)
    dominated = None
    try:
        measured = place.score(candidate, race)
    except Dominated as stop:
        dominated = stop.with_traceback(None)  # it would keep the model alive
    finally:
        attrs["seconds_compress"] = planning + candidate.seconds
        attrs["seconds_evaluate"] = time.perf_counter() - started - candidate.seconds
        attrs |= candidate.counted()
        if candidate.digest is not None:
            attrs["digest"] = candidate.digest
        attrs["tokens"] = dict(candidate.tokens)
        attrs["seconds_by_algorithm"] = candidate.algorithms()
    if dominated is not None:
        return stopped(dominated, attrs, violations, site)
    deciding = [name for name in (*site.objectives, *site.limits) if name in measured]
    attrs["sequences"] = {name: list(measured[name].values) for name in deciding}
    if race is not None and (windows := race.windows(measured)) is not None:
        attrs["windows"] = windows
        measured = race.comparable(measured)
    measurements = with_relative_error(measured, site.original)
    attrs["metrics"] = as_data(measurements)
    attrs |= shown_answers(examples_of(measurements))
    numbers |= {name: m.value for name, m in measurements.items()}
    for name in (*site.objectives, *site.limits):
        if name not in numbers:
            raise EvaluationError(f"no evaluator measured {name!r}; measured: {', '.join(sorted(numbers))}")
        if not math.isfinite(numbers[name]):
            raise EvaluationError(f"{name} is {numbers[name]}, which is not a finite number")
    violations = {name: limit.violation(numbers[name]) for name, limit in site.limits.items()} | dict(violations)
    return TrialResult("complete", tuple(numbers[name] for name in site.objectives), attrs, violations)


def stopped(
    dominated: Dominated,
    attrs: dict[str, Any],
    violations: Mapping[str, float],
    site: Site,
) -> TrialResult:
    """Make the result of a trial that racing stopped: dominated, or beyond a limit by the scores so far."""
    attrs["metrics"] = as_data(dominated.measured)
    attrs["beaten_after"] = dominated.sequences
    attrs["estimate"] = [dominated.estimate[name] for name in site.objectives]
    if isinstance(dominated.cause, int):
        attrs["beaten_by"] = dominated.cause
        return TrialResult("pruned", attrs=attrs, constraints=violations)
    measured = {name: m.value for name, m in dominated.measured.items() if name in site.limits}
    beyond = {name: site.limits[name].violation(value) for name, value in measured.items()}
    return TrialResult("pruned", attrs=attrs, constraints={**violations, **beyond})


def as_data(measurements: Mapping[str, Measurement]) -> dict[str, Any]:
    """Convert measurements to plain data for the storage."""
    return {
        name: {"value": m.value, "stderr": m.stderr, **({"noise": m.noise} if m.noise else {})}
        for name, m in measurements.items()
    }


def save_plan(plan: Plan, folder: Path) -> str:
    """Write a plan's file into a study's folder unless it exists, and return its path inside the folder."""
    name = f"plans/{plan.key}.json"
    path = folder / name
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(plan.as_dict(), indent=1) + "\n", encoding="utf-8")
    return name


def examples_of(measurements: Mapping[str, Measurement]) -> list[Example]:
    """Collect the examples of all measurements."""
    return [example for measurement in measurements.values() for example in measurement.examples]


def shown_answers(examples: Sequence[Example]) -> dict[str, Any]:
    """Convert the answers that a report shows to plain data: counts, scores by language, and some that differ.

    Of those that differ, the two least similar, the median and the most similar one are kept.
    """
    if not examples:
        return {}
    different = sorted((e for e in examples if e.answer != e.original), key=lambda example: example.score)
    last = len(different) - 1
    places = {last: "most similar", last // 2: "median", 1: "second least similar", 0: "least similar"}
    texts = [
        {
            "place": place,
            "prompt": example.prompt[:ANSWER_CHARACTERS],
            "original": example.original[:ANSWER_CHARACTERS],
            "answer": example.answer[:ANSWER_CHARACTERS],
            "score": example.score,
        }
        for index, place in sorted(places.items())
        if 0 <= index <= last
        for example in [different[index]]
    ]
    counts: dict[str, Any] = {"count": len(examples), "same": len(examples) - len(different)}
    groups = [[e.score for e in examples if is_english(e.prompt) is english] for english in (True, False)]
    if all(groups):
        english, others = (sum(scores) / len(scores) for scores in groups)
        counts |= {"other_languages": {"count": len(groups[1]), "score": others, "english": english}}
    return {"answers": {**counts, "different": texts}}


def duplicate(number: int, earlier: TrialResult) -> TrialResult:
    """Make the result of a trial that repeats an earlier trial's plan: its values without its cost."""
    attrs = {key: value for key, value in earlier.attrs.items() if not key.startswith(COSTS)}
    return TrialResult(earlier.state, earlier.values, {**attrs, "duplicate_of": number}, earlier.constraints)


def with_relative_error(
    measurements: Mapping[str, Measurement], original: Mapping[str, float]
) -> dict[str, Measurement]:
    """Add `relative_error` in percent: the mean of |v - v0| / |v0| over similarity and perplexity, where scored.

    The term of a perplexity is its increase over the original on the same windows, where that was measured. The
    standard error assumes independent terms; it is None where a term has none.
    """
    terms, errors = [], []
    for name in RELATIVE_TO:
        increase = measurements.get(f"{name}_increase")
        if increase is not None:
            terms.append(abs(increase.value))
            errors.append(increase.stderr)
        elif name in measurements and original.get(name):
            measured, reference = measurements[name], abs(original[name])
            terms.append(100 * abs(measured.value - original[name]) / reference)
            errors.append(None if measured.stderr is None else 100 * measured.stderr / reference)
    if not terms:
        return dict(measurements)
    stderr = None if None in errors else math.sqrt(sum(e * e for e in errors if e is not None)) / len(terms)
    return {**measurements, "relative_error": Measurement(sum(terms) / len(terms), stderr)}


def describe(error: BaseException) -> dict[str, str]:
    """Convert an exception to plain data: type, message and the end of its traceback."""
    trace = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": trace[-TRACEBACK_CHARACTERS:]}
