"""Options: those of `compress` are the settings, and help is readable on a terminal of 80 columns."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import fake_study
import pytest
import typer

from autotune.cli.app import app, run
from autotune.cli.compress import compress, read_settings
from autotune.compression.settings import SETTINGS, Settings

COMMANDS = [command.callback.__name__ for command in app.registered_commands if command.callback]


def parsed(*arguments: str) -> dict[str, Any]:
    """The values of the settings' options on a command line of `compress`."""
    command = typer.main.get_command(app).commands["compress"]  # type: ignore[attr-defined]
    values = command.make_context("compress", ["model", "out", *arguments]).params
    return {name: values[name] for name in SETTINGS}


def test_every_setting_is_an_option_with_its_default() -> None:
    """Without options the settings are the defaults."""
    assert set(SETTINGS) < set(inspect.signature(compress).parameters)
    assert read_settings(parsed()) == Settings()


def test_options_set_the_settings() -> None:
    """Each kind of option arrives in its field."""
    given = parsed(
        *("--mode", "codebook", "--codebook=-1,0,1", "--group-size", "64", "--ratio", "0.5", "--no-gptq-act-order"),
        *("--gptq", "--backup-mode", "none", "--ignored-scope", "a", "--ignored-scope", "b"),
        *("--group-size-fallback", "error", "--lora-rank", "4", "--sensitivity-metric", "output_error"),
    )
    assert read_settings(given) == Settings(
        mode="codebook",
        codebook=(-1.0, 0.0, 1.0),
        group_size=64,
        ratio=0.5,
        gptq=True,
        gptq_act_order=False,
        backup_mode="none",
        ignored_scope=("a", "b"),
        group_size_fallback="error",
        lora_rank=4,
        sensitivity_metric="output_error",
    )


@pytest.mark.parametrize("name", COMMANDS)
def test_no_option_is_cut_off_at_80_columns(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option has its whole name and a help text."""
    monkeypatch.setenv("COLUMNS", "80")
    assert run([name, "--help"]) == 0
    text = capsys.readouterr().out
    assert "…" not in text
    assert all(len(line) <= 80 for line in text.splitlines())
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        assert parameter.param_type_name == "argument" or parameter.help, parameter.name
        assert parameter.param_type_name == "argument" or all(option in text for option in parameter.opts)


def test_help_names_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Each choice of each setting is in the help of `compress`, and the default in words if it is None."""
    run(["compress", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for info in SETTINGS.values():
        assert all(choice in text for choice in info.choices)
        assert info.unset in text


def test_report_needs_no_model_libraries(tmp_path: Path) -> None:
    """`autotune report` imports neither OpenVINO nor torch nor transformers."""
    fake_study.build(f"sqlite:///{tmp_path / 'study.db'}", trials=12)
    code = (
        f"import sys\nfrom autotune.cli.app import run\nassert run(['report', {str(tmp_path)!r}]) == 0\n"
        "print(sorted({'openvino', 'torch', 'transformers'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().splitlines()[-1] == "[]"
