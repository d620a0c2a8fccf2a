"""Dry run of a search: sizes, invalid settings and a forecast, before any work is done (`autotune plan`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import label
from autotune.compression.settings import MOST_BITS, Settings
from autotune.errors import ConfigError, PlanError
from autotune.models.intake import Intake, read_intake
from autotune.models.runtime.devices import describe_devices
from autotune.study.planning.forecast import Forecast, Measuring, forecast, forecast_measuring
from autotune.study.planning.survey import (
    Finding,
    chosen_by_calibration,
    count_plans,
    findings,
    plan_without_calibration,
)
from autotune.study.sampling.initial_points import anchors, enqueued
from autotune.study.sampling.optimum_default import with_optimum_default
from autotune.study.session import Session
from autotune.study.trials.budget_planner import allowed_menus

if TYPE_CHECKING:
    from autotune.common.units import Constraint
    from autotune.compression.engine import Engine
    from autotune.compression.plan import Plan
    from autotune.config.config import Config

COUNTED = 100_000
"""Most points of a space that are counted."""


@dataclass(frozen=True, slots=True)
class PlannedPoint:
    """One of the points that the study begins with.

    Attributes:
        label: why it is tried.
        settings: its settings.
        footprint: bytes of the weight files; None where the settings cannot be planned.
        exact: False where the choice of layers waits for the calibration, and the size stands for the choice that
            weights alone would give; and where AWQ may have to insert operations.
        compression_rate, bits_per_weight: see `compression.plan.Plan`.
        expanded_percent: share of the weights that the CPU expands when the model is loaded; see the plan.
        notes: what is adjusted for single weights, or why the point is impossible.
    """

    label: str
    settings: dict[str, Any]
    footprint: int | None
    exact: bool
    compression_rate: float | None
    bits_per_weight: float | None
    expanded_percent: float | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DryRun:
    """Outcome of a dry run.

    Attributes:
        model: what the configuration names.
        original_footprint: bytes of the original's weight files.
        weights: how many compressible weights there are.
        elements: how many elements they have.
        distinct_settings: points of the space; None where it is continuous or has more than 100,000.
        plans_at_least, plans_at_most: how many different plans these points come to; None for more than 2,000 points.
            They differ where calibration chooses layers.
        trials: how many trials the study is to have.
        points: those that it begins with.
        left_out: values of the space that the target devices do not take, each with the reason.
        devices: for each target device, whether this machine has it, as a sentence.
        limits: the constraints, such as ``footprint <= 1.2 GB``.
        findings: what is adjusted, left out or impossible anywhere in the space.
        forecast: of time, memory and disk; None unless requested.
        measuring: cost of measuring the errors that budget allocation needs; None without budgets.
        intake: what the model is; None for a hub model whose files cannot be read.
    """

    model: str
    original_footprint: int
    weights: int
    elements: int
    distinct_settings: int | None
    plans_at_least: int | None
    plans_at_most: int | None
    trials: int
    points: tuple[PlannedPoint, ...]
    findings: tuple[Finding, ...]
    forecast: Forecast | None = None
    measuring: Measuring | None = None
    intake: Intake | None = None
    left_out: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()

    def __repr__(self) -> str:
        settings = "a continuous space" if self.distinct_settings is None else f"{self.distinct_settings} settings"
        time = "" if self.forecast is None else f"; about {self.forecast.seconds:.0f} s"
        impossible = sum(finding.impossible for finding in self.findings)
        return (
            f"DryRun({self.model}: {settings}, {self.trials} trials{time}; {len(self.findings)} findings, "
            f"{impossible} of them impossible settings)"
        )

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data for `--json`."""
        return asdict(self)


def planned_budget(label: str, settings: Settings, engine: Engine, smallest: Plan) -> PlannedPoint:
    """Plan a point whose formats wait for measured errors: its budget is an upper bound of its size.

    Args:
        label, settings: of the point.
        engine: of the original model.
        smallest: the smallest plan of the space; a budget below it gives this plan.
    """
    from autotune.allocation.planner import bytes_of

    assert settings.budget is not None
    limit = bytes_of(engine, settings.budget)
    if limit <= smallest.footprint:
        note = f"the smallest model of this space: its formats need {smallest.bits_per_weight:.2f} bits per weight"
        size = (smallest.footprint, True, smallest.compression_rate, smallest.bits_per_weight)
        return PlannedPoint(label, settings.as_dict(), *size, smallest.expanded_percent, (note,))
    elements = sum(weight.size for weight in engine.weights)
    bits = settings.budget if settings.budget <= MOST_BITS else 8 * (limit - bytes_of(engine, 0.0)) / elements
    note = "upper bound; the formats are chosen after the error measurement"
    return PlannedPoint(label, settings.as_dict(), limit, False, engine.sizes.fp32 / limit, bits, None, (note,))


def relabelled(points: list[PlannedPoint]) -> list[PlannedPoint]:
    """Return the points with the label ``smallest`` only on the smallest one; budgets may reach a smaller size."""
    sizes = [point.footprint for point in points if point.footprint is not None]
    return [
        replace(point, label="smallest with one format for all weights")
        if point.label == "smallest" and point.footprint is not None and point.footprint > min(sizes)
        else point
        for point in points
    ]


def with_limits(points: list[PlannedPoint], limits: Mapping[str, Constraint]) -> list[PlannedPoint]:
    """Add a note to the points whose exact size is beyond a limit; such trials are recorded and not compressed."""
    found = []
    for point in points:
        sizes = {name: getattr(point, name, None) for name in limits if point.exact}
        beyond = [n for n, value in sizes.items() if value is not None and limits[n].violation(value) > 0]
        notes = tuple(f"not tried: over the limit {label(name)} {limits[name].text}" for name in beyond)
        found.append(replace(point, notes=(*point.notes, *notes)))
    return found


def planned_points(config: Config, engine: Engine) -> list[PlannedPoint]:
    """Plan the candidates that are settings, the enqueued points and the usual first ones, in this order."""
    points = []
    smallest = allowed_menus(config, engine).smallest(engine) if "budget" in config.space.allocations else None
    of_space = [*enqueued(config.space, config.study.enqueue), *anchors(config.space)]
    first = [(each.origin, each.settings) for each in config.candidates if not each.model]
    first += [(anchor.label, config.space.settings(anchor.point)) for anchor in of_space]
    for origin, settings in first:
        if settings.budget is not None and smallest is not None:
            points.append(planned_budget(origin, settings, engine, smallest))
            continue
        # Where channel scales are merged, no size depends on them.
        exact = not chosen_by_calibration(engine, settings) and (not settings.awq or engine.channel_scales.all_merge)
        try:
            plan = plan_without_calibration(engine, settings)
        except PlanError as error:
            points.append(PlannedPoint(origin, settings.as_dict(), None, True, None, None, None, (str(error),)))
            continue
        size = (plan.footprint, exact, plan.compression_rate, plan.bits_per_weight, plan.expanded_percent)
        points.append(PlannedPoint(origin, settings.as_dict(), *size, plan.notes))
    return points


def dry_run(config: Config, stage: Callable[[str], None], *, measure: bool = False) -> DryRun:
    """Plan the points that a study begins with.

    Where statistics are needed to choose layers, sizes stand for the choice that the weights alone would give.

    Args:
        config: the study's.
        stage: receives progress messages.
        measure: also forecast time, memory and disk, for which small pieces of the work are done and timed; without,
            the model is read and nothing is run.

    Raises:
        ConfigError: a worker would need more than `study.memory_limit`.
    """
    config = with_optimum_default(config, stage)
    session = Session(config, stage)
    _ = session.evaluators  # checks their options, too
    if session.needs_calibration:
        _ = session.calibration_texts
    engine = session.engine
    points = planned_points(config, engine)
    found = findings(config.space, engine)
    if True in config.space.values("distillation"):
        try:
            session.check_distillation()
        except PlanError as error:
            found.append(Finding(str(error), ("distillation",), True))
    all_points = config.space.enumerate(COUNTED)
    plans = count_plans(config.space, engine)
    measuring = (
        forecast_measuring(config, engine, session.source.task.loss) if "budget" in config.space.allocations else None
    )
    seconds = 0.0 if measuring is None else measuring.seconds
    study_forecast = forecast(config, session, measuring=seconds) if measure else None
    limit = config.study.memory_limit
    if study_forecast is not None and limit is not None and study_forecast.memory > limit:
        raise ConfigError(
            f"is {limit / 1e9:.2f} GB, and a worker is going to hold about {study_forecast.memory / 1e9:.2f} GB for "
            "itself; raise it, or give the evaluators and the calibration fewer or shorter texts",
            key="study.memory_limit",
        )
    return DryRun(
        model=config.model,
        original_footprint=engine.sizes.original,
        weights=len(engine.weights),
        elements=sum(weight.size for weight in engine.weights),
        distinct_settings=None if all_points is None else len(all_points),
        plans_at_least=None if plans is None else plans[0],
        plans_at_most=None if plans is None else plans[1],
        trials=config.study.trials,
        points=tuple(with_limits(relabelled(points), config.constraints)),
        findings=tuple(found),
        forecast=study_forecast,
        measuring=measuring,
        intake=read_intake(config.model, exporter=True),
        left_out=config.space.left_out,
        devices=tuple(describe_devices(config.target)) if config.target else (),
        limits=tuple(f"{label(name)} {limit.text}" for name, limit in config.constraints.items()),
    )
