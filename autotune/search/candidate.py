"""The model of one trial, compressed when it is first needed: where every score is known already, it never is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Protocol

from autotune.compression.settings import Settings

__all__ = ["Candidate", "Engine", "Plan"]

COUNTERS = ("variants_computed", "variants_reused")


class Plan(Protocol):
    """What a trial needs of `autotune.compression.plan.Plan`."""

    @property
    def key(self) -> str:
        """Equal plans, equal models."""

    @property
    def footprint(self) -> int:
        """Bytes of openvino_model.bin."""

    @property
    def bits_per_weight(self) -> float:
        """Mean stored bits of a weight."""

    @property
    def compression_rate(self) -> float:
        """Float32 size over footprint."""

    @property
    def int4_percent(self) -> float:
        """Share of weights in 4 bits."""

    @property
    def int8_percent(self) -> float:
        """Share of weights in 8 bits."""

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the plan's file."""


class Engine(Protocol):
    """What a trial needs of `autotune.compression.engine.Engine`."""

    @property
    def counters(self) -> Mapping[str, int]:
        """``variants_computed`` and ``variants_reused`` so far."""

    def plan(self, settings: Settings) -> Any:
        """Resolve settings; raises PlanError."""

    def apply(self, plan: Any) -> Any:
        """The compressed model."""

    def digest(self, model: Any) -> str:
        """Equal digests, equal bytes."""


class Candidate:
    """One plan and, when it is asked for, its compressed model.

    Attributes:
        plan: what the trial's settings came to.
        digest: of the model's bytes; None until the model is made, or a record tells it.
        seconds: what making the model took; 0 as long as it is not made.
        built: whether it is made.
    """

    def __init__(self, engine: Engine, plan: Any, stage: Callable[[str], None]) -> None:
        """Nothing is compressed yet.

        Args:
            engine: compresses.
            plan: one of this engine's.
            stage: is told when compression begins.
        """
        self._engine, self._stage = engine, stage
        self._before = dict(engine.counters)
        self.plan = plan
        self.digest: str | None = None
        self.seconds = 0.0

    @property
    def built(self) -> bool:
        """Whether the model is made."""
        return "model" in self.__dict__

    @cached_property
    def model(self) -> Any:
        """The compressed model, made now if it is not yet."""
        self._stage("compressing")
        started = time.perf_counter()
        model = self._engine.apply(self.plan)
        self.digest = self._engine.digest(model)
        self.seconds = time.perf_counter() - started
        return model

    def counted(self) -> dict[str, int]:
        """How many variants were computed and found ready since the candidate was there."""
        counters = self._engine.counters
        return {name: counters.get(name, 0) - self._before.get(name, 0) for name in COUNTERS}
