"""Repeat database operations whose connection was lost, so that a search outlives a restart of its server."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import optuna

PATIENCE = 120.0
"""Seconds for which a server may be unreachable."""

PAUSE = 0.5
"""Seconds between two attempts."""

INNER = ("_create_new_trial", "_get_stale_trial_ids", "_get_trials", "_set_trial_param", "_get_best_trial_id")
"""Operations that Optuna's cache calls, besides the public ones."""


def repeat_lost_operations(storage: optuna.storages.RDBStorage) -> None:
    """Let every operation of a storage wait for its server.

    An operation that the server completed before the connection was lost is repeated too: it writes the same again. The
    exception is a new trial, of which the first copy counts as lost after the grace period.
    """
    from optuna.storages import BaseStorage

    public = [name for name in vars(BaseStorage) if not name.startswith("_") and name != "remove_session"]
    for name in (*public, *INNER):
        if callable(operation := getattr(storage, name, None)):
            setattr(storage, name, repeated(operation))


def repeated(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap an operation: while its connection is lost, it is tried again for `PATIENCE` seconds."""
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    @wraps(operation)
    def call(*args: Any, **kwargs: Any) -> Any:
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return operation(*args, **kwargs)
            except (StorageInternalError, SQLAlchemyError) as error:
                if not is_lost_connection(error) or time.monotonic() > deadline:
                    raise
            time.sleep(PAUSE)

    return call


def is_lost_connection(error: BaseException) -> bool:
    """Test if an error of SQLAlchemy, or one of Optuna that it caused, says that the server cannot be reached."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    return any(isinstance(each, (InterfaceError, OperationalError)) for each in (error, error.__cause__))
