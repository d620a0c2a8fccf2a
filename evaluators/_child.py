"""Processes that run one model with default properties, apart from the one that compares scores."""

from __future__ import annotations

import os
import sys

__all__ = ["child", "last_line"]


def child(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a process that runs a module and finds the packages of this one."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    command = [sys.executable, "-P", "-m", module, *arguments]  # -P: no modules of the working folder
    return command, {**os.environ, "PYTHONPATH": path}


def last_line(stderr: str, otherwise: str) -> str:
    """Return the last line that a process wrote, which is its error; `otherwise` if it wrote none."""
    lines = stderr.strip().splitlines()
    return lines[-1] if lines else otherwise
