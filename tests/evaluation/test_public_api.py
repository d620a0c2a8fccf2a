"""The public API of evaluators: complete for the built-in ones, and cheap to import."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import autotune
from autotune import evaluation

ROOT = Path(autotune.__file__).parent.parent
FILES = [*sorted((ROOT / "evaluators").glob("*.py")), ROOT / "autotune" / "testing.py"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_evaluators_use_the_public_api_alone(file: Path) -> None:
    """Of autotune they import the protocol's package and the errors, as a third party would."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    imported |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    ours = {name for name in imported if name.split(".")[0] == "autotune"}
    assert ours <= {"autotune.evaluation", "autotune.errors"}


def test_every_public_name_is_there() -> None:
    """The names that are imported when they are first used, too; others are an AttributeError."""
    for name in evaluation.__all__:
        assert getattr(evaluation, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = evaluation.no_such_name


def test_importing_the_protocol_is_cheap() -> None:
    """Neither NumPy nor pydantic is imported before a name needs it."""
    code = "import sys, autotune.evaluation; print({'numpy', 'pydantic', 'yaml'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "set()"
