"""Options: those of `compress` are the settings, and help is readable on a terminal of 80 columns."""

from __future__ import annotations

import inspect
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

import autotune
from autotune import api
from autotune.cli.app import COMMANDS as COMMANDS_AND_EXAMPLES
from autotune.cli.app import app, run
from autotune.cli.compress import compress, given_settings
from autotune.compression.settings import SETTINGS
from autotune.study.view import Study

COMMANDS = [command.name for command in app.registered_commands if command.name]


def parsed(*arguments: str) -> dict[str, Any]:
    """The values of the settings' options on a command line of `compress`."""
    command = typer.main.get_command(app).commands["compress"]  # type: ignore[attr-defined]
    values = command.make_context("compress", ["model", "out", *arguments]).params
    return {name: values[name] for name in SETTINGS}


def test_every_setting_is_an_option_and_a_parameter_with_one_default() -> None:
    """Without options the arguments of `autotune.compress` are its defaults, which are those of the settings."""
    assert set(SETTINGS) < set(inspect.signature(compress).parameters)
    parameters = inspect.signature(api.compress).parameters
    defaults = {name: parameters[name].default for name in SETTINGS}
    assert given_settings(parsed()) == defaults == {name: info.default for name, info in SETTINGS.items()}


@pytest.mark.parametrize(
    "command",
    ["init", "compress", "evaluate", "search", "worker", "plan", "report", "export", "reproduce", "compare", "list"],
)
def test_every_option_is_a_parameter_of_the_api_with_the_same_default(command: str) -> None:
    """Names differ where the command line has a shorter one; defaults are equal, an empty list counting as None."""
    functions = {"export": Study.export, "report": Study.write_report}
    functions |= {"init": autotune.init, "list": autotune.list_studies}
    of_cli = inspect.signature(next(c.callback for c in app.registered_commands if c.name == command))
    of_api = inspect.signature(functions.get(command) or getattr(api, command)).parameters
    renamed = {"file": "config", "set_": "overrides", "out": "output", "track": "callbacks", "quiet": "progress"}
    renamed |= {"figure_format": "figure_formats", "name": "names"}
    renamed |= {"text": "evaluation"} if command == "compress" else {}
    opposite = {"progress"}
    elsewhere = {
        *("as_json", "dry_run", "profile"),  # the command line's own
        "log_file",  # in Python, handlers of the logger autotune.progress
        *("prompts", "embedder", "max_new_tokens", "sequence_length", "samples", "text"),  # options of evaluators
        *("knee", "storage", "folder", "out"),  # arguments of load_study, or the default
    }
    for name, parameter in of_cli.parameters.items():
        other = of_api.get(renamed.get(name, name))
        if other is None:
            assert name in elsewhere, name
        elif parameter.default is not inspect.Parameter.empty and other.default is not inspect.Parameter.empty:
            default = not other.default if renamed.get(name) in opposite else other.default
            if isinstance(parameter.default, Path):
                default = None if default is None else Path(default)
            if (command, name) != ("compare", "output"):  # in Python the table is returned, and files are an option
                assert (parameter.default or None) == (default or None), name


def test_options_set_the_settings() -> None:
    """Each kind of option arrives in its argument."""
    given = parsed(
        *("--mode", "codebook", "--codebook=-1,0,1", "--group-size", "64", "--ratio", "0.5", "--no-gptq-act-order"),
        *("--gptq", "--backup-mode", "none", "--ignored-scope", "a", "--ignored-scope", "b"),
        *("--group-size-fallback", "error", "--lora-rank", "4", "--sensitivity-metric", "output_error"),
    )
    changed = {
        "mode": "codebook",
        "codebook": "-1,0,1",
        "group_size": 64,
        "ratio": 0.5,
        "gptq": True,
        "gptq_act_order": False,
        "backup_mode": "none",
        "ignored_scope": ("a", "b"),
        "group_size_fallback": "error",
        "lora_rank": 4,
        "sensitivity_metric": "output_error",
    }
    found = given_settings(given)
    found["ignored_scope"] = tuple(found["ignored_scope"])
    assert found == {**given_settings(parsed()), **changed}


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


@pytest.mark.parametrize(("_panel", "command", "example"), COMMANDS_AND_EXAMPLES)
def test_examples_are_valid_and_fit_on_one_line(_panel: str, command: Any, example: str) -> None:
    """Each example has the command's name and options that it accepts; it can be copied in one piece."""
    program, name, *arguments = shlex.split(example)
    assert (program, name) == ("autotune", command.__name__.removesuffix("_"))
    assert len(example) <= 76
    if ">" in arguments:
        del arguments[arguments.index(">") :]
    typer.main.get_command(app).commands[name].make_context(name, arguments)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_grouped_and_have_a_default(name: str) -> None:
    """Every option is in a group, and has its default in words or as a value; switches are off by default."""
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined]
    for parameter in command.params:
        if parameter.param_type_name == "option" and parameter.name != "help":
            assert parameter.rich_help_panel, parameter.name
            words = ("default", "Repeatable")
            given = parameter.required or parameter.is_flag or parameter.default is not None
            assert given or any(word in parameter.help.lower() or word in parameter.help for word in words), parameter


def test_help_names_choices_and_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    """Each choice of each setting is in the help of `compress`, and the default in words if it is None."""
    run(["compress", "--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for info in SETTINGS.values():
        assert all(choice in text for choice in info.choices)
        assert info.unset in text
