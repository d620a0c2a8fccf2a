"""The model.yaml that `autotune init` writes."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from autotune import registry
from autotune.config import Config, load_config
from autotune.starter import starter_yaml


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in evaluators, whether or not the package is installed."""
    values = {"similarity": "evaluators.similarity:Similarity", "perplexity": "evaluators.perplexity:Perplexity"}
    points = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "_entry_points", lambda: points)


def test_it_loads_as_it_is_and_says_the_defaults(tmp_path: Path) -> None:
    """What init writes is valid, and equal to naming the model alone: it only spells out the defaults."""
    (tmp_path / "model.yaml").write_text(starter_yaml("HuggingFaceTB/SmolLM2-135M"), encoding="utf-8")
    (tmp_path / "short.yaml").write_text("model: HuggingFaceTB/SmolLM2-135M\n", encoding="utf-8")
    assert load_config(tmp_path / "model.yaml") == load_config(tmp_path / "short.yaml")


def test_every_section_is_there_with_a_comment() -> None:
    """Each key of a configuration stands in the file (constraints as a comment), after a line that explains it."""
    lines = starter_yaml("a/b").splitlines()
    for key in Config.model_fields:
        at = next(index for index, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key}:"))
        assert lines[at - 1].startswith("#")
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", ["llama", "My Llama: 7B #1", "1e-3", "it's"])
def test_a_local_folder_with_local_texts_validates(tmp_path: Path, name: str) -> None:
    """A model's folder of any name becomes a valid file, and its texts may be files."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    for text in ("calibration.txt", "search.txt"):
        (tmp_path / text).write_text("Some words.\n")
    (tmp_path / "model.yaml").write_text(starter_yaml(f"./{name}"), encoding="utf-8")
    config = load_config(
        tmp_path / "model.yaml",
        ["calibration={path: calibration.txt, samples: 8}", "evaluators.perplexity={path: search.txt}"],
    )
    assert config.model == str(tmp_path / name)
    assert config.calibration.path == tmp_path / "calibration.txt"
    assert config.evaluators["perplexity"] == {"path": str(tmp_path / "search.txt")}


def test_the_schema_hint_is_a_hint() -> None:
    """The editor's schema line stays a comment until a schema file is there."""
    hint = [line for line in starter_yaml("a/b").splitlines() if "$schema" in line]
    assert [line.lstrip("# ").startswith("yaml-language-server:") for line in hint] == [True]
    assert not hint[0].startswith("# yaml-language-server")
