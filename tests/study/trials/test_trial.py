"""Results of one trial: what is recorded of it, and what of a trial that repeats it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_fakes import FakeEngine, FakePlan

from autotune.common.units import Constraint
from autotune.compression.settings import Settings
from autotune.evaluation import Example, Measurement
from autotune.study.trials.trial import (
    Site,
    TrialResult,
    Workplace,
    duplicate,
    run_trial,
    shown_answers,
    with_relative_error,
)

SETTINGS = Settings(mode="int8_asym")


def run(folder: Path, limits: dict[str, Constraint], kl: float = 0.5, bound: float = 0.0) -> TrialResult:
    """A trial with this KL divergence, which is at least `bound` by its size."""
    engine: Any = FakeEngine()

    def score(candidate: Any, race: Any) -> dict[str, Measurement]:
        assert candidate.model
        return {"kl_divergence": Measurement(kl, 0.1, (kl, kl))}

    place = Workplace(
        site=Site(folder, {"kl_divergence": "minimize", "footprint": "minimize"}, limits, {}),
        plan=engine.plan,
        bounds=lambda plan: {name: bound for name in limits if name == "kl_divergence"},
        engine=engine,
        score=score,
        status=lambda plan: None,
        stage=lambda text: None,
    )
    return run_trial(SETTINGS, place)


def test_a_limit_that_is_just_kept_is_kept(tmp_path: Path) -> None:
    """Of the plan and of the scores: the limit itself is within, and one byte above it the model is not compressed."""
    size = FakePlan(SETTINGS).footprint
    limits = {"footprint": Constraint("<=", size, ""), "kl_divergence": Constraint("<=", 0.5, "")}
    kept = run(tmp_path, limits)
    assert (kept.state, kept.values) == ("complete", (0.5, size))
    assert kept.constraints == {"footprint": 0.0, "kl_divergence": 0.0}
    assert run(tmp_path, limits, kl=0.75).constraints["kl_divergence"] == 0.25
    over = run(tmp_path, {"footprint": Constraint("<=", size - 1, "")})
    assert (over.state, dict(over.constraints)) == ("pruned", {"footprint": 1.0})
    assert "digest" not in over.attrs


def test_a_bound_over_a_limit_is_no_score(tmp_path: Path) -> None:
    """The model is not compressed; a bound within the limit says nothing, and the measured value counts."""
    limits = {"kl_divergence": Constraint("<=", 0.75, "")}
    over = run(tmp_path, limits, bound=1.0)
    assert (over.state, dict(over.constraints)) == ("pruned", {"kl_divergence": 0.25})
    assert not {"digest", "metrics"} & set(over.attrs)
    within = run(tmp_path, limits, bound=0.25)
    assert (within.state, dict(within.constraints)) == ("complete", {"kl_divergence": -0.25})


def test_relative_error_is_the_mean_of_its_terms() -> None:
    """In percent of the original, whichever side of it a score is on; its error is that of independent terms."""
    measured = {"similarity": Measurement(0.9, 0.03), "perplexity": Measurement(44.0, 0.4), "fdt": Measurement(5.0)}
    found = with_relative_error(measured, {"similarity": 1.0, "perplexity": 40.0, "fdt": 9.0})["relative_error"]
    assert found.value == pytest.approx((10 + 10) / 2)
    assert found.stderr == pytest.approx((3**2 + 1**2) ** 0.5 / 2)
    without = with_relative_error({"perplexity": Measurement(38.0)}, {"perplexity": 40.0})["relative_error"]
    assert (without.value, without.stderr) == (pytest.approx(5), None)
    assert "relative_error" not in with_relative_error({"fdt": Measurement(5.0)}, {"fdt": 9.0})


def test_a_repeated_plan_has_the_values_and_not_the_cost(tmp_path: Path) -> None:
    """Times and counts belong to the trial that did the work."""
    first = run(tmp_path, {"kl_divergence": Constraint("<=", 0.4, "")})
    again = duplicate(3, first)
    assert (again.state, again.values, again.constraints) == (first.state, first.values, first.constraints)
    lost = {name for name in first.attrs if name not in again.attrs}
    assert lost == {
        *("seconds_compress", "seconds_evaluate", "seconds_by_algorithm"),
        *("variants_computed", "variants_reused", "tokens"),
    }
    assert {name: value for name, value in again.attrs.items() if name not in first.attrs} == {"duplicate_of": 3}


def test_the_worst_the_median_and_the_best_answer_are_kept() -> None:
    """Equal answers are counted only, and prompts in other languages have a mean of their own."""
    different = [Example(f"What is {n}?", "yes", "no", n / 10) for n in range(7)]
    kept = shown_answers([*different, Example("请用三句话", "a", "b", 0.05), Example("Who?", "a", "a", 1.0)])["answers"]
    assert (kept["count"], kept["same"]) == (9, 1)
    assert [(answer["place"], answer["score"]) for answer in kept["different"]] == [
        ("least similar", 0.0),
        ("second least similar", 0.05),
        ("median", 0.2),
        ("most similar", 0.6),
    ]
    assert kept["other_languages"] == {"count": 1, "score": 0.05, "english": pytest.approx(3.1 / 8)}
    assert [answer["place"] for answer in shown_answers(different[:1])["answers"]["different"]] == ["least similar"]
    assert "other_languages" not in shown_answers(different)["answers"]
