"""The folder that a report leaves behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from autotune.errors import StudyError
from autotune.reporting.folder import rebuild_report, write_report
from autotune.reporting.report import build_report
from autotune.reporting.text.markdown import report_markdown
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]

SHAPES: dict[str, dict[str, Any]] = {
    "usual": {"trials": 16},
    "nothing": {"trials": 0},
    "one": {"trials": 1},
    "all failed": {"trials": 4, "only_failing": True},
    "too large": {"trials": 6, "constraints": {"footprint": {"op": "<=", "value": 1e6, "text": "<= 1 MB"}}},
    "all outside": {
        "trials": 12,
        "constraints": {"perplexity_increase": {"op": "<=", "value": -5.0, "text": "<= -5%"}},
    },
    "one objective": {"trials": 12, "objectives": {"kl_divergence": "minimize"}},
    "three objectives": {
        "trials": 12,
        "objectives": {"similarity": "maximize", "kl_divergence": "minimize", "footprint": "minimize"},
    },
    "third party": {
        "trials": 12,
        "extra_metrics": ["judge"],
        "without_metrics": ["similarity", "fdt", "relative_error", "kl_divergence"],
        "objectives": {"judge": "maximize", "footprint": "minimize"},
    },
}


@pytest.mark.parametrize("shape", SHAPES)
def test_every_kind_of_study_is_reported(make: Make, tmp_path: Path, shape: str) -> None:
    """All files exist, nothing temporary stays, every picture is linked and every link leads somewhere."""
    paths = write_report(make(**SHAPES[shape]), tmp_path)
    files = (paths.trials_csv, paths.front_csv, paths.front_md, paths.front_tex, paths.report_md, paths.report_html)
    files += (paths.manifest, paths.model_yaml)
    assert all(path.is_file() for path in (*files, *paths.plots))
    assert not list(tmp_path.rglob("*.tmp"))
    text = paths.report_md.read_text(encoding="utf-8")
    linked = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text)
    assert {tmp_path / link for link in linked} == set(paths.plots)
    assert "nan" not in text.replace("NaN", "").lower().split()
    assert text.index("## The decision") < text.index("## Metrics and configuration")


def test_same_study_same_bytes(folder: Path, tmp_path: Path) -> None:
    """Two reports of one study, written to different folders, are equal file by file."""
    from autotune.results.load import load_results

    for name in ("first", "second"):
        write_report(load_results(folder), tmp_path / name)
    first = {path.relative_to(tmp_path / "first"): path.read_bytes() for path in (tmp_path / "first").rglob("*.*")}
    second = {path.relative_to(tmp_path / "second"): path.read_bytes() for path in (tmp_path / "second").rglob("*.*")}
    assert first == second
    assert len(first) >= 9


def test_manifest_and_model_yaml_are_the_studys(make: Make, fake: Any, tmp_path: Path) -> None:
    """Both read back as what the study stored."""
    paths = write_report(make(trials=1), tmp_path)
    assert json.loads(paths.manifest.read_text()) == fake.MANIFEST
    assert yaml.safe_load(paths.model_yaml.read_text()) == fake.CONFIG


def test_the_report_explains_failures_and_how_to_reproduce(make: Make, tmp_path: Path) -> None:
    """Failed trials with reason and remedy, one compress line a front trial, an export line for each choice."""
    results = make(trials=24)
    text = report_markdown(build_report(results, tmp_path), [])
    assert "logits of window 12 are NaN" in text
    assert "`ignored_scope`" in text
    assert text.count("\nautotune compress ") == len(results.front)
    assert f"--trial {results.knee}" in text
    assert "DYNAMIC_QUANTIZATION_GROUP_SIZE `0`" in text


def test_model_names_cannot_break_the_page(make: Make, tmp_path: Path) -> None:
    """A pipe in an error message stays inside its cell."""
    results = make(trials=4, failing=[1])
    object.__setattr__(results.records[1], "error", {"type": "E|vil", "message": "a | b\n| c |"})
    text = report_markdown(build_report(results, tmp_path), [])
    assert "E\\|vil: a \\| b \\| c \\|" in text


def test_headings_name_local_models_briefly(make: Make) -> None:
    """A hub id stays as it is, of an absolute path the last part is enough."""
    for model, name in (
        ("org/llama-1b", "org/llama-1b"),
        ("/data/llama-1b", "llama-1b"),
        ("/data/demo/model", "demo/model"),
    ):
        assert make(trials=0, config={"model": model}).model == name


def test_no_study_is_an_error(tmp_path: Path) -> None:
    """A folder without a study is refused, and stays empty."""
    with pytest.raises(StudyError):
        rebuild_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


BLOCKED = """
import sys
from pathlib import Path

class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"openvino", "torch", "transformers", "optimum", "nncf", "datasets", "evaluators"}:
            raise ImportError(f"{name} is not here")

sys.meta_path.insert(0, Wall())
import autotune.reporting.folder, autotune.reporting.compare, autotune.reporting.text.terminal
early = {"pandas", "matplotlib", "optuna", "rich", "jinja2"} & set(sys.modules)
assert not early, early
import optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
from autotune.results.load import load_results
from autotune.reporting.text.terminal import plain_front
from autotune.cli.app import run
folder = Path(sys.argv[1])
assert run(["report", str(folder)]) == 0
assert list(folder.glob("plots/*.png")) and (folder / "report.md").is_file() and (folder / "report.html").is_file()
assert "int8_asym" in plain_front(load_results(folder))
assert "matplotlib.pyplot" not in sys.modules
assert not {"openvino", "torch", "transformers"} & set(sys.modules)
"""


def test_reports_need_neither_openvino_nor_torch(folder: Path) -> None:
    """With the heavy packages out of reach `autotune report` works all the same; nothing is imported early."""
    root = Path(__file__).parents[2]
    command = [sys.executable, "-W", "error", "-c", BLOCKED, str(folder)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
