"""Budget trials in a report: comparison with other trials, errors of predictions, cost of each weight."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.reporting.html.page import report_html
from autotune.reporting.report import build_report
from autotune.reporting.tables import budget_errors_table
from autotune.reporting.text.markdown import report_markdown
from autotune.results.plans import budget_sentences, measured_errors, prediction_sentence, protected_weights, read_plans
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]
BUDGET = {"mode": "mixed", "allocation": "budget", "budget": 4.5}


def bought(results: StudyResults, numbers: Sequence[int]) -> StudyResults:
    """The same study, as if the plans of these trials had been bought by a budget."""
    records = {n: replace(r, settings=BUDGET) if n in numbers else r for n, r in results.records.items()}
    return replace(results, records=records)


@pytest.fixture
def results(make: Make) -> StudyResults:
    """A study without limits and failures."""
    return make(constraints={}, failing=())


def own(results: StudyResults) -> list[int]:
    """Complete trials that are no copies."""
    return [n for n, r in results.records.items() if r.complete and r.duplicate_of is None]


def test_a_study_without_budgets_says_nothing(results: StudyResults, tmp_path: Path) -> None:
    """No section, no sentence."""
    assert budget_sentences(results) == []
    report = build_report(results, tmp_path)
    assert report.budgets == report.budget_notes == ()
    assert report.budget_errors is None
    assert "budgets" not in report_markdown(report)


def test_points_of_the_front_are_the_best_of_their_size(results: StudyResults) -> None:
    """Budget trials that nothing dominates win; without other trials there is nothing to compare with."""
    (sentences,) = budget_sentences(bought(results, [results.front[0]]))
    assert "Each has a better KL divergence" in sentences
    (alone,) = budget_sentences(bought(results, own(results)))
    assert "not compared" in alone


def test_a_plan_that_something_beats_is_named_with_its_rival(results: StudyResults) -> None:
    """The smallest model cannot be dominated; of all others, each that is not on the front is."""
    dominated = next(n for n in own(results) if n not in results.front)
    sentences = budget_sentences(bought(results, [dominated, results.front[0]]))
    assert len(sentences) == 1
    assert f"Trial {dominated} " in sentences[0]
    rival = next(n for n in own(results) if f"trial {n} (" in sentences[0] and n != dominated)
    assert results.records[rival].footprint <= results.records[dominated].footprint  # type: ignore[operator]
    assert results.value(rival, "kl_divergence") < results.value(dominated, "kl_divergence")  # type: ignore[operator]


def test_the_map_and_the_predictions_come_from_the_plans(results: StudyResults, tmp_path: Path) -> None:
    """Weights by their worst format, formats by their sum; differences in percent; protected weights by name."""
    number = results.front[0]
    changed = bought(results, [number])
    value = results.value(number, "kl_divergence")
    assert value is not None
    errors = {"layers.0.up": {"int4_sym g32": 1e-3, "int8_asym": 1e-5}, "gate": {"int4_sym g32": 4.0, "int8_asym": 2.0}}
    plan = {
        "variants": {},
        "notes": ["gate: left as it is, since its quantization alone ruins the model: 2 nats a token in int8_asym"],
        "sensitivity": {"metric": "m", "values": {}, "predicted": 1.1 * value, "errors": errors},
    }
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / f"{changed.records[number].plan}.json").write_text(json.dumps(plan), encoding="utf-8")
    plans = read_plans(changed, tmp_path)
    assert measured_errors(changed, plans) == errors
    table = budget_errors_table(changed, plans)
    assert table is not None
    assert table.header == ["weight", "int8_asym", "int4_sym g32"]
    assert [row[0] for row in table.rows] == ["gate", "layers.0.up"]
    assert "by 10% (median)" in prediction_sentence(changed, plans)
    assert protected_weights(changed, plans) == plan["notes"]
    report = build_report(changed, tmp_path)
    page = report_markdown(report)
    assert "ruins the model" in page
    assert "| gate " in page
    assert "layers.0.up" in report_html(changed, report)
