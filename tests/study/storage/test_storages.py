"""Laws of every storage that processes can share: SQLite, and PostgreSQL where a server is installed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import create_trial
from postgres import Server, restartable_server
from search_fakes import SMALL, FakeConfig, FakeSession, Recorder, StudyOptions, search
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError

from autotune.errors import StudyError, UsageError
from autotune.study.run import run_worker
from autotune.study.storage import patience
from autotune.study.storage.coordination import Shared
from autotune.study.storage.database import DATABASE, open_study
from autotune.study.storage.history import History

DIRECTIONS: Any = {"kl_divergence": "minimize", "footprint": "minimize"}


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    """A PostgreSQL server."""
    with restartable_server() as running:
        yield running


@pytest.fixture(scope="module")
def postgres(running: Server) -> Iterator[str]:
    """URLs of empty databases on one server."""
    import psycopg

    def databases() -> Iterator[str]:
        for number in count():
            with psycopg.connect(running.url.replace("+psycopg", ""), autocommit=True) as connection:
                connection.execute(f"CREATE DATABASE study{number}")
            yield running.url.replace("/postgres", f"/study{number}")

    return databases()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty storage."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'shared.db'}"
    return next(request.getfixturevalue("postgres"))


def content(folder: Path, url: str) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """The comparable parts of the trials, and the attributes of a study."""
    with open_study(folder, url, DIRECTIONS) as study:
        trials = History(study.get_trials(deepcopy=False)).begun
        return (
            [(t.number, t.params, t.values, t.state.name, t.user_attrs["plan"], t.constraints) for t in trials],
            dict(study.user_attrs),
        )


def test_every_storage_holds_the_same_study(url: str, tmp_path: Path) -> None:
    """Trial by trial, also where the search is continued by a worker; all attributes are read as they were written."""
    plain = f"sqlite:///{tmp_path / 'plain.db'}"
    options = StudyOptions(trials=6)
    search(FakeConfig(tmp_path / "plain", space=SMALL, study=options), storage=plain)
    config = FakeConfig(tmp_path / "study", space=SMALL, study=options)
    search(config, storage=url, trials=3)
    outcome = run_worker(config, url, listener=Recorder(), open_session=lambda config, stage: FakeSession())  # type: ignore[arg-type,return-value]
    assert (outcome.ran, outcome.finished) == (3, 6)
    assert content(config.output, url) == content(tmp_path / "plain", plain)


def test_every_storage_refuses_to_start_anew_and_to_be_joined_empty(url: str, tmp_path: Path) -> None:
    """A study in a database is not deleted; where there is none, a worker says what to start first."""
    with (
        pytest.raises(StudyError, match="autotune search"),
        open_study(tmp_path, url, DIRECTIONS, joins=True),
    ):
        pass
    with open_study(tmp_path, url, DIRECTIONS) as study:
        study.set_user_attr("schema_version", 1)
    with pytest.raises(UsageError, match="does not delete"), open_study(tmp_path, url, DIRECTIONS, fresh=True):
        pass
    with open_study(tmp_path, url, DIRECTIONS, joins=True) as study:
        assert study.user_attrs == {"schema_version": 1}


def test_opening_a_storage_disables_no_logger(url: str, tmp_path: Path) -> None:
    """Optuna's migrations configure logging from a file, which disables every existing logger; and enables none."""
    logger, other = logging.getLogger("evaluators.perplexity"), logging.getLogger("test.disabled")
    other.disabled = True
    with open_study(tmp_path, url, DIRECTIONS):
        assert (logger.disabled, other.disabled) == (False, True)


def test_every_storage_lets_one_process_at_a_time_claim_a_plan(url: str, tmp_path: Path) -> None:
    """A process that holds the claim is alone, however many request it."""
    inside, most = 0, 0
    with open_study(tmp_path, url, DIRECTIONS) as study:
        sharing = Shared(study)

        def work() -> None:
            nonlocal inside, most
            with sharing.claim():
                inside += 1
                most = max(most, inside)
                time.sleep(0.02)
                inside -= 1

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        sharing.close()
    assert (most, inside) == (1, 0)


def test_a_server_that_restarts_is_waited_for(running: Server, postgres: Iterator[str], tmp_path: Path) -> None:
    """In the middle of a claim, between two operations, and while another process waits for the claim."""
    with open_study(tmp_path, next(postgres), DIRECTIONS) as study:
        sharing, results = Shared(study), []

        def wait_for_claim() -> None:
            with sharing.claim():
                results.append(study.user_attrs["first"])

        with sharing.claim():
            study.set_user_attr("first", 1)
            waiting = threading.Thread(target=wait_for_claim)
            waiting.start()
            running.restart()
            study.set_user_attr("second", 2)
        waiting.join(30)
        running.restart()
        study.add_trial(create_trial(values=[1.0, 2.0]))
        assert results == [1]
        assert study.user_attrs == {"first": 1, "second": 2}
        assert [each.values for each in study.get_trials()] == [[1.0, 2.0]]
        sharing.close()


def test_only_a_lost_connection_is_tried_again_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of another kind comes out at once; a server that stays away, after `PATIENCE`."""
    monkeypatch.setattr(patience, "PATIENCE", 0.3)
    monkeypatch.setattr(patience, "PAUSE", 0.1)
    for error, least, most in ((OperationalError, 3, 5), (IntegrityError, 1, 1)):
        calls = []

        def fail(calls: list[int] = calls, error: type[DBAPIError] = error) -> None:
            calls.append(1)
            raise error("INSERT", None, Exception())

        with pytest.raises(error):
            patience.repeated(fail)()
        assert least <= len(calls) <= most


def test_a_folder_may_have_braces_in_its_name(tmp_path: Path) -> None:
    """Optuna fills templates in URLs; the file lies where it should, and is found again."""
    folder = tmp_path / "{model}-{0}"
    folder.mkdir()
    with open_study(folder, None, DIRECTIONS) as study:
        study.set_user_attr("schema_version", 1)
    assert [path.name for path in folder.iterdir()] == [DATABASE]
    with open_study(folder, None, DIRECTIONS, joins=True) as study:
        assert study.user_attrs == {"schema_version": 1}
