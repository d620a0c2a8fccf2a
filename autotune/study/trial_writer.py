"""Write trials into a study's storage: running, finished, or interrupted."""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from autotune.compression.settings import Settings
from autotune.results.checksums import CHECKSUM, INTERRUPTED, trial_checksum
from autotune.study.sampling.proposals import Proposal
from autotune.study.sampling.sampler import draw, make_sampler, point_of, seed_for
from autotune.study.storage.history import History
from autotune.study.trials.trial import TrialResult

if TYPE_CHECKING:
    from collections.abc import Iterable

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
        trial.set_user_attr("origin", proposal.origin)
        try:
            settings = space.settings(draw(trial, space))
        except ValueError as error:
            return trial, error
        trial.set_user_attr("settings", settings.as_dict())
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

    for key, value in result.attrs.items():
        trial.set_user_attr(key, value)
    for name, violation in result.constraints.items():
        trial.set_constraint(name, violation)
    values = list(result.values) if result.state == "complete" and result.values is not None else None
    stored = study._storage.get_trial(trial._trial_id)
    trial.set_user_attr(CHECKSUM, trial_checksum(stored.params, values, stored.user_attrs))
    if values is not None:
        study.tell(trial, values)
    else:
        study.tell(trial, state=TrialState.PRUNED if result.state == "pruned" else TrialState.FAIL)


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
