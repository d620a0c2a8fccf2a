"""Command line: the typer app with its commands, exit codes and error messages.

Results go to stdout, progress and logs to stderr.
"""

from __future__ import annotations

import errno
import io
import logging
import os
import re
import sys
from contextlib import suppress
from typing import Annotated

import typer

from autotune.cli import compress, listing, results, search
from autotune.cli.output import LOG, close_logs, log_error
from autotune.common.formatting import printable
from autotune.common.version import __version__
from autotune.compression.settings import SETTINGS
from autotune.errors import AutotuneError

HELP = """\
Finds the smallest OpenVINO model that still answers like the original.

\b
  autotune init MODEL            write model.yaml for a hub id or a folder
  autotune search model.yaml     build and score compressed models
  open reports/NAME/report.html  compare the models of the front
  autotune export reports/NAME OUT --max-drop 2%
                                 write one for deployment

Each command has --help with an example.
"""

app = typer.Typer(
    name="autotune",
    help=HELP,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM)
"""Errors of the operating system that are no defects: full, read-only, failing disks, and permissions."""

PARAMETERS = {
    *SETTINGS,
    "reference",
    "config",
    "evaluators",
    "calibration",
    "max_size",
    "max_drop",
    "metric",
    "trial",
    "allow",
    "storage",
    "space",
    "trials",
    "text",
    "upload",
}
"""Parameters of the Python API that are options of the same name."""

COMMANDS = (
    ("A study", listing.init, "autotune init HuggingFaceTB/SmolLM2-135M"),
    ("A study", search.search, "autotune search model.yaml --trials 48 --timeout 2h --seed 1"),
    ("A study", search.worker, "autotune worker model.yaml --storage postgresql+psycopg://localhost/study"),
    ("A study", search.plan, "autotune plan model.yaml"),
    (
        "Single steps",
        compress.compress,
        "autotune compress HuggingFaceTB/SmolLM2-135M smol-int4 --mode int4_asym",
    ),
    (
        "Single steps",
        compress.evaluate,
        "autotune evaluate smol-int4 --reference HuggingFaceTB/SmolLM2-135M",
    ),
    ("The results", listing.list_, "autotune list reports"),
    ("The results", results.report, "autotune report reports/demo"),
    ("The results", results.export, "autotune export reports/demo demo-small --max-drop 2%"),
    ("The results", results.reproduce, "autotune reproduce reports/demo --trial 19"),
    ("The results", results.compare, "autotune compare reports/demo reports/example -o comparison"),
    ("Information", listing.cache, "autotune cache info"),
    ("Information", listing.spaces, "autotune spaces"),
    ("Information", listing.evaluators, "autotune evaluators"),
    ("Information", listing.schema, "autotune schema > model.schema.json"),
)
"""Help panel, command and example, in the order of `autotune --help`."""

for _panel, _command, _example in COMMANDS:
    _name = _command.__name__.removesuffix("_")  # list is a word of Python
    app.command(_name, rich_help_panel=_panel, help=f"{_command.__doc__}\n\n\b\nExample:\n  {_example}")(_command)


def _version(value: bool) -> None:
    if value:
        print(f"autotune {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks and debug logs.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    shown = logging.StreamHandler(sys.stderr)
    shown.addFilter(lambda record: record.name != LOG.name)  # progress is on stderr already
    level = logging.DEBUG if debug else logging.WARNING
    logging.basicConfig(level=level, format="%(levelname)s: %(message)s", handlers=[shown])
    if not debug:
        # The hub's client reports every retry; the final error has the cause.
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def with_options(message: str) -> str:
    """Replace the parameters of the Python API in a message, such as `max_size`, by the options of the command line."""
    options = {"evaluation": "--text", "runtime_compressed=False": "--no-runtime-compressed"}

    def option(found: re.Match[str]) -> str:
        name = found[1]
        return options.get(name) or (f"--{name.replace('_', '-')}" if name in PARAMETERS else found[0])

    return re.sub(r"`([a-z_]+(?:=False)?)`", option, message)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command line and return the exit code."""
    try:
        return _run(arguments)
    finally:
        close_logs()


def _run(arguments: list[str]) -> int:
    import click

    debug = "--debug" in arguments
    try:
        code = app(args=arguments, standalone_mode=False)
        sys.stdout.flush()  # here, where a full disk is reported, rather than at the end of Python
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message())
        return 2
    except click.ClickException as error:
        shown = io.StringIO()
        error.show(shown)
        # typer and click both add the suggestion.
        print(re.sub(r"(Did you mean [^?]*\?)(?:\s*\1)+", r"\1", shown.getvalue()), end="", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort) as stop:
        print("interrupted", file=sys.stderr)
        log_error("interrupted")
        return 128 + getattr(stop, "signal", 2)
    except AutotuneError as error:
        if debug:
            raise
        print(f"autotune: {printable(with_options(str(error)))}", file=sys.stderr)
        log_error(with_options(str(error)))
        return error.exit_code
    except BrokenPipeError:
        # stdout was closed, as by `| head`.
        sys.stderr.close()
        return 1
    except Exception as error:
        if debug:
            raise
        print_unexpected(error)
        return 1
    return code if isinstance(code, int) else 0


def print_unexpected(error: Exception) -> None:
    """Print what to do about an error that no part of autotune has foreseen: of the disk, or a defect."""
    if isinstance(error, OSError) and error.errno in DISK:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what stdout still holds would fail again
        what = printable(str(error.filename)) if error.filename else "a file or the output of this command"
        print(
            f"autotune: {what} cannot be read or written ({error.strerror}). Free disk space or correct the "
            "permissions, then run the same command again",
            file=sys.stderr,
        )
        return
    text = printable(" ".join(str(error).split())) or "no message"
    log_error("an unexpected error", exc_info=True)
    print(
        f"autotune: an unexpected error, {type(error).__name__}: {text}. This is a defect of autotune or of a "
        "package under it; `autotune --debug ...` shows the traceback: please report it",
        file=sys.stderr,
    )
