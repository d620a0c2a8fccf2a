"""Texts of the report about the scores on held-out texts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autotune.reporting.folder import write_report
from autotune.reporting.report import build_report
from autotune.reporting.tables import held_out_table
from autotune.reporting.text.markdown import report_markdown
from autotune.results.front.held_out import degradation, held_out_sentences, newly_dominated
from autotune.results.front.recommendation import ties
from autotune.results.load import results_of
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


def scored_again(fake: ModuleType, factor: Callable[[int, int], float], **report: Any) -> StudyResults:
    """A study whose front has, on the report texts, `factor` (trial, place) times its divergence."""
    study = fake.build(trials=16)
    front = results_of(study).front
    trials = {}
    for place, number in enumerate(front):
        metrics = study.trials[number].user_attrs["metrics"]
        kl = metrics["kl_divergence"]
        again = {**kl, "value": factor(number, place) * kl["value"]}
        trials[str(number)] = {"metrics": {"kl_divergence": again}}
    study.set_user_attr(
        "report", {"fingerprint": "f", "original": {}, "overlaps": {}, "notes": [], "trials": trials, **report}
    )
    return results_of(study)


def test_the_fall_is_in_every_table_and_page(fake: ModuleType, tmp_path: Path) -> None:
    """trials.csv and front.csv have the numbers, report.md and report.html the table and what it means."""
    results = scored_again(fake, lambda number, place: 1.1, overlaps={"search and report": 0.0})
    paths = write_report(results, tmp_path)
    for table in (paths.trials_csv, paths.front_csv):
        header = table.read_text(encoding="utf-8").partition("\n")[0]
        assert "report_kl_divergence,report_kl_divergence_stderr" in header
    for page in (paths.report_md, paths.report_html):
        text = page.read_text(encoding="utf-8")
        assert "On held-out texts" in text
        assert "KL divergence is 10.0% worse in the mean (10.0% worse to 10.0% worse)" in text
        assert "The texts are disjoint (search and report)" in text
        assert "There are no scores on held-out texts" not in text
    trial = results.front[-1]
    lost = degradation(results, trial, "kl_divergence")
    assert lost is not None
    assert lost.value == pytest.approx(0.1 * (results.value(trial, "kl_divergence") or 0))
    assert lost.stderr == pytest.approx(2**0.5 * (results.stderr(trial, "kl_divergence") or 0))
    assert results.value(trial, "report_kl_divergence") == pytest.approx(
        1.1 * (results.value(trial, "kl_divergence") or 0)
    )


def test_a_place_on_the_front_that_was_luck_is_told(fake: ModuleType) -> None:
    """A model that a smaller one dominates on the report texts is named, with the one that dominates it."""
    lucky = scored_again(fake, lambda number, place: 100.0 if place == 1 else 1.0)
    dominated = newly_dominated(lucky)
    assert list(dominated) == [lucky.front[1]]
    other = dominated[lucky.front[1]]
    assert (lucky.value(other, "footprint") or 0) <= (lucky.value(lucky.front[1], "footprint") or 0)
    assert f"{lucky.front[1]} is dominated by {other}" in " ".join(held_out_sentences(lucky))
    assert newly_dominated(scored_again(fake, lambda number, place: 2.0)) == {}


def test_texts_in_common_are_told(fake: ModuleType) -> None:
    """Scores on texts that are not new are said to flatter; an evaluator without texts is named."""
    report = {"overlaps": {"calibration and report": 0.25}, "notes": ["similarity: the search scores all of its texts"]}
    text = " ".join(held_out_sentences(scored_again(fake, lambda number, place: 1.0, **report)))
    assert "not disjoint: 25.0% of the second of calibration and report" in text
    assert "No report text for similarity" in text


def test_without_such_scores_there_is_no_such_section(make: Make, tmp_path: Path) -> None:
    """The page then says that they were not measured."""
    results = make(trials=8)
    assert held_out_table(results) is None
    assert held_out_sentences(results) == []
    text = report_markdown(build_report(results, tmp_path), [])
    assert "There are no scores on held-out texts" in text


def test_a_difference_within_the_originals_own_noise_is_a_tie(fake: ModuleType) -> None:
    """However small the standard errors are."""

    def neighbours(noise: float) -> list[tuple[int, int]]:
        study = fake.build(trials=16)
        for trial in study.get_trials(deepcopy=False):
            for score in trial.user_attrs.get("metrics", {}).values():
                score.update(stderr=1e-12, noise=noise)
        return ties(results_of(study))

    assert neighbours(0.0) == []
    assert len(neighbours(1.0)) == len(results_of(fake.build(trials=16)).front) - 1
