"""The data of a study: plain frozen values behind every table, plot and page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import DASH, is_missing, label, printed_unit, score
from autotune.common.units import Constraint
from autotune.compression.describe import describe_settings
from autotune.evaluation import Direction, Measurement, Metric

if TYPE_CHECKING:
    import pandas as pd


MOST_LISTED = 1000
"""Most trials that a page lists and draws one by one."""


@dataclass(frozen=True, slots=True)
class Original:
    """The uncompressed model: the first row of every table. Sizes in bytes."""

    footprint: int | None
    bits_per_weight: float | None
    fp32_bytes: int | None
    metrics: Mapping[str, Measurement]

    @property
    def compression_rate(self) -> float | None:
        """Size in fp32 divided by the size on disk: 1.0 for an f32 model, 2.0 for an f16 one."""
        return self.fp32_bytes / self.footprint if self.fp32_bytes and self.footprint else None


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as the storage has it; a repeat has the numbers of the trial that it repeats.

    Attributes:
        values: objective -> value, for complete trials.
        sampled: names of the parameters that the sampler or the queue decided.
        violations: constraint -> distance beyond its limit (at most 0: the limit is kept).
        numbers: the sizes, counts and times among the attributes.
        duplicate_of: the earlier trial with the same plan, whose results this one shares.
        retry_of: the interrupted trial that this one repeats.
        error: type and message of a failed trial's exception.
        digest: of the compressed model's bytes; None where they were not kept.
        partial: the scores of a trial that racing stopped, on the first ``scored_sequences`` of the texts; not in
            `metrics`, since they do not compare with scores on all texts.
        scored_sequences: see `partial`; None if the trial was not stopped.
        sequences: metric that decides -> its value on each window, in the order of scoring.
        windows: number of windows of a complete trial's first score, if `study.precision` ended it; its deciding scores
            are estimates for the windows of the trial that has most.
        tokens: stage -> tokens in forward passes of the trial's model.
        stages: ``[stage, start in seconds since the epoch, seconds]``.
        algorithms: algorithms -> seconds of compressing weights with them.
        answers: ``count``, ``same``, ``different``: some answers that differ from the original's, and with prompts in
            English and others ``other_languages``: their ``count`` and ``score``, and the score of ``english`` ones.
    """

    number: int
    state: str
    settings: Mapping[str, Any]
    sampled: frozenset[str]
    plan: str | None
    footprint: int | None
    numbers: Mapping[str, float]
    metrics: Mapping[str, Measurement]
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
    partial: Mapping[str, Measurement] = field(default_factory=dict)
    scored_sequences: int | None = None
    sequences: Mapping[str, Sequence[float]] = field(default_factory=dict)
    windows: int | None = None
    tokens: Mapping[str, int] = field(default_factory=dict)
    stages: Sequence[Sequence[Any]] = ()
    algorithms: Mapping[str, float] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """True if the trial has a value for every objective."""
        return self.state == "COMPLETE"

    @property
    def unique(self) -> bool:
        """True if the trial is complete and no repeat of another one."""
        return self.complete and self.duplicate_of is None

    @property
    def interrupted(self) -> bool:
        """True if the trial's process ended before the trial did."""
        return self.state == "FAIL" and (not self.error or self.error.get("type") == "interrupted")

    def describe(self, *, short: bool = False) -> str:
        """Name the settings on one line; a plan from a budget by the bits per weight that it has.

        A budget is an upper bound (a lower one than any plan has gives the smallest plan), so it is not the name.
        """
        bits = self.numbers.get("bits_per_weight")
        if self.settings.get("allocation") != "budget" or bits is None:
            return describe_settings(self.settings, short=short)
        mode = str(self.settings.get("mode"))
        if short:
            return f"{mode} {bits:.2f} bits"
        shares = ((self.numbers.get(f"int{width}_percent") or 0.0, width) for width in (4, 8))
        parts = ", ".join(f"{share:.0f}% in {width} bits" for share, width in shares if share >= 0.5)
        return f"{mode}, {bits:.2f} bits per weight" + (f": {parts}" if parts else "")

    @property
    def error_text(self) -> str | None:
        """``Type: message`` on one line."""
        if not self.error:
            return None
        parts = (self.error.get("type"), self.error.get("message"))
        return " ".join(": ".join(part for part in parts if part).split())


@dataclass(frozen=True, slots=True)
class HeldOutScores:
    """Scores on the report texts, which the search does not use.

    Attributes:
        trials: trial number -> metric -> score, of the front's trials.
        overlaps: pair of texts -> the share of the second's tokens that occur in the first.
        notes: evaluators without report texts, and the reason.
    """

    trials: Mapping[int, Mapping[str, Measurement]]
    overlaps: Mapping[str, float]
    notes: tuple[str, ...] = ()


DEPLOYED_SOURCES = ("activations", "kv_cache")
"""The errors that a deployment adds to that of the weights."""


@dataclass(frozen=True, slots=True)
class DeployedScores:
    """Scores with the properties of a deployment.

    Attributes:
        trials: trial number -> ``deployed``, or one of `DEPLOYED_SOURCES` for that error alone beside that of the
            weights -> metric -> score.
        properties: of the deployment, as OpenVINO reports them.
        cpu: instruction sets for 8-bit and 16-bit arithmetic of the machine that measured; None if unknown.
    """

    trials: Mapping[int, Mapping[str, Mapping[str, Measurement]]]
    properties: Mapping[str, str]
    cpu: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class RuntimeScores:
    """One model with one setting.

    Attributes:
        properties: as OpenVINO reports them; empty where the model cannot run so.
        metrics: name -> score.
        cache_bytes: of the KV cache, for one token.
        first_token: seconds for a prompt of 256 tokens; None if not measured.
        tokens_per_second: of the tokens after it; None if not measured.
        error: reason why the model cannot run with this setting.
    """

    properties: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Measurement] = field(default_factory=dict)
    cache_bytes: int = 0
    first_token: float | None = None
    tokens_per_second: float | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class RuntimeSearch:
    """Scores of the front with every setting of `runtime.search`.

    Attributes:
        settings: as configured: property -> value, None for OpenVINO's default.
        trials: trial number -> one entry for each of `settings`.
        cpu: as `DeployedScores.cpu`.
    """

    settings: Sequence[Mapping[str, Any]]
    trials: Mapping[int, Sequence[RuntimeScores]]
    cpu: tuple[str, ...] | None


@dataclass(frozen=True, eq=False)
class StudyResults:
    """A study's results, independent of where the study is stored.

    Attributes:
        trials: the columns of trials.csv, one row a trial, indexed by trial number; see `frame.build_frame`.
        records: trial number -> `TrialRecord`, in order.
        objectives: name -> direction, in the study's order.
        constraints: name -> limit.
        metrics: name -> meaning, of every metric, the footprint included.
        front: trial numbers, the largest model first (without footprints: the best in the first objective first).
        knee: the trial of `front` that `pareto.knee` chooses; None for an empty front.
        least_infeasible: if no trial is feasible, the one that is nearest to the limits. A trial that was pruned
            because its plan alone broke a limit counts.
        importances: objective -> parameter -> share in [0, 1]; empty below 50 complete trials.
        held_out: scores on the report texts; None where there are none.
        deployed: scores as users run the models; None where there are none.
        runtime: scores with the settings of `runtime.search`; None where there are none.
        preparation: stages before the first trial, as `TrialRecord.stages`.
        folder: the study's folder, absolute; None if the study was not read from one.
        storage: URL of the study's storage; None if it is the folder's `study.db`.
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
    held_out: HeldOutScores | None = None
    deployed: DeployedScores | None = None
    runtime: RuntimeSearch | None = None
    preparation: Sequence[Sequence[Any]] = ()
    folder: Path | None = None
    storage: str | None = None

    @property
    def model(self) -> str:
        """A short name for headings: the hub id as it is, the last part of a local path."""
        name = str(self.config.get("model", "the model"))
        path = Path(name)
        if not path.is_absolute():
            return name
        return "/".join(path.parts[-2:]) if path.name in ("model", "models", "openvino") else path.name

    @cached_property
    def complete(self) -> pd.DataFrame:
        """The complete trials."""
        return self.trials[self.trials["state"] == "COMPLETE"]

    @cached_property
    def unique(self) -> pd.DataFrame:
        """The complete trials without repeats: each plan once."""
        complete = self.complete
        return complete[complete["duplicate_of"].isna()]

    @cached_property
    def applicable(self) -> dict[str, pd.DataFrame]:
        """The frames that `effects.applicable` has made, by setting: each figure asks for all of them."""
        return {}

    @cached_property
    def feasible(self) -> pd.DataFrame:
        """The complete trials that keep every constraint."""
        complete = self.complete
        return complete[complete["feasible"].fillna(False).astype(bool)]

    @cached_property
    def _cells(self) -> dict[str, dict[int, Any]]:
        """Columns of `trials` that `value` has read, by trial number; single cells of a frame are slow."""
        return {}

    @cached_property
    def retries(self) -> dict[int, int]:
        """Interrupted trial -> the last trial that repeats it."""
        return {record.retry_of: number for number, record in self.records.items() if record.retry_of is not None}

    @cached_property
    def listed(self) -> tuple[int, ...]:
        """The trials that a page lists and draws: all, or of more than `MOST_LISTED` the front and the latest."""
        front = set(self.front)
        others = [number for number in self.records if number not in front]
        return tuple(sorted([*front, *others[max(len(self.records) - max(MOST_LISTED, len(front)), 0) :]]))

    @property
    def shown(self) -> tuple[int, ...]:
        """The trials that a table of the front shows: the front, else the least infeasible trial."""
        if self.front or self.least_infeasible is None:
            return self.front
        return (self.least_infeasible,)

    @property
    def deciding(self) -> tuple[str, ...]:
        """The metrics of objectives and constraints."""
        return tuple(dict.fromkeys((*self.objectives, *self.constraints)))

    def has_scores(self, name: str) -> bool:
        """Return True if a complete trial has a value of this metric."""
        return name in self.trials.columns and bool(self.complete[name].notna().any())

    def value(self, trial: int, name: str) -> float | None:
        """Return a number of one trial, None if it has none."""
        if name not in self.trials.columns:
            return None
        if name not in self._cells:
            self._cells[name] = dict(zip(self.trials.index, self.trials[name], strict=True))
        cell = self._cells[name][trial]
        return None if is_missing(cell) else float(cell)

    def stderr(self, trial: int, name: str) -> float | None:
        """Return the standard error of one trial's metric, None if there is none."""
        return self.value(trial, f"{name}_stderr")

    def sign(self, name: str) -> float:
        """Return 1 for a metric to minimise and -1 for one to maximise: `sign * value` is less for better models."""
        return 1.0 if self.metrics[name].direction == "minimize" else -1.0

    def cost(self, trial: int, name: str) -> float | None:
        """Return `sign * value` of one trial, None if it has no value."""
        value = self.value(trial, name)
        return None if value is None else self.sign(name) * value

    def original_score(self, name: str) -> Measurement | None:
        """Return the original's score: measured, or perfect by definition; its footprint in bytes."""
        if self.original is not None:
            if name in ("footprint", "bits_per_weight", "compression_rate"):
                size = getattr(self.original, name)
                return None if size is None else Measurement(float(size))
            if name in self.original.metrics:
                return self.original.metrics[name]
        perfect = self.metrics[name].perfect if name in self.metrics else None
        return None if perfect is None else Measurement(perfect)

    def scale(self, name: str) -> float:
        """Return the unit in which scores are printed, in the metric's unit: a thousandth for divergences, else 1."""
        return printed_unit(self.metrics[name].unit)[0] if name in self.metrics else 1.0

    def unit(self, name: str) -> str:
        """Return the name of the unit in which `score_text` prints; empty if the score itself has it (MB, %)."""
        return printed_unit(self.metrics[name].unit)[1] if name in self.metrics else ""

    def heading(self, name: str) -> str:
        """Return a metric's name and unit for a column or an axis."""
        unit = self.unit(name)
        return f"{label(name)} ({unit})" if unit else label(name)

    def score_text(self, trial: int | None, name: str, *, stderr: bool = True) -> str:
        """Return a score as every table prints it, in the unit of `heading`.

        Args:
            trial: None is the original model.
            name: a metric.
            stderr: add ± one standard error.
        """
        if trial is None:
            return self.measurement_text(self.original_score(name), name, stderr=stderr)
        value = self.value(trial, name)
        measured = None if value is None else Measurement(value, self.stderr(trial, name))
        return self.measurement_text(measured, name, stderr=stderr)

    def measurement_text(self, measurement: Measurement | None, name: str, *, stderr: bool = True) -> str:
        """Return a measurement of a metric as `score_text` does."""
        if measurement is None:
            return DASH
        scale = self.scale(name)
        error = measurement.stderr / scale if stderr and measurement.stderr is not None else None
        return score(measurement.value / scale, error, name=name, metric=self.metrics.get(name))

    def sentence_text(self, trial: int | None, name: str, *, stderr: bool = True) -> str:
        """Return a score with its unit, for a sentence."""
        text, unit = self.score_text(trial, name, stderr=stderr), self.unit(name)
        return f"{text} ({unit})" if unit and text != DASH else text
