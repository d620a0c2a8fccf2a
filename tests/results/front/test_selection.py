"""Asking a study for one model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from autotune.common.formatting import size
from autotune.errors import StudyError, UsageError
from autotune.results.front.decision import choices_by_size
from autotune.results.front.recommendation import is_tied, most_accurate, recommend, ties
from autotune.results.front.selection import Wish, nondominated, parse_wish
from autotune.results.front.selection import choose as select
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


@pytest.fixture(scope="module")
def study(fake: object) -> StudyResults:
    """36 trials."""
    from autotune.results.load import results_of

    return results_of(fake.build())  # type: ignore[attr-defined]


def choose(study: StudyResults, wish: Wish) -> int:
    """The number of the chosen trial."""
    return select(study, wish).trial


def sizes(study: StudyResults) -> dict[int, float]:
    """The footprints of all candidates."""
    return {n: float(study.value(n, "footprint") or 0) for n in nondominated(study)}


def test_without_criteria_it_is_the_recommended_trial(study: StudyResults) -> None:
    """And a number is that trial, on the front or not."""
    assert choose(study, Wish()) == recommend(study).trial == study.knee
    assert choose(study, Wish(trial=1)) == 1


@pytest.mark.parametrize("percent", [0.2, 0.5, 1.0])
def test_a_drop_gives_the_smallest_model_that_keeps_it(study: StudyResults, percent: float) -> None:
    """Of perplexity_increase, which is in percent already, so many points."""
    chosen = choose(study, Wish(max_drop=percent))
    kept = [n for n in sizes(study) if (study.value(n, "perplexity_increase") or 0) <= percent]
    assert sizes(study)[chosen] == min(sizes(study)[n] for n in kept)
    assert " on the front whose " in select(study, Wish(max_drop=percent)).reason
    limit = int(sizes(study)[chosen])
    also = select(study, Wish(max_drop=percent, max_size=limit))
    assert f" on the front of at most {size(limit)} whose " in also.reason


def test_a_drop_of_a_named_metric_is_relative_to_the_original(study: StudyResults) -> None:
    """Similarity may fall to 0.85 with 15 percent; the same as a number is 0.15."""
    chosen = choose(study, Wish(max_drop=15.0, metric="similarity"))
    assert (study.value(chosen, "similarity") or 0) >= 0.85
    assert choose(study, Wish(max_drop=0.15, relative=False, metric="similarity")) == chosen


def test_a_size_gives_the_most_accurate_that_fits(study: StudyResults) -> None:
    """By the study's own accuracy."""
    chosen = choose(study, Wish(max_size=15_000_000))
    fitting = [n for n, size in sizes(study).items() if size <= 15_000_000]
    assert study.value(chosen, "kl_divergence") == min(study.value(n, "kl_divergence") or 9 for n in fitting)


def test_a_size_that_is_just_kept_is_kept(study: StudyResults) -> None:
    """The smallest model fits its own size, and no byte less."""
    least = min(sizes(study).values())
    assert sizes(study)[choose(study, Wish(max_size=int(least)))] == least
    with pytest.raises(UsageError, match="the smallest is trial"):
        choose(study, Wish(max_size=int(least) - 1))


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        (Wish(trial=99), "no finished trial 99; name one of its front"),
        (Wish(max_size=1000), "the smallest is trial {smallest} with"),
        (Wish(max_drop=0.0, metric="similarity"), r"nearest is trial {nearest} \("),
        (Wish(max_drop=1.0, metric="perplexty"), "no scores of 'perplexty'"),
        (Wish(max_drop=1.0, metric="kl_divergence"), "without %"),
    ],
)
def test_what_cannot_be_had_is_said_with_the_nearest(study: StudyResults, wish: Wish, message: str) -> None:
    """Every refusal names the alternatives."""
    smallest = min(sizes(study), key=lambda n: sizes(study)[n])
    nearest = max(sizes(study), key=lambda n: study.value(n, "similarity") or 0)
    with pytest.raises(UsageError, match=message.format(smallest=smallest, nearest=nearest)):
        choose(study, wish)


def test_a_study_without_a_front_has_nothing_to_give(make: Make) -> None:
    """And says so."""
    with pytest.raises(StudyError, match="no trial was completed"):
        choose(make(trials=2, only_failing=True), Wish())
    impossible = make(constraints={"footprint": {"op": "<=", "value": 9e6, "text": "<= 9 MB"}})
    with pytest.raises(StudyError, match=f"Nearest is trial {impossible.least_infeasible}: footprint"):
        choose(impossible, Wish())


def test_dominated_trials_are_chosen_by_number_only(make: Make) -> None:
    """A noisy metric does not make a choice among trials of one size: the study's objectives do."""
    study = make(constraints={})
    kept = nondominated(study)
    assert set(kept) == set(study.front)
    for percent in (0.1, 0.2, 0.4, 0.8, 1.6):
        chosen = select(study, Wish(max_drop=percent))
        assert chosen.trial in kept
        assert f"at most {percent:g}% worse" in chosen.reason


def test_of_tied_models_the_smallest_is_taken(make: Make) -> None:
    """By similarity, whose errors are large, the most accurate model is one that is smaller and no different."""
    study = make(objectives={"similarity": "maximize", "footprint": "minimize"}, constraints={})
    larger, smaller = ties(study)[0]
    chosen = most_accurate(study, [larger, smaller])
    assert chosen == smaller
    limit = select(study, Wish(max_size=int(sizes(study)[larger])))
    assert limit.trial != larger
    assert is_tied(study, larger, limit.trial, "similarity")
    assert f"tied with trial {larger} and smaller" in limit.reason
    assert larger not in [trial for _, trial in choices_by_size(study)]


def test_a_knee_that_answers_otherwise_is_not_recommended(make: Make) -> None:
    """The smallest model of the accepted similarity is; without any, none is, and the nearest is named."""
    study = make(constraints={})
    assert (study.value(study.knee or 0, "similarity") or 0) < 0.9
    found = recommend(study)
    assert found.trial is not None
    assert (study.value(found.trial, "similarity") or 0) >= 0.9
    assert f"the knee, trial {study.knee}, has 0.8" in found.reason
    poor = make(trials=24, failing=range(1), constraints={"footprint": {"op": "<=", "value": 13e6, "text": "<= 13 MB"}})
    none = recommend(poor)
    assert poor.front
    assert none.trial is None
    assert f"nearest is trial {none.nearest}" in none.reason
    with pytest.raises(StudyError, match="--knee"):
        choose(poor, Wish())
    assert choose(poor, parse_wish(knee=True)) == poor.knee
    accepted = make(trials=24)  # has a constraint on the perplexity
    assert recommend(accepted).trial == accepted.knee


def test_a_drop_without_a_percent_sign_is_asked_back() -> None:
    """2 may be 2% or 2 units; with a metric it is in its unit."""
    with pytest.raises(UsageError, match=r"write 2% .* or name the metric"):
        parse_wish(max_drop="2")
    assert parse_wish(max_drop="2", metric="perplexity") == Wish(max_drop=2.0, relative=False, metric="perplexity")
    assert parse_wish(max_drop="2%") == Wish(max_drop=2.0)
    assert parse_wish() == Wish()


@pytest.mark.parametrize(
    "criteria", [{"trial": 3, "max_size": 5}, {"trial": 3, "max_drop": "2%"}, {"trial": 0, "knee": True}]
)
def test_a_number_or_the_knee_is_the_only_criterion(criteria: dict[str, Any]) -> None:
    """With another one they are refused, by the names of both."""
    with pytest.raises(UsageError, match=f"{' and '.join(criteria)} each choose a model"):
        parse_wish(**criteria)
    with pytest.raises(UsageError, match="max_size and knee each choose"):
        parse_wish(knee=True, max_size=5)
    assert parse_wish(max_size="90 MB", max_drop="2%").max_size == 90_000_000
