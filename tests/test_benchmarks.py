"""The scripts of benchmarks/ can be run where they lie, though one of them has the name of a package."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = [path for path in sorted(FOLDER.glob("*.py")) if "__main__" in path.read_text(encoding="utf-8")]


def test_evaluators_means_the_package_and_the_script_runs() -> None:
    """`benchmarks/evaluators.py` imports the package of its own name, and so do those beside it."""
    command = [sys.executable, str(FOLDER / "evaluators.py"), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "python benchmarks/evaluators.py speed" in done.stdout
    code = "import common, evaluators, sys; print(evaluators.__path__); import peer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=FOLDER)
    assert done.stdout


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_common_is_imported_before_autotune(script: Path) -> None:
    """It is `common` that moves the scripts' folder to the end of the import path; autotune may load evaluators."""
    names = [
        name.partition(".")[0]
        for node in ast.parse(script.read_text(encoding="utf-8")).body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names])
    ]
    for package in {"autotune", "evaluators"} & {*names}:
        assert "common" in names
        assert names.index("common") < names.index(package)
