"""`autotune ...` run in a process of its own, or here: importing torch and OpenVINO takes seconds."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from subprocess import CompletedProcess
from unittest.mock import patch

from autotune.cli.app import run as run

__all__ = ["Command", "run_here", "run_process", "start"]

Command = Callable[..., CompletedProcess[str]]
"""Takes the words after `autotune`."""

COLUMNS = "120"
SECONDS = 300


def start(folder: Path, *arguments: str, cache: Path) -> subprocess.Popen[str]:
    """Start `autotune ...` in a process of its own, in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "autotune", *arguments],
        cwd=folder,
        env={**os.environ, "AUTOTUNE_CACHE": str(cache), "COLUMNS": COLUMNS},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run_process(folder: Path, *arguments: str, cache: Path) -> CompletedProcess[str]:
    """Run `autotune ...` in a process of its own, in `folder`, and wait for it."""
    process = start(folder, *arguments, cache=cache)
    stdout, stderr = process.communicate(timeout=SECONDS)
    return CompletedProcess(arguments, process.returncode, stdout, stderr)


def run_here(folder: Path, *arguments: str, cache: Path) -> CompletedProcess[str]:
    """Run `autotune ...` in this process as if it were one of its own, in `folder`.

    Third parties' warnings are printed, as they are there, and raise nothing.
    """
    stdout, stderr = StringIO(), StringIO()
    with (
        chdir(folder),
        patch.dict(os.environ, AUTOTUNE_CACHE=str(cache), COLUMNS=COLUMNS),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
        warnings.catch_warnings(),
        unconfigured_logging(),
    ):
        warnings.simplefilter("default")
        code = run(list(arguments))
    return CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


@contextmanager
def unconfigured_logging() -> Iterator[None]:
    """Let the command configure the root logger inside; it leaves one alone that has pytest's handlers."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    root.handlers.clear()
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
