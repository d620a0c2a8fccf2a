"""A sweep: one study for each model; a failure costs its own model alone, and the same command continues."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_study
import pytest

import autotune
from autotune.cli.app import run
from autotune.errors import PrerequisiteError
from autotune.study import run as running


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Model -> what its search raises, or the signal that stopped it, or None; the searches are made up."""
    outcomes: dict[str, Any] = {"me/one": None, "me/two": PrerequisiteError("no tokenizer; copy it"), "me/three": None}
    ran: list[str] = []

    def search(config: Any, **_: Any) -> Any:
        from autotune.results.load import load_results

        ran.append(config.model)
        if isinstance(outcomes[config.model], Exception):
            raise outcomes[config.model]
        if not (config.output / "study.db").exists():
            config.output.mkdir(parents=True)
            fake_study.build(f"sqlite:///{config.output / 'study.db'}", trials=6)
        signal = outcomes[config.model]
        report = SimpleNamespace(results=load_results(config.output), files=())
        return SimpleNamespace(
            folder=config.output, report=report, reason="trials", interrupted=bool(signal), exit_code=signal or 0
        )

    monkeypatch.setattr(running, "run_search", search)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text("a text")
    (tmp_path / "all.yaml").write_text(
        "models: [me/one, me/two, me/three]\noutput: many\nspace: {mode: int8_sym}\n"
        "evaluators: {perplexity: {path: text.txt}}\n"
    )
    return {"outcomes": outcomes, "ran": ran}


def test_a_failed_model_does_not_end_the_others(models: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The command ends with 1, the errors and the comparison of the others; once repaired, all are on one page."""
    assert run(["search", "all.yaml", "--json", "--quiet"]) == 1
    assert models["ran"] == ["me/one", "me/two", "me/three"]
    shown = capsys.readouterr()
    assert "me/two failed: no tokenizer; copy it" in shown.err
    assert Path("many/comparison/compare.html").is_file()
    models["outcomes"]["me/two"] = RuntimeError("of a library")
    swept = autotune.sweep("all.yaml", progress=False)
    assert swept.errors == {"me/two": "RuntimeError: of a library"}
    assert list(swept.studies) == ["me/one", "me/three"]
    models["outcomes"]["me/two"] = None
    done: list[Any] = []
    swept = autotune.sweep({"models": ["me/one", "me/two"], "output": "many"}, finished=done.append, progress=False)
    assert swept.errors == {}
    assert done == list(swept.studies.values())
    assert swept.folder == Path("many/comparison").absolute()
    assert swept.frame["study"].nunique() == 2


def test_a_signal_ends_the_sweep(models: dict[str, Any]) -> None:
    """Later models are not searched; the exit code is that of the signal."""
    models["outcomes"]["me/one"] = 130
    assert run(["search", "all.yaml", "--json", "--quiet"]) == 130
    assert models["ran"] == ["me/one"]
