"""A trial's model again, from its inputs alone, and whether it has the same bytes: what `autotune reproduce` does."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import StudyError, UsageError
from autotune.export import settings_of

if TYPE_CHECKING:
    from autotune.config import Config
    from autotune.search.preparation import Preparation

__all__ = ["Reproduction", "reproduce"]


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
    from autotune.compression.digest import model_digest
    from autotune.config import load_config
    from autotune.reporting.results import load_results

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
    from autotune.cache import Cache
    from autotune.search.preparation import prepare

    prepared = prepare(config, stage)
    _ = prepared.source  # found or exported where all studies keep it
    prepared.cache = Cache(empty, prepared.cache.limit)
    return prepared


def changes(config: Config, manifest: Mapping[str, Any], now: Mapping[str, str]) -> tuple[str, ...]:
    """The inputs of a model's bytes that differ from the study's manifest, each named with where it comes from."""
    from autotune.search.manifest import versions
    from autotune.texts import describe_source

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
