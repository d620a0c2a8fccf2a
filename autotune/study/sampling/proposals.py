"""Which point comes next: a function of the study's history alone, so that a continued study goes on unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.compression.settings import INT8_MODES
from autotune.config.space.space import SearchSpace
from autotune.errors import ConfigError
from autotune.evaluation import Direction
from autotune.study.sampling.initial_points import Anchor, anchors
from autotune.study.sampling.sampler import Draft, Mirror, drawn_already, params_of, seed_for
from autotune.study.storage.history import History, point_key

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["ENUMERABLE", "Proposal", "Proposer"]

ENUMERABLE = 20_000
"""Spaces with at most so many points are listed, so that an unseen point can be told from a seen one."""

BY_HAND = "enqueued: by hand"
"""Origin of trials that someone else put into the study's queue: a dashboard, a script."""

REDRAWS = 8
"""How often the sampler is asked again where its point was tried before."""

GIVE_UP = 100
"""Repeated plans in a row after which a space that cannot be listed counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next trial.

    Attributes:
        draft: its point; None where a trial waits in the study's own queue and goes first.
        origin: ``enqueued: <label>`` or ``sampled``.
        retry_of: number of the interrupted trial that this one does again.
    """

    draft: Draft | None
    origin: str = "sampled"
    retry_of: int | None = None


class Proposer:
    """Proposes points of one space, for one sampler and budget."""

    def __init__(
        self,
        space: SearchSpace,
        *,
        directions: Sequence[Direction],
        sampler: str,
        budget: int,
        seed: int,
        first: Sequence[Anchor] = (),
    ) -> None:
        """List the space where it is small enough.

        Args:
            space: what may be tried.
            directions: of the objectives.
            sampler: its name.
            budget: trials that the study is to have.
            seed: the study's.
            first: points to try before all others, also before the known good ones.

        Raises:
            ConfigError: a grid over a space that cannot be listed.
        """
        self.space = space
        self.directions = directions
        self.sampler = sampler
        self.seed = seed
        self.anchors: Sequence[Anchor] = [*first, *anchors(space)]
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

    def next(self, history: History, lag: int | None = None) -> Proposal | None:
        """The next point, or None where the space is exhausted.

        Args:
            history: what has happened.
            lag: see `History.before_next`.
        """
        if history.waiting:
            return Proposal(None, history.waiting[0].user_attrs.get("origin", BY_HAND))
        retry = next(iter(history.to_retry), None)
        if retry is not None:
            return Proposal(drawn_already(retry), retry.user_attrs.get("origin", BY_HAND), retry.number)
        history = history.before_next(lag)
        unseen = [params for key, params in (self.points or {}).items() if key not in history.points]
        mirror = Mirror(self.informative(history, unseen), self.directions, self.space)
        for anchor in self.anchors:
            params = params_of(self.space, anchor.point)
            if point_key(params) not in history.points:
                return Proposal(mirror.take(params, self.sampler), f"enqueued: {anchor.label}")
        return self.unseen_or_sampled(history, mirror, unseen)

    def informative(self, history: History, unseen: Sequence[Mapping[str, Any]]) -> list[FrozenTrial]:
        """The trials that say something about points still to be tried: those of modes that have such points.

        Without this, tpe wants the one point of int8_asym for ever (it is on every front), and the samplers that model
        only what all trials have in common would see nothing but the mode.
        """
        if self.points is not None:
            done = {p.get("mode") for p in self.points.values()} - {p.get("mode") for p in unseen}
        else:
            done = set(INT8_MODES)
        return [trial for trial in history.standing if trial.params.get("mode") not in done]

    def unseen_or_sampled(
        self, history: History, mirror: Mirror, unseen: Sequence[Mapping[str, Any]]
    ) -> Proposal | None:
        """After the anchors: the next of the list, an unseen point of the sampler's choice, or one next to it."""
        if self.points is not None and not unseen:
            return None
        if self.points is None and history.duplicates_in_a_row >= GIVE_UP:
            return None
        if self.listed:
            return Proposal(mirror.take(unseen[0], self.sampler), "enqueued: every point of the space")
        for attempt in range(REDRAWS):
            draft = mirror.draw(self.sampler, self.seed, history.position, attempt)
            if point_key(draft.params) not in history.points:
                break
        else:
            if unseen:
                neighbour = self.neighbour(draft.params, unseen, history.position)
                return Proposal(mirror.take(neighbour, self.sampler), "enqueued: unseen neighbour of a repeated point")
        return Proposal(draft)

    def neighbour(
        self, wanted: Mapping[str, Any], unseen: Sequence[Mapping[str, Any]], position: int
    ) -> Mapping[str, Any]:
        """The unseen point that differs in the fewest parameters from what the sampler wanted; ties by lot."""
        distances = [sum(params.get(k) != wanted.get(k) for k in {*params, *wanted}) for params in unseen]
        nearest = [params for params, d in zip(unseen, distances, strict=True) if d == min(distances)]
        rng = np.random.default_rng(seed_for(self.seed, position))
        return nearest[int(rng.integers(len(nearest)))]
