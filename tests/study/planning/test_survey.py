"""Survey of a search space for one model, before any work."""

from __future__ import annotations

from pathlib import Path

import pytest
from search_fakes import space

from autotune.compression.engine import Engine
from autotune.errors import PlanError
from autotune.study.planning.survey import chosen_by_calibration, count_plans, findings, plan_without_calibration


@pytest.fixture(scope="module")
def engine(tiny_llama: Path) -> Engine:
    """The tiny Llama: input channels are 64 and 128. Its statistics must never be asked for."""
    import openvino as ov

    def statistics() -> None:
        raise AssertionError("planning must not calibrate")

    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    return Engine(model, statistics=statistics)  # type: ignore[arg-type]


def test_plans_are_counted_and_not_settings(engine: Engine) -> None:
    """Group sizes that come to the same for every weight are one plan."""
    groups = space(mode=["int8_asym", "int4_asym"], group_size=[32, 128, 256, -1], ratio=1.0)
    assert len(groups.enumerate(100) or ()) == 5
    keys = {plan_without_calibration(engine, groups.settings(p)).key for p in groups.enumerate(100) or ()}
    assert count_plans(groups, engine) == (len(keys), len(keys))
    assert len(keys) < 5


def test_what_calibration_chooses_is_counted_from_both_sides(engine: Engine) -> None:
    """Three metrics may make one plan or three; no calibration is run to find out."""
    metrics = ["weight_quantization_error", "max_activation_variance", "output_error"]
    spread = space(mode="int4_asym", group_size=32, ratio=[0.5, 1.0], sensitivity_metric=metrics)
    assert count_plans(spread, engine) == (2, 4)


def test_a_space_too_large_to_count_is_not_counted(engine: Engine) -> None:
    """Nobody waits for a plan of a hundred thousand points."""
    assert count_plans(space(mode="nf4", ratio=(0.0, 1.0, 0.0001)), engine) is None
    assert count_plans(space(mode="nf4", ratio=(0.0, 1.0, None)), engine) is None


def test_every_fallback_of_the_space_is_told_with_the_weight(engine: Engine) -> None:
    """Each weight whose columns a group size does not divide, once, with the settings that do it."""
    found = findings(space(mode=["int4_asym", "int4_sym"], group_size=[32, 48], all_layers=[False, True]), engine)
    expected = set()
    for layers in (False, True):
        settings = space(mode="int4_asym", group_size=48, all_layers=layers).settings(
            {"mode": "int4_asym", "group_size": 48, "all_layers": layers}
        )
        expected |= set(plan_without_calibration(engine, settings).notes)
    assert {finding.text for finding in found} == expected
    assert expected
    assert all("48" in label for finding in found for label in finding.settings)
    assert not any(finding.impossible for finding in found)


def test_what_cannot_be_planned_is_told_with_its_reason(engine: Engine) -> None:
    """With fallback: error a group size that does not divide is impossible, and nothing else is."""
    strict = space(mode=["int4_asym"], group_size=[32, 48], group_size_fallback="error")
    (finding,) = findings(strict, engine)
    assert finding.impossible
    assert "48" in finding.text
    with pytest.raises(PlanError):
        plan_without_calibration(engine, strict.settings({"mode": "int4_asym", "group_size": 48}))


def test_algorithms_that_leave_weights_out_are_told(engine: Engine) -> None:
    """Adapters that do not fit a weight, and weights without activations of their own."""
    found = findings(space(mode="int4_asym", group_size=32, lora_correction=[False, True], lora_rank=[8, 64]), engine)
    assert any("rank 64" in finding.text for finding in found)
    assert not any("rank 8 " in finding.text for finding in found)


def test_a_choice_waits_for_calibration_where_a_metric_looks_at_activations(engine: Engine) -> None:
    """Only with a ratio that leaves a choice, and by any metric but the data-free one."""
    one = space(mode="int4_asym", ratio=[0.5, 1.0], sensitivity_metric=["output_error", "weight_quantization_error"])
    points = {(p["ratio"], p.get("sensitivity_metric")): one.settings(p) for p in one.enumerate(10) or ()}
    waits = {key for key, settings in points.items() if chosen_by_calibration(engine, settings)}
    assert waits == {(0.5, "output_error")}
