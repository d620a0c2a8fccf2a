"""A made-up model, engine and evaluator: everything a search needs, in no time and without OpenVINO."""

from __future__ import annotations

import math
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
from stored import current_trials

from autotune.common.files import fingerprint
from autotune.common.threads import thread_limit
from autotune.common.units import Constraint
from autotune.compression.settings import Settings
from autotune.config.space.space import Choices, Range, SearchSpace
from autotune.errors import ConfigError
from autotune.evaluation import Measurement, Metric
from autotune.study.progress import StudyInfo
from autotune.study.run import StudyOutcome, run_search, run_worker
from autotune.study.storage import coordination as sharing
from autotune.study.storage.attributes import Description
from autotune.study.storage.rows import Row
from autotune.study.trials.trial import Candidate

METRICS = {"kl_divergence": Metric("minimize", "nats/token", "", 0.0), "perplexity": Metric("minimize")}


def space(**parameters: Any) -> SearchSpace:
    """A space from lists, (low, high, step) tuples and single values, in the order of real spaces."""
    made = {}
    for name, value in parameters.items():
        if isinstance(value, tuple):
            made[name] = Range(*value)
        else:
            made[name] = Choices(tuple(value) if isinstance(value, list) else (value,))
    return SearchSpace("inline", made)


LARGE = space(
    mode=["int8_asym", "int4_asym", "int4_sym", "nf4", "mxfp4"],
    group_size=[32, 64, 128, -1],
    ratio=(0.5, 1.0, 0.1),
    sensitivity_metric=["weight_quantization_error", "max_activation_variance"],
    all_layers=[False, True],
    backup_mode=["int8_asym", "int8_sym", "none"],
    awq=[False, True],
    scale_estimation=[False, True],
)
SMALL = space(mode=["int8_asym", "int4_asym"], group_size=[32, 64], ratio=[0.8, 1.0], awq=[False, True])


@dataclass(frozen=True)
class FakePlan:
    """Settings that are their own plan; backup int8_sym and int8_asym come to the same one."""

    settings: Settings

    @property
    def key(self) -> str:
        backup = self.settings.effective_backup_mode.replace("sym", "asym").replace("aas", "as")
        same = replace(self.settings, backup_mode=backup)
        return fingerprint(same.as_dict())[:16]

    @property
    def footprint(self) -> int:
        settings = self.settings
        if settings.mode.startswith("int8"):
            return 8_000_000
        group = 4096 if settings.effective_group_size == -1 else settings.effective_group_size
        backup = 16 if settings.backup_mode == "none" else 8
        bits = settings.ratio * (4 + 20 / group) + (1 - settings.ratio) * backup
        return int(1_000_000 * (0.9 * bits + 0.1 * (bits if settings.all_layers else backup)))

    bits_per_weight = 4.5
    compression_rate = 7.1
    int4_percent = 80.0
    int8_percent = 20.0

    def as_dict(self) -> dict[str, Any]:
        return {"key": self.key, "settings": self.settings.as_dict()}


@dataclass
class FakeEngine:
    """Counts what it is asked; `log` gets a line for every model it makes."""

    log: Path | None = None
    delay: float = 0.0
    jitter: float = 0.0
    applied: list[Settings] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=lambda: {"variants_computed": 0, "variants_reused": 0})

    def plan(self, settings: Settings) -> FakePlan:
        return FakePlan(settings)

    def apply(self, plan: FakePlan) -> Settings:
        self.applied.append(plan.settings)
        self.counters["variants_computed"] += 1
        time.sleep(self.delay + random.uniform(0, self.jitter))
        return plan.settings

    def digest(self, model: Settings) -> str:
        return fingerprint(model.as_dict())


def score(settings: Settings) -> dict[str, Measurement]:
    """A made-up error that each setting moves in the direction it really does."""
    if settings.mode.startswith("int8"):
        kl = 0.0001
    else:
        group = 4096 if settings.effective_group_size == -1 else settings.effective_group_size
        kl = 0.001 * settings.ratio * (1 + math.log2(group)) * (0.8 if settings.mode == "int4_asym" else 1.0)
        kl *= (1.5 if settings.all_layers else 1.0) * (0.9 if settings.awq else 1.0)
        kl *= 0.95 if settings.scale_estimation else 1.0
    return {"kl_divergence": Measurement(kl, kl / 50), "perplexity": Measurement(40 + kl, 0.01)}


def score_texts(settings: Settings) -> dict[str, Measurement]:
    """As `score`, as the mean over 32 texts, some of which are harder than others for all models."""
    kl = score(settings)["kl_divergence"].value
    texts = np.random.default_rng(0).lognormal(0, 0.5, 32)
    own = np.random.default_rng(int(FakePlan(settings).key, 16)).normal(1, 0.1, 32)
    values = tuple((kl * texts * own).tolist())
    return {"kl_divergence": Measurement(float(np.mean(values)), None, values), "perplexity": Measurement(40 + kl)}


def first(measurement: Measurement, count: int) -> Measurement:
    """The mean of the first texts."""
    values = measurement.values[:count]
    return Measurement(float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(count), values)


@dataclass
class FakeSession:
    """Session of made-up trials."""

    engine: FakeEngine = field(default_factory=FakeEngine)
    scorer: Callable[[Settings], Mapping[str, Measurement]] = score
    changed: dict[str, str] = field(default_factory=dict)
    metrics: Mapping[str, Metric] = field(default_factory=lambda: METRICS)
    deferred: tuple[str, ...] = ()
    report: str | None = None
    report_error: BaseException | None = None
    report_faults: Mapping[str, str] = field(default_factory=dict)
    reported: list[Settings] = field(default_factory=list)

    @property
    def source(self) -> str:
        return "source"

    @source.setter
    def source(self, source: str) -> None:
        assert source == "source"

    def warm_up(self, shared: Any) -> None: ...

    def plan(self, settings: Settings) -> FakePlan:
        return self.engine.plan(settings)

    def bounds(self, plan: FakePlan) -> dict[str, float]:
        return {}

    def describe(self, *, original: bool = False, report: bool = False) -> Description:
        return Description(
            metrics=self.metrics,
            fingerprints=self.fingerprints(),
            manifest=self.manifest(),
            source=self.source,  # type: ignore[arg-type]
            report_fingerprint=self.report,
            deferred=self.deferred,
            original=self.original() if original else None,
            report=self.report_texts() if report else None,
        )

    def fingerprints(self) -> dict[str, str]:
        return {"model": "m", "calibration": "c", "evaluators.perplexity": "p", **self.changed}

    def original(self) -> dict[str, Any]:
        scores = {"kl_divergence": {"value": 0.0, "stderr": None}, "perplexity": {"value": 40.0, "stderr": None}}
        return {"footprint": 16_000_000, "bits_per_weight": 16.0, "fp32_bytes": 32_000_000, "metrics": scores}

    def report_texts(self) -> dict[str, Any]:
        return {"original": self.original()["metrics"], "overlaps": {"search and report": 0.0}, "notes": []}

    def front_scores(self, settings: Settings) -> dict[str, Any]:
        self.reported.append(settings)
        if self.report_error is not None:
            raise self.report_error
        fault(self.report_faults.get(settings.mode, ""))
        found = score(settings)
        report = {name: {"value": 1.1 * m.value, "stderr": m.stderr} for name, m in found.items()}
        similarity = 1 - found["kl_divergence"].value
        rest = {name: {"value": similarity, "stderr": 0.01} for name in self.deferred}
        return {"search": {"metrics": rest}, "report": {"metrics": report}, "stages": [["scoring", 0.0, 1.0]]}

    def score(self, candidate: Candidate, race: Any) -> Mapping[str, Measurement]:
        model = candidate.model
        found = self.scorer(model)
        if race is not None:
            for count in (8, 16, 32):
                partial = {name: first(m, count) for name, m in found.items() if len(m.values) >= count}
                race.check(partial)
                if race.is_settled(partial):
                    return {**found, **partial}
        if self.engine.log is not None:
            with self.engine.log.open("a") as stream:
                stream.write(f"{FakePlan(model).key}\n")
        return found

    def manifest(self) -> dict[str, Any]:
        hashes = {"model": "m", "statistics": None}
        manifest = {"created": "now", "versions": {}, "machine": {}, "hashes": hashes, "runtime_properties": {}}
        return {**manifest, "threads": thread_limit()}

    def counts(self) -> dict[str, tuple[int, int]]:
        return {"statistics": (0, 1), "references": (1, 0), "variants": (self.engine.counters["variants_computed"], 0)}


@dataclass
class StudyOptions:
    trials: int = 12
    timeout: float | None = None
    sampler: str = "tpe"
    seed: int = 0
    workers: int | str = 0
    trial_timeout: float | None = None
    memory_limit: int | None = None
    racing: bool = True
    precision: str | None = None
    patience: int | None = None
    enqueue: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class RuntimeOptions:
    device: str = "CPU"
    ov_config: dict[str, Any] = field(default_factory=dict)
    deployed: bool = False
    search: dict[str, Any] = field(default_factory=dict)
    settings: tuple[dict[str, Any], ...] = ()


@dataclass
class FakeConfig:
    """The attributes of `autotune.config.config.Config` that a search looks at."""

    output: Path
    space: SearchSpace = field(default_factory=lambda: LARGE)
    study: StudyOptions = field(default_factory=StudyOptions)
    objectives: dict[str, Any] = field(default_factory=lambda: {"kl_divergence": "minimize", "footprint": "minimize"})
    constraints: dict[str, Constraint] = field(default_factory=dict)
    runtime: RuntimeOptions = field(default_factory=RuntimeOptions)
    faults: dict[str, Any] = field(default_factory=dict)
    evaluators: dict[str, Any] = field(default_factory=dict)
    calibration: Any = field(default_factory=lambda: SimpleNamespace(samples=8, sequence_length=16))
    report: Any = None
    model: str = "fake"
    candidates: tuple[Any, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "space": self.space.as_dict(),
            "objectives": dict(self.objectives),
            "constraints": {name: limit.text for name, limit in self.constraints.items()},
            "study": {"precision": self.study.precision},
        }

    def to_yaml(self) -> str:
        return f"{self.as_dict()}\n"


def open_faulty(config: FakeConfig, stage: Callable[[str], None]) -> FakeSession:
    """Open a session of a worker in tests: `config.faults` says what goes wrong where.

    ``log`` is a file that gets a line for every scored plan, ``delay`` seconds of every trial, ``jitter`` some more;
    ``texts`` has trials scored text by text; under a mode stands the name of the fault that its trials have, ``report``
    names the report texts, ``reporting`` has the faults of scoring on them, by mode.
    """
    faults = config.faults
    if "prepare" in faults:
        fault(faults["prepare"])

    def scorer(settings: Settings) -> Mapping[str, Measurement]:
        fault(faults.get(settings.mode, ""))
        return score_texts(settings) if "texts" in faults else score(settings)

    engine = FakeEngine(log=faults.get("log"), delay=faults.get("delay", 0.0), jitter=faults.get("jitter", 0.0))
    return FakeSession(engine, scorer, report=faults.get("report"), report_faults=faults.get("reporting", {}))


def fault(name: str) -> None:
    """Let something go wrong in this process."""
    if name == "raise":
        raise RuntimeError("a kernel failed")
    if name == "setup":
        raise ConfigError("the calibration text is too short", key="calibration.path")
    if name == "segfault":
        print("about to read at address zero", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if name == "exit":
        os._exit(7)
    if name == "hang":
        time.sleep(600)
    if name == "memory":
        held = bytearray(os.urandom(1 << 20) * 400)
        time.sleep(600)
        del held


@dataclass
class Recorder:
    """A listener that records its calls."""

    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    info: StudyInfo | None = None
    message: str = ""
    etas: list[float | None] = field(default_factory=list)

    def stage(self, message: str, trial: int | None = None) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)

    def started(self, info: StudyInfo) -> None:
        self.info = info

    def trial_started(self, number: int, count: int, settings: Mapping[str, Any]) -> None: ...

    def trial_finished(self, row: Row, front: Sequence[Row], eta: float | None) -> None:
        self.rows.append(row)
        self.etas.append(eta)

    def finished(self, message: str) -> None:
        self.message = message

    def close(self) -> None: ...


def search(config: FakeConfig, session: FakeSession | None = None, **options: Any) -> StudyOutcome:
    """Run a search with fakes and no report."""
    session = FakeSession() if session is None else session
    made = {"listener": Recorder(), "report": lambda folder: None, "open_session": lambda config, stage: session}
    return run_search(config, **{**made, **options})  # type: ignore[arg-type]


@cache
def undisturbed(**study: Any) -> list[tuple[Any, ...]]:
    """Return the trials of a study with these options that ran from end to end in one process, once for all tests."""
    with TemporaryDirectory() as folder:
        search(FakeConfig(Path(folder) / "study", study=StudyOptions(**study)))
        return current_trials(Path(folder) / "study")


def main() -> None:
    """A search in its own process: folder, log of scored plans, trials, seconds a trial, workers.

    With ``search URL`` or ``join URL`` more: the study is at a storage URL; each process then believes that it is on a
    machine of its own, and heartbeats are fast.
    """
    folder, log, trials, delay, workers, *shared = sys.argv[1:]
    options = StudyOptions(trials=int(trials), workers=int(workers))
    config = FakeConfig(Path(folder), study=options, faults={"log": Path(log), "delay": float(delay)})
    print(os.getpid(), flush=True)
    if shared:
        name = f"machine of {os.getpid()}"
        sharing.machine, sharing.INTERVAL, sharing.GRACE = (lambda: name), 1.0, 3.0  # type: ignore[misc]
    if shared[:1] == ["join"]:
        outcome = run_worker(config, shared[1], listener=Recorder(), open_session=open_faulty)  # type: ignore[arg-type]
    else:
        outcome = search(config, open_session=open_faulty, storage=shared[1] if shared else None)
    sys.exit(outcome.exit_code)


if __name__ == "__main__":
    # Under its own name, so that workers can import what they are sent.
    import search_fakes

    search_fakes.main()
