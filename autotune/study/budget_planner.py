"""What a study's budgets are spent by: its space's formats, measured on its search text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint, locked

if TYPE_CHECKING:
    from autotune.allocation.choices import Menus
    from autotune.allocation.planner import BudgetPlanner
    from autotune.compression.engine import Engine
    from autotune.config.config import Config
    from autotune.study.session import Preparation

__all__ = ["allowed_menus", "measured_on", "open_planner", "windows_of"]

SINGLE_TOKENS = 1024
"""Tokens on which single weights are measured."""

PLAN_TOKENS = 8192
"""Tokens on which the plans are measured that correct the table."""


def open_planner(prepared: Preparation) -> BudgetPlanner:
    """The planner of a study; what it measures is in the bank, and measured by one process at a time.

    Raises:
        PlanError: no weight can have any of the formats that the space allows.
    """
    from autotune.allocation.planner import BudgetPlanner
    from autotune.allocation.probe import Probe
    from autotune.allocation.texts import texts_from

    config, engine, runtime = prepared.config, prepared.engine, prepared.config.runtime
    menus = allowed_menus(config, engine)
    short, full = (
        texts_from(
            {**measured_on(config), **windows},
            prepared.source,
            engine,
            prepared.cache,
            device=runtime.device,
            ov_config=dict(runtime.ov_config),
        )
        for windows in windows_of(config)
    )
    weights = {weight.name: weight for weight in engine.weights if weight.name in menus.choices}

    def open_probe() -> Probe:
        return Probe(
            engine.model, weights, prepared.tokenizer, device=runtime.device, ov_config=dict(runtime.ov_config)
        )

    limit = config.constraints.get("footprint")
    most = limit.value if limit is not None and limit.op == "<=" else None
    with locked(prepared.cache.bank / fingerprint("allocation", prepared.source.fingerprint, short.key)):
        planner = BudgetPlanner(engine, menus, open_probe, short=short, full=full, most=most, stage=prepared.stage)
    known = planner.allocator
    prepared.stage(
        f"errors of {len(weights)} weights from {known.measurements} measurements, {len(known.points)} plans verified: "
        f"{known.token_forwards:,} token-forwards in all"
    )
    return planner


def allowed_menus(config: Config, engine: Engine) -> Menus:
    """What the study's space allows each weight to become."""
    from autotune.allocation.choices import make_menus

    kept = config.space.parameters.get("runtime_compressed")
    runtime_compressed = kept is None or bool((kept.values or (True,))[0])
    return make_menus(engine, config.space.uniform_settings(), runtime_compressed=runtime_compressed)


def measured_on(config: Config) -> dict[str, Any]:
    """Options of the evaluator perplexity: the study's own search text; the calibration text where it has none."""
    if "perplexity" in config.evaluators:
        return dict(config.evaluators["perplexity"])
    source = config.calibration
    given = {name: getattr(source, name) for name in ("path", "dataset", "name", "split", "column", "synthetic")}
    found = {name: value for name, value in given.items() if value}
    return {**found, "sequence_length": source.sequence_length, "samples": source.samples}


def windows_of(config: Config) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """How much of the text single weights and plans are measured on."""
    options = measured_on(config)
    length = int(options.get("sequence_length") or 512)
    most = options.get("samples")

    def windows(tokens: int) -> dict[str, int]:
        wanted = max(1, tokens // length)
        return {"sequence_length": length, "samples": wanted if most is None else min(wanted, int(most))}

    return windows(SINGLE_TOKENS), windows(PLAN_TOKENS)
