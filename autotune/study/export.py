"""A trial's model as a deployable folder: what `autotune export` does.

A trial's model again, from its inputs alone, and whether it has the same bytes: what `autotune reproduce` does.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.files import atomic_write, fingerprint_file
from autotune.compression.plan import Plan
from autotune.compression.settings import Settings
from autotune.errors import StudyError, UsageError
from autotune.models.source import MODEL_FILE, WEIGHTS_FILE
from autotune.results.records import TrialRecord
from autotune.results.selection import Wish, choose
from autotune.single import Produced, Stage, check_empty, write_model

if TYPE_CHECKING:
    from autotune.compression.engine import Engine
    from autotune.config.config import Config
    from autotune.study.session import Preparation

__all__ = ["Reproduction", "export", "reproduce", "settings_of"]

CARD = "README.md"
RECORD = "autotune.json"


def export(folder: Path, out: Path, *, wish: Wish, storage: str | None, stage: Stage) -> Produced:
    """Build the model of one trial of a study again and write it as a folder that loads everywhere.

    Args:
        folder: the study's folder.
        out: a folder that does not exist yet or is empty.
        wish: which trial.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        stage: is told what happens.

    Raises:
        UsageError: `out` is not empty, or no trial is as wished.
        StudyError: the study cannot be read, or the model, texts or engine changed so that the plan is another one.
    """
    from autotune.config.config import load_config
    from autotune.reporting.text.model_card import model_card
    from autotune.results.load import load_results
    from autotune.study.session import prepare

    check_empty(out)
    results = load_results(folder, storage)
    number = choose(results, wish, where=str(folder))
    record = results.records[number]
    prepared = prepare(load_config(folder / "model.yaml"), stage)
    plan = planned_again(prepared.engine, folder, record)
    if plan.key != record.plan:
        raise StudyError(
            f"trial {number} had the plan {record.plan}, and the same settings now give {plan.key}: the model, the "
            f"calibration texts or the engine changed since. `autotune reproduce {folder} --trial {number}` says which"
        )
    stage("compressing")
    settings = prepared.engine.resolve(settings_of(record)).as_dict()
    scores = {name: {"value": m.value, "stderr": m.stderr} for name, m in record.metrics.items()}
    about: dict[str, Any] = {
        "settings": settings,
        "trial": number,
        "scores": scores,
        "inputs": prepared.fingerprints(),
        "versions": results.manifest.get("versions"),
    }

    produced = write_model(prepared.engine, plan, prepared.source, out, about)
    add_hashes(out)
    with atomic_write(out / CARD) as temporary:
        temporary.write_text(model_card(results, number, settings), encoding="utf-8")
    return Produced(produced.folder, produced.plan, produced.original_footprint, trial=number, settings=settings)


def planned_again(engine: Engine, folder: Path, record: TrialRecord) -> Plan:
    """The plan of a trial's settings; that of a budget is read, since making it takes measurements of the study."""
    settings = settings_of(record)
    path = folder / "plans" / f"{record.plan}.json"
    if settings.allocation == "budget" and path.is_file():
        return Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
    return engine.plan(settings)


def add_hashes(out: Path) -> None:
    """Write the hashes of the model's two files into the folder's ``autotune.json``."""
    record = json.loads((out / RECORD).read_text(encoding="utf-8"))
    record["files"] = {name: fingerprint_file(out / name) for name in (MODEL_FILE, WEIGHTS_FILE)}
    with atomic_write(out / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def settings_of(record: TrialRecord) -> Settings:
    """The settings that a trial had."""
    known = Settings.__dataclass_fields__
    values = {name: value for name, value in record.settings.items() if name in known}
    values["ignored_scope"] = tuple(values.get("ignored_scope") or ())
    return Settings(**values)


@dataclass(frozen=True, slots=True)
class Reproduction:
    """What came of building a trial's model again.

    Attributes:
        trial: its number.
        same: whether plan and bytes are those that the trial had.
        plan, digest: of the model built now.
        recorded_plan, recorded_digest: of the trial.
        changed: the inputs that are no longer what they were, each as a sentence.
    """

    trial: int
    same: bool
    plan: str
    digest: str
    recorded_plan: str
    recorded_digest: str
    changed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {
            "trial": self.trial,
            "same": self.same,
            "plan": self.plan,
            "digest": self.digest,
            "recorded_plan": self.recorded_plan,
            "recorded_digest": self.recorded_digest,
            "changed": list(self.changed),
        }


def reproduce(folder: Path, number: int, *, storage: str | None, stage: Callable[[str], None]) -> Reproduction:
    """Calibrate, plan and compress again, with nothing taken from a cache but the exported original.

    Raises:
        UsageError: there is no such finished trial.
        StudyError: the study cannot be read, or is of an autotune that kept no digests.
    """
    from autotune.compression.ir.constants import model_digest
    from autotune.config.config import load_config
    from autotune.results.load import load_results

    results = load_results(folder, storage)
    record = results.records.get(number)
    if record is None or record.plan is None or not record.complete:
        scored = [str(known.number) for known in results.records.values() if known.complete]
        raise UsageError(f"{folder} has no finished trial {number}; there are {', '.join(scored) or 'none'}")
    if record.digest is None:
        raise StudyError(
            f"{folder}: trial {number} has no digest of its bytes to compare with; search again with --fresh"
        )
    config = load_config(folder / "model.yaml")
    with tempfile.TemporaryDirectory(prefix="autotune-") as empty:
        prepared = fresh(config, Path(empty), stage)
        plan = prepared.engine.plan(settings_of(record))
        stage("compressing")
        digest = model_digest(prepared.engine.apply(plan))
    same = plan.key == record.plan and digest == record.digest
    changed = () if same else changes(config, results.manifest, prepared.fingerprints())
    return Reproduction(number, same, plan.key, digest, record.plan, record.digest, changed)


def fresh(config: Config, empty: Path, stage: Callable[[str], None]) -> Preparation:
    """What a trial works with, on an empty cache; only the original's export is taken from the real one."""
    from autotune.common.cache import Cache
    from autotune.study.session import prepare

    prepared = prepare(config, stage)
    _ = prepared.source  # found or exported where all studies keep it
    prepared.cache = Cache(empty, prepared.cache.limit)
    return prepared


def changes(config: Config, manifest: Mapping[str, Any], now: Mapping[str, str]) -> tuple[str, ...]:
    """The inputs of a model's bytes that differ from the study's manifest, each named with where it comes from."""
    from autotune.evaluation.texts.sources import describe_source
    from autotune.study.storage.manifest import versions

    before, found = manifest.get("hashes") or {}, []
    calibration = config.calibration
    where = {
        "model": str(config.model),
        "tokenizer": f"{config.model}, its tokenizer's files",
        "calibration": describe_source(calibration),
        "engine": "autotune's engine",
    }
    for subject, source in where.items():
        if subject in now and before.get(subject) != now[subject]:
            found.append(f"{subject} changed: {source}")
    old = manifest.get("versions") or {}
    for package, version in versions().items():
        if package in old and old[package] != version:
            found.append(f"{package} was {old[package]} and is {version}")
    return tuple(found)
