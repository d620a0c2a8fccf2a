"""Write trials into a study's storage: running, finished, or interrupted."""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from autotune.compression.settings import Settings
from autotune.results.storage import CHECKSUM, INTERRUPTED, trial_checksum
from autotune.study.sampling.proposals import Proposal
from autotune.study.sampling.sampler import draw, make_sampler, point_of, seed_for
from autotune.study.storage.coordination import backend
from autotune.study.storage.history import History
from autotune.study.storage.patience import repeated
from autotune.study.trials.trial import TrialResult

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import optuna

    from autotune.config.config import Config


def begin(
    study: optuna.Study, config: Config, history: History, proposal: Proposal
) -> tuple[optuna.Trial, Settings | Exception]:
    """Write a trial into the storage as running; a trial queued by hand may turn out to be outside the space."""
    import optuna
    from optuna.trial import TrialState, create_trial

    space, options, draft = config.space, config.study, proposal.draft
    if draft is None:
        study.sampler = make_sampler(options.sampler, seed_for(options.seed, history.position))
        with warnings.catch_warnings():
            # Optuna sends heartbeats only inside `optimize`; a search sends its own.
            warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
            trial = study.ask()
        attributes: dict[str, Any] = {"origin": proposal.origin}
        try:
            settings = space.settings(draw(trial, space))
            attributes["settings"] = settings.as_dict()
        except ValueError as error:
            return trial, error
        finally:
            set_attributes(study._storage, trial._trial_id, attributes)
        return trial, settings
    settings = proposal.settings or space.settings(point_of(space, draft.params))
    attrs: dict[str, Any] = {"origin": proposal.origin, "settings": settings.as_dict()}
    if proposal.retry_of is not None:
        attrs["retry_of"] = proposal.retry_of
    template = create_trial(
        state=TrialState.RUNNING,
        params=dict(draft.params),
        distributions=dict(draft.distributions),
        system_attrs=dict(draft.system_attrs),
        user_attrs=attrs,
    )
    number = study._storage.create_new_trial(study._study_id, template_trial=template)
    return optuna.Trial(study, number), settings


def finish_trial(study: optuna.Study, trial: optuna.Trial, result: TrialResult) -> bool:
    """Write a trial's result into the storage; its state last, so that a half-written trial still counts as running.

    Returns:
        Whether it was written. If another process has marked the trial as interrupted, this result is dropped, and the
        trial is repeated.
    """
    from optuna.exceptions import UpdateFinishedTrialError

    try:
        write(study, trial, result)
    except UpdateFinishedTrialError:
        return False
    return True


def write(study: optuna.Study, trial: optuna.Trial, result: TrialResult) -> None:
    """Write a trial's result into the storage."""
    from optuna.trial import TrialState

    for name, violation in result.constraints.items():
        trial.set_constraint(name, violation)
    values = list(result.values) if result.state == "complete" and result.values is not None else None
    stored = study._storage.get_trial(trial._trial_id)
    attributes = json.loads(json.dumps(result.attrs))  # as the storage returns them
    checksum = trial_checksum(stored.params, values, {**stored.user_attrs, **attributes})
    set_attributes(study._storage, trial._trial_id, {**attributes, CHECKSUM: checksum})
    if values is not None:
        study.tell(trial, values)
    else:
        study.tell(trial, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)


def set_attributes(storage: Any, trial_id: int, attributes: Mapping[str, Any]) -> None:
    """Set attributes of a running trial, all in one transaction; Optuna's own methods need three queries for each.

    Raises:
        UpdateFinishedTrialError: the trial is no longer running.
    """
    inner = backend(storage)
    write = _write_attributes if inner.engine.dialect.name == "sqlite" else repeated(_write_attributes)
    write(inner, trial_id, attributes)


def _write_attributes(storage: optuna.storages.RDBStorage, trial_id: int, attributes: Mapping[str, Any]) -> None:
    from optuna.storages._rdb.models import TrialModel, TrialUserAttributeModel
    from sqlalchemy import delete, insert, select

    rows = [{"trial_id": trial_id, "key": key, "value_json": json.dumps(value)} for key, value in attributes.items()]
    table = TrialUserAttributeModel
    with storage.engine.begin() as connection:
        state = connection.execute(select(TrialModel.state).where(TrialModel.trial_id == trial_id)).scalar_one()
        storage.check_trial_is_updatable(trial_id, state)
        connection.execute(delete(table).where(table.trial_id == trial_id, table.key.in_(attributes)))
        connection.execute(insert(table), rows)


def mark_interrupted(study: optuna.Study, numbers: Iterable[int]) -> None:
    """Fail running trials of ended processes; their points are tried again."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    error = {
        "type": INTERRUPTED,
        "message": "the process ended before the trial did; done again later",
        "traceback": "",
    }
    for number in numbers:
        trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
        with suppress(UpdateFinishedTrialError):  # another process was faster
            study._storage.set_trial_user_attr(trial_id, "error", error)
            study._storage.set_trial_state_values(trial_id, state=TrialState.FAIL)
