"""Fixtures of the reporting tests: made-up studies, in memory or in a folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import fake_study
import pytest

from autotune.results.load import results_of
from autotune.results.records import StudyResults


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """The module `fake_study`."""
    return fake_study


@pytest.fixture(autouse=True)
def quiet_optuna() -> Iterator[None]:
    """No log lines of Optuna's."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def make(fake: ModuleType) -> Callable[..., StudyResults]:
    """Builds a study in memory and reads it: the keywords are those of `fake_study.build`."""

    def build(**options: Any) -> StudyResults:
        return results_of(fake.build(**options))

    return build


@pytest.fixture(scope="session")
def folder(fake: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the SQLite storage of a study of 12 trials, one of them failed."""
    path = tmp_path_factory.mktemp("study")
    fake.build(f"sqlite:///{path / 'study.db'}", trials=12)
    return path
