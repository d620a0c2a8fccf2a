"""Read what a test's study left in its storage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autotune.study.storage.database import close, connect, database_url
from autotune.study.storage.history import History


def trials_of(folder: Path) -> list[Any]:
    """All trials in a folder's storage."""
    import optuna

    storage = connect(database_url(folder / "study.db"))
    try:
        return optuna.load_study(study_name="autotune", storage=storage).get_trials(deepcopy=False)
    finally:
        close(storage)


def current_trials(folder: Path) -> list[tuple[Any, ...]]:
    """Return the comparable part of each trial that was not interrupted: params, values, state, plan, sampler state."""
    return [
        (t.params, t.values, t.state.name, t.user_attrs.get("plan"), t.user_attrs.get("origin"), t.system_attrs)
        for t in History(trials_of(folder)).begun
    ]
