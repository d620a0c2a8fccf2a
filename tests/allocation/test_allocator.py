from __future__ import annotations

from pathlib import Path

import openvino as ov
import pytest
from small_world import World

from autotune.allocation.allocator import Allocator
from autotune.allocation.choices import make_menus
from autotune.allocation.error_table import corrected_by, limits, solve
from autotune.compression.settings import Settings
from autotune.errors import PlanError
from autotune.models.runtime.language_model import OpenVINOLanguageModel


def test_menus_hold_every_variant_once_and_the_weight_itself_last(world: World) -> None:
    for choices in world.menus.choices.values():
        assert len({choice.variant for choice in choices}) == len(choices) == 4
        assert [choice.nbytes for choice in choices] == sorted(choice.nbytes for choice in choices)
        assert choices[-1].variant is None


def test_settings_that_tie_weights_to_each_other_make_no_menu(world: World) -> None:
    with pytest.raises(ValueError, match="ratio must be 1 and awq off"):
        make_menus(world.engine, [Settings(mode="int4_asym", ratio=0.5)])


def test_the_original_is_predicted_to_cost_nothing_and_errors_fall_with_size(
    world: World, allocator: Allocator
) -> None:
    table = allocator.table
    assert table.predicted({}) == 0
    for name, choices in world.menus.choices.items():
        costs = table.costs(name)
        by_variant = {choice.variant and choice.variant.mode: cost for choice, cost in zip(choices, costs, strict=True)}
        assert by_variant[None] == 0 < by_variant["int8_asym"] < by_variant["int4_asym"]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_a_solution_keeps_the_limit_and_uses_it(world: World, allocator: Allocator, share: float) -> None:
    smallest, largest = limits(world.engine, allocator.table, 2)
    limit = round(smallest + share * (largest - smallest))
    plan = solve(world.engine, allocator.table, limit)
    assert plan.footprint <= limit
    finer = solve(world.engine, allocator.table, limit + 4096)
    assert allocator.table.predicted(finer.variants) <= allocator.table.predicted(plan.variants)


def test_the_file_has_the_size_that_the_plan_says(world: World, allocator: Allocator, tmp_path: Path) -> None:
    smallest, largest = limits(world.engine, allocator.table, 2)
    plan = solve(world.engine, allocator.table, (smallest + largest) // 2)
    assert len({variant.mode for variant in plan.variants.values()}) > 1
    ov.save_model(world.engine.apply(plan), tmp_path / "model.xml", compress_to_fp16=False)
    assert (tmp_path / "model.bin").stat().st_size == plan.footprint


def test_the_best_point_is_measured_and_no_worse_than_what_is_uniform(world: World, allocator: Allocator) -> None:
    uniform = world.menus.uniform[1]
    point = allocator.best(uniform.footprint)
    assert point.plan.footprint <= uniform.footprint
    with OpenVINOLanguageModel(world.engine.apply(point.plan), world.tokenizer) as compressed:
        again = world.texts.evaluator.evaluate(compressed, world.texts.reference())["kl_divergence"]
    assert point.measured.value == pytest.approx(again.value, rel=0.02)
    rivals = [p for p in allocator.points if p.uniform and p.plan.footprint <= uniform.footprint]
    assert rivals
    assert all(point.measured.value <= rival.measured.value for rival in rivals)


def test_a_front_falls_from_point_to_point(allocator: Allocator) -> None:
    front = allocator.front(5)
    assert len(front) >= 4
    sizes = [point.plan.footprint for point in front]
    divergences = [point.measured.value for point in front]
    assert sizes == sorted(sizes)
    assert divergences == sorted(divergences, reverse=True)


def test_a_size_that_cannot_be_had_is_refused_with_the_smallest_that_can(world: World, allocator: Allocator) -> None:
    smallest = world.menus.smallest(world.engine).footprint
    with pytest.raises(PlanError, match=f"has {smallest:,} bytes, more than 1,000"):
        allocator.best(1000)


def test_a_common_misprediction_is_learned(world: World) -> None:
    """Plans that all cost a third more than their sum raise every rate by about a third."""
    # Not the shared allocator's table, which has been corrected by whatever other tests asked for.
    table = Allocator(world.engine, world.menus, lambda: world.probe, short=world.texts, full=world.texts).table
    plans = [solve(world.engine, table, limit).variants for limit in limits(world.engine, table, 6)[:-1]]
    measured = [4 / 3 * table.predicted(plan) for plan in plans]
    corrected = corrected_by(table, plans, measured)
    for plan, value in zip(plans, measured, strict=True):
        assert corrected.predicted(plan) == pytest.approx(value, rel=0.03)
