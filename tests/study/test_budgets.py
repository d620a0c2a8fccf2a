"""Budgets in a study's space: what may be written, drawn, tried first; and what they buy."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from autotune.compression.settings import MIXED
from autotune.config.space.presets import load_space
from autotune.config.space.space import Choices, Range, SearchSpace
from autotune.errors import ConfigError
from autotune.study.sampling.initial_points import anchors, enqueued, from_front
from autotune.study.sampling.sampler import params_of, point_of, walk

HERE = Path(__file__).parent


def space(**data: object) -> SearchSpace:
    """A space of one's own, 4 and 8 bits unless something else is said."""
    return load_space({"mode": ["int8_asym", "int4_asym"], "group_size": [32, 64], **data}, base_dir=HERE)


def test_a_point_spends_a_budget_or_has_a_mode() -> None:
    """The two ways exclude each other, in every point and in what is drawn."""
    both = space(allocation=["budget", "ratio"], budget=[4.5, "13.8MB"])
    points = both.enumerate(100)
    assert points is not None
    assert [p for p in points if p["allocation"] == "budget"] == [
        {"allocation": "budget", "budget": 4.5},
        {"allocation": "budget", "budget": 13_800_000},
    ]
    assert all("budget" not in p and "mode" in p for p in points if p["allocation"] == "ratio")
    assert len(points) == 2 + 1 + 2
    for point in points:
        assert point_of(both, params_of(both, point)) == point
        settings = both.settings(point)
        assert (settings.mode == MIXED) == (point["allocation"] == "budget")
        assert not list(settings.problems())


def test_the_budget_alone_is_drawn_where_there_is_nothing_else() -> None:
    """All other parameters say which variants are allowed, and have no effect in a point."""
    only = space(allocation="budget", budget={"low": 4, "high": 8}, gptq=[False, True])
    calls: list[str] = []

    def choose(name: str, parameter: object, point: object) -> float:
        calls.append(name)
        return 5.0

    assert walk(only, choose) == {"allocation": "budget", "budget": 5.0}
    assert calls == ["budget"]
    assert only.enumerate(10**6) is None
    settings = only.settings({"allocation": "budget", "budget": 5.0}).as_dict()
    assert settings["mode"] == MIXED
    assert "ratio" not in settings


def test_without_a_budget_quarters_of_a_bit_are_meant() -> None:
    """From below the smallest format, which stands for the smallest plan, to 8 bits and their scales."""
    values = space(allocation="budget").parameters["budget"].values
    assert values is not None
    assert values[0] == 4.0
    assert values[-1] == 8.25
    assert {b - a for a, b in itertools.pairwise(values)} == {0.25}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"low": 4, "high": 8, "step": 0.5}, Range(4.0, 8.0, 0.5)),
        ({"low": "10MB", "high": "12MB", "step": "500kB"}, Range(10_000_000, 12_000_000, 500_000)),
        (["11.83MB", 4.5], Choices((11_830_000, 4.5))),
        ("1.2 GB", Choices((1_200_000_000,))),
    ],
)
def test_budgets_are_bits_a_weight_or_sizes(given: object, expected: object) -> None:
    """And read back as what they are."""
    made = space(allocation="budget", budget=given)
    assert made.parameters["budget"] == expected
    assert load_space(made.as_dict(), base_dir=HERE) == made


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"allocation": "budget", "budget": "a lot"}, "13.8MB"),
        ({"allocation": "budget", "budget": 0}, "got 0"),
        ({"allocation": "budget", "budget": {"low": 4, "high": "10MB"}}, "one unit"),
        ({"allocation": "budget", "budget": {"low": "10MB", "high": "9MB"}}, "must not be above"),
        ({"budget": 4.5}, "belongs to allocation: budget"),
        ({"runtime_compressed": False}, "belongs to allocation: budget"),
        ({"allocation": "budgets"}, "budget"),
    ],
)
def test_what_cannot_be_meant_is_refused(data: dict[str, object], message: str) -> None:
    """With the reason."""
    with pytest.raises(ConfigError, match=message):
        space(**data)


def test_the_first_budgets_are_spread_over_all() -> None:
    """Both ends, the middle, the quarters; after the known settings where ratios are tried as well."""
    only = anchors(space(allocation="budget", budget={"low": 4.0, "high": 8.0, "step": 0.5}))
    assert [a.point["budget"] for a in only] == [4.0, 8.0, 6.0, 5.0, 7.0, 4.5, 5.5, 6.5, 7.5]
    both = anchors(space(allocation=["ratio", "budget"], budget={"low": 4.0, "high": 8.0}))
    assert both[0].label == "int8_asym"
    assert [a.point.get("budget") for a in both][-9:] == [a.point["budget"] for a in only]


def test_wished_and_inherited_budgets() -> None:
    """A study can enqueue a budget, or take budgets from another study."""
    made = space(allocation=["ratio", "budget"], budget={"low": 4.0, "high": 8.0, "step": 0.5})
    (anchor,) = enqueued(made, [{"allocation": "budget", "budget": 4.5}])
    assert anchor.point == {"allocation": "budget", "budget": 4.5}
    with pytest.raises(ConfigError, match="outside the space"):
        enqueued(made, [{"allocation": "budget", "budget": 4.6}])
    settings = made.settings(anchor.point).as_dict()
    assert [a.point for a in from_front(made, {"trial 3": settings})] == [anchor.point]
    assert from_front(space(), {"trial 3": settings}) == []
