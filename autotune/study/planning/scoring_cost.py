"""Measure what scoring costs on a few of the texts, for the forecast of a study."""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

from autotune.common.machine import own_memory
from autotune.common.threads import all_cores
from autotune.common.units import parse_precision
from autotune.compression.settings import Settings
from autotune.evaluation import StagedEvaluator
from autotune.study.trials.deployed import COLUMNS, NEW, ROUNDS, deployment, generation_times
from autotune.study.trials.racing import ANCHOR_SHARE, FEWEST_PRECISE

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.config.config import Config
    from autotune.evaluation import Evaluator, LanguageModel, Measurement, Reference
    from autotune.study.session import Session


@runtime_checkable
class Shrinking(Protocol):
    """Evaluator whose time can be measured on a few of its texts."""

    def shrunk(self, original: LanguageModel) -> tuple[Evaluator, float]:
        """Return the evaluator on fewer texts, and the ratio of the full time to its time."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """Seconds and bytes of one evaluator."""

    reference: float
    candidate: float
    nbytes: float


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of scoring a model.

    Attributes:
        evaluators: by name.
        compiling: seconds of compiling a model.
        left: bytes that a scored model leaves in the process for good.
        deployed: seconds of scoring a model with the properties of a deployment, and 0 if the study does not.
        timed: seconds of measuring its speed with them, and 0 if the study does not.
        missing: the evaluators that could not be measured.
    """

    evaluators: Mapping[str, Scoring]
    compiling: float
    left: float
    deployed: float
    timed: float
    missing: tuple[str, ...]


Small: TypeAlias = "Mapping[str, tuple[Evaluator, Reference, float, float]]"
"""Evaluator -> the same on fewer texts, its reference, the ratio of the times, the seconds of the reference."""


def scored(session: Session, engine: Engine) -> Costs:
    """Measure the cost of each evaluator, and of compiling a model."""
    costs: dict[str, Scoring] = {}
    missing, shares = [], dict[str, float]()
    references: dict[str, tuple[Evaluator, Reference, float, float]] = {}
    with all_cores(), session.compiled(session.source.path) as original:
        for name, evaluator in session.evaluators.items():
            if not isinstance(evaluator, Shrinking):
                missing.append(name)
                continue
            session.stage(f"forecast: the original's reference for {name}")
            small, times = evaluator.shrunk(original)
            started = time.perf_counter()
            reference = small.reference(original)
            references[name] = (small, reference, times, time.perf_counter() - started)
    model, left = engine.apply(engine.plan(Settings(mode="int4_asym"))), []
    # Its answers differ from the original's, so that some have to be decoded.
    for turn in range(3):  # the first leaves behind what is there for all models, the others what each one does
        session.stage(f"forecast: scoring a compressed model, {turn + 1} of 3 times")
        started = time.perf_counter()
        with session.compiled(model) as candidate:
            compiling = time.perf_counter() - started
            for name, (small, reference, times, seconds) in references.items():
                began = time.perf_counter()
                measured = small.evaluate(candidate, reference)
                took = time.perf_counter() - began
                share = shares.setdefault(name, share_needed(session.config, small, measured, times))
                anchors_share = min(1.0, share / ANCHOR_SHARE**2)
                nbytes = times * sum(array.nbytes for array in reference.values())
                costs[name] = Scoring(times * seconds * anchors_share, times * took * share, nbytes * anchors_share)
        gc.collect()
        left.append(own_memory())
    runtime = session.config.runtime
    deployed = _deployed(session, model, references) if runtime.deployed or runtime.search else 0.0
    timed = _timed(session, model) if runtime.search else 0.0
    each = max(0.0, (left[-1] - left[0]) / (len(left) - 1))
    return Costs(costs, compiling, each, deployed, timed, tuple(missing))


def _deployed(session: Session, model: Any, small: Small) -> float:
    """Measure the seconds of scoring a model as deployed, with all texts; see `DeployedScorer.scores`."""
    session.stage("forecast: scoring a compressed model as deployed")
    scorer = session.deployed_scorer
    started = time.perf_counter()
    with session.compiled(model, deployment(scorer.search, {}), COLUMNS) as compiled:
        seconds = time.perf_counter() - started
        for name in scorer.evaluators.keys() & small.keys():
            evaluator, reference, times, _ = small[name]
            began = time.perf_counter()
            evaluator.evaluate(compiled, reference)
            seconds += times * (time.perf_counter() - began)
    return seconds


def _timed(session: Session, model: Any) -> float:
    """Measure the seconds of measuring a model's speed; see `DeployedScorer.times`."""
    session.stage("forecast: measuring the speed of a compressed model")
    started = time.perf_counter()
    with all_cores(), session.compiled(model, deployment(session.deployed_scorer.search, {}), 0) as compiled:
        generation_times(compiled, 2)
        generation_times(compiled, NEW)
    return ROUNDS * (time.perf_counter() - started)


def share_needed(config: Config, evaluator: Evaluator, measured: Mapping[str, Measurement], times: float) -> float:
    """Estimate the share of an evaluator's texts on which a trial has the precision of the study.

    Args:
        config: the study's.
        evaluator: on a few of the texts.
        measured: its scores of a compressed model.
        times: number of all texts, as a multiple of these.
    """
    main = next((measured[name] for name in config.objectives if name in measured), None)
    if config.study.precision is None or main is None or not main.stderr or not isinstance(evaluator, StagedEvaluator):
        return 1.0
    precision, count = parse_precision(config.study.precision), len(main.values)
    limit = precision.value * (abs(main.value) if precision.relative else 1.0)
    needed = max(FEWEST_PRECISE, count * (main.stderr / limit) ** 2)
    return float(min(1.0, needed / (count * times)))
