"""Score the front as deployed, in all workers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from autotune.common.machine import fast_arithmetic
from autotune.compression.settings import Settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from autotune.study.workers.pool import Pool

ATTRIBUTE = "deployed"
"""The study's attribute: ``cpu``, ``properties``, and ``trials``, number as text -> `DeployedScorer.scores`."""


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
    models = [Settings.from_dict(trial.user_attrs["settings"]) for trial in missing]
    stage(f"scoring the front as deployed: {len(models)} models")
    for done, (index, scores) in enumerate(pool.front_scores(models, deployed=True), 1):
        record["properties"] = {**record.get("properties", {}), **scores.get("properties", {})}
        record["trials"] = {**record["trials"], str(missing[index].number): scores}
        study.set_user_attr(ATTRIBUTE, record)
        stage(f"scoring the front as deployed: {done} of {len(models)} models")
