"""Read a study's results from its Optuna storage."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from autotune.common.formatting import printable_data, problem_of, without_password
from autotune.common.units import Constraint
from autotune.errors import AutotuneError, StudyError
from autotune.evaluation import Direction, Measurement, Metric
from autotune.evaluation.scores import FOOTPRINT
from autotune.results.frame import (
    SIZE_COLUMNS,
    TIME_COLUMNS,
    add_deployed,
    add_held_out,
    build_frame,
    effective_settings,
)
from autotune.results.front import pareto
from autotune.results.front.runtime import read_runtime
from autotune.results.records import (
    DEPLOYED_SOURCES,
    DeployedScores,
    HeldOutScores,
    Original,
    StudyResults,
    TrialRecord,
)
from autotune.results.storage import check_study, close_connections, open_storage

if TYPE_CHECKING:
    import optuna
    import pandas as pd
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STUDY_NAME = "autotune"
SCHEMA_VERSION = 1
ENOUGH_FOR_IMPORTANCES = 50
"""Fewest complete trials for which PED-ANOVA's importances of a conditional space are more than noise."""

NUMBERS = (*SIZE_COLUMNS[1:], *TIME_COLUMNS, "variants_computed", "variants_reused", "beaten_by", "beaten_after")
"""The attributes that `TrialRecord.numbers` holds."""

COPIED = ("plan", "metrics", "sequences", "windows", *SIZE_COLUMNS)
"""The attributes that a repeat takes from the trial that it repeats."""


def load_results(folder: Path, storage: str | BaseStorage | None = None) -> StudyResults:
    """Read the study of a folder.

    Args:
        folder: a folder that `autotune search` wrote.
        storage: an Optuna storage URL or object; None is the folder's `study.db`.

    Raises:
        StudyError: there is no study, or autotune did not write it, or a newer autotune did.
    """
    database = Path(folder) / "study.db"
    where = str(database) if storage is None else without_password(str(storage))
    if storage is None and not database.is_file():
        raise StudyError(
            f"{database}: there is no study here. Give the folder that `autotune search` wrote (`output` in "
            "model.yaml), or, for a study that is kept elsewhere, its URL with --storage."
        )
    try:
        # Optuna fills templates in URLs, hence the doubled braces.
        path = database.resolve().as_posix().replace("{", "{{").replace("}", "}}")
        results = _read(f"sqlite:///{path}" if storage is None else storage, where)
        url = storage if isinstance(storage, str) else None
        return replace(results, folder=Path(folder).absolute(), storage=url)
    except AutotuneError:
        raise
    except Exception as error:  # of the driver, SQLAlchemy, Optuna, or Python's: damage shows in many ways
        cause: BaseException = error
        while cause.__cause__ is not None:  # Optuna's and SQLAlchemy's own texts say less
            cause = cause.__cause__
        reason = problem_of(cause, where if storage is None else str(storage))
        if isinstance(error, KeyError) or "version_info" in reason:
            raise StudyError(
                f"{where}: this Optuna storage holds no study named {STUDY_NAME!r}. If the search died before its "
                "first trial, run `autotune search` again; otherwise check the folder or the --storage URL."
            ) from error
        raise StudyError(
            f"{where}: this is not a readable Optuna storage ({reason}). Check the path or URL and that the "
            "study was written by Optuna 5; a damaged file can only be restored from a copy."
        ) from error


def _read(storage: str | BaseStorage, where: str) -> StudyResults:
    import optuna

    if not isinstance(storage, str):
        return results_of(optuna.load_study(study_name=STUDY_NAME, storage=storage), where=where)
    engine_kwargs = {"connect_args": {"timeout": 60}} if storage.startswith("sqlite") else {}
    # Without tables it is another program's database, which reading must not change.
    database_storage = open_storage(storage, engine_kwargs=engine_kwargs, skip_table_creation=True)
    try:
        return results_of(optuna.load_study(study_name=STUDY_NAME, storage=database_storage), where=where)
    finally:
        close_connections(database_storage)


def results_of(study: optuna.Study, *, where: str = "the study") -> StudyResults:
    """Read the results of an Optuna study that has autotune's attributes.

    Raises:
        StudyError: the study was not written by autotune, or by a newer one.
    """
    attributes = printable_data(study.user_attrs)
    version = attributes.get("schema_version")
    if version is None or "objectives" not in attributes:
        raise StudyError(
            f"{where}: the study has no `schema_version` and `objectives`, so `autotune search` did not write it or "
            "died before its first trial. Run `autotune search` again, or check the folder."
        )
    if int(version) > SCHEMA_VERSION:
        raise StudyError(
            f"{where}: the study has schema version {version}, and this autotune reads up to {SCHEMA_VERSION}. "
            "Report it with the autotune that searched it, or a newer one."
        )
    trials = check_study(study, where)
    objectives: dict[str, Direction] = dict(attributes["objectives"])
    constraints = {
        name: Constraint("<=" if limit["op"] == "<=" else ">=", float(limit["value"]), str(limit.get("text", "")))
        for name, limit in (attributes.get("constraints") or {}).items()
    }
    metrics = _metrics(attributes, objectives)
    names = list(study.metric_names or objectives)
    records = _records(trials, names, constraints, (attributes.get("front") or {}).get("trials") or {})
    frame = build_frame(records, objectives, metrics)
    front, knee, least_infeasible = _judge(frame, records, objectives, constraints)
    original = attributes.get("original")
    held_out = _held_out(attributes.get("report"))
    if held_out is not None:
        add_held_out(frame, held_out.trials)
    deployed = _deployed(attributes.get("deployed"))
    if deployed is not None:
        add_deployed(frame, deployed)
    return StudyResults(
        trials=frame,
        records=records,
        objectives=objectives,
        constraints=constraints,
        metrics=metrics,
        original=None if not original else _original(original),
        front=front,
        knee=knee,
        least_infeasible=least_infeasible,
        importances=_importances(study, names, objectives),
        config=attributes.get("config") or {},
        space=attributes.get("space") or {},
        manifest=attributes.get("manifest") or {},
        held_out=held_out,
        deployed=deployed,
        runtime=read_runtime(attributes.get("runtime"), _scores),
        preparation=attributes.get("preparation") or (),
    )


def _metrics(attributes: Mapping[str, Any], objectives: Mapping[str, Direction]) -> dict[str, Metric]:
    metrics = {"footprint": FOOTPRINT} if "footprint" in objectives else {}
    for name, meaning in (attributes.get("metrics") or {}).items():
        metrics[name] = Metric(
            meaning.get("direction", "minimize"),
            meaning.get("unit") or "",
            meaning.get("description") or "",
            meaning.get("perfect"),
        )
    for name, direction in objectives.items():
        metrics.setdefault(name, Metric(direction))
    return metrics


def _original(attribute: Mapping[str, Any]) -> Original:
    return Original(
        footprint=attribute.get("footprint"),
        bits_per_weight=attribute.get("bits_per_weight"),
        fp32_bytes=attribute.get("fp32_bytes"),
        metrics=_scores(attribute.get("metrics")),
    )


def _held_out(attribute: Mapping[str, Any] | None) -> HeldOutScores | None:
    trials = {
        int(number): _scores(entry.get("metrics")) for number, entry in (attribute or {}).get("trials", {}).items()
    }
    if attribute is None or not any(trials.values()):
        return None
    return HeldOutScores(trials, attribute.get("overlaps") or {}, tuple(attribute.get("notes") or ()))


def _deployed(attribute: Mapping[str, Any] | None) -> DeployedScores | None:
    scored = {int(number): entry for number, entry in (attribute or {}).get("trials", {}).items()}
    parts = ("deployed", *DEPLOYED_SOURCES)
    trials = {
        number: {part: _scores(entry[part]) for part in parts}
        for number, entry in scored.items()
        if all(part in entry for part in parts)
    }
    if attribute is None or not trials:
        return None
    cpu = attribute.get("cpu")
    return DeployedScores(trials, attribute.get("properties") or {}, None if cpu is None else tuple(cpu))


def _scores(attribute: Mapping[str, Any] | None) -> dict[str, Measurement]:
    scores = {}
    for name, entry in (attribute or {}).items():
        value, stderr = entry.get("value"), entry.get("stderr")
        if value is not None and math.isfinite(value):
            finite = stderr is not None and math.isfinite(stderr)
            scores[name] = Measurement(
                float(value), float(stderr) if finite else None, noise=float(entry.get("noise") or 0.0)
            )
    return scores


def _records(
    trials: list[FrozenTrial],
    names: list[str],
    constraints: Mapping[str, Constraint],
    of_front: Mapping[str, Mapping[str, Any]],
) -> dict[int, TrialRecord]:
    by_number = {
        t.number: _with_front_scores(printable_data(t.user_attrs), of_front.get(str(t.number))) for t in trials
    }
    records = {}
    for trial in sorted(trials, key=lambda each: each.number):
        number, attributes = trial.number, by_number[trial.number]
        source = by_number.get(attributes.get("duplicate_of", -1))
        if source is not None:
            attributes = {**{key: source[key] for key in COPIED if key in source}, **attributes}
        records[number] = _record(trial, attributes, names, constraints)
    return records


def _with_front_scores(attributes: Mapping[str, Any], scored: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Add the scores that a trial got at the end of the study, on the front, to its attributes."""
    if scored is None:
        return attributes
    metrics = {**(attributes.get("metrics") or {}), **(scored.get("metrics") or {})}
    tokens = Counter(attributes.get("tokens") or {}) + Counter(scored.get("tokens") or {})
    stages = [*(attributes.get("stages") or ()), *(scored.get("stages") or ())]
    answers = {"answers": scored["answers"]} if "answers" in scored else {}
    return {**attributes, **answers, "metrics": metrics, "tokens": dict(tokens), "stages": stages}


def _record(
    trial: FrozenTrial, attributes: Mapping[str, Any], names: list[str], constraints: Mapping[str, Constraint]
) -> TrialRecord:
    values = dict(zip(names, trial.values, strict=False)) if trial.values is not None else {}
    stopped_after = attributes.get("beaten_after")
    measured = _scores(attributes.get("metrics"))
    metrics, partial = (measured, {}) if stopped_after is None else ({}, measured)
    footprint = attributes.get("footprint", values.get("footprint"))
    numbers = {**values, **{name: measurement.value for name, measurement in metrics.items()}}
    numbers.update({name: float(attributes[name]) for name in SIZE_COLUMNS if attributes.get(name) is not None})
    if footprint is not None:
        numbers["footprint"] = float(footprint)
    violations = dict(trial.constraints)
    for name, limit in constraints.items():
        if name not in violations and name in numbers:
            violations[name] = limit.violation(numbers[name])
    return TrialRecord(
        number=trial.number,
        state=trial.state.name,
        settings=effective_settings(attributes.get("settings") or printable_data(trial.params)),
        sampled=frozenset(trial.params),
        plan=attributes.get("plan"),
        footprint=None if footprint is None else int(footprint),
        numbers={name: attributes[name] for name in NUMBERS if attributes.get(name) is not None},
        metrics=metrics,
        values=values,
        violations=violations,
        duplicate_of=attributes.get("duplicate_of"),
        retry_of=attributes.get("retry_of"),
        origin=attributes.get("origin"),
        error=attributes.get("error"),
        started=trial.datetime_start,
        finished=trial.datetime_complete,
        digest=attributes.get("digest"),
        answers=attributes.get("answers"),
        partial=partial,
        scored_sequences=None if stopped_after is None else int(stopped_after),
        sequences=attributes.get("sequences") or {},
        windows=attributes.get("windows"),
        tokens=attributes.get("tokens") or {},
        stages=attributes.get("stages") or (),
        algorithms=attributes.get("seconds_by_algorithm") or {},
    )


def _judge(
    frame: pd.DataFrame,
    records: Mapping[int, TrialRecord],
    objectives: Mapping[str, Direction],
    constraints: Mapping[str, Constraint],
) -> tuple[tuple[int, ...], int | None, int | None]:
    """Fill the columns feasible, on_front and knee; return the front, the knee and the least infeasible trial."""
    import pandas as pd

    complete = [record for record in records.values() if record.complete]
    broken = {number: any(value > 0 for value in record.violations.values()) for number, record in records.items()}
    decided = {number: not beyond for number, beyond in broken.items() if beyond or records[number].complete}
    frame["feasible"] = pd.array([decided.get(number) for number in frame.index], dtype="boolean")
    frame["on_front"] = frame["knee"] = False
    numbers = [record.number for record in complete]
    values = frame.loc[numbers, list(objectives)].to_numpy(dtype=float, na_value=math.nan)
    directions = list(objectives.values())
    feasible = [decided[number] for number in numbers]
    rows = pareto.front_indices(values, directions, feasible=feasible, keys=[record.plan for record in complete])
    if not rows:
        return (), None, _least_infeasible(records.values(), constraints)
    chosen = numbers[rows[pareto.knee(values[rows], directions)]]
    front = [numbers[row] for row in rows]
    if frame.loc[front, "footprint"].notna().all():
        front.sort(key=lambda number: (-int(cast(int, frame.at[number, "footprint"])), number))
    else:
        best_first = dict(zip(numbers, pareto.costs(values, directions)[:, 0], strict=True))
        front.sort(key=lambda number: (best_first[number], number))
    frame.loc[front, "on_front"] = True
    frame.loc[chosen, "knee"] = True
    return tuple(front), chosen, None


def _least_infeasible(records: Iterable[TrialRecord], constraints: Mapping[str, Constraint]) -> int | None:
    """Return the trial with the smallest sum of violations, each relative to its limit; of equals a scored one.

    Trials of which only a bound is known follow the others: their values are further away.
    """
    scale = {name: abs(limit.value) or 1.0 for name, limit in constraints.items()}

    def rank(record: TrialRecord) -> tuple[bool, float, bool, int]:
        excess = {name: value / scale.get(name, 1.0) for name, value in record.violations.items() if value > 0}
        has_bound = bool(excess.keys() - {*SIZE_COLUMNS, *record.values, *record.metrics, *record.partial})
        return has_bound, sum(excess.values()), not record.complete, record.number

    broken = [r for r in records if r.state in ("COMPLETE", "PRUNED") and any(v > 0 for v in r.violations.values())]
    return min(broken, key=rank).number if broken else None


def _importances(
    study: optuna.Study, names: list[str], objectives: Mapping[str, Direction]
) -> dict[str, dict[str, float]]:
    """Compute PED-ANOVA importances by objective; {} below `ENOUGH_FOR_IMPORTANCES` complete trials or if it fails."""
    import warnings

    import optuna

    complete = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    if len(complete) < ENOUGH_FOR_IMPORTANCES:
        return {}
    importances = {}
    for position, name in enumerate(names):
        # PED-ANOVA measures which parameters separate the trials with a low target from the rest.
        sign = 1.0 if objectives[name] == "minimize" else -1.0
        try:
            with warnings.catch_warnings():
                # Optuna warns that low targets count as good; `sign` sees to that.
                warnings.simplefilter("ignore")
                shares = optuna.importance.get_param_importances(study, target=_Target(position, sign))
        except (RuntimeError, ValueError):
            continue
        importances[name] = {parameter: float(share) for parameter, share in shares.items()}
    return importances


@dataclass(frozen=True, slots=True)
class _Target:
    """One objective of a trial, negated if it is to be maximised."""

    position: int
    sign: float

    def __call__(self, trial: FrozenTrial) -> float:
        return self.sign * float(trial.values[self.position])
