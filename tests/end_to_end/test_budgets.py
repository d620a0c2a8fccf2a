"""A study with budgets, by the command line: it searches, says what it bought, exports, and starts warm again."""

from __future__ import annotations

import json
import re
from functools import partial
from pathlib import Path

import pytest
from commands import Command, run_here
from demo_study import EVALUATORS, rows, write_config
from once import built_once

SPACE = {
    "allocation": ["budget", "ratio"],
    "budget": [4.0, 5.5, 8.25],
    "mode": ["int8_asym", "int4_asym"],
    "group_size": [32, 64],
    "all_layers": [False, True],
    "gptq": [False, True],
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Path:
    """A folder with a finished search that spent budgets."""

    def search(folder: Path) -> None:
        evaluators = {"perplexity": EVALUATORS["perplexity"]}
        objectives = {"kl_divergence": "minimize", "footprint": "minimize"}
        write_config(folder, tiny_llama, trials=9, space=SPACE, evaluators=evaluators, objectives=objectives)
        done = run_here(folder, "search", "model.yaml", "--workers", "0", cache=folder / "cache")
        assert done.returncode == 0, done.stderr

    return built_once(tmp_path_factory, "budgets", search)


@pytest.fixture(scope="module")
def run(place: Path) -> Command:
    """Runs `autotune ...` there."""
    return partial(run_here, place, cache=place / "cache")


def test_a_study_spends_budgets_beside_ratios(place: Path, run: Command) -> None:
    """Each budget's plan keeps its budget, none is dominated at its size, and the report shows it and the errors."""
    planned = run("plan", "model.yaml")
    assert planned.returncode == 0, planned.stderr
    assert re.search(r"to verify plans; about .*, without compressing", planned.stdout)
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
    assert "## Budgets" in report
    assert "Measured errors: KL divergence" in report
    assert 'id="budgets"' in (place / "study" / "report.html").read_text(encoding="utf-8")


def test_its_models_are_exported(place: Path, run: Command, tmp_path: Path) -> None:
    """With the bytes that the plan said."""
    row = next(row for row in rows(place / "study") if row["budget"] == "5.5")
    exported = run("export", "study", str(tmp_path / "out"), "--trial", row["trial"])
    assert exported.returncode == 0, exported.stderr
    assert (tmp_path / "out" / "openvino_model.bin").stat().st_size == int(row["footprint"])


def test_the_next_study_starts_from_the_measured_errors(place: Path, run: Command, tmp_path: Path) -> None:
    """Nothing is compressed or measured again, and the same budgets buy the same plans."""
    again = run("search", "model.yaml", "--output", str(tmp_path / "warm"), "--workers", "0")
    assert again.returncode == 0, again.stderr
    assert "variants 0 computed" in again.stderr
    assert [row["plan"] for row in rows(tmp_path / "warm")] == [row["plan"] for row in rows(place / "study")]
