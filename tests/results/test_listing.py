"""The list of studies in a folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock

import autotune
from autotune.cli.app import run
from autotune.errors import StudyError


@pytest.fixture
def reports(folder: Path, tmp_path: Path) -> Path:
    """Two copies of a study of 12 trials, a damaged one, and a folder that is none."""
    for name in ("one", "deeper/two"):
        shutil.copytree(folder, tmp_path / name)
        (tmp_path / name / ".lock").touch()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "study.db").write_text("no database")
    (tmp_path / "comparison").mkdir()
    return tmp_path


def test_studies_are_listed(reports: Path) -> None:
    """Model, state, trials and the recommended point are those of the study; one that runs is seen by its lock."""
    with FileLock(reports / "one" / ".lock"):
        table = autotune.list_studies(reports).set_index("folder")
    one, two, broken = (table.loc[str(reports / name)] for name in ("one", "deeper/two", "broken"))
    assert (one["state"], two["state"], broken["state"]) == ("running", "stopped", "unreadable")
    assert "not a readable Optuna storage" in broken["error"]
    study = autotune.load_study(reports / "one")
    assert (one["model"], one["trial"]) == (study.results.model, study.best())
    assert one["footprint"] == study.trials.at[study.best(), "footprint"]
    assert one["value"] == study.trials.at[study.best(), one["metric"]]
    states = study.trials["state"].tolist()
    assert (one["trials"], one["failed"]) == (12 - study.trials["duplicate_of"].notna().sum(), states.count("FAIL"))
    assert len(table) == 3


def test_the_command_prints_a_line_for_each(reports: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The latest first, with the age; `--json` has the same values; a folder that is not there is an error."""
    assert run(["list", str(reports)]) == 0
    text = capsys.readouterr().out
    assert text.count(" trials, ") == 2
    assert " ago\n" in text
    assert "KL divergence" in text
    assert run(["list", str(reports), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data == json.loads(autotune.list_studies(reports).to_json(orient="records")) or len(data) == 3
    assert run(["list", str(reports / "comparison")]) == 0
    assert capsys.readouterr().out.startswith("no study in ")
    with pytest.raises(StudyError, match="no such folder"):
        autotune.list_studies(reports / "nowhere")
