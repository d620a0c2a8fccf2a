"""Passwords of storage URLs appear in no file, message or list of processes."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import FakeConfig, StudyOptions, search

from autotune.common.formatting import without_password
from autotune.errors import StudyError
from autotune.reporting.folder import write_report
from autotune.results.load import load_results
from autotune.study.workers import connection

SECRET = "hunter2"
URLS = (
    f"postgresql+psycopg://user:{SECRET}@127.0.0.1:1/study",
    f"postgresql+psycopg://user:p@{SECRET}@127.0.0.1:1/study",
    f"postgresql+psycopg://user:a/{SECRET}@127.0.0.1:1/study",
    f"postgresql+psycopg://:{SECRET}@127.0.0.1:1/study",
    f"postgresql+psycopg://127.0.0.1:1/study?user=me&password={SECRET}",
    f"postgresql+psycopg://127.0.0.1:1/study?sslpassword={SECRET}&sslmode=disable",
    f"mysql+pymysql://user:{SECRET}@127.0.0.1:bad/study",
    f"nonsense://user:{SECRET}@host/study",
)


@pytest.mark.parametrize("url", URLS)
def test_errors_and_logs_hide_it(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A storage that cannot be reached, or whose URL is wrong: the message and its causes; report and search."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(StudyError) as reading:
        load_results(tmp_path, url)
    with pytest.raises(StudyError) as searching:
        search(FakeConfig(tmp_path / "study", study=StudyOptions(trials=1)), storage=url)
    for caught in (reading.value, searching.value):
        assert SECRET not in str(caught)
        assert "storage" in str(caught)
    assert SECRET not in caplog.text
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or SECRET.encode() not in file.read_bytes()


@pytest.mark.parametrize("url", URLS)
def test_no_file_of_a_study_holds_it(url: str, make: Any, tmp_path: Path) -> None:
    """The commands in a report name the storage with PASSWORD in its place."""
    from autotune.reporting.text.commands import export_command

    results = replace(make(trials=3, failing=()), storage=url)
    assert SECRET not in export_command(results, 0)
    assert "PASSWORD" in export_command(results, 0)
    if url == URLS[0]:
        write_report(results, tmp_path)
        for file in tmp_path.rglob("*"):
            assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@given(
    st.from_regex(r"[a-z]{0,5}", fullmatch=True),
    st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12),
    st.sampled_from(("@host/db", "@host:5432/db?sslmode=require", "@/db")),
)
def test_any_password_is_hidden(user: str, password: str, rest: str) -> None:
    """Also with characters that should have been quoted; what is not secret stays."""
    assert without_password(f"postgresql://{user}:{password}{rest}") == f"postgresql://{user}:PASSWORD{rest}"
    for plain in (f"postgresql://{user}{rest}", "sqlite:////tmp/a:b/study.db", "sqlite:///study.db", "redis://h:1/0"):
        assert without_password(plain) == plain


def test_worker_processes_get_no_url() -> None:
    """Their command line is fixed; the configuration travels through a pipe, and they never open the storage."""
    assert connection.COMMAND == "from autotune.study.workers.child import main; main()"
    code = "import autotune.study.workers.child, sys; print('autotune.study.storage.database' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
