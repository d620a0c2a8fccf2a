"""The points a study begins with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import LARGE, space

from autotune.compression.settings import BACKUP_MODES, MODES, SENSITIVITY_METRICS
from autotune.config.space.presets import load_space, presets
from autotune.config.space.space import Choices
from autotune.study.sampling.initial_points import anchors
from autotune.study.sampling.sampler import draw, params_of, point_of
from autotune.study.storage.history import point_key


def test_the_known_settings_come_first_and_by_name() -> None:
    """int8_asym, then the defaults people know, then the ends of the space."""
    found = {anchor.label: LARGE.settings(anchor.point) for anchor in anchors(LARGE)}
    assert list(found)[:3] == ["int8_asym", "near int4_asym, group size 64, GPTQ", "optimum-intel's 4-bit default"]
    assert list(found)[-2:] == ["smallest", "most accurate"]
    default = found["optimum-intel's 4-bit default"]
    assert (default.mode, default.group_size, default.ratio, default.awq) == ("int4_asym", 128, 1.0, False)
    smallest = found["smallest"]
    assert (smallest.mode, smallest.group_size, smallest.ratio) == ("int4_sym", -1, 1.0)
    assert (smallest.all_layers, smallest.backup_mode) == (True, "int8_sym")
    best = found["most accurate"]
    assert (best.ratio, best.backup_mode, best.all_layers) == (0.5, "none", False)


def test_a_setting_outside_the_space_is_moved_to_the_nearest_inside() -> None:
    """The mode's family and the nearest numbers stand in, and the label says so."""
    found = {
        anchor.label: anchor.point
        for anchor in anchors(space(mode=["int4_sym"], group_size=[96, 32], ratio=[0.7, 0.9]))
    }
    assert found["near int4_asym, group size 64, GPTQ"] == {"mode": "int4_sym", "ratio": 0.9, "group_size": 96}
    assert not any("int8" in label for label in found)


def test_equal_points_are_one_anchor() -> None:
    """A space of one point has one anchor."""
    assert [anchor.label for anchor in anchors(space(mode="int8_asym"))] == ["int8_asym"]


def subsets(values: tuple[object, ...]) -> st.SearchStrategy[list[object]]:
    """Non-empty lists of distinct values."""
    return st.lists(st.sampled_from(values), min_size=1, unique=True)


@given(
    st.fixed_dictionaries(
        {"mode": subsets(MODES)},
        optional={
            "group_size": subsets((32, 48, 64, 128, 256, -1)),
            "ratio": st.one_of(subsets((0.0, 0.3, 0.8, 1.0)), st.just((0.0, 1.0, None)), st.just((0.4, 0.9, 0.1))),
            "sensitivity_metric": subsets(SENSITIVITY_METRICS),
            "all_layers": subsets((False, True)),
            "backup_mode": subsets(BACKUP_MODES),
            "awq": subsets((False, True)),
            "scale_estimation": subsets((False, True)),
        },
    )
)
def test_every_anchor_is_a_distinct_point_of_its_space(parameters: dict[str, list[object]]) -> None:
    """In any space: at least one anchor, all inside the space, valid and different."""
    made = space(**parameters)
    if "codebook" in parameters["mode"]:
        made = replace(made, parameters={**made.parameters, "codebook": Choices(((-1.0, 0.0, 1.0),))})
    found = anchors(made)
    keys = [point_key(params_of(made, anchor.point)) for anchor in found]
    assert found
    assert len(set(keys)) == len(keys)
    points = made.enumerate(10_000)
    for anchor in found:
        assert not list(made.settings(anchor.point).problems())
        if points is not None:
            assert made.active(anchor.point) in points


@pytest.mark.parametrize("preset", [preset.name for preset in presets()])
def test_every_preset_can_be_begun_and_drawn_from(preset: str) -> None:
    """Its initial points, and twenty random ones, are points of the space with valid settings."""
    made = load_space(preset, base_dir=Path())
    found = [anchor.point for anchor in anchors(made)]
    assert found
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [draw(study.ask(), made) for _ in range(20)]
    for point in (*found, *drawn):
        assert made.active(point) == point
        assert point_of(made, params_of(made, point)) == point
        assert not list(made.settings(point).problems())
