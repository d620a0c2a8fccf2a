"""Export a compressed model as a deployable folder, and reproduce a trial's model to compare its bytes."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.cache import Cache
from autotune.common.files import DAMAGE, atomic_write, fingerprint_file
from autotune.common.version import __version__
from autotune.compression.plan import Plan
from autotune.compression.settings import Settings
from autotune.errors import StudyError, UsageError
from autotune.evaluation import SCORING_CONFIG
from autotune.models.companions import ir_files
from autotune.models.given import GivenPlan
from autotune.models.hub import check_repository, check_upload
from autotune.models.runtime.devices import check_on_targets, describe_devices
from autotune.models.save import IR_PROPERTIES, new_folder, save_model
from autotune.results.front.runtime import recommended_setting
from autotune.results.front.selection import Wish, choose
from autotune.results.plans import plan_file
from autotune.results.records import StudyResults, TrialRecord
from autotune.study.model_session import ModelSession
from autotune.study.trials.trial import Candidate

if TYPE_CHECKING:
    import openvino as ov

    from autotune.config.config import Config
    from autotune.models.source import SourceModel

CARD = "README.md"
RECORD = "autotune.json"


@dataclass(frozen=True, slots=True)
class SavedModel:
    """Compressed model on disk.

    Attributes:
        folder: the complete model folder.
        plan: variant of every weight.
        original_footprint: bytes of the original's weight files.
        trial: the trial whose model it is, None without a study.
        settings: of the trial, defaults resolved.
        reason: why this trial was chosen; empty without a study.
        devices: for each target device, whether this machine has it, as a sentence.
        runtime: properties of OpenVINO that were chosen for it; the IR carries those of `models.save.IR_PROPERTIES`.
    """

    folder: Path
    plan: Plan
    original_footprint: int
    trial: int | None = None
    settings: Mapping[str, Any] | None = None
    reason: str = ""
    devices: tuple[str, ...] = ()
    runtime: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        trial = "" if self.trial is None else f"trial {self.trial}, "
        share = 100 * self.plan.footprint / self.original_footprint
        return f"SavedModel({self.folder}: {trial}{self.plan.footprint:,} bytes, {share:.1f}% of the original)"

    @property
    def unstored(self) -> dict[str, Any]:
        """The properties of `runtime` that the IR does not carry, so that users have to pass them as ``ov_config``."""
        copied = isinstance(self.plan, GivenPlan)
        return {name: value for name, value in self.runtime.items() if copied or name not in IR_PROPERTIES}

    def upload_command(self, repository: str) -> str:
        """Return the command that uploads the folder to a repository of the Hugging Face hub."""
        return shlex.join(["hf", "upload", repository, str(self.folder)])

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data for `--json`; the whole plan is in the folder's `autotune.json`."""
        plan = {key: value for key, value in self.plan.as_dict().items() if key != "variants"}
        trial = {} if self.trial is None else {"trial": self.trial, "reason": self.reason}
        trial |= {"devices": list(self.devices)} if self.devices else {}
        trial |= {"runtime": dict(self.runtime)} if self.runtime else {}
        return {"folder": str(self.folder), **trial, "original_footprint": self.original_footprint, **plan}


def check_empty(out: Path | None) -> None:
    """Refuse an output folder that is not empty.

    Raises:
        UsageError: `out` is a file or a folder that is not empty.
    """
    if out is not None and (out.is_file() or (out.is_dir() and any(out.iterdir()))):
        raise UsageError(f"{out} exists already and is not an empty folder; name a new one")


def write_model(
    model: ov.Model,
    plan: Plan,
    source: SourceModel,
    out: Path,
    original_footprint: int,
    about: Mapping[str, Any],
    targets: Sequence[str] = (),
) -> SavedModel:
    """Write the complete folder of a compressed model, and check it against its target devices.

    Args:
        model, plan: the compressed model.
        source, original_footprint: the original.
        out: a folder that does not exist yet or is empty.
        about: becomes part of the folder's `autotune.json`.
        targets: names of the devices.

    Raises:
        UsageError: `out` is not empty.
        CompressionError: it cannot be written, or does not fit a device.
    """
    check_empty(out)
    record = {
        "autotune": __version__,
        "model": {"name": source.name, "fingerprint": source.fingerprint},
        **about,
        "plan": plan.as_dict(),
    }
    with new_folder(out) as new:
        if isinstance(plan, GivenPlan):
            copy_model(plan, new, record)
        else:
            save_model(model, source, new, record=record)
        if targets:
            amend_record(new, target=check_on_targets(new, targets))
    return SavedModel(out, plan, original_footprint, devices=tuple(describe_devices(targets)) if targets else ())


def runtime_properties(results: StudyResults, trial: int, config: Config, setting: int | None) -> dict[str, Any]:
    """Return the properties that a trial's model is to run with; those of exact scores are nobody's choice.

    Args:
        results: the study.
        trial: its number.
        config: of the study.
        setting: index of one of the settings of `runtime.search`; None is the recommended one. Without a search the
            properties of `runtime.ov_config` are returned.

    Raises:
        UsageError: there is no such setting, or the model does not run with it on this machine.
    """
    found = results.runtime
    scored = () if found is None else found.trials.get(trial, ())
    if setting is None:
        setting = recommended_setting(results, trial)
    elif not setting < len(scored):
        reason = (
            f"trial {trial} has {len(scored)} of them, numbered from 0 in runtime.md"
            if scored
            else f"trial {trial} was not scored with any. Choose a trial of runtime.md, or leave out --runtime"
            if found is not None
            else "the study has none. List values under `runtime.search` in its model.yaml and search again"
        )
        raise UsageError(f"there is no runtime setting {setting}: {reason}")
    elif scored[setting].error:
        raise UsageError(f"trial {trial} did not run with runtime setting {setting}: {scored[setting].error}")
    if found is not None and setting is not None:
        return {name: value for name, value in found.settings[setting].items() if value is not None}
    given = config.runtime.ov_config
    return {name: given[name] for name in SCORING_CONFIG if given.get(name) not in (None, SCORING_CONFIG[name])}


def copy_model(plan: GivenPlan, out: Path, record: Mapping[str, Any]) -> None:
    """Copy the folder of a candidate that another tool has written, and add the record of its scores."""
    assert plan.source is not None
    assert plan.source.path is not None
    shutil.copytree(plan.source.path, out, dirs_exist_ok=True)
    (out / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def export(
    folder: Path,
    out: Path,
    *,
    wish: Wish,
    storage: str | None,
    upload: str | None = None,
    runtime: int | None = None,
    stage: Callable[[str], None],
) -> SavedModel:
    """Rebuild the model of one trial of a study and write it as a folder that loads everywhere.

    Args:
        folder: the study's folder.
        out: a folder that does not exist yet or is empty.
        wish: selects the trial.
        storage: an Optuna storage URL instead of the folder's `study.db`.
        upload: a repository of the hub, for which name, card and files are checked.
        runtime: index of a setting of `runtime.search`; see `runtime_properties`.
        stage: receives progress messages.

    Raises:
        UsageError: `out` is not empty, no trial matches the wish, there is no such runtime setting, or `upload` is no
            repository's name.
        StudyError: the study cannot be read, the hub would refuse the folder, or the model, texts or engine changed so
            that the plan is another one.
    """
    from autotune.config.config import load_model_config
    from autotune.reporting.text.model_card import model_card
    from autotune.results.load import load_results

    check_empty(out)
    if upload is not None:
        check_repository(upload)
    results = load_results(folder, storage)
    selection = choose(results, wish, where=str(folder))
    number = selection.trial
    record = results.records[number]
    config = load_model_config(folder / "model.yaml")
    properties = runtime_properties(results, number, config, runtime)
    session = ModelSession(config, stage)
    plan = rebuild_plan(session, folder, record)
    if plan.key != record.plan:
        raise StudyError(
            f"trial {number} had the plan {record.plan}, and the same settings now give {plan.key}: the model, the "
            "calibration texts or the engine changed since the search. To see which: "
            f"autotune reproduce {shlex.quote(str(folder))} --trial {number}"
        )
    settings = session.engine.resolve(Settings.from_dict(record.settings)).as_dict()
    scores = {name: {"value": m.value, "stderr": m.stderr} for name, m in record.metrics.items()}
    about: dict[str, Any] = {
        "settings": settings,
        "trial": number,
        "scores": scores,
        "inputs": {**(results.manifest.get("hashes") or {}), **session.fingerprints()},
        "versions": results.manifest.get("versions"),
        "runtime": properties,
    }
    engine = session.engine
    with new_folder(out) as new:
        sizes, targets = engine.sizes.original, session.config.target
        model = Candidate(engine, plan, stage).model
        saved = write_model(model, plan, session.source, new, sizes, about, targets)
        saved = replace(saved, runtime=properties)
        amend_record(new, files={file.name: fingerprint_file(file) for file in ir_files(new)})
        if not isinstance(plan, GivenPlan):  # which may have a card of its own
            task = session.source.task
            snippets = task.snippets(session.source.path)
            card = model_card(results, number, settings, task, snippets, saved.runtime, saved.unstored)
            (new / CARD).write_text(card, encoding="utf-8")
        if upload is not None:
            stage("checking the folder for the hub")
            check_upload(new)
    return replace(saved, folder=out, trial=number, settings=settings, reason=selection.reason, runtime=properties)


def rebuild_plan(session: ModelSession, folder: Path, record: TrialRecord) -> Plan:
    """Plan a trial's settings again; a budget's plan is read, since planning it takes the study's measurements.

    Raises:
        StudyError: the file of the plan is damaged.
    """
    settings = Settings.from_dict(record.settings)
    path = plan_file(folder, record.plan)
    if settings.allocation != "budget" or not path.is_file():
        return session.plan(settings)
    try:
        plan = Plan.from_dict(json.loads(path.read_text(encoding="utf-8")))
        if plan.key != record.plan:
            raise ValueError("it is another plan")
    except (*DAMAGE, AttributeError, RecursionError) as error:
        raise StudyError(
            f"{path}: the plan of trial {record.number} is damaged ({error}). Restore the file from a copy, delete "
            "it to plan the trial again, or choose another trial with --trial."
        ) from error
    return plan


def amend_record(out: Path, **values: Any) -> None:
    """Add values to the ``autotune.json`` of a folder."""
    record = {**json.loads((out / RECORD).read_text(encoding="utf-8")), **values}
    with atomic_write(out / RECORD) as temporary:
        temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


@dataclass(frozen=True, slots=True)
class Reproduction:
    """Comparison of a trial's model with a rebuilt one.

    Attributes:
        trial: its number.
        same: whether plan and bytes are equal.
        plan, digest: of the rebuilt model.
        recorded_plan, recorded_digest: of the trial.
        changed: the inputs that changed since, each as a sentence.
    """

    trial: int
    same: bool
    plan: str
    digest: str
    recorded_plan: str
    recorded_digest: str
    changed: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data for `--json`."""
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
    """Calibrate, plan and compress again; only the exported original comes from a cache.

    Raises:
        UsageError: there is no such finished trial.
        StudyError: the study cannot be read, or is of an autotune that kept no digests.
    """
    from autotune.compression.ir.constants import model_digest
    from autotune.config.config import load_model_config
    from autotune.results.load import load_results

    results = load_results(folder, storage)
    record = results.records.get(number)
    if record is None or record.plan is None or not record.complete:
        scored = [str(other.number) for other in results.records.values() if other.complete]
        raise UsageError(f"{folder} has no finished trial {number}; there are {', '.join(scored) or 'none'}")
    if record.digest is None:
        raise StudyError(
            f"{folder}: trial {number} has no digest of its bytes to compare with; search again with --fresh"
        )
    config = load_model_config(folder / "model.yaml")
    with tempfile.TemporaryDirectory(prefix="autotune-") as empty:
        session = uncached_session(config, Path(empty), stage)
        plan = session.plan(Settings.from_dict(record.settings))
        digest = model_digest(Candidate(session.engine, plan, stage).model)
    same = plan.key == record.plan and digest == record.digest
    changed = () if same else changes(config, results.manifest, session.fingerprints())
    return Reproduction(number, same, plan.key, digest, record.plan, record.digest, changed)


def uncached_session(config: Config, empty: Path, stage: Callable[[str], None]) -> ModelSession:
    """Open a session on an empty cache; only the original's export comes from the real one."""
    session = ModelSession(config, stage)
    _ = session.source  # in the cache that all studies share
    session.cache = Cache(empty, session.cache.limit)
    return session


def changes(config: Config, manifest: Mapping[str, Any], now: Mapping[str, str]) -> tuple[str, ...]:
    """List the inputs that differ from the study's manifest, each with its origin."""
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
