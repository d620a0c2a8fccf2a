"""Which point comes next: a function of the study's history alone, so that a continued study goes on unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autotune.errors import ConfigError
from autotune.search.anchors import Anchor, anchors
from autotune.search.history import History, fixed_params, point_key
from autotune.search.sampling import params_of, seed_for
from autotune.space_model import SearchSpace

__all__ = ["ENUMERABLE", "Proposal", "Proposer"]

ENUMERABLE = 20_000
"""Spaces with at most so many points are listed, so that an unseen point can be told from a seen one."""

PATIENCE = 2
"""Repeated plans in a row after which an unseen point is chosen instead of asking the sampler again."""

GIVE_UP = 100
"""Repeated plans in a row after which a space that cannot be listed counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """How the next trial gets its point.

    Attributes:
        params: the point's parameters, to be queued; None takes what is queued already, else what the sampler draws.
        origin: ``enqueued: <label>`` or ``sampled``.
        retry_of: number of the interrupted trial that this one does again.
    """

    params: Mapping[str, Any] | None
    origin: str = "sampled"
    retry_of: int | None = None


class Proposer:
    """Proposes points of one space, for one sampler and budget."""

    def __init__(self, space: SearchSpace, *, sampler: str, budget: int, seed: int) -> None:
        """List the space where it is small enough.

        Raises:
            ConfigError: a grid over a space that cannot be listed.
        """
        self.space = space
        self.seed = seed
        self.anchors: Sequence[Anchor] = anchors(space)
        points = space.enumerate(ENUMERABLE)
        self.points: dict[str, Mapping[str, Any]] | None = None
        if points is not None:
            self.points = {point_key(params): params for params in (params_of(space, point) for point in points)}
        if sampler == "grid" and self.points is None:
            raise ConfigError(
                "a grid lists every point, and this space has a range without a step or more than "
                f"{ENUMERABLE} points; give its ranges a step, or use the sampler tpe",
                key="study.sampler",
            )
        self.listed = self.points is not None and (sampler == "grid" or len(self.points) <= budget)

    def next(self, history: History) -> Proposal | None:
        """The next point, or None where the space is exhausted."""
        if history.waiting:
            return Proposal(None, history.waiting[0].user_attrs.get("origin", "enqueued: by hand"))
        if history.to_retry:
            trial = history.to_retry[0]
            params = trial.params if "settings" in trial.user_attrs else fixed_params(trial)
            return Proposal(params, trial.user_attrs.get("origin", "enqueued: by hand"), trial.number)
        for anchor in self.anchors:
            params = params_of(self.space, anchor.point)
            if point_key(params) not in history.points:
                return Proposal(params, f"enqueued: {anchor.label}")
        return self.unseen_or_sampled(history)

    def unseen_or_sampled(self, history: History) -> Proposal | None:
        """After the anchors: the next of the list, an unseen neighbour of a repeated point, or the sampler's choice."""
        if self.points is None:
            return None if history.duplicates_in_a_row >= GIVE_UP else Proposal(None)
        unseen = [params for key, params in self.points.items() if key not in history.points]
        if not unseen:
            return None
        if self.listed:
            return Proposal(unseen[0], "enqueued: every point of the space")
        if history.duplicates_in_a_row >= PATIENCE:
            return Proposal(self.neighbour(unseen, history), "enqueued: unseen neighbour of a repeated point")
        return Proposal(None)

    def neighbour(self, unseen: Sequence[Mapping[str, Any]], history: History) -> Mapping[str, Any]:
        """The unseen point that differs in the fewest parameters from what the sampler last wanted; ties by lot."""
        wanted = history.standing[-1].params
        distances = [sum(params.get(k) != wanted.get(k) for k in {*params, *wanted}) for params in unseen]
        nearest = [params for params, d in zip(unseen, distances, strict=True) if d == min(distances)]
        rng = np.random.default_rng(seed_for(self.seed, history.position))
        return nearest[int(rng.integers(len(nearest)))]
