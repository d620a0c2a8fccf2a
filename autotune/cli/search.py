"""Commands that run a study: search, worker, plan."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.cli.compress import EFFORT_HELP, completion
from autotune.cli.output import (
    ConfigFile,
    Json,
    LogFile,
    Quiet,
    Set,
    Storage,
    Target,
    print_forecast,
    print_front,
    print_json,
    print_paths,
    print_plan,
)
from autotune.cli.results import print_comparison
from autotune.compression.settings import EFFORTS
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune import Study
    from autotune.config.config import Config

TRACKERS = ("wandb", "mlflow", "tensorboard")

Workers = Annotated[
    int | None,
    typer.Option(
        min=0,
        metavar="N",
        help="Worker processes; 0: run trials in this process. Default: study.workers of the file.",
        rich_help_panel="Study",
    ),
]


def search(
    file: ConfigFile,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Trials of the whole study, without duplicates. Default: study.trials of the file.",
            rich_help_panel="Budget",
        ),
    ] = None,
    timeout: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Start no trial after this time, such as 90s or 2h. Default: study.timeout of the file.",
            rich_help_panel="Budget",
        ),
    ] = None,
    workers: Workers = None,
    storage: Storage = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the study. Default: output of the file.", rich_help_panel="Output"),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Seed of the sampler. Default: study.seed of the file.",
            rich_help_panel="Study",
        ),
    ] = None,
    set_: Set = None,
    target: Target = None,
    effort: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"{EFFORT_HELP} Default: effort of the file.",
            autocompletion=completion((*EFFORTS,)),
            rich_help_panel="Study",
        ),
    ] = None,
    start_from: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="DIR",
            help="Folder of another study, whose front is tried first. Default: none.",
            rich_help_panel="Study",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only print the plan, as `autotune plan` does.", rich_help_panel="Output"),
    ] = False,
    fresh: Annotated[
        bool,
        typer.Option(
            "--fresh",
            help="Move an existing study to another folder and start a new one. Default: continue it.",
            rich_help_panel="Output",
        ),
    ] = False,
    open_page: Annotated[
        bool,
        typer.Option(
            "--open",
            help="Open report.html in the browser; it follows the search and becomes the report at the end.",
            rich_help_panel="Output",
        ),
    ] = False,
    track: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Log every trial to wandb, mlflow or tensorboard. Repeatable.",
            autocompletion=completion(TRACKERS),
            rich_help_panel="Output",
        ),
    ] = None,
    quiet: Quiet = False,
    log_file: LogFile = None,
    as_json: Json = False,
) -> None:
    """Search for the front of accuracy against footprint; continue the study if it exists."""
    options = {"study.trials": trials, "study.timeout": timeout, "study.workers": workers, "target": target}
    options["effort"] = effort
    configs = _load(file, set_, {**options, "output": output, "study.seed": seed}, quiet)
    if storage is not None and len(configs) > 1:
        raise UsageError("--storage is for one study, and this file names several models; leave it out")
    if dry_run:
        for config in configs:
            _print_plan(config, as_json, progress=not quiet)
        return
    arguments: dict[str, Any] = {"fresh": fresh, "storage": storage, "start_from": start_from, "callbacks": track or ()}
    arguments |= {"open_page": open_page, "progress": not quiet}
    if len(configs) > 1:
        del arguments["storage"]
        _search_all(configs, arguments, as_json)
        return
    from autotune import api

    study = api.search(configs[0], **arguments)
    if as_json:
        print_json(_as_data(study))
    else:
        _print_study(study)
    raise typer.Exit(_exit_code(study))


def _search_all(configs: list[Config], arguments: Mapping[str, Any], as_json: bool) -> None:
    """Search several models and print their comparison; exit with 1 if one of them failed."""
    from autotune import api

    swept = api.sweep(configs, **arguments, finished=lambda study: None if as_json else _print_study(study))
    studies = list(swept.studies.values())
    if as_json:
        folder = None if swept.folder is None else str(swept.folder)
        print_json({"studies": [_as_data(study) for study in studies], "errors": swept.errors, "folder": folder})
    elif swept.folder is not None:
        print_comparison(swept.folder)
    for model, error in swept.errors.items():
        print(f"{model} failed: {error}", file=sys.stderr)
    if swept.errors:
        print("the same command searches the failed models again and keeps the others", file=sys.stderr)
    raise typer.Exit(max([int(bool(swept.errors)), *map(_exit_code, studies)]))


def _as_data(study: Study) -> dict[str, Any]:
    from autotune.reporting.text.terminal import as_json as front_data

    assert study.outcome is not None
    return {**front_data(study.results), "folder": str(study.folder), "ended": study.outcome.reason}


def _print_study(study: Study) -> None:
    assert study.outcome is not None
    print_front(study.results)
    print_paths(study.results, study.outcome.report)


def _exit_code(study: Study) -> int:
    """Return that of a signal, 1 for a study without a front, or 0."""
    assert study.outcome is not None
    return study.outcome.exit_code or int(not study.results.front)


def worker(
    file: ConfigFile,
    storage: Annotated[str, typer.Option(metavar="URL", help="Optuna storage of the search.", rich_help_panel="Study")],
    workers: Workers = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the plans of the trials of this machine. Default: output of the file.",
            rich_help_panel="Output",
        ),
    ] = None,
    set_: Set = None,
    quiet: Quiet = False,
    log_file: LogFile = None,
) -> None:
    """Join a running search from another process or machine, until the study has its trials."""
    from autotune import api

    configs = _load(file, set_, {"study.workers": workers, "output": output}, quiet)
    if len(configs) > 1:
        raise UsageError(f"{file} names several models; a worker joins the study of one: write a file for it alone")
    outcome = api.worker(configs[0], storage, progress=not quiet)
    print(f"{outcome.ran} trials were done here")
    if outcome.interrupted:
        raise typer.Exit(outcome.exit_code)


def plan(
    file: ConfigFile,
    set_: Set = None,
    target: Target = None,
    forecast: Annotated[
        bool,
        typer.Option(
            "--forecast/--no-forecast",
            help="Time small pieces of the work to forecast all of it.",
            rich_help_panel="Output",
        ),
    ] = True,
    quiet: Quiet = False,
    log_file: LogFile = None,
    as_json: Json = False,
) -> None:
    """Print what a search would do: exact sizes, adjusted and impossible settings, time, memory and disk."""
    for config in _load(file, set_, {"target": target}, quiet):
        _print_plan(config, as_json, forecast, progress=not quiet)


def _print_plan(config: Config, as_json: bool, forecast: bool = True, *, progress: bool) -> None:
    from autotune import api

    if as_json:
        print_json(api.plan(config, forecast=forecast, progress=progress).as_dict())
        return
    # Sizes take seconds and the forecast takes minutes.
    planned = api.plan(config, forecast=False, progress=progress)
    print_plan(planned, config.space.name)
    sys.stdout.flush()
    print_forecast(api.plan(config, progress=progress) if forecast else planned)


def _load(file: str, overrides: list[str] | None, options: dict[str, Any], quiet: bool) -> list[Config]:
    """Load a model.yaml with `--set` overrides, then the options that are given; key -> value."""
    from autotune.config.arguments import config_file
    from autotune.config.config import load_configs

    path = config_file(file, lambda text: None if quiet else print(text, file=sys.stderr))
    values = {
        key: json.dumps(str(value.absolute())) if isinstance(value, Path) else value for key, value in options.items()
    }
    given = [f"{key}={value}" for key, value in values.items() if value is not None]
    return load_configs(path, [*(overrides or []), *given])
