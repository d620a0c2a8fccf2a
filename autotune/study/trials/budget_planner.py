"""Measure the per-weight errors that budget allocation needs, on a study's search text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint, locked
from autotune.errors import PlanError

if TYPE_CHECKING:
    from autotune.allocation.choices import Menus
    from autotune.allocation.planner import BudgetPlanner
    from autotune.allocation.probe import MeasuringInputs
    from autotune.compression.engine import Engine
    from autotune.config.config import Config
    from autotune.models.tasks.task import Loss


def open_planner(inputs: MeasuringInputs, config: Config, stage: Callable[[str], None]) -> BudgetPlanner:
    """Make the planner of a study; its measurements are stored in the bank, and made by one process at a time.

    Raises:
        PlanError: no weight can have any of the formats that the space allows.
    """
    from autotune.allocation.allocator import open_allocator
    from autotune.allocation.planner import BudgetPlanner

    menus = allowed_menus(config, inputs.engine)
    if not menus.choices:
        raise PlanError(
            "allocation: none of the formats in the space fits a weight of this model; add modes or group sizes"
        )
    loss = inputs.source.task.loss
    options = text_options(config, loss)
    short, full = (inputs.texts({**options, **part}) for part in loss.parts(options))
    limit = config.constraints.get("footprint")
    most = limit.value if limit is not None and limit.op == "<=" else None
    lock = inputs.cache.bank / fingerprint("allocation", inputs.source.fingerprint, short.key)
    with locked(lock), open_allocator(inputs, menus, short=short, full=full, stage=stage) as allocator:
        planner = BudgetPlanner(allocator, most=most)
    stage(
        f"errors of {len(menus.choices)} weights: {allocator.measurements} measurements, "
        f"{len(allocator.points)} verified plans, {allocator.token_forwards:,} tokens in forward passes"
    )
    return planner


def allowed_menus(config: Config, engine: Engine) -> Menus:
    """List the variants that the study's space allows for each weight."""
    from autotune.allocation.choices import make_menus

    kept = config.space.parameters.get("runtime_compressed")
    runtime_compressed = kept is None or bool((kept.values or (True,))[0])
    return make_menus(engine, config.space.uniform_settings(), runtime_compressed=runtime_compressed)


def text_options(config: Config, loss: Loss) -> dict[str, Any]:
    """Options of the loss's evaluator for the search text, or for the calibration text if it is not used."""
    if loss.evaluator in config.evaluators:
        return dict(config.evaluators[loss.evaluator])
    from autotune.evaluation.registry import evaluator_options

    source, options = config.calibration, evaluator_options(loss.evaluator)
    names = ("path", "dataset", "name", "split", "column", "synthetic", "sequence_length", "samples")
    given = {name: getattr(source, name) for name in names if options is None or name in options.model_fields}
    return {name: value for name, value in given.items() if value}
