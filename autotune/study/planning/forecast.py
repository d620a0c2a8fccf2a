"""Forecast of a study's time, memory and disk, from small pieces of its work that are run and timed.

One layer of each shape is compressed at the study's first points and at some random points. The original reads a few
calibration windows, and one compressed model is scored on a few texts. All of it is discarded. The cost of measuring
the errors for budget allocation is computed without running the model.
"""

from __future__ import annotations

import math
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.allocation.allocator import TOKENS_PER_WEIGHT
from autotune.allocation.planner import LEARNED_FROM
from autotune.allocation.suffix import SHARE
from autotune.common.machine import available_memory, own_memory
from autotune.common.threads import limited_to, share
from autotune.compression.bank import MEMORY_LIMIT
from autotune.compression.ir.layout import layout
from autotune.compression.settings import Settings
from autotune.config.space.space import Parameter, Range
from autotune.errors import AutotuneError, PlanError
from autotune.study.planning.scoring_cost import Costs, scored
from autotune.study.planning.survey import plan_without_calibration
from autotune.study.sampling.initial_points import anchors, enqueued
from autotune.study.sampling.sampler import walk
from autotune.study.trials.budget_planner import allowed_menus, text_options
from autotune.study.trials.deployed import PARTS
from autotune.study.workers.memory import worker_count
from autotune.study.workers.process_pool import WorkerPool

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.config.config import Config
    from autotune.models.tasks.task import Loss
    from autotune.study.session import Session

DRAWN = 8
"""Number of random points that stand for those of the sampler."""
WINDOWS = 8
"""Calibration windows that are timed."""
STOPPED = 0.6
"""Rough share of the sampled trials that a race stops after `FIRST` of the deciding texts."""
FIRST = 0.5
"""Share of the deciding texts before a race stops, with the usual number of windows."""
FRONT = 0.4
"""Rough share of the trials that end on the front and are scored once more."""
STARTED = 6.0
"""Seconds to start the search and a worker, and to write the report."""
PAGE = 3_000_000
"""Bytes of a study's storage, report and plots."""
TEXT_OF_PLAN = 300
"""Bytes of a plan's file for each weight."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """Scores of the final front as deployed, and with the settings of `runtime.search`.

    Attributes:
        models: number of models on the front, roughly.
        settings: number of combinations of `runtime.search`.
        seconds: all of it, speed included.
    """

    models: int
    settings: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Forecast:
    """Cost of a study of a configuration, with an empty cache.

    Attributes:
        workers: number of workers.
        seconds: the whole study, including all trials and the final scores of the front.
        preparation_seconds: calibration and references.
        trial_seconds: a trial that is not stopped, on average, by a worker with its share of the cores.
        memory: peak private memory of a worker in bytes.
        disk: bytes of cache and study, temporary files included.
        temporary: bytes of the temporary files, of distillation.
        deployment: part of `seconds`, after the trials; None if the study does not score models as deployed.
        not_measured: evaluators whose time is not included because they cannot be timed on a few texts; and the
            calibration on synthetic texts.
    """

    workers: int
    seconds: float
    preparation_seconds: float
    trial_seconds: float
    memory: int
    disk: int
    temporary: int
    deployment: Deployment | None
    not_measured: tuple[str, ...]


def forecast(config: Config, session: Session, *, measuring: float = 0.0) -> Forecast:
    """Do small pieces of a study's work and add up what the whole will take.

    Args:
        config: the study's.
        session: its model, texts and evaluators.
        measuring: seconds of what else is measured once, before the first trial that needs it.
    """
    session.stage("forecast: reading calibration windows")
    rng = np.random.default_rng(config.study.seed)
    begin = [*enqueued(config.space, config.study.enqueue), *anchors(config.space)]
    first = [without_budget(config.space.settings(anchor.point)) for anchor in begin][: config.study.trials]
    points = [random_point(config, rng) for _ in range(min(DRAWN, config.study.trials))]
    drawn = [without_budget(config.space.settings(point)) for point in points]
    workers = worker_count(config, session.engine.sizes.original)
    with tempfile.TemporaryDirectory() as folder, watched() as peak:
        calibration, statistics_bytes, engine = calibrated(session, Path(folder))
        with limited_to(share(workers)):
            compression = Compression(engine)
            seconds = {}
            training, training_memory, temporary = distillation(config, session)
            for place, settings in enumerate(tried := list(dict.fromkeys([*first, *drawn]))):
                session.stage(f"forecast: compressing a layer of each shape, {place + 1} of {len(tried)} settings")
                seconds[settings] = compression.seconds(settings) + (training if settings.distillation else 0.0)
            costs = scored(session, engine)
        kept = bank_bytes(config, engine, rng)
    scoring, compiling = costs.evaluators, costs.compiling
    deferred = [scoring[name] for name in session.deferred if name in scoring]
    full = compiling + sum(one.candidate for name, one in scoring.items() if name not in session.deferred)
    stopped = STOPPED if config.study.racing else 0.0
    raced = (1 - stopped) * full + stopped * (compiling + FIRST * (full - compiling))
    later = config.study.trials - len(first)
    reported = [scoring[name] for name in session.report_texts.evaluators if name in scoring]
    models = FRONT * config.study.trials if reported or deferred else 0.0
    again = models * (compiling + sum(one.candidate for one in [*reported, *deferred]))
    compressing = sum(seconds[s] for s in first) + later * float(np.mean([seconds[s] for s in drawn]))
    synthetic = session.needs_calibration and config.calibration.synthetic
    preparation = calibration + measuring + sum(one.reference for one in scoring.values())
    trials = compressing + len(first) * full + later * raced + again
    rounds = min(config.study.trials, WorkerPool.TRIALS_A_WORKER)
    plans = TEXT_OF_PLAN * len(engine.weights) * config.study.trials
    references = sum(one.nbytes for one in [*scoring.values(), *reported])
    deployment = deployed(config, costs, workers)
    later_seconds = sum(one.reference for one in reported) + (0.0 if deployment is None else deployment.seconds)
    return Forecast(
        workers=workers,
        seconds=STARTED + preparation + trials / workers + later_seconds,
        preparation_seconds=preparation,
        trial_seconds=full + compressing / config.study.trials,
        memory=round(peak() + training_memory + min(kept, MEMORY_LIMIT) + costs.left * rounds),
        disk=round(kept + statistics_bytes + references + plans + PAGE + workers * temporary),
        temporary=workers * temporary,
        deployment=deployment,
        not_measured=(*(["the calibration"] if synthetic else []), *costs.missing),
    )


def deployed(config: Config, costs: Costs, workers: int) -> Deployment | None:
    """Forecast the scores of the front as deployed; the workers share them, but speed is measured one by one."""
    settings, parts = len(config.runtime.settings), len(PARTS) if config.runtime.deployed else 0
    if not settings + parts:
        return None
    models = max(1, round(FRONT * config.study.trials))
    each = (settings + parts) * costs.deployed / workers + settings * costs.timed
    return Deployment(models, settings, models * each)


def without_budget(settings: Settings) -> Settings:
    """Replace a budget, whose plan waits for measured errors, by settings that take as long to apply."""
    return settings if settings.budget is None else replace(settings, allocation="ratio", budget=None)


def distillation(config: Config, session: Session) -> tuple[float, int, int]:
    """Estimate seconds, memory and temporary files of training one compressed model; zeros if the space has none.

    The seconds follow from one product of the model's own size.
    """
    if True not in config.space.values("distillation") or config.calibration.synthetic:
        return 0.0, 0, 0
    from autotune.distillation.distil import STEP_SECONDS, work
    from autotune.distillation.memory import divide

    windows, length = shape = session.training_windows.shape
    try:
        division = divide(session.model, shape, available_memory(config.study.memory_limit))
    except PlanError:  # a finding of the dry run
        return 0.0, 0, 0
    operations, steps = work(session.engine.weights, windows, length, divided=division.limit < math.inf)
    seconds = operations / (EFFICIENCY * _speed(session.engine)) + STEP_SECONDS * steps
    return seconds, division.needed, division.disk


def random_point(config: Config, rng: np.random.Generator) -> dict[str, Any]:
    """Draw a point of the space, each parameter uniformly."""

    def draw(_: str, parameter: Parameter, __: Mapping[str, Any]) -> Any:
        if isinstance(parameter, Range) and parameter.values is None:
            return float(rng.uniform(parameter.low, parameter.high))
        values = parameter.values or ()
        return values[int(rng.integers(len(values)))]

    return walk(config.space, draw)


def calibrated(session: Session, folder: Path) -> tuple[float, int, Engine]:
    """Measure the calibration's seconds and bytes; also return an engine with the statistics of a few windows."""
    from autotune.compression.bank import Bank
    from autotune.compression.calibration.statistics import StatisticsCache
    from autotune.compression.engine import Engine

    engine = Engine(session.model, bank=Bank(folder / "bank"))
    if not session.needs_calibration or session.config.calibration.synthetic:
        return 0.0, 0, engine
    windows = session.calibration_windows
    took = []
    for count in (WINDOWS, 2 * WINDOWS):
        started = time.perf_counter()
        statistics = StatisticsCache(folder / "statistics").get_or_collect(
            session.model, engine.activations, windows[:count], model_fingerprint="forecast"
        )
        took.append(time.perf_counter() - started)
    each = max(0.0, took[1] - took[0]) / WINDOWS
    nbytes = sum(file.stat().st_size for file in statistics.folder.iterdir())
    engine = Engine(session.model, bank=Bank(folder / "bank"), statistics=lambda: statistics)
    return took[0] + each * max(0, len(windows) - WINDOWS), nbytes, engine


class Compression:
    """Seconds of planning and compressing a whole model, extrapolated from one weight of each shape.

    Work that an earlier point has done is reused, as in a study.
    """

    def __init__(self, engine: Engine) -> None:
        """Choose the weights."""
        self.engine = engine
        self.nothing = timed(lambda: engine.digest(engine.apply(engine.plan_of({}))))
        shapes = [(weight.kind, weight.shape, weight.is_last) for weight in engine.weights]
        names = [weight.name for weight in engine.weights]
        self.counts = Counter(shapes)
        self.others = {
            shape: tuple(name for name in names if name != names[shapes.index(shape)]) for shape in self.counts
        }

    def seconds(self, settings: Settings) -> float:
        """Of a trial with these settings up to its scoring; 0 where it cannot be planned."""
        try:
            settings = replace(settings, distillation=False)
            return self.nothing + sum(self._of_shape(settings, shape, count) for shape, count in self.counts.items())
        except AutotuneError:
            return 0.0

    def _of_shape(self, settings: Settings, shape: Any, count: int) -> float:
        """Of all weights of one shape, above what an unchanged model takes."""
        alone = replace(settings, ignored_scope=(*settings.ignored_scope, *self.others[shape]))
        if not 0 < settings.ratio < 1:
            return count * self._made(alone)
        ranked = timed(lambda: self.engine.plan(replace(alone, awq=False)))
        backup = replace(alone, ratio=0.0, awq=False)
        made = settings.ratio * self._made(replace(alone, ratio=1.0)) + (1 - settings.ratio) * self._made(backup)
        return count * (ranked + made)

    def _made(self, settings: Settings) -> float:
        started = time.perf_counter()
        plan = self.engine.plan(settings)
        planned = time.perf_counter() - started
        return planned + max(0.0, timed(lambda: self.engine.digest(self.engine.apply(plan))) - self.nothing)


def bank_bytes(config: Config, engine: Engine, rng: np.random.Generator) -> float:
    """Estimate the bytes of the bank: the distinct compressed weights of as many random trials as the study has."""
    kept: dict[tuple[str, str], float] = {}
    for _ in range(config.study.trials):
        settings = without_budget(config.space.settings(random_point(config, rng)))
        try:
            plan = plan_without_calibration(engine, settings)
        except AutotuneError:
            continue
        for weight in engine.weights:
            variant = plan.variants.get(weight.name)
            if variant is not None:
                label = str(sorted(variant.as_dict().items())) + str(settings.awq)
                kept[weight.name, label] = sum(part.nbytes for part in layout(weight, variant).values())
    return sum(kept.values())


def timed(work: Callable[[], Any]) -> float:
    """Measure the seconds of some work."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


@contextmanager
def watched() -> Iterator[Callable[[], int]]:
    """Track this process's peak private memory; yields a function that returns it."""
    stop, most = threading.Event(), [own_memory()]

    def watch() -> None:
        while not stop.wait(0.05):
            most[0] = max(most[0], own_memory())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield lambda: most[0]
    finally:
        stop.set()
        thread.join()


ROUNDS = 2
"""Plans at each size that the correction usually takes, uniform ones included."""

ROWS = 512
"""Tokens of the product that is timed."""

EFFICIENCY = 0.8
"""What a model reaches of the speed of one product: attention, norms and logits take their share."""


@dataclass(frozen=True, slots=True)
class Measuring:
    """The table of errors of a study with budgets, from nothing.

    Attributes:
        weights: how many have a choice.
        variants: how many (weight, variant) are compressed for it.
        token_forwards: tokens that run through the model to measure single weights, at most; and the mean for each.
        per_weight: the same for each weight.
        verification: tokens that run to correct the table by whole plans, at most.
        seconds: what all those tokens take on this machine, roughly, from one product of the model's own size.
    """

    weights: int
    variants: int
    token_forwards: int
    per_weight: float
    verification: int
    seconds: float


def forecast_measuring(config: Config, engine: Engine, loss: Loss) -> Measuring:
    """Count, and time one product of matrices; nothing of the model is run.

    Raises:
        PlanError: a setting of the space cannot be used with this model.
    """
    menus = allowed_menus(config, engine)
    once, whole = map(loss.tokens, loss.parts(text_options(config, loss)))
    count = len(menus.choices)
    singles = count * max(1, TOKENS_PER_WEIGHT // once) * once if once <= TOKENS_PER_WEIGHT else count * once
    verification = ROUNDS * LEARNED_FROM * whole
    operations = 2.0 * sum(weight.size for weight in engine.weights if weight.kind == "matmul")
    return Measuring(
        weights=count,
        variants=sum(choice.variant is not None for choices in menus.choices.values() for choice in choices),
        token_forwards=singles,
        per_weight=singles / max(count, 1),
        verification=verification,
        seconds=(SHARE * singles + verification) * operations / (EFFICIENCY * _speed(engine)),
    )


def _speed(engine: Engine) -> float:
    """Floating-point operations a second of a product as large as the model's usual one."""
    sizes = sorted((weight.rows, weight.columns) for weight in engine.weights if weight.kind == "matmul")
    rows, columns = sizes[len(sizes) // 2] if sizes else (512, 512)
    inputs, weight = np.ones((ROWS, columns), np.float32), np.ones((columns, rows), np.float32)
    best = np.inf
    for _ in range(4):
        started = time.perf_counter()
        np.matmul(inputs, weight)
        best = min(best, time.perf_counter() - started)
    return 2.0 * ROWS * rows * columns / float(best)
