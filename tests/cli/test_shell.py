"""Shared by all commands: shell completion, `--quiet`, `--log-file`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from commands import run_here

from autotune.cli.app import app
from autotune.cli.search import TRACKERS
from autotune.reporting import trackers

PROGRAM = "import sys; sys.argv[0] = 'autotune'; from autotune.cli.app import main; main()"
SILENT = {"init", "list", "report", "compare", "cache", "spaces", "evaluators", "schema"}
"""Commands that show no progress."""


def complete(words: str) -> set[str]:
    """The words that bash would offer after a command line."""
    environment = {**os.environ, "_AUTOTUNE_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split(" ")) - 1)
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, env=environment)
    return set(done.stdout.split())


def test_completion_offers_commands_options_and_values() -> None:
    """Of the command line's own definitions."""
    assert {"search", "spaces", "schema"} <= complete("autotune s")
    assert {"--max-size", "--max-drop"} <= complete("autotune export --max")
    assert {"int4_asym", "int4_sym"} <= complete("autotune compress model out --mode int4")
    assert complete("autotune search --track m") == {"mlflow"}
    assert set(TRACKERS) == set(trackers.TRACKERS)


def test_completion_is_installed(tmp_path: Path) -> None:
    """`autotune --install-completion bash` writes a script that .bashrc reads."""
    environment = {**os.environ, "HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    environment["_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION"] = "1"
    command = [sys.executable, "-c", PROGRAM, "--install-completion", "bash"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (script,) = (path for path in tmp_path.rglob("*autotune*") if path.is_file())
    assert "_AUTOTUNE_COMPLETE=complete_bash" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()


def test_every_command_with_progress_can_be_quiet_and_log() -> None:
    """Both options, or neither."""
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert ({"--quiet", "--log-file"} <= options) == (name not in SILENT), name
        assert not ({"--quiet", "--log-file"} & options) or name not in SILENT, name


def test_a_log_has_progress_and_errors_with_times(tmp_path: Path, tiny_llama: Path) -> None:
    """Appended, one line each; the terminal has the same with its progress, and only the error if quiet."""
    words = ("compress", str(tiny_llama), "out", "--mode", "int8_asym", "--log-file", "run.log")
    shown = run_here(tmp_path, *words, cache=tmp_path / "cache")
    assert shown.returncode == 0, shown.stderr
    first = (tmp_path / "run.log").read_text().splitlines()
    assert "autotune compress, version" in first[0]
    logged = [line.split(" INFO ", 1)[1] for line in first[1:]]
    assert logged
    assert all(line in shown.stderr for line in logged)
    quiet = run_here(tmp_path, *words, "--quiet", cache=tmp_path / "cache")  # its folder is not empty now
    assert quiet.returncode == 2
    assert quiet.stderr.startswith("autotune: out exists already")
    assert len(quiet.stderr.splitlines()) == 1
    lines = (tmp_path / "run.log").read_text().splitlines()
    assert lines[: len(first)] == first
    assert " ERROR out exists already" in lines[-1]
    refused = run_here(tmp_path, *words[:-1], "no/such/folder/run.log", cache=tmp_path / "cache")
    assert refused.returncode == 2
    assert "--log-file no/such/folder/run.log cannot be written" in refused.stderr


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_is_no_progress(tmp_path: Path, tiny_llama: Path, quiet: bool) -> None:
    """Without progress stderr is empty, and stdout the same."""
    words = ("compress", str(tiny_llama), "out", "--mode", "int8_asym", *(["-q"] if quiet else []))
    done = run_here(tmp_path, *words, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert (done.stderr == "") == quiet
    assert "bytes" in done.stdout
