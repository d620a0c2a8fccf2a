"""Conditional drawing, seeds and samplers."""

from __future__ import annotations

from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import LARGE, space

from autotune.config.space.space import SearchSpace, active_parameters
from autotune.errors import ConfigError
from autotune.study.sampling.sampler import SAMPLERS, Mirror, draw, make_sampler, params_of, seed_for, walk

WITH_ZERO = space(
    mode=["int8_sym", "int4_asym", "mxfp4"],
    group_size=[32, 64],
    ratio=[0.0, 0.6, 1.0],
    sensitivity_metric=["mean_activation_magnitude"],
    backup_mode=["int8_asym", "none"],
    awq=[False, True],
)


def check_valid(drawn: SearchSpace, point: dict[str, Any], suggested: set[str]) -> None:
    active = active_parameters(point["mode"], point)
    assert set(point) <= set(active)
    assert suggested <= set(active)
    assert not list(drawn.settings(point).problems())


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_sampler_ever_suggests_a_parameter_that_means_nothing(name: str) -> None:
    """Whatever the sampler and however much it has seen: only active parameters, only valid settings."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for drawn in (LARGE, WITH_ZERO):
        study = optuna.create_study(directions=["minimize", "minimize"])
        for position in range(30 if name != "gp" else 13):
            study.sampler = make_sampler(name, seed_for(3, position))
            trial = study.ask()
            point = draw(trial, drawn)
            check_valid(drawn, point, set(trial.params))
            study.tell(trial, [float(position % 7), float(len(point))])


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=12, max_size=12))
def test_a_walk_stays_inside_the_space_whatever_is_chosen(choices: list[float]) -> None:
    """Any sequence of choices ends in a point whose parameters all mean something."""
    draws = iter(choices)
    point = walk(
        LARGE, lambda name, parameter, _: (parameter.values or ())[int(next(draws) * len(parameter.values or ()))]
    )
    check_valid(LARGE, point, set(point))


def test_fixed_parameters_are_set_and_never_suggested() -> None:
    """A parameter with one value is part of the point and unknown to Optuna."""
    fixed = space(mode="int4_asym", group_size=[32, 64], ratio=1.0, awq=True)
    study = optuna.create_study()
    trial = study.ask()
    point = draw(trial, fixed)
    assert set(trial.params) == {"group_size"}
    assert point == {"mode": "int4_asym", "group_size": point["group_size"], "ratio": 1.0, "awq": True}
    assert params_of(fixed, point) == trial.params


def test_a_stepped_range_gives_the_numbers_that_are_written() -> None:
    """Values of a range are its decimal steps, not sums of rounding errors."""
    stepped = space(mode="int4_asym", ratio=(0.1, 1.0, 0.1))
    study = optuna.create_study()
    drawn = {draw(study.ask(), stepped)["ratio"] for _ in range(60)}
    assert drawn <= {0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0}
    assert len(drawn) > 5


def test_samplers_learn_from_a_stopped_trial_by_its_estimate() -> None:
    """A trial that lost its race counts as complete, with the scores up to then; a failed one is left out."""
    common: dict[str, Any] = {"params": {"x": 1}, "distributions": {"x": optuna.distributions.IntDistribution(1, 2)}}
    stopped = {"estimate": [0.5, 7.0], "beaten_by": 0}
    trials = [
        optuna.trial.create_trial(state=optuna.trial.TrialState.COMPLETE, values=[1.0, 2.0], **common),
        optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, user_attrs=stopped, **common),
        optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL, **common),
    ]
    copied = Mirror(trials, ["minimize", "minimize"], LARGE, "tpe").study.get_trials()
    assert [(trial.state.name, trial.values) for trial in copied] == [
        ("COMPLETE", [1.0, 2.0]),
        ("COMPLETE", [0.5, 7.0]),
    ]


def many(count: int) -> list[Any]:
    """Complete trials of NSGA-II, 16 a generation; the first 120 are the front, the later the worse the others."""
    common: dict[str, Any] = {"params": {"x": 1}, "distributions": {"x": optuna.distributions.IntDistribution(1, 2)}}
    trials = []
    for number in range(count):
        values = [float(number), float(-number)] if number < 120 else [float(number), float(number)]
        generation = {"NSGAIISampler:generation": number // 16}
        trials.append(optuna.trial.create_trial(values=values, system_attrs=generation, **common))
        trials[-1].number = number
    trials.append(optuna.trial.create_trial(state=optuna.trial.TrialState.RUNNING, **common))
    trials[-1].number = count
    return trials


@pytest.mark.parametrize(("sampler", "learned"), [("tpe", 1000), ("nsga2", 1000), ("gp", 400)])
def test_samplers_learn_from_a_bounded_number_of_trials(sampler: str, learned: int) -> None:
    """They are of the front and the latest, running ones included; of a smaller study all, in their order."""
    trials = many(3000)
    copied = Mirror(trials, ["minimize", "minimize"], LARGE, sampler, [*trials[:120], trials[2999]]).study.get_trials()
    values = [trial.values for trial in copied]
    assert values[:60] == [trial.values for trial in trials[:120:2]]
    assert values[60:] == [trial.values for trial in trials[100 - learned :]]
    assert [trial.number for trial in copied] == list(range(learned - 40))
    assert copied[-1].state.name == "RUNNING"
    assert trials[0].number == 0
    assert trials[-1].number == 3000
    whole = Mirror(trials[-learned:], ["minimize", "minimize"], LARGE, sampler, trials[-9:]).study.get_trials()
    assert [trial.values for trial in whole] == [trial.values for trial in trials[-learned:]]


def test_generations_go_on_in_a_large_study() -> None:
    """NSGA-II breeds the next generation of 8,000 trials from recent ones; it looked through all generations before."""
    trials = many(8000)
    mirror = Mirror(trials, ["minimize", "minimize"], LARGE, "nsga2", trials[:120])
    assert mirror.draw(0, 1).system_attrs["NSGAIISampler:generation"] == 500
    stored = mirror.study._storage.get_study_system_attrs(mirror.study._study_id)
    assert 0 < sum(name.startswith("NSGAIISampler:parent:") for name in stored) < 60


def test_seeds_of_different_positions_differ_and_repeat() -> None:
    """One seed a (seed, position) pair, the same in every process."""
    seeds = [seed_for(seed, position) for seed in range(3) for position in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert seed_for(1, 7) == seed_for(1, 7)
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_an_unknown_sampler_is_refused_with_the_nearest_name() -> None:
    """The message names the key and what was meant."""
    with pytest.raises(ConfigError, match=r"study\.sampler.*tpe") as caught:
        make_sampler("tpee", 0)
    assert caught.value.key == "study.sampler"
