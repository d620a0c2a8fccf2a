"""A search that is given a model in place of a model.yaml."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from commands import Command
from demo_study import EVALUATORS, write_texts


def test_a_model_alone_is_searched_and_continued(
    run: Command, tiny_llama_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call writes llama.yaml, the second continues its study; page, tracker, list and log show the same."""
    shutil.copytree(tiny_llama_hf, tmp_path / "llama")
    write_texts(tmp_path)
    monkeypatch.setenv("BROWSER", "true")
    changes = {
        "calibration": {"synthetic": True, "samples": 2, "sequence_length": 32},
        "space": {"mode": ["int8_asym", "int4_asym"], "group_size": 32},
        "evaluators": {"perplexity": EVALUATORS["perplexity"]},
        "objectives": {"kl_divergence": "minimize", "footprint": "minimize"},
        "study.workers": 0,
    }
    words = [word for key, value in changes.items() for word in ("--set", f"{key}={json.dumps(value)}")]
    first = run("search", "llama", *words, "--trials", "1", "--open", "--log-file", "run.log", folder=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "llama.yaml is written with the defaults of `autotune init`" in first.stderr
    study = tmp_path / "reports" / "llama"
    assert 'http-equiv="refresh"' not in (study / "report.html").read_text()
    assert "[1/1] int8_asym" in (tmp_path / "run.log").read_text()
    second = run("search", "llama", *words, "--trials", "2", "--quiet", folder=tmp_path)
    assert second.returncode == 0, second.stderr
    assert second.stderr == ""
    listed = json.loads(run("list", "--json", folder=tmp_path).stdout)
    assert [(each["folder"], each["state"], each["trials"], each["total"]) for each in listed] == [
        ("reports/llama", "finished", 2, 2)
    ]
    again = run("search", "llama", *words, "--trials", "2", folder=tmp_path)
    assert "starting" not in again.stderr
    assert "loading the model" not in again.stderr
    assert "the study has its 2 trials" in again.stderr
