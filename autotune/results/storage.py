"""Open Optuna's storages, and find by checksums those that are damaged or were edited."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
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


_newest: list[str] = []
"""Version of the tables that this Optuna writes, once it was read from all of its migration scripts."""


def open_storage(url: str, **options: Any) -> optuna.storages.RDBStorage:
    """Open a relational storage, with its tables created where there are none.

    Args:
        url: an SQLAlchemy URL.
        options: those of `optuna.storages.RDBStorage`.

    Raises:
        RuntimeError: another version of Optuna wrote the tables; with Optuna's remedy.
        Exception: of SQLAlchemy, the driver or Optuna, for a wrong URL or a damaged file.
    """
    from optuna.storages import RDBStorage

    storage = RDBStorage.__new__(RDBStorage)
    try:
        with enabled_loggers():
            RDBStorage.__init__(storage, url, skip_compatibility_check=True, **options)
            if not _newest:
                _newest.append(storage.get_head_version())
            if storage.get_current_version() != _newest[0]:
                storage._version_manager.check_table_schema_compatibility()
    except BaseException:
        # A constructor that fails leaves its connection open, until it is collected as garbage.
        if hasattr(storage, "scoped_session"):
            close_connections(storage)
        raise
    return storage


def close_connections(storage: optuna.storages.RDBStorage) -> None:
    """Close every connection of a storage."""
    storage.remove_session()
    storage.engine.dispose()


@contextmanager
def enabled_loggers() -> Iterator[None]:
    """Keep existing loggers enabled while an Optuna storage opens.

    Optuna's migrations configure `logging` from a file, which disables every logger that exists. Warnings of autotune
    and of the user's program would be lost.
    """
    loggers = [each for each in logging.root.manager.loggerDict.values() if isinstance(each, logging.Logger)]
    enabled = [logger for logger in loggers if not logger.disabled]
    try:
        yield
    finally:
        for logger in enabled:
            logger.disabled = False


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
