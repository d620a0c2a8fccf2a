"""File systems and clocks that fail while a switch file exists, by a library that is loaded before the C library."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

__all__ = ["failing"]


def failing(folder: Path, fault: str, *, below: Path, switch: Path) -> dict[str, str]:
    """Compile the library in `folder`, and return the environment of processes that have the fault.

    Args:
        folder: where the library is written, if it is not there.
        fault: see `failing_disk.c`.
        below: the folder whose files are affected.
        switch: the file that turns the fault on.
    """
    library = folder / "failing_disk.so"
    if not library.exists():
        source = Path(__file__).with_suffix(".c")
        compiler = shutil.which("cc") or "gcc"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    paths = {"CHAOS_SWITCH": str(switch), "CHAOS_PATH": str(below.resolve())}
    return {"LD_PRELOAD": str(library.absolute()), "CHAOS_FAULT": fault, **paths}
