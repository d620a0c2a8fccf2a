"""The notebooks of examples/ run from top to bottom, and the outputs that are kept in them are complete."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from once import built_once

EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
MACHINE_PATH = re.compile(r"(?<![\w.])/(?:tmp|root|work|home|usr)/|[A-Z]:\\\\Users")
LARGEST = 400_000
"""Bytes of a notebook, pictures included."""


def read(path: Path) -> Any:
    """A valid notebook."""
    notebook = nbformat.read(path, as_version=4)  # type: ignore[no-untyped-call]
    nbformat.validate(notebook)
    return notebook


def outputs(notebook: Any) -> list[list[str]]:
    """For each code cell the kinds of its outputs: MIME types, or the names of streams."""
    return [
        [output.get("name") or "+".join(sorted(output["data"])) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of examples/, with what the notebooks import in the kernel's reach."""
    folder = tmp_path_factory.mktemp("notebooks") / "examples"
    shutil.copytree(EXAMPLES, folder, ignore=shutil.ignore_patterns("output", "__pycache__"))
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(
    path: Path, examples: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No cell raises an error, and each cell has the outputs that are kept: as many, of the same kinds, no stderr."""
    cache = built_once(tmp_path_factory, "demo-cache", lambda folder: None)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(cache))
    notebook = read(examples / path.name)
    kept = outputs(notebook)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(examples)}}).execute()
    assert outputs(notebook) == kept
    assert "stderr" not in {kind for kinds in kept for kind in kinds}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_kept_outputs_are_complete(path: Path) -> None:
    """Run from top to bottom, a result below every cell but those that only import, no path of a machine, small."""
    notebook = read(path)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert all(cell.outputs for cell in cells[1:])
    text = path.read_text(encoding="utf-8")
    assert MACHINE_PATH.search(text) is None
    assert len(text) < LARGEST


def test_both_notebooks_are_there() -> None:
    """The quickstart, and the study with its figures as pictures."""
    assert [path.stem for path in NOTEBOOKS] == ["quickstart", "study"]
    kinds = outputs(read(EXAMPLES / "study.ipynb"))
    assert sum("image/png" in kind for each in kinds for kind in each) == 2
