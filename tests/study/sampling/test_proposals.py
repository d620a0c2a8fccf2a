"""Proposals of the next point."""

from __future__ import annotations

from typing import Any

from optuna.trial import create_trial
from search_fakes import space

from autotune.study.sampling.proposals import Proposer
from autotune.study.sampling.sampler import Mirror
from autotune.study.storage.history import History

ENDLESS = space(mode=["int4_asym", "nf4"], group_size=[32, 64], ratio=(0.5, 1.0, None))
DIRECTIONS: Any = ["minimize"]


def test_a_point_that_was_tried_is_drawn_again_with_another_seed() -> None:
    """If the points cannot be listed, only another draw leads away from a repeated one."""
    mirror = Mirror([], DIRECTIONS, ENDLESS, "random")
    tried, other = (mirror.draw(0, 1, attempt) for attempt in (0, 1))
    assert tried.params != other.params
    history = History([create_trial(value=1.0, params=dict(tried.params), distributions=dict(tried.distributions))])
    proposer = Proposer(ENDLESS, directions=DIRECTIONS, sampler="random", budget=9, seed=0)
    proposal = proposer.untried_or_sampled(history, mirror, [])
    assert proposal is not None
    assert proposal.draft is not None
    assert proposal.draft.params == other.params


def test_distillation_is_tried_on_the_front_last() -> None:
    """The last quarter of the trials distils the points of the front, the middle one first."""
    searched = space(mode=["int4_asym", "nf4"], ratio=(0.5, 1.0, None), distillation=[False, True])
    proposer = Proposer(searched, directions=["minimize", "minimize"], sampler="random", budget=16, seed=0)
    trials: list[Any] = []
    while len(trials) < 16:
        proposal = proposer.next(History(trials))
        assert proposal is not None
        assert proposal.draft is not None
        params = dict(proposal.draft.params)
        ratio = params["ratio"]
        # int4_asym is the front: the larger the ratio, the smaller and the less accurate.
        values = [ratio, 1 - ratio] if params["mode"] == "int4_asym" else [2.0, 2.0]
        found = create_trial(values=values, params=params, distributions=dict(proposal.draft.distributions))
        found.number = len(trials)
        trials.append(found)
    assert not any(trial.params["distillation"] for trial in trials[:12])
    assert all(trial.params["distillation"] and trial.params["mode"] == "int4_asym" for trial in trials[12:])
    ratios = sorted(trial.params["ratio"] for trial in trials[:12] if trial.params["mode"] == "int4_asym")
    assert trials[12].params["ratio"] in ratios[(len(ratios) - 1) // 2 : len(ratios) // 2 + 1]
