"""Checksums of a study and its trials: an Optuna storage that is damaged or was edited is found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from autotune.common.files import fingerprint
from autotune.errors import StudyError

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

INTERRUPTED = "interrupted"
"""Error type of a trial that ended with its process. Such a trial does not count, and is repeated."""

CHECKSUM = "checksum"
"""Attribute of a trial with the checksum of everything else in it; databases have none of their own."""


def trial_checksum(params: Mapping[str, Any], values: Sequence[float] | None, attributes: Mapping[str, Any]) -> str:
    """Hash a trial's parameters, values and attributes, as the storage returns them: 32 hex digits."""
    kept = {key: value for key, value in attributes.items() if key != CHECKSUM}
    return fingerprint(params, None if values is None else [float(value) for value in values], kept)


def study_checksums(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    """Hash each of a study's ``attributes``; ``states`` has the first letter of each finished trial's state."""
    states = "".join(trial.state.name[0] if trial.state.is_finished() else "." for trial in trials)
    attributes = {key: fingerprint(value) for key, value in study.user_attrs.items() if key != CHECKSUM}
    return {"states": states, "attributes": attributes}


def check_study(study: optuna.Study, where: str) -> list[FrozenTrial]:
    """Compare a study and its trials with the checksums that the search wrote; return the trials.

    A study has checksums only while no search runs. Trials and attributes that were added later are not compared.

    Raises:
        StudyError: an attribute or a trial is not what the search wrote.
    """
    trials: list[FrozenTrial] = study.get_trials(deepcopy=False)
    stored, found = study.user_attrs.get(CHECKSUM) or {}, study_checksums(study, trials)
    hashes, before = found["attributes"], stored.get("attributes", {})
    states = zip_longest(stored.get("states", ""), found["states"])
    differing = [f"the attribute {key}" for key, value in before.items() if hashes.get(key) != value]
    differing += [f"the state of trial {i}" for i, (old, now) in enumerate(states) if old not in (None, ".", now)]
    differing += [f"trial {trial.number}" for trial in trials if not _is_as_written(trial)]
    if differing:
        more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
        raise StudyError(
            f"{where}: {', '.join(differing[:3])}{more} changed since the search: the storage is damaged or was "
            "edited. Restore it from a copy, or start again with --fresh, which keeps the old study aside."
        )
    return trials


def _is_as_written(trial: FrozenTrial) -> bool:
    """Compare a trial with its checksum; interrupted trials and those of other programs have none."""
    attributes = trial.user_attrs
    interrupted = (attributes.get("error") or {}).get("type") == INTERRUPTED
    if CHECKSUM not in attributes or interrupted or not trial.state.is_finished():
        return True
    return bool(attributes[CHECKSUM] == trial_checksum(trial.params, trial.values, attributes))
