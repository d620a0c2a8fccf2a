"""Asking a study for one model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from autotune.errors import StudyError, UsageError
from autotune.results.records import StudyResults
from autotune.results.selection import Wish, choose

Make = Callable[..., StudyResults]


@pytest.fixture(scope="module")
def study(fake: object) -> StudyResults:
    """36 trials."""
    from autotune.results.load import results_of

    return results_of(fake.build())  # type: ignore[attr-defined]


def sizes(study: StudyResults) -> dict[int, float]:
    """The footprints of all candidates."""
    return {int(n): float(study.value(int(n), "footprint") or 0) for n in study.feasible.index}


def test_nothing_asked_is_the_knee(study: StudyResults) -> None:
    """And a number is that trial, on the front or not."""
    assert choose(study, Wish()) == study.knee
    assert choose(study, Wish(trial=1)) == 1


@pytest.mark.parametrize("percent", [0.2, 0.5, 1.0])
def test_a_drop_gives_the_smallest_model_that_keeps_it(study: StudyResults, percent: float) -> None:
    """Of perplexity_increase, which is in percent already, so many points."""
    chosen = choose(study, Wish(max_drop=percent))
    kept = [n for n in sizes(study) if (study.value(n, "perplexity_increase") or 0) <= percent]
    assert sizes(study)[chosen] == min(sizes(study)[n] for n in kept)


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
        (Wish(trial=99), "no finished trial 99; the trials on its front are"),
        (Wish(max_size=1000), "the smallest is trial"),
        (Wish(max_drop=0.0, metric="similarity"), "nearest is trial"),
        (Wish(max_drop=1.0, metric="perplexty"), "no scores of 'perplexty'"),
        (Wish(max_drop=1.0, metric="kl_divergence"), "without %"),
    ],
)
def test_what_cannot_be_had_is_said_with_the_nearest(study: StudyResults, wish: Wish, message: str) -> None:
    """Every refusal names the alternatives."""
    with pytest.raises(UsageError, match=message):
        choose(study, wish)


def test_a_study_without_a_front_has_nothing_to_give(make: Make) -> None:
    """And says so."""
    with pytest.raises(StudyError, match="on a front"):
        choose(make(trials=2, only_failing=True), Wish())
