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
    mirror = Mirror([], DIRECTIONS, ENDLESS)
    tried, other = (mirror.draw("random", 0, 1, attempt) for attempt in (0, 1))
    assert tried.params != other.params
    history = History([create_trial(value=1.0, params=dict(tried.params), distributions=dict(tried.distributions))])
    proposer = Proposer(ENDLESS, directions=DIRECTIONS, sampler="random", budget=9, seed=0)
    proposal = proposer.untried_or_sampled(history, mirror, [])
    assert proposal is not None
    assert proposal.draft is not None
    assert proposal.draft.params == other.params
