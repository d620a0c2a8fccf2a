"""Attributes of a study in its storage: written once, checked every time the study is resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint
from autotune.common.validation import nearest
from autotune.errors import ConfigError, StudyError
from autotune.evaluation.scores import RELATIVE_ERROR, RELATIVE_TO
from autotune.results.storage import CHECKSUM
from autotune.study.storage.database import check_unchanged
from autotune.study.trials.trial import PLAN_METRICS

if TYPE_CHECKING:
    import optuna

    from autotune.config.config import Config
    from autotune.evaluation import Metric
    from autotune.models.source import SourceModel

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Description:
    """Inputs of a study, as a session finds them.

    Attributes:
        metrics: every metric of every evaluator.
        fingerprints: subject -> fingerprint, for `check_unchanged`.
        manifest: the study's `manifest.json` as of now.
        source: the original model with its fingerprints; other sessions of the study reuse it.
        report_fingerprint: changes with the report texts; None if there are none.
        deferred: the evaluators that score the final front only.
        original: size and scores of the original model; None unless requested.
        report: scores of the original on the report texts, see `ReportTexts.describe`; None unless requested.
        stages: of making this description, see `StageClock.spans`.
    """

    metrics: Mapping[str, Metric]
    fingerprints: Mapping[str, str]
    manifest: Mapping[str, Any]
    source: SourceModel
    report_fingerprint: str | None
    deferred: tuple[str, ...] = ()
    original: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None
    stages: Sequence[Sequence[Any]] = ()


def all_metrics(measured: Mapping[str, Metric]) -> dict[str, Metric]:
    """Add the metrics that follow from the plan or from other metrics to the evaluators' metrics."""
    relative = {"relative_error": RELATIVE_ERROR} if any(name in measured for name in RELATIVE_TO) else {}
    return {**measured, **relative, **PLAN_METRICS}


def describe_study(
    study: optuna.Study, config: Config, describe: Callable[..., Description], folder: Path, *, joins: bool = False
) -> Description:
    """Check that the stored study has these inputs, then write the attributes that are missing or may change.

    Args:
        study: the open storage.
        config: the study's configuration.
        describe: `Session.describe` or a pool's; the original is only scored if the storage lacks its scores.
        folder: the study's folder.
        joins: the study belongs to another process; write nothing.

    Raises:
        StudyError: the study has other inputs, or was not created by autotune.
        ConfigError: no evaluator measures an objective or a constraint.
    """
    description = describe()
    metrics = all_metrics(description.metrics)
    check_measured(config, metrics)
    data = config.as_dict()
    fingerprints = {**description.fingerprints, **own_fingerprints(config)}
    stored = study.user_attrs
    if "fingerprints" in stored:
        check_unchanged(folder, stored["fingerprints"], fingerprints, (stored.get("config", {}), data))
    elif study.get_trials(deepcopy=False):
        raise StudyError(
            f"{folder}: the study in this storage was not started by autotune; choose another with --output."
        )
    if joins:
        return description
    attributes: dict[str, Any] = {
        "config": data,
        "space": config.space.as_dict(),
        "space_fingerprint": config.space.fingerprint(),
        "objectives": dict(config.objectives),
        "constraints": {name: limit.as_dict() for name, limit in config.constraints.items()},
        "metrics": {name: asdict(metric) for name, metric in metrics.items()},
        "fingerprints": fingerprints,
    }
    for key, value in attributes.items():
        if stored.get(key) != value:
            study.set_user_attr(key, value)
    if "original" not in stored:
        stages = description.stages
        description = describe(original=True)
        study.set_user_attr("original", description.original)
        study.set_user_attr("preparation", [*stages, *description.stages])
    record_manifest(study, description.manifest)
    if "schema_version" not in stored:
        study.set_user_attr("schema_version", SCHEMA_VERSION)
    return description


def remove_checksums(study: optuna.Study) -> None:
    """Remove the checksums of a study's attributes until its search ends, even if that is killed."""
    if study.user_attrs.get(CHECKSUM):
        study.set_user_attr(CHECKSUM, {})


def record_manifest(study: optuna.Study, manifest: Mapping[str, Any]) -> None:
    """Write the manifest; earlier runs on other versions or machines stay recorded in `earlier_runs`."""
    old = study.user_attrs.get("manifest")
    if old is None:
        study.set_user_attr("manifest", dict(manifest))
        return
    hashes = {key: value for key, value in manifest["hashes"].items() if value is not None}
    new = {
        **manifest,
        "created": old["created"],
        "hashes": {**old["hashes"], **hashes},
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
    """Fingerprint the inputs that the configuration alone determines, by section of model.yaml."""
    limits = {name: [limit.op, limit.value] for name, limit in config.constraints.items()}
    precision = config.study.precision
    return {
        **({} if precision is None else {"study.precision": fingerprint(precision)}),
        "space": config.space.fingerprint(),
        "objectives": fingerprint(list(config.objectives.items())),
        "constraints": fingerprint(limits),
        "runtime": fingerprint(config.runtime.device, dict(config.runtime.ov_config)),
    }
