"""Everything that the documentation shows exists: commands, options, settings, links, figures."""

from __future__ import annotations

import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import yaml

from autotune.cli.app import app, run
from autotune.config.space.presets import presets

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def blocks(kind: str) -> list[tuple[Path, str]]:
    """(page, code) of every fenced block of one kind."""
    return [
        (page, found)
        for page in PAGES
        for found in re.findall(rf"```{kind}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
    ]


def script(name: str) -> ModuleType:
    """A module of benchmarks/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_link_leads_somewhere() -> None:
    """Relative links name files that are there."""
    for page in PAGES:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page}: {link}"


def test_every_command_and_option_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Each line of a shell block is a command of autotune with options that its help knows."""
    names = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    lines = [line for _, block in blocks("sh") for line in block.splitlines()]
    assert len(lines) >= 9
    for line in lines:
        words = shlex.split(line)
        assert words[0] == "autotune"
        assert words[1] in names
        run([words[1], "--help"])
        help_text = capsys.readouterr().out
        for option in (word for word in words if word.startswith("--")):
            assert option in help_text, line


def test_every_model_yaml_is_valid(tmp_path: Path) -> None:
    """The configurations load as they stand, where the files that they name exist."""
    from autotune.config.config import load_config

    (tmp_path / "my-model").mkdir()
    (tmp_path / "my-model" / "config.json").write_text("{}")
    for name in ("calibration.txt", "search.txt", "prompts.txt"):
        (tmp_path / name).write_text("Some words.\n")
    found = [block for _, block in blocks("yaml")]
    assert found
    for block in found:
        (tmp_path / "model.yaml").write_text(block)
        assert load_config(tmp_path / "model.yaml").model == str(tmp_path / "my-model")
        assert yaml.safe_load(block)["model"] == "my-model"


def test_every_setting_has_its_page() -> None:
    """Each parameter that a preset varies is the subject of a page of docs/knobs."""
    pages = {page.stem for page in (ROOT / "docs" / "knobs").glob("*.md")}
    text = (ROOT / "search_spaces" / "full.yaml").read_text(encoding="utf-8")
    for name in yaml.safe_load(text):
        assert name in pages | {"description", "backup_mode", "lora_rank"}, name
    assert presets()


def test_figures_are_those_of_the_readme() -> None:
    """`benchmarks/knob_tables.py` would change nothing."""
    tables = script("knob_tables")
    known = tables.measured(tables.texts())
    assert len(known) >= 15
    for page in (ROOT / "docs" / "knobs").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        assert tables.filled(text, known) == text, f"run python benchmarks/knob_tables.py ({page.name})"
