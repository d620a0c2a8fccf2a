"""The search: model.yaml -> Optuna study -> trials -> a study's folder, with resume, duplicates and live progress."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autotune.search.study import StudyOutcome, run_search, run_worker

__all__ = ["StudyOutcome", "run_search", "run_worker"]


def __getattr__(name: str) -> Any:
    # Optuna takes a third of a second to import: only who searches pays for it.
    if name in __all__:
        from autotune.search import study

        return getattr(study, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
