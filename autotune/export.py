"""A trial's model as a deployable folder: what `autotune export` does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.compression.plan import Plan
from autotune.compression.settings import Settings
from autotune.errors import StudyError
from autotune.files import atomic_write, fingerprint_file
from autotune.models import MODEL_FILE, WEIGHTS_FILE
from autotune.reporting.choosing import Wish, choose
from autotune.reporting.view import TrialRecord
from autotune.single import Produced, Stage, check_empty, write_model

if TYPE_CHECKING:
    from autotune.compression.engine import Engine

__all__ = ["export", "settings_of"]

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
    from autotune.config import load_config
    from autotune.reporting.card import model_card
    from autotune.reporting.results import load_results
    from autotune.search.preparation import prepare

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
