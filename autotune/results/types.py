"""The view model of a study: plain frozen data behind every table, plot and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autotune.common.formatting import is_missing
from autotune.evaluation import Direction, Metric

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Constraint", "Original", "Score", "StudyResults", "TrialRecord", "Unseen"]


@dataclass(frozen=True, slots=True)
class Score:
    """A measured value, its standard error (None where it cannot be said), and what arithmetic alone may move."""

    value: float
    stderr: float | None = None
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Constraint:
    """A limit on one metric, e.g. ``footprint <= 1.2 GB`` as `text` ``<= 1.2 GB``; `value` in the metric's unit."""

    name: str
    op: str
    value: float
    text: str

    def violation(self, value: float) -> float:
        """How far `value` is beyond the limit, in the metric's unit; at most 0 where it is kept."""
        return value - self.value if self.op == "<=" else self.value - value


@dataclass(frozen=True, slots=True)
class Original:
    """The uncompressed model: the first row of every table. Sizes in bytes."""

    footprint: int | None
    bits_per_weight: float | None
    fp32_bytes: int | None
    metrics: Mapping[str, Score]

    @property
    def compression_rate(self) -> float | None:
        """fp32 size over its own, 1.0 for an f32 model and 2.0 for an f16 one."""
        return self.fp32_bytes / self.footprint if self.fp32_bytes and self.footprint else None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as the storage has it, a copy's missing numbers filled in from the trial that it repeats.

    Attributes:
        values: objective -> told value, for complete trials.
        sampled: names of the parameters that the sampler or the queue decided.
        violations: constraint -> how far beyond its limit (at most 0: kept).
        numbers: the sizes, counts and times among the attributes.
        duplicate_of: the trial that worked through the same plan, so that this one did not.
        retry_of: the interrupted trial whose point this one took up again.
        error: type and message of a failed trial's exception.
        digest: of the compressed model's bytes; None where they were not kept.
        answers: ``count``, ``same`` and ``different``: the answers that differ most from the original's.
    """

    number: int
    state: str
    settings: Mapping[str, Any]
    sampled: frozenset[str]
    plan: str | None
    footprint: int | None
    numbers: Mapping[str, float]
    metrics: Mapping[str, Score]
    values: Mapping[str, float]
    violations: Mapping[str, float]
    duplicate_of: int | None
    retry_of: int | None
    origin: str | None
    error: Mapping[str, str] | None
    started: datetime | None
    finished: datetime | None
    digest: str | None = None
    answers: Mapping[str, Any] | None = None

    @property
    def complete(self) -> bool:
        """Whether the trial has a value for every objective."""
        return self.state == "COMPLETE"

    @property
    def interrupted(self) -> bool:
        """Whether the trial's process ended before the trial did."""
        return self.state == "FAIL" and (not self.error or self.error.get("type") == "interrupted")

    @property
    def error_text(self) -> str | None:
        """``Type: message`` on one line."""
        if not self.error:
            return None
        parts = (self.error.get("type"), self.error.get("message"))
        return " ".join(": ".join(part for part in parts if part).split())


@dataclass(frozen=True, slots=True)
class Unseen:
    """Scores on the report texts, which the search has not seen.

    Attributes:
        trials: trial number -> metric -> score, of the front's trials.
        overlaps: pair of texts -> the share of the second's tokens that stand in the first.
        notes: evaluators without report texts, and why.
    """

    trials: Mapping[int, Mapping[str, Score]]
    overlaps: Mapping[str, float]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class StudyResults:
    """A study, ready to be drawn and printed. Nothing in it depends on where the study is stored.

    Attributes:
        trials: the DataFrame of `frame.build_frame`, indexed by trial number.
        records: trial number -> `TrialRecord`, in order.
        objectives: name -> direction, in the study's order.
        constraints: name -> limit.
        metrics: name -> meaning, of every metric, the footprint included.
        front: trial numbers, the largest model first (without footprints: the best in the first objective first).
        knee: the trial of `front` that `front.knee` chooses; None for an empty front.
        least_infeasible: where no trial is feasible but some broke a limit (also known from the plan alone, without
            being scored), the one nearest to its limits.
        importances: objective -> parameter -> share in [0, 1]; empty below 50 complete trials.
        unseen: scores on the report texts; None where there are none.
    """

    trials: pd.DataFrame
    records: Mapping[int, TrialRecord]
    objectives: Mapping[str, Direction]
    constraints: Mapping[str, Constraint]
    metrics: Mapping[str, Metric]
    original: Original | None
    front: tuple[int, ...]
    knee: int | None
    least_infeasible: int | None
    importances: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    space: Mapping[str, Any] = field(default_factory=dict)
    manifest: Mapping[str, Any] = field(default_factory=dict)
    unseen: Unseen | None = None

    @property
    def model(self) -> str:
        """A short name for headings: the hub id as it is, the last part of a local path."""
        name = str(self.config.get("model", "the model"))
        path = Path(name)
        if not path.is_absolute():
            return name
        return "/".join(path.parts[-2:]) if path.name in ("model", "models", "openvino") else path.name

    @property
    def complete(self) -> pd.DataFrame:
        """The complete trials alone."""
        return self.trials[self.trials["state"] == "COMPLETE"]

    @property
    def feasible(self) -> pd.DataFrame:
        """The complete trials that keep every constraint."""
        complete = self.complete
        return complete[complete["feasible"].fillna(False).astype(bool)]

    def value(self, trial: int, name: str) -> float | None:
        """A number of one trial, None where it has none."""
        if name not in self.trials.columns:
            return None
        cell = self.trials.at[trial, name]
        return None if is_missing(cell) else float(cast(float, cell))

    def stderr(self, trial: int, name: str) -> float | None:
        """The standard error of one trial's metric, None where there is none."""
        return self.value(trial, f"{name}_stderr")

    def original_score(self, name: str) -> Score | None:
        """What the original scores: measured, or perfect by definition; its footprint in bytes."""
        if self.original is not None:
            if name == "footprint":
                return None if self.original.footprint is None else Score(float(self.original.footprint))
            if name in ("bits_per_weight", "compression_rate"):
                known = getattr(self.original, name)
                return None if known is None else Score(float(known))
            if name in self.original.metrics:
                return self.original.metrics[name]
        perfect = self.metrics[name].perfect if name in self.metrics else None
        return None if perfect is None else Score(perfect)
