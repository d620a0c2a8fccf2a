"""A study with budgets, by the command line: it searches, says what it bought, exports, and starts warm again."""

from __future__ import annotations

import csv
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

SPACE = """\
space: {allocation: [budget, ratio], budget: [4.0, 5.5, 8.25], mode: [int8_asym, int4_asym], group_size: [32, 64],
  all_layers: [false, true], gptq: [false, true]}
"""
Run = Callable[..., CompletedProcess[str]]


def shared() -> object:
    """The conftest beside this file."""
    spec = importlib.util.spec_from_file_location("budget_conftest", Path(__file__).with_name("conftest.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_llama_hf: Path) -> Path:
    """A folder with a model.yaml that spends budgets."""
    folder = tmp_path_factory.mktemp("budgets")
    file = shared().write_config(folder, tiny_llama_hf, trials=9)  # type: ignore[attr-defined]
    text = re.sub(r"space: \{.*?\}\n", SPACE, file.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = re.sub(r"  similarity: .*\n", "", text)
    file.write_text(text + "objectives: {kl_divergence: minimize, footprint: minimize}\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def call(place: Path) -> Run:
    """Runs `autotune ...` there."""

    def run(*arguments: str) -> CompletedProcess[str]:
        process = shared().start(place, *arguments, cache=place / "cache")  # type: ignore[attr-defined]
        stdout, stderr = process.communicate(timeout=300)
        return CompletedProcess(arguments, process.returncode, stdout, stderr)

    return run


@pytest.fixture(scope="module")
def searched(call: Run) -> CompletedProcess[str]:
    """The finished search."""
    return call("search", "model.yaml")


def rows(folder: Path) -> list[dict[str, str]]:
    """trials.csv."""
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_study_spends_budgets_beside_ratios(place: Path, searched: CompletedProcess[str], call: Run) -> None:
    """Each budget's plan keeps its budget, none is beaten at its size, and the report says so and shows the errors."""
    planned = call("plan", "model.yaml")
    assert planned.returncode == 0, planned.stderr
    assert "budgets wait for errors" in planned.stdout
    assert searched.returncode == 0, searched.stderr
    found = rows(place / "study")
    assert {row["state"] for row in found} <= {"COMPLETE", "PRUNED"}, [row["error"] for row in found]
    ours = [row for row in found if row["allocation"] == "budget"]
    assert {float(row["budget"]) for row in ours} == {4.0, 5.5, 8.25}
    assert {row["mode"] for row in ours} == {"mixed"}
    middle = next(row for row in ours if float(row["budget"]) == 5.5)
    assert float(middle["bits_per_weight"]) <= 5.5
    plan = json.loads((place / "study" / "plans" / f"{middle['plan']}.json").read_text())
    assert len({variant["mode"] for variant in plan["variants"].values()}) == 2
    others = [row for row in found if row["allocation"] != "budget" and row["kl_divergence"]]
    smaller = [row for row in others if int(row["footprint"]) <= int(middle["footprint"])]
    assert smaller
    assert all(float(middle["kl_divergence"]) <= float(row["kl_divergence"]) for row in smaller)
    report = (place / "study" / "report.md").read_text(encoding="utf-8")
    assert "## What the budgets bought" in report
    assert "The map of errors" in report
    assert 'id="budgets"' in (place / "study" / "report.html").read_text(encoding="utf-8")


def test_its_models_are_exported(place: Path, searched: CompletedProcess[str], call: Run) -> None:
    """With the bytes that the plan said."""
    row = next(row for row in rows(place / "study") if row["budget"] == "5.5")
    exported = call("export", "study", "out", "--trial", row["trial"])
    assert exported.returncode == 0, exported.stderr
    assert (place / "out" / "openvino_model.bin").stat().st_size == int(row["footprint"])


def test_the_next_study_starts_from_the_measured_errors(
    place: Path, searched: CompletedProcess[str], call: Run
) -> None:
    """Nothing is compressed or measured again, and the same budgets buy the same plans."""
    again = call("search", "model.yaml", "--output", "warm")
    assert again.returncode == 0, again.stderr
    assert "variants 0 computed" in again.stderr
    assert [row["plan"] for row in rows(place / "warm")] == [row["plan"] for row in rows(place / "study")]
