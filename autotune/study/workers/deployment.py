"""Score the front as deployed, and choose its runtime properties, in all workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.common.machine import fast_arithmetic
from autotune.compression.settings import Settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from autotune.config.sections import RuntimeOptions
    from autotune.study.workers.pool import Pool

ATTRIBUTE = "deployed"
"""The study's attribute: ``cpu``, ``properties``, and ``trials``, number as text -> `DeployedScorer.scores`."""

RUNTIME = "runtime"
"""The study's attribute: ``cpu``, ``settings``, those of `runtime.search`, and ``trials``, number as text ->
`DeployedScorer.each` with `DeployedScorer.times`."""


def is_deployed(stored: Mapping[str, Any], front: Sequence[FrozenTrial], options: RuntimeOptions) -> bool:
    """Test if the attributes of a study have all scores as deployed that its configuration wants."""
    numbers = {str(trial.number) for trial in front}
    searched = _runtime_record(stored, options)["trials"]
    return not (options.deployed and numbers - set(stored.get(ATTRIBUTE, {}).get("trials", {}))) and not (
        options.search and any("times" not in searched.get(number, {}) for number in numbers)
    )


def _runtime_record(stored: Mapping[str, Any], options: RuntimeOptions) -> dict[str, Any]:
    """Return the attribute `RUNTIME`; an empty one if it is of other settings."""
    record = stored.get(RUNTIME, {})
    new = {"settings": options.settings, "trials": {}}
    return {**new, **(record if record.get("settings") == options.settings else {})}


def score_as_deployed(
    study: optuna.Study, pool: Pool, front: Sequence[FrozenTrial], stage: Callable[[str], None]
) -> None:
    """Score the front's models as users run them; stored scores are kept.

    Args:
        study: receives the scores of each model at once.
        pool: runs no trial.
        front: the trials.
        stage: receives progress messages.
    """
    record = {"trials": {}, **study.user_attrs.get(ATTRIBUTE, {}), "cpu": fast_arithmetic()}
    missing = [trial for trial in front if str(trial.number) not in record["trials"]]
    stage(f"scoring the front as deployed: {len(missing)} models")
    for done, (index, scores) in enumerate(pool.front_scores(_models(missing), "deployed_scores"), 1):
        record["properties"] = {**record.get("properties", {}), **scores.get("properties", {})}
        record["trials"] = {**record["trials"], str(missing[index].number): scores}
        study.set_user_attr(ATTRIBUTE, record)
        stage(f"scoring the front as deployed: {done} of {len(missing)} models")


def search_runtime(
    study: optuna.Study,
    pool: Pool,
    front: Sequence[FrozenTrial],
    options: RuntimeOptions,
    stage: Callable[[str], None],
) -> None:
    """Score the front's models with every setting of `runtime.search`, then measure their speed, one at a time.

    Args:
        study, pool, front, stage: as `score_as_deployed`.
        options: the section `runtime`.
    """
    record = {**_runtime_record(study.user_attrs, options), "cpu": fast_arithmetic()}
    count = f"{len(options.settings)} runtime settings"

    def store(number: str, found: Mapping[str, Any]) -> None:
        record["trials"] = {**record["trials"], number: {**record["trials"].get(number, {}), **found}}
        study.set_user_attr(RUNTIME, record)

    missing = [trial for trial in front if str(trial.number) not in record["trials"]]
    stage(f"scoring {len(missing)} models with {count}")
    for done, (index, scores) in enumerate(pool.front_scores(_models(missing), "runtime_scores"), 1):
        store(str(missing[index].number), scores)
        stage(f"scoring with {count}: {done} of {len(missing)} models")
    untimed = [trial for trial in front if "times" not in record["trials"][str(trial.number)]]
    for done, trial in enumerate(untimed, 1):
        stage(f"measuring the speed of {count}: {done} of {len(untimed)} models")
        for _, times in pool.front_scores(_models([trial]), "runtime_times"):  # no other model runs beside it
            store(str(trial.number), {"times": [], **times})


def _models(trials: Sequence[FrozenTrial]) -> list[Settings]:
    return [Settings.from_dict(trial.user_attrs["settings"]) for trial in trials]
