"""Fixtures of the reporting tests: made-up studies, in memory or in a folder."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autotune.reporting.results import results_of
from autotune.reporting.view import StudyResults


@pytest.fixture(scope="session")
def fake() -> ModuleType:
    """`fake_study.py`, loaded from its file whatever the import mode."""
    spec = importlib.util.spec_from_file_location("fake_study", Path(__file__).with_name("fake_study.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["fake_study"] = module
    spec.loader.exec_module(module)
    return module


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
