"""The page of several studies: settings by model, best within size, geometric means."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autotune.evaluation import Measurement
from autotune.reporting.across import (
    geometric_mean,
    mean_score,
    settings_table,
    shared_settings,
    sizes_table,
    write_report,
)
from autotune.reporting.compare import compare
from autotune.reporting.front_table import POINTS, POINTS_A_CHARACTER
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


def test_the_error_of_a_geometric_mean_is_that_of_drawn_scores() -> None:
    """Mean and standard error agree with a simulation; a score that is not positive has no mean."""
    values, errors = np.array([0.5, 2.0, 3.0]), np.array([0.01, 0.1, 0.06])
    found = geometric_mean([Measurement(v, e) for v, e in zip(values, errors, strict=True)])
    assert found is not None
    drawn = np.random.default_rng(0).normal(values, errors, (40_000, 3))
    simulated = np.exp(np.log(drawn).mean(axis=1))
    assert found.value == pytest.approx(3.0 ** (1 / 3))
    assert found.stderr == pytest.approx(simulated.std(), rel=0.02)
    assert geometric_mean([Measurement(1.0), Measurement(0.0)]) is None
    assert geometric_mean([Measurement(1.0, 0.1), Measurement(4.0)]) == Measurement(2.0, None)
    change = mean_score([Measurement(-10.0, 1.0), Measurement(20.0, 1.0)], "%")  # ratios 0.9 and 1.2
    assert change is not None
    assert change.value == pytest.approx(100 * (math.sqrt(0.9 * 1.2) - 1))


def test_the_page_shows_settings_by_model(make: Make, tmp_path: Path) -> None:
    """Cells are the scores of equal settings; sizes are kept; the files are complete, and the same twice."""
    studies = [make(trials=30, seed=n, config={"model": f"org/model-{n}"}) for n in range(3)]
    comparison = compare(studies)
    shared = shared_settings(comparison)
    assert len(shared) >= 4
    for trials in shared.values():
        assert len({str(study.records[n].settings) for study, n in zip(studies, trials, strict=True)}) == 1
    table = settings_table(comparison, "kl_divergence")
    assert table.header == ["settings", *comparison.names, "geometric mean", "mean compression rate"]
    (row,) = (row for row in table.rows if row[0] == "int8_asym")
    found = [
        1e3 * (study.value(n, "kl_divergence") or 0) for study, n in zip(studies, shared["int8_asym"], strict=True)
    ]
    assert [float(cell.split(" ±")[0]) for cell in row[1:4]] == pytest.approx(found, rel=0.01)
    assert float(row[4].split(" ±")[0]) == pytest.approx(np.prod(found) ** (1 / 3), rel=0.01)
    rates = [
        float(row[-1].removesuffix("x")) for row in sizes_table(comparison, "kl_divergence").rows if row[-1] != "–"
    ]
    assert rates == sorted(rates)
    for name in ("a", "b"):
        write_report(comparison, tmp_path / name)
    for name in ("compare.html", "compare-settings.tex", "compare-settings.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    page = (tmp_path / "a" / "compare.html").read_text()
    assert all(f"model-{n}" in page for n in range(3))
    assert "Geometric mean" in page or "geometric mean" in page
    rows = list(csv.DictReader(io.StringIO((tmp_path / "a" / "compare-settings.csv").read_text())))
    assert len(rows) == len(shared) * 3 * 3  # studies, metrics
    latex = (tmp_path / "a" / "compare-settings.tex").read_text()
    assert latex.count(r"\begin{table*}") == latex.count(r"\label{")
    assert re.search(r"\d\(\d\d\)", latex)
    body = [line for line in latex.splitlines() if "&" in line and "shortstack" not in line]
    assert max(len(re.sub(r"[\\&]", "", line)) for line in body) * POINTS_A_CHARACTER < POINTS


def test_studies_of_other_spaces_have_no_shared_settings(make: Make, tmp_path: Path) -> None:
    """The page stands without that table, and says so."""
    one, two = make(trials=8), make(trials=8, seed=1, config={"model": "org/other"})
    for record in two.records.values():
        object.__setattr__(record, "settings", {**record.settings, "group_size_fallback": "ignore"})
    write_report(compare([one, two]), tmp_path)
    assert "No settings on a front were scored by every study" in (tmp_path / "compare.html").read_text()
    assert not (tmp_path / "compare-settings.tex").exists()
