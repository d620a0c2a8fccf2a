"""What a study's storage says about the study itself: written once, checked every time it is continued."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint
from autotune.common.validation import nearest
from autotune.errors import ConfigError, StudyError
from autotune.study.storage.database import check_unchanged
from autotune.study.trials.trial import PLAN_METRICS, RELATIVE_ERROR, RELATIVE_TO

if TYPE_CHECKING:
    import optuna

    from autotune.config.config import Config
    from autotune.evaluation import Metric
    from autotune.study.workers.prepared import Prepared

__all__ = ["SCHEMA_VERSION", "all_metrics", "describe_study", "record_manifest"]

SCHEMA_VERSION = 1


def all_metrics(measured: Mapping[str, Metric]) -> dict[str, Metric]:
    """The evaluators' metrics, and those that follow from the plan or from other metrics."""
    relative = {"relative_error": RELATIVE_ERROR} if any(name in measured for name in RELATIVE_TO) else {}
    return {**measured, **relative, **PLAN_METRICS}


def describe_study(
    study: optuna.Study, config: Config, prepared: Prepared, folder: Path, *, joins: bool = False
) -> None:
    """Check that the study in the storage is this one, then write the attributes that are missing or may change.

    With `joins` the study is another process's, and nothing is written.

    Raises:
        StudyError: the study was started with something else, or is no study of autotune's.
        ConfigError: an objective or constraint that nothing measures.
    """
    metrics = all_metrics(prepared.metrics)
    check_measured(config, metrics)
    data = config.as_dict()
    now = {**prepared.fingerprints(), **own_fingerprints(config)}
    before = study.user_attrs
    if "fingerprints" in before:
        check_unchanged(folder, before["fingerprints"], now, (before.get("config", {}), data))
    elif study.get_trials(deepcopy=False):
        raise StudyError(
            f"{folder}: the study in this storage was not started by autotune; choose another with --output."
        )
    if joins:
        return
    attributes: dict[str, Any] = {
        "config": data,
        "space": config.space.as_dict(),
        "space_fingerprint": config.space.fingerprint(),
        "objectives": dict(config.objectives),
        "constraints": {name: limit.as_dict() for name, limit in config.constraints.items()},
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "fingerprints": now,
    }
    for key, value in attributes.items():
        if before.get(key) != value:
            study.set_user_attr(key, value)
    # These cost work (the original has to be scored), so a study that has them keeps them.
    if "original" not in before:
        study.set_user_attr("original", prepared.original())
    record_manifest(study, prepared.manifest())
    if "schema_version" not in before:
        study.set_user_attr("schema_version", SCHEMA_VERSION)


def record_manifest(study: optuna.Study, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; versions and machine of earlier runs are kept beside it where they were others."""
    old = study.user_attrs.get("manifest")
    if old is None:
        study.set_user_attr("manifest", dict(manifest))
        return
    known = {key: value for key, value in manifest["hashes"].items() if value is not None}
    new = {
        **manifest,
        "created": old["created"],
        "hashes": {**old["hashes"], **known},
        "runtime_properties": manifest["runtime_properties"] or old["runtime_properties"],
        "earlier_runs": old.get("earlier_runs", []),
    }
    where = ("versions", "machine")
    if any(old[key] != manifest[key] for key in where):
        new["earlier_runs"] = [*new["earlier_runs"], {key: old[key] for key in ("created", *where)}]
        new["created"] = manifest["created"]
    if new != old:
        study.set_user_attr("manifest", new)


def check_measured(config: Config, metrics: Mapping[str, Metric]) -> None:
    """Refuse objectives and constraints that no evaluator of this configuration measures."""
    for section, names in (("objectives", config.objectives), ("constraints", config.constraints)):
        for name in names:
            if name not in metrics:
                raise ConfigError(
                    f"no evaluator here measures {name!r}{nearest(name, metrics)}; measured: {', '.join(metrics)}",
                    key=f"{section}.{name}",
                )


def own_fingerprints(config: Config) -> dict[str, str]:
    """Fingerprints of what the configuration alone decides, by section of model.yaml."""
    limits = {name: [limit.op, limit.value] for name, limit in config.constraints.items()}
    return {
        "space": config.space.fingerprint(),
        "objectives": fingerprint(list(config.objectives.items())),
        "constraints": fingerprint(limits),
        "runtime": fingerprint(config.runtime.device, dict(config.runtime.ov_config)),
    }
