"""Faults from outside a study: a full disk, a clock that jumps, a folder that cannot be written."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from failing_disk import failing
from search_fakes import FakeConfig, StudyOptions, open_faulty, search, undisturbed
from stored import current_trials, trials_of

from autotune.errors import StudyError
from autotune.reporting.folder import rebuild_report
from autotune.results.storage import CHECKSUM
from autotune.study.storage.database import STUDY_NAME, close, connect, database_url

TABLE = Path(__file__).parents[2] / "docs" / "faults.md"


def small_files() -> None:
    """Let no file of this process grow beyond what a few trials need: writing more fails, as on a full disk."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_200_000, 1_200_000))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_disk_that_fills_up_loses_no_finished_trial(tmp_path: Path, workers: int) -> None:
    """The search ends with one clear error; with room again, the study is the undisturbed one, and nothing else."""
    script = str(Path(__file__).parents[1] / "support" / "search_fakes.py")
    command = [sys.executable, script, str(tmp_path / "study"), str(tmp_path / "log.txt"), "30", "0", str(workers)]
    full = subprocess.run(command, preexec_fn=small_files, capture_output=True, text=True, check=False)
    assert full.returncode == 1
    assert "StudyError" in full.stderr
    assert "to continue" in full.stderr
    finished = [trial for trial in trials_of(tmp_path / "study") if trial.state.is_finished()]
    assert 0 < len(finished) < 30
    (tmp_path / "study" / "plans" / ".of-a-killed-one.json.1.tmp").touch()
    subprocess.run(command, check=True, capture_output=True)
    assert not [*(tmp_path / "study").rglob("*.tmp")]
    assert current_trials(tmp_path / "study") == undisturbed(trials=30)


@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("cc"), reason="needs Linux and a C compiler")
@pytest.mark.parametrize("fault", ["eio", "edquot"])
def test_a_disk_that_fails_for_a_while_loses_no_finished_trial(tmp_path: Path, fault: str) -> None:
    """EIO and a quota under the study: one clear error, and the continued study is the undisturbed one."""
    study, log, switch = tmp_path / "study", tmp_path / "log.txt", tmp_path / "switch"
    script = str(Path(__file__).parents[1] / "support" / "search_fakes.py")
    command = [sys.executable, script, str(study), str(log), "12", "0.05", "0"]
    environment = {**os.environ, **failing(tmp_path, fault, below=study, switch=switch)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while time.monotonic() < until and (not log.exists() or len(log.read_text().split()) < 3):
        time.sleep(0.02)
    switch.touch()
    error = process.communicate()[1]
    assert process.returncode == 1, error
    assert "StudyError" in error
    assert "to continue" in error
    switch.unlink()
    subprocess.run(command, check=True, capture_output=True)
    assert current_trials(study) == undisturbed(trials=12)


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """Trials that end before they begin, or in another century, are continued and reported like any others."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=12))
    search(config, trials=6)
    with sqlite3.connect(config.output / "study.db") as connection:
        connection.execute("UPDATE trials SET datetime_complete = '1970-01-01 00:00:00' WHERE number % 2")
        connection.execute("UPDATE trials SET datetime_start = '2106-02-07 06:28:16' WHERE number = 2")
    connection.close()
    assert search(config, report=rebuild_report).finished == 12
    assert current_trials(config.output) == undisturbed(trials=12)
    assert len((config.output / "trials.csv").read_text().splitlines()) == 13


CHANGES = {
    "UPDATE trial_values SET value = value + 1e-9 WHERE trial_id > 1": "trial 1, trial 2, trial 3 and 1 more",
    "UPDATE trial_user_attributes SET value_json = '1' WHERE trial_id = 3 AND key = 'plan'": "trial 2",
    "DELETE FROM trial_user_attributes WHERE trial_id = 3 AND key = 'plan'": "trial 2",
    "UPDATE trials SET state = 'FAIL' WHERE trial_id = 3": "the state of trial 2",
    "UPDATE study_user_attributes SET value_json = '{}' WHERE key = 'objectives'": "the attribute objectives",
    "DELETE FROM study_user_attributes WHERE key = 'original'": "the attribute original",
}
"""Statements -> the part of the study that they change."""


def test_a_storage_that_changed_is_refused(tmp_path: Path) -> None:
    """By report and search, with the name of what changed; --fresh starts again."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=6))
    for trials in (3, 5):
        search(config, trials=trials)
    database = config.output / "study.db"
    storage = connect(database_url(database))
    stored = optuna.load_study(study_name=STUDY_NAME, storage=storage).user_attrs[CHECKSUM]
    close(storage)
    assert set(stored["states"]) <= set("CPF"), "later versions read these letters"
    whole = database.read_bytes()
    for change, named in CHANGES.items():
        database.write_bytes(whole)
        with sqlite3.connect(database) as connection:
            before = list(connection.iterdump())
            connection.execute(change)
            assert list(connection.iterdump()) != before
        connection.close()
        for read in (lambda: rebuild_report(config.output), lambda: search(config)):
            with pytest.raises(StudyError, match=f": {named} changed since the search"):
                read()
    assert search(config, fresh=True).finished == 6


@pytest.mark.parametrize("output", ["/sys/autotune-study", "/proc/autotune-study", "{tmp}/file/study"])
def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path, output: str) -> None:
    """Before any work, with the folder's name and the remedy."""
    (tmp_path / "file").write_text("in the way")
    config = FakeConfig(Path(output.format(tmp=tmp_path)), study=StudyOptions(workers=1))
    with pytest.raises(StudyError, match=r"cannot be written.*--output"):
        search(config, open_session=open_faulty)


def test_the_table_of_faults_names_tests_that_exist() -> None:
    """Each fault of docs/faults.md has a test, in the file that the table names."""
    rows = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE.read_text(encoding="utf-8"))
    assert len(rows) >= 20
    for file, name in rows:
        assert f"def {name}(" in (TABLE.parents[1] / file).read_text(encoding="utf-8"), f"{file}::{name}"
