"""Propose the next point from the study's history alone, so that a resumed study continues unchanged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.compression.settings import INT8_MODES, Settings
from autotune.config.space.space import SearchSpace
from autotune.errors import ConfigError
from autotune.evaluation import Direction
from autotune.study.sampling.initial_points import Anchor, anchors
from autotune.study.sampling.refinement import chooses_distillation, distilled_front, is_late
from autotune.study.sampling.sampler import Draft, Mirror, draft_of, is_fixed, params_of, seed_for
from autotune.study.storage.history import History, is_candidate, point_key
from autotune.study.storage.rows import front_trials

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from autotune.config.candidates import Candidate

ENUMERABLE = 20_000
"""Most points of a space that are listed, which shows the untried points."""

BY_HAND = "enqueued: by hand"
"""Origin of trials enqueued by a dashboard or a script."""

REDRAWS = 8
"""Number of times a point is drawn again because it was tried before."""

GIVE_UP = 100
"""Repeated plans in a row after which a space that cannot be listed counts as exhausted."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """Point of the next trial.

    Attributes:
        draft: its point; None if a trial waits in the study's own queue and goes first.
        origin: ``enqueued: <label>`` or ``sampled``.
        retry_of: number of the interrupted trial that this one repeats.
        settings: of a candidate, which need not be in the space; None for a point of the space.
    """

    draft: Draft | None
    origin: str = "sampled"
    retry_of: int | None = None
    settings: Settings | None = None


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
        candidates: Sequence[Candidate] = (),
    ) -> None:
        """List the space if it is small enough.

        Args:
            space: the search space.
            directions: of the objectives.
            sampler: its name.
            budget: number of trials of the study.
            seed: the study's.
            first: points to try before all others, including the usual initial points.
            candidates: models and settings from elsewhere, which are tried before any point.

        Raises:
            ConfigError: a grid over a space that cannot be listed.
        """
        self.space = space
        self.directions = directions
        self.sampler = sampler
        self.seed = seed
        self.candidates = {each.origin: each.settings for each in candidates}
        self.anchors: Sequence[Anchor] = [*first, *anchors(space)]
        points = space.enumerate(ENUMERABLE)
        self.points: dict[str, Mapping[str, Any]] | None = None
        if points is not None:
            drawn = {name for name, parameter in space.parameters.items() if not is_fixed(parameter)}
            listed = ({name: value for name, value in point.items() if name in drawn} for point in points)
            self.points = {point_key(params): params for params in listed}
        if sampler == "grid" and self.points is None:
            raise ConfigError(
                "a grid lists every point, and this space has a range without a step or more than "
                f"{ENUMERABLE} points; give its ranges a step, or use the sampler tpe",
                key="study.sampler",
            )
        self.budget = budget
        self.refines = chooses_distillation(space)
        self.listed = self.points is not None and (sampler == "grid" or len(self.points) <= budget)

    def next(self, history: History, lag: int | None = None) -> Proposal | None:
        """Return the next point, or None if the space is exhausted.

        Args:
            history: of the study.
            lag: see `History.before_next`.
        """
        if history.waiting:
            return Proposal(None, history.waiting[0].user_attrs.get("origin", BY_HAND))
        retry = next(iter(history.to_retry), None)
        if retry is not None:
            origin = retry.user_attrs.get("origin", BY_HAND)
            settings = Settings.from_dict(retry.user_attrs["settings"]) if is_candidate(retry) else None
            return Proposal(draft_of(retry), origin, retry.number, settings)
        history = history.before_next(lag)
        for origin, settings in self.candidates.items():
            if origin not in {trial.user_attrs.get("origin") for trial in history.current}:
                return Proposal(Draft({}, {}, {}), origin, settings=settings)
        untried = [params for key, params in (self.points or {}).items() if key not in history.points]
        front = front_trials(history, self.directions)
        mirror = Mirror(self.informative(history, untried), self.directions, self.space, self.sampler, front)
        for anchor in self.anchors:
            params = params_of(self.space, anchor.point)
            if point_key(params) not in history.points:
                return Proposal(mirror.take(params), f"enqueued: {anchor.label}")
        if self.refines and is_late(history, self.budget):
            for point in distilled_front(history, self.directions):
                return Proposal(mirror.take(point), "enqueued: distillation of a point of the front")
        elif self.refines:
            untried = [params for params in untried if not params.get("distillation")] or untried
        return self.untried_or_sampled(history, mirror, untried)

    def informative(self, history: History, untried: Sequence[Mapping[str, Any]]) -> list[FrozenTrial]:
        """Keep the trials of modes that have untried points.

        Without this, tpe proposes the one point of int8_asym for ever (it is on every front). Samplers that model only
        the parameters common to all trials would use only the mode.
        """
        if self.points is not None:
            done = {p.get("mode") for p in self.points.values()} - {p.get("mode") for p in untried}
        else:
            done = set(INT8_MODES)
        return [trial for trial in history.current if trial.params.get("mode") not in done and not is_candidate(trial)]

    def untried_or_sampled(
        self, history: History, mirror: Mirror, untried: Sequence[Mapping[str, Any]]
    ) -> Proposal | None:
        """Propose a point after the anchors: the next of the list, an untried point of the sampler, or a neighbour."""
        if self.points is not None and not untried:
            return None
        if self.points is None and history.duplicates_in_a_row >= GIVE_UP:
            return None
        if self.listed:
            return Proposal(mirror.take(untried[0]), "enqueued: every point of the space")
        for attempt in range(REDRAWS):
            draft = mirror.draw(self.seed, history.position, attempt)
            if self.refines and draft.params.get("distillation"):
                draft = mirror.take({**draft.params, "distillation": False})
            if point_key(draft.params) not in history.points:
                break
        else:
            if untried:
                neighbour = self.neighbour(draft.params, untried, history.position)
                return Proposal(mirror.take(neighbour), "enqueued: unseen neighbour of a repeated point")
        return Proposal(draft)

    def neighbour(
        self, point: Mapping[str, Any], untried: Sequence[Mapping[str, Any]], position: int
    ) -> Mapping[str, Any]:
        """Choose the untried point that differs in the fewest parameters from the sampler's point; ties at random."""
        distances = [sum(params.get(k) != point.get(k) for k in {*params, *point}) for params in untried]
        nearest = [params for params, d in zip(untried, distances, strict=True) if d == min(distances)]
        rng = np.random.default_rng(seed_for(self.seed, position))
        return nearest[int(rng.integers(len(nearest)))]
