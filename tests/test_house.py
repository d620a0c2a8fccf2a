"""The layout of the package: rooms in layers, no circles of imports, small files and folders."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "autotune"
FILES = sorted(PACKAGE.rglob("*.py"))

FORBIDDEN = {
    "A room imports only rooms below it in this list": ("autotune/models/hub.py", "autotune.study.loop"),
    "Inside the engine": ("autotune/compression/ir/sizes.py", "autotune.compression.engine"),
    "Inside the study": ("autotune/study/trials/racing.py", "autotune.study.loop"),
    "The engine needs OpenVINO and NumPy, and no study library": ("autotune/compression/bank.py", "optuna"),
    "Only models and distillation import torch": ("autotune/allocation/planner.py", "torch"),
    "A study is read and drawn without OpenVINO": ("autotune/reporting/tables.py", "openvino"),
    "Evaluators use the public protocol": ("evaluators/latency.py", "autotune.common.files"),
    "The command line calls the API": ("autotune/cli/results.py", "autotune.models.save"),
}
"""Contract -> a file, and an import in it that breaks this contract alone or among others."""


def lint(folder: Path) -> str:
    """The output of import-linter there, with its exit code in front."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env={"PYTHONPATH": str(folder)})
    return f"{done.returncode}\n{done.stdout}{done.stderr}"


def test_each_contract_has_teeth(tmp_path: Path) -> None:
    """With one forbidden import added for each contract, import-linter finds every one of them broken."""
    for name in ("autotune", "evaluators", "search_spaces"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for file, module in FORBIDDEN.values():
        path = tmp_path / file
        path.write_text(f"{path.read_text(encoding='utf-8')}\n\nimport {module}\n", encoding="utf-8")
    found = lint(tmp_path)
    assert found.startswith("1\n")
    contracts = [contract for contract in FORBIDDEN if f"\n{contract} BROKEN" in found]
    assert contracts == list(FORBIDDEN)
    assert " KEPT" not in found


def test_no_file_imports_itself_in_a_circle() -> None:
    """Imports inside functions and for annotations count; the package's root only hands names on."""
    graph = grimp.build_graph("autotune", "evaluators", "search_spaces")
    modules = {module for module in graph.modules if module != "autotune"}
    imports = {module: graph.find_modules_directly_imported_by(module) & modules for module in modules}
    while leaves := {module for module, others in imports.items() if not others}:
        imports = {module: others - leaves for module, others in imports.items() if module not in leaves}
    assert imports == {}, "every module here is in a circle, or imports one that is"


def test_files_and_folders_are_small() -> None:
    """At most 400 lines a file and 12 files a folder; the root holds the five named modules."""
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {path: count for path, count in lines.items() if count > 400} == {}
    folders = {path.parent for path in FILES}
    assert {folder: n for folder in folders if (n := len(list(folder.glob("*.py")))) > 12} == {}
    root = {path.name for path in PACKAGE.glob("*.py")}
    assert root == {"__init__.py", "__main__.py", "api.py", "errors.py", "testing.py"}


@pytest.mark.parametrize("folder", sorted({path.parent for path in FILES} - {PACKAGE}))
def test_each_folder_says_what_belongs_there(folder: Path) -> None:
    """The docstring of ``__init__`` begins with one sentence; it defines only lazy names."""
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text(encoding="utf-8")))
    assert text is not None
    assert text.splitlines()[0].endswith(".")
