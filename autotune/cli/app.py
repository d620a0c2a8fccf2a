"""The command line: parse, call, print. Results go to stdout, progress and logs to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune import __version__
from autotune.cli import compress as cli_steps
from autotune.cli import listing as cli_init
from autotune.cli import results as cli_results
from autotune.cli.output import (
    ConfigFile,
    Json,
    Set,
    Storage,
    listening,
    print_evaluators,
    print_front,
    print_json,
    print_paths,
    print_plan,
)
from autotune.errors import AutotuneError, UsageError

if TYPE_CHECKING:
    from autotune.config.config import Config

__all__ = ["app", "main"]

HELP = """\
Finds the smallest OpenVINO language model that still answers like the original.

\b
  autotune init MODEL             a hub id or a folder; writes model.yaml
  autotune search model.yaml      builds and scores compressed models, prints the front
  open reports/NAME/report.html   what to take, and what it costs
  autotune export reports/NAME OUT --max-drop 2%
                                  a folder for optimum-intel and OpenVINO GenAI

Every command has --help with an example. Completion for your shell: autotune --install-completion
"""

app = typer.Typer(
    name="autotune",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        print(f"autotune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr
    )
    if not debug:
        # The hub's client tells of every retry; the error in the end says what there is to say.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def _load(file: Path, overrides: list[str] | None, output: Path | None = None, seed: int | None = None) -> list[Config]:
    from autotune.config.config import load_configs

    changes = list(overrides or [])
    if output is not None:
        changes.append(f"output={json.dumps(str(output))}")
    if seed is not None:
        changes.append(f"study.seed={seed}")
    return load_configs(file, changes)


cli_init.add_to(app)


@app.command(
    rich_help_panel="A study", epilog="Example: autotune search model.yaml --trials 48 --timeout 2h --set study.seed=1"
)
def search(
    file: ConfigFile,
    trials: Annotated[
        int | None, typer.Option(min=1, help="Trials of the whole study, duplicates not counted.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="2h", help="No further trial begins after this.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Trials at the same time.")] = None,
    storage: Storage = None,
    output: Annotated[Path | None, typer.Option(help="The study's folder.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the sampler.")] = None,
    set_: Set = None,
    start_from: Annotated[
        Path | None, typer.Option("--from", metavar="DIR", help="Try the front of that study first.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Move an existing study aside and start anew.")] = False,
    as_json: Json = False,
) -> None:
    """Search for the front of accuracy against footprint; continue the study if it exists."""
    changes = [*(set_ or [])]
    for key, value in (("trials", trials), ("timeout", timeout), ("workers", workers)):
        if value is not None:
            changes.append(f"study.{key}={value}")
    configs = _load(file, changes, output, seed)
    if storage is not None and len(configs) > 1:
        raise UsageError("--storage holds one study, and this file names several models; leave it out")
    if dry_run:
        for config in configs:
            _plan(config, as_json)
        return
    told = [_search(config, fresh, storage, start_from, as_json) for config in configs]
    if len(told) > 1:
        folders = [config.output for config in configs]
        cli_results.compare(folders, folders[0].parent / "comparison", as_json=as_json)
    elif as_json:
        print_json(told[0])
    if any(not outcome["front"] for outcome in told):
        raise typer.Exit(1)


def _search(config: Config, fresh: bool, storage: str | None, start_from: Path | None, quiet: bool) -> dict[str, Any]:
    """Run one study and print its front, unless `quiet`; returns its outcome as data."""
    from autotune.reporting.text.terminal import as_json as outcome_json
    from autotune.results.load import load_results
    from autotune.study.run import run_search

    with listening() as listener:
        outcome = run_search(config, listener=listener, fresh=fresh, storage=storage, start_from=start_from)
    results = load_results(outcome.folder, storage)
    told = {**outcome_json(results), "folder": str(outcome.folder), "ended": outcome.reason}
    if not quiet:
        print_front(results)
        print_paths(outcome.report)
    if outcome.interrupted:
        if quiet:
            print_json(told)
        raise typer.Exit(outcome.exit_code)
    return told


@app.command(
    rich_help_panel="A study",
    epilog="Example: autotune worker model.yaml --storage postgresql://user@host/study --workers 4",
)
def worker(
    file: ConfigFile,
    storage: Annotated[str, typer.Option(help="The Optuna storage URL of the search.")],
    workers: Annotated[int | None, typer.Option(min=0, help="Trials at the same time.")] = None,
    output: Annotated[Path | None, typer.Option(help="The folder for the plans of this machine's trials.")] = None,
    set_: Set = None,
) -> None:
    """Join a running search from another process or machine, until the study has its trials."""
    from autotune.study.run import run_worker

    changes = [*(set_ or []), *([] if workers is None else [f"study.workers={workers}"])]
    configs = _load(file, changes, output)
    if len(configs) > 1:
        raise UsageError(f"{file} names several models; a worker joins the study of one: write a file for it alone")
    (config,) = configs
    with listening() as listener:
        outcome = run_worker(config, storage, listener=listener)
    print(f"{outcome.ran} trials were done here")
    if outcome.interrupted:
        raise typer.Exit(outcome.exit_code)


@app.command(rich_help_panel="A study", epilog="Example: autotune plan model.yaml --json")
def plan(
    file: ConfigFile,
    set_: Set = None,
    forecast: Annotated[
        bool,
        typer.Option("--forecast/--no-forecast", help="Time small pieces of the work to tell what all of it takes."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Tell what a search would do: sizes to the byte, adjusted and impossible settings, time, memory and disk."""
    for config in _load(file, set_):
        _plan(config, as_json, forecast)


def _plan(config: Config, as_json: bool, forecast: bool = True) -> None:
    from autotune.study.planning.dry_run import dry_run

    with listening() as listener:
        told = dry_run(config, listener.stage, measure=forecast)
    if as_json:
        print_json(told.as_dict())
        return
    print_plan(told, config.space.name)


cli_steps.add_to(app)
cli_results.add_to(app)  # here, so that help lists them before what there is


@app.command(rich_help_panel="What there is", epilog="Example: autotune cache info")
def cache(
    action: Annotated[str, typer.Argument(help="info or clear.")] = "info",
    directory: Annotated[Path | None, typer.Option(help="Another cache folder than the default.")] = None,
    as_json: Json = False,
) -> None:
    """Show or clear what is kept between runs."""
    from autotune.common.cache import Cache
    from autotune.common.formatting import size

    if action not in ("info", "clear"):
        raise UsageError(f"unknown word {action!r}: autotune cache [info|clear]")
    found = Cache.resolve(directory)
    freed = found.clear() if action == "clear" else None
    sizes = found.sizes()
    if as_json:
        print_json({"directory": str(found.directory), "limit": found.limit, "freed": freed, "sizes": sizes})
        return
    print(found.directory if freed is None else f"{found.directory}: {size(freed)} freed")
    for room, used in sizes.items():
        print(f"  {room:10}  {size(used)}")


@app.command(rich_help_panel="What there is", epilog="Example: autotune spaces")
def spaces(as_json: Json = False) -> None:
    """List the search-space presets."""
    from autotune.config.space.presets import presets

    found = presets()
    if as_json:
        print_json([preset._asdict() for preset in found])
        return
    for preset in found:
        print(f"{preset.name:10}  {preset.description}  ({preset.origin})")


@app.command(rich_help_panel="What there is", epilog="Example: autotune evaluators")
def evaluators(as_json: Json = False) -> None:
    """List the evaluators and their metrics."""
    from autotune.evaluation.registry import available, evaluator_metrics

    found = []
    for name, origin in available():
        try:
            found.append((name, origin, evaluator_metrics(name), ""))
        except AutotuneError as error:  # one broken plug-in does not hide the others
            found.append((name, origin, {}, str(error)))
    if as_json:
        print_json(
            {
                name: {
                    "origin": origin,
                    "error": problem or None,
                    "metrics": {m: {"direction": d.direction, "unit": d.unit} for m, d in metrics.items()},
                }
                for name, origin, metrics, problem in found
            }
        )
        return
    print_evaluators(found)


@app.command(rich_help_panel="What there is", epilog="Example: autotune schema > model.schema.json")
def schema() -> None:
    """Print the JSON Schema of model.yaml, for editors."""
    from autotune.config.config import config_schema

    print_json(config_schema())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(_run(arguments))


def _run(arguments: list[str]) -> int:
    import click

    debug = "--debug" in arguments
    try:
        code = app(args=arguments, standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.ClickException as error:
        error.show(sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort) as stop:
        print("interrupted", file=sys.stderr)
        return 128 + getattr(stop, "signal", 2)
    except AutotuneError as error:
        if debug:
            raise
        print(f"autotune: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has enough of it.
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or "no message"
        print(
            f"autotune: an unexpected error, {type(error).__name__}: {text}. This is a defect of autotune or of a "
            "package under it; `autotune --debug ...` shows the traceback: please report it",
            file=sys.stderr,
        )
        return 1
    return code if isinstance(code, int) else 0
