"""One trial: settings -> plan -> (seen before? over a limit?) -> compressed model -> scores -> what to tell the study.

Nothing here knows of Optuna: `run_trial` gets its tools as arguments and returns a `TrialResult`, so that a test can
call it with fakes and a worker process can call it far from the study.

The model of one trial, compressed when it is first needed: where every score is known already, it never is.
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
from typing import Any, Literal, Protocol, TypeAlias

from autotune.common.files import atomic_write
from autotune.common.units import Constraint
from autotune.compression.settings import Settings
from autotune.errors import ConfigError, EvaluationError, PrerequisiteError, StudyError
from autotune.evaluation import Direction, Example, Measurement, Metric
from autotune.study.trials.racing import Beaten, Race, Rival

__all__ = [
    "PLAN_METRICS",
    "Candidate",
    "Engine",
    "Plan",
    "Seen",
    "TrialResult",
    "Twin",
    "Workplace",
    "duplicate",
    "plan_saver",
    "run_trial",
]

PLAN_METRICS: Mapping[str, Metric] = {
    "footprint": Metric("minimize", "bytes", "size of openvino_model.bin"),
    "bits_per_weight": Metric(
        "minimize", "bits", "stored bits per compressible weight, scales and zero points included"
    ),
    "compression_rate": Metric("maximize", "", "size in float32 divided by the footprint"),
    "int4_percent": Metric("maximize", "%", "share of the weights stored in 4 bits"),
    "int8_percent": Metric("maximize", "%", "share of the weights stored in 8 bits"),
}
"""Numbers that the plan alone tells, before any work: a limit on one of them is checked before compressing."""

RELATIVE_ERROR = Metric("minimize", "%", "mean relative error of similarity and perplexity against the original", 0.0)
RELATIVE_TO = ("similarity", "perplexity")
TRACEBACK_CHARACTERS = 4000
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
ANSWER_CHARACTERS = 2000
SHOWN_ANSWERS = 4


@dataclass(frozen=True, slots=True)
class TrialResult:
    """What one trial came to; everything the study will remember of it.

    Attributes:
        state: ``complete`` (values are finite), ``pruned`` (a limit known from the plan is broken, so that it was not
            compressed; or the front beat it while it was scored),
            ``fail`` (``attrs["error"]`` says why) or ``twin`` (another trial is at work on the same plan; this one will
            have its result).
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
    """Says that the trial `number`, which has the same plan, is being worked on right now."""

    number: int


Seen: TypeAlias = tuple[int, TrialResult] | Twin | None
"""What a study knows of a plan: the trial that did its work, with the result; the one that is at it; or nothing."""


@dataclass(frozen=True)
class Workplace:
    """Everything a trial works with; the same for all trials of a study.

    Attributes:
        engine: plans and applies.
        score: the metrics of the trial's model, which it makes if it has to; given a race, those that matter to it
            first, and not further than it takes to know that the model is beaten.
        objectives: metric name -> which way is better, in the study's order.
        limits: metric name -> the limit it must keep.
        original: metric name -> the original model's value, for `relative_error`.
        save_plan: writes a plan's file and returns its path inside the study's folder.
        earlier: plan key -> what the study knows of that plan.
        stage: is told what is going on.
    """

    engine: Engine
    score: Callable[[Candidate, Race | None], Mapping[str, Measurement]]
    objectives: Mapping[str, Direction]
    limits: Mapping[str, Constraint]
    original: Mapping[str, float]
    save_plan: Callable[[Plan], str]
    earlier: Callable[[str], Seen]
    stage: Callable[[str], None]


def run_trial(settings: Settings, place: Workplace, rivals: Sequence[Rival] = ()) -> TrialResult:
    """Do one trial's work. Errors become a ``fail`` result; KeyboardInterrupt passes through.

    Args:
        settings: what to try.
        place: what to work with.
        rivals: the front that the trial is raced against; without any it is scored in full.

    Raises:
        ConfigError, PrerequisiteError: the study's set-up is wrong, e.g. its calibration text is too short.
        StudyError: the disk is full or read-only.
    """
    attrs: dict[str, Any] = {}
    try:
        place.stage("planning")
        started = time.perf_counter()
        plan = place.engine.plan(settings)
        planning = time.perf_counter() - started
        attrs["plan"] = plan.key
        seen = place.earlier(plan.key)
        if isinstance(seen, Twin):
            return TrialResult("twin", attrs={**attrs, "duplicate_of": seen.number})
        if seen is not None:
            return duplicate(*seen)
        attrs["plan_file"] = place.save_plan(plan)
        attrs |= {name: getattr(plan, name) for name in PLAN_METRICS}
        known = {name: violation(limit, attrs[name]) for name, limit in place.limits.items() if name in PLAN_METRICS}
        if any(over > 0 for over in known.values()):
            return TrialResult("pruned", attrs=attrs, constraints=known)
        return scored(Candidate(place.engine, plan, place.stage), planning, attrs, known, place, rivals)
    except (ConfigError, PrerequisiteError):
        raise  # what is wrong with the set-up would be wrong with every trial
    except OSError as error:
        if error.errno in NO_ROOM:
            raise StudyError(
                f"nothing can be written any more ({error}). Every finished trial is kept; make room, then run the "
                "same command to continue."
            ) from error
        return TrialResult("fail", attrs={**attrs, "error": describe(error)})
    except Exception as error:  # whatever went wrong inside a trial costs that trial, never the study
        return TrialResult("fail", attrs={**attrs, "error": describe(error)})
    finally:
        gc.collect()  # the compressed model is large and may sit in reference cycles of its bindings


def scored(
    candidate: Candidate,
    planning: float,
    attrs: dict[str, Any],
    known: Mapping[str, float],
    place: Workplace,
    rivals: Sequence[Rival],
) -> TrialResult:
    """Have the model made and scored, and turn the measurements into objective values and constraint violations."""
    started = time.perf_counter()
    numbers = {name: float(attrs[name]) for name in PLAN_METRICS}
    of_plan = {name: numbers[name] for name in place.objectives if name in numbers}
    race = Race(place.objectives, rivals, of_plan) if rivals else None
    beaten = None
    try:
        measurements = with_relative_error(place.score(candidate, race), place.original)
    except Beaten as stop:
        beaten = stop.with_traceback(None)  # it would keep the model alive
    finally:
        attrs["seconds_compress"] = planning + candidate.seconds
        attrs["seconds_evaluate"] = time.perf_counter() - started - candidate.seconds
        attrs |= candidate.counted()
        if candidate.digest is not None:
            attrs["digest"] = candidate.digest
    if beaten is not None:
        return stopped(beaten, attrs, known, numbers, place)
    attrs["metrics"] = as_data(measurements)
    attrs["sequences"] = {name: list(measurements[name].values) for name in place.objectives if name in measurements}
    attrs |= shown_answers([example for m in measurements.values() for example in m.examples])
    numbers |= {name: m.value for name, m in measurements.items()}
    wanted = [*place.objectives, *place.limits]
    for name in wanted:
        if name not in numbers:
            raise EvaluationError(f"no evaluator measured {name!r}; measured: {', '.join(sorted(numbers))}")
        if not math.isfinite(numbers[name]):
            raise EvaluationError(f"{name} is {numbers[name]}, which is not a finite number")
    violations = {name: violation(limit, numbers[name]) for name, limit in place.limits.items()} | dict(known)
    return TrialResult("complete", tuple(numbers[name] for name in place.objectives), attrs, violations)


def stopped(
    beaten: Beaten, attrs: dict[str, Any], known: Mapping[str, float], of_plan: Mapping[str, float], place: Workplace
) -> TrialResult:
    """The result of a trial that was stopped because a rival beats it: its scores so far, as an estimate."""
    numbers = {**of_plan, **{name: m.value for name, m in beaten.measured.items()}}
    attrs["metrics"] = as_data(beaten.measured)
    attrs["beaten_by"] = beaten.rival
    attrs["beaten_after"] = beaten.sequences
    attrs["estimate"] = [numbers[name] for name in place.objectives]
    return TrialResult("pruned", attrs=attrs, constraints=known)


def as_data(measurements: Mapping[str, Measurement]) -> dict[str, Any]:
    """Measurements as a storage keeps them."""
    return {
        name: {"value": m.value, "stderr": m.stderr, **({"noise": m.noise} if m.noise else {})}
        for name, m in measurements.items()
    }


def plan_saver(folder: Path) -> Callable[[Plan], str]:
    """A function that writes a plan's file into a study's folder, once, and returns its path inside the folder."""

    def save(plan: Plan) -> str:
        name = f"plans/{plan.key}.json"
        path = folder / name
        if not path.exists():
            with atomic_write(path) as temporary:
                temporary.write_text(json.dumps(plan.as_dict(), indent=1) + "\n", encoding="utf-8")
        return name

    return save


def shown_answers(examples: Sequence[Example]) -> dict[str, Any]:
    """The answers that a report shows, as data: how many there were, and those that differ most."""
    if not examples:
        return {}
    different = sorted((e for e in examples if e.answer != e.original), key=lambda example: example.score)
    texts = [
        {
            "prompt": example.prompt[:ANSWER_CHARACTERS],
            "original": example.original[:ANSWER_CHARACTERS],
            "answer": example.answer[:ANSWER_CHARACTERS],
            "score": example.score,
        }
        for example in different[:SHOWN_ANSWERS]
    ]
    return {"answers": {"count": len(examples), "same": len(examples) - len(different), "different": texts}}


def violation(limit: Constraint, value: float) -> float:
    """Positive by how much the limit is broken, in the metric's unit; zero or negative where it is kept."""
    return value - limit.value if limit.op == "<=" else limit.value - value


def duplicate(number: int, earlier: TrialResult) -> TrialResult:
    """The result of a trial whose plan an earlier trial already worked through: its values, none of its cost."""
    attrs = {key: value for key, value in earlier.attrs.items() if not key.startswith(("seconds_", "variants_"))}
    return TrialResult(earlier.state, earlier.values, {**attrs, "duplicate_of": number}, earlier.constraints)


def with_relative_error(
    measurements: Mapping[str, Measurement], original: Mapping[str, float]
) -> dict[str, Measurement]:
    """Add `relative_error`, in percent: the mean over similarity and perplexity, where scored, of |v - v0| / |v0|.

    Its standard error takes the terms as independent; None where one of them has none.
    """
    terms, errors = [], []
    for name in RELATIVE_TO:
        if name in measurements and original.get(name):
            measured, reference = measurements[name], abs(original[name])
            terms.append(100 * abs(measured.value - original[name]) / reference)
            errors.append(None if measured.stderr is None else 100 * measured.stderr / reference)
    if not terms:
        return dict(measurements)
    stderr = None if None in errors else math.sqrt(sum(e * e for e in errors if e is not None)) / len(terms)
    return {**measurements, "relative_error": Measurement(sum(terms) / len(terms), stderr)}


def describe(error: BaseException) -> dict[str, str]:
    """An exception as data: type, message and the end of its traceback."""
    trace = "".join(traceback.format_exception(error))
    return {"type": type(error).__name__, "message": str(error), "traceback": trace[-TRACEBACK_CHARACTERS:]}


COUNTERS = ("variants_computed", "variants_reused")


class Plan(Protocol):
    """What a trial needs of `autotune.compression.plan.Plan`."""

    @property
    def key(self) -> str:
        """Equal plans, equal models."""

    @property
    def footprint(self) -> int:
        """Bytes of openvino_model.bin."""

    @property
    def bits_per_weight(self) -> float:
        """Mean stored bits of a weight."""

    @property
    def compression_rate(self) -> float:
        """Float32 size over footprint."""

    @property
    def int4_percent(self) -> float:
        """Share of weights in 4 bits."""

    @property
    def int8_percent(self) -> float:
        """Share of weights in 8 bits."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the plan's file."""


class Engine(Protocol):
    """What a trial needs of `autotune.compression.engine.Engine`."""

    @property
    def counters(self) -> Mapping[str, int]:
        """``variants_computed`` and ``variants_reused`` so far."""

    def plan(self, settings: Settings) -> Any:
        """Resolve settings; raises PlanError."""

    def apply(self, plan: Any) -> Any:
        """The compressed model."""

    def digest(self, model: Any) -> str:
        """Equal digests, equal bytes."""


class Candidate:
    """One plan and, when it is asked for, its compressed model.

    Attributes:
        plan: what the trial's settings came to.
        digest: of the model's bytes; None until the model is made, or a record tells it.
        seconds: what making the model took; 0 as long as it is not made.
        built: whether it is made.
    """

    def __init__(self, engine: Engine, plan: Any, stage: Callable[[str], None]) -> None:
        """Nothing is compressed yet.

        Args:
            engine: compresses.
            plan: one of this engine's.
            stage: is told when compression begins.
        """
        self._engine, self._stage = engine, stage
        self._before = dict(engine.counters)
        self.plan = plan
        self.digest: str | None = None
        self.seconds = 0.0

    @property
    def built(self) -> bool:
        """Whether the model is made."""
        return "model" in self.__dict__

    @cached_property
    def model(self) -> Any:
        """The compressed model, made now if it is not yet."""
        self._stage("compressing")
        started = time.perf_counter()
        model = self._engine.apply(self.plan)
        self.digest = self._engine.digest(model)
        self.seconds = time.perf_counter() - started
        return model

    def counted(self) -> dict[str, int]:
        """How many variants were computed and found ready since the candidate was there."""
        counters = self._engine.counters
        return {name: counters.get(name, 0) - self._before.get(name, 0) for name in COUNTERS}
