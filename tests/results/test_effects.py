"""Comparisons all else equal, decisions, remedies and commands."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest

from autotune.reporting.plots.progress import progress
from autotune.reporting.report import build_report
from autotune.reporting.text.commands import compress_command, export_command
from autotune.results.effects import effects_frame, paired_changes, varying_settings
from autotune.results.front.decision import (
    OTHERWISE,
    baseline,
    choices,
    decision_sentence,
    failures,
    reason,
    remedy,
    saving,
)
from autotune.results.front.pareto import hypervolume, unit_costs
from autotune.results.front.recommendation import accuracy_metric, ties
from autotune.results.load import results_of
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


def test_paired_changes_see_what_was_put_in(make: Make) -> None:
    """Scale estimation takes 13% off in the made-up study, at no byte; all pairs agree up to the noise."""
    results = make(trials=60)
    change = next(c for c in paired_changes(results, "kl_divergence") if c.setting == "scale_estimation")
    assert (change.before, change.after) == (False, True)
    assert -18 < change.least <= change.median <= change.most < -8
    size = next(c for c in paired_changes(results, "footprint") if c.setting == "scale_estimation")
    assert size.median == 0


def test_the_changes_of_a_setting_are_bounded(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those with the most pairs stay."""
    results = make(trials=60)
    whole = paired_changes(results, "footprint")
    monkeypatch.setattr("autotune.results.effects.MOST_CHANGES", 1)
    found = paired_changes(results, "footprint")
    most = {change.setting: max(each.pairs for each in whole if each.setting == change.setting) for change in whole}
    assert {change.setting: change.pairs for change in found} == most
    assert len(found) == len(most) < len(whole)


def test_effects_are_a_frame_too(make: Make) -> None:
    """One row for each setting, pair of values and objective; the columns exist without any."""
    results = make(trials=36)
    frame = effects_frame(results)
    assert set(frame["metric"]) == set(results.objectives)
    assert len(frame) == sum(len(paired_changes(results, name)) for name in results.objectives)
    assert list(effects_frame(make(trials=0)).columns) == list(frame.columns)


def test_only_what_varied_is_compared(make: Make) -> None:
    """Settings that never varied, or that the study does not know, are left out."""
    names = varying_settings(make(trials=36))
    assert "mode" in names
    assert "awq" in names
    assert not {"gptq", "lora_rank", "backup_mode"} & set(names)


def test_choices_are_knee_smallest_and_most_accurate(make: Make) -> None:
    """Three reasons, each trial once, the knee first."""
    results = make()
    picks = choices(results)
    assert picks[0].trial == results.knee
    roles = {role: pick.trial for pick in picks for role in pick.roles}
    assert roles["the smallest within the limits"] == results.front[-1]
    assert roles["the most accurate"] == 0
    assert len({pick.trial for pick in picks}) == len(picks)


def test_the_decision_says_what_it_saves(make: Make) -> None:
    """The sentence names the trial, its size, the savings against the original and int8, and the accuracy."""
    text = decision_sentence(make())
    for part in (
        "**Take trial 13**",
        "15.39 MB",
        "65% smaller than the original",
        "30% smaller than int8_asym",
        "KL divergence 2.883 ± 0.058 (in 1e-3 nats/token; ",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"trials": 0}, "nothing to choose from"),
        ({"trials": 3, "only_failing": True}, "nothing to choose from"),
        ({"trials": 1}, "only point on the front"),
        ({"trials": 2}, "only its two ends"),
        ({"constraints": {"footprint": {"op": "<=", "value": 9e6, "text": "<= 9 MB"}}}, "No trial keeps the limits"),
    ],
)
def test_the_decision_is_honest_about_poor_studies(make: Make, options: dict[str, object], part: str) -> None:
    """Nothing, one point, two ends, nothing feasible: each is said."""
    assert part in decision_sentence(make(**options))


def test_savings_read_as_words() -> None:
    """Smaller, larger or the same."""
    assert saving(35.0, 100.0) == "65% smaller"
    assert saving(102.0, 100.0) == "2.0% larger"
    assert saving(100.0, 100.0) == "same size"
    assert saving(None, 1.0) == saving(1.0, None)


def test_ties_are_neighbours_within_two_errors(make: Make) -> None:
    """Trials 30 and 15 are told apart by their divergence, not by their similarity."""
    assert (30, 15) not in ties(make())
    assert (30, 15) in ties(make(objectives={"similarity": "maximize", "footprint": "minimize"}))


def test_accuracy_is_the_first_objective_that_is_no_size(make: Make) -> None:
    """With sizes alone the best known scored metric stands in; without int8 there is no baseline."""
    assert accuracy_metric(make(trials=4)) == "kl_divergence"
    assert accuracy_metric(make(trials=4, objectives={"footprint": "minimize"})) == "kl_divergence"
    assert baseline(make(trials=4)) == 0
    assert baseline(make(trials=4, failing=[0])) is None


def test_failed_trials_come_with_a_remedy(make: Make) -> None:
    """Out of memory and NaN have their own advice; anything else is to be run alone."""
    results = make(trials=6, failing=[2, 3])
    memory, nan = failures(results)
    assert "workers" in remedy(results, memory)
    assert "ignored_scope" in remedy(results, nan)
    object.__setattr__(memory, "error", {"type": "ValueError", "message": "strange\nthings"})
    assert reason(results, memory) == "ValueError: strange things"
    assert remedy(results, memory) == OTHERWISE
    object.__setattr__(memory, "error", None)
    assert "interrupted" in reason(results, memory)


def test_a_pruned_trial_names_its_limit(fake: ModuleType) -> None:
    """A trial that was stopped before scoring because of its size says so."""
    import optuna

    limits = {
        "footprint": {"op": "<=", "value": 16e6, "text": "<= 16 MB"},
        "perplexity": {"op": "<=", "value": 40.0, "text": "<= 40"},  # a bound, as memory has one by the size
    }
    study = fake.build(trials=2, constraints=limits)
    attributes = {"settings": fake.settings_of({"mode": "int8_sym"}), "footprint": 22_000_000}
    for beyond in ({"footprint": 6e6}, {"footprint": 0.0, "perplexity": 2.0}):
        study.add_trial(
            optuna.trial.create_trial(state=optuna.trial.TrialState.PRUNED, user_attrs=attributes, constraints=beyond)
        )
    results = results_of(study)
    assert reason(results, results.records[2]) == "stopped before scoring: footprint 22.00 MB (limit <= 16 MB)"
    assert reason(results, results.records[3]) == "stopped before scoring: perplexity at least 42.00 (limit <= 40)"


def options_of(command: str) -> dict[str, str]:
    """``--name value`` pairs of a command line; flags map to an empty string."""
    words = shlex.split(command, comments=True)
    options: dict[str, str] = {}
    for word in words:
        if word.startswith("--"):
            options[word[2:].replace("-", "_")] = ""
            last = word[2:].replace("-", "_")
        elif options and not options[last]:
            options[last] = word
    return options


def test_commands_carry_every_setting(make: Make) -> None:
    """Read back, each command line gives the settings of its trial; calibration only where it decides anything."""
    results = make()
    for number in results.front:
        settings = results.records[number].settings
        options = options_of(compress_command(results, number))
        assert options["mode"] == settings["mode"]
        for name in ("group_size", "ratio", "backup_mode", "sensitivity_metric"):
            assert options.get(name) == (
                None
                if settings.get(name) is None
                else f"{settings[name]:g}"
                if name == "ratio"
                else str(settings[name])
            )
        for name in ("awq", "scale_estimation", "all_layers"):
            assert (name in options) == bool(settings.get(name))
        calibrated = settings.get("awq") or settings.get("scale_estimation")
        assert not calibrated or options["calibration"] == "data/wikitext-2/valid.txt"
    assert "calibration" not in options_of(compress_command(results, 0))
    assert export_command(results, 3).endswith("--trial 3")


def test_commands_are_quoted(make: Make) -> None:
    """Blanks and stars in names survive a shell; a data set as calibration needs `export`."""
    results = make(trials=4, config={"model": "my models/a*"})
    object.__setattr__(
        results.records[3], "settings", {**results.records[3].settings, "ignored_scope": ["model.*down proj"]}
    )
    command = compress_command(results, 3)
    words = shlex.split(command)
    assert words[2] == "my models/a*"
    assert words[words.index("--ignored-scope") + 1] == "model.*down proj"
    from_hub = make(trials=4, config={"output": "my study", "calibration": {"dataset": "wikitext", "samples": 8}})
    command = compress_command(from_hub, 3)
    assert shlex.split(command) == ["autotune", "export", ".", "models/trial-3", "--trial", "3"]


def test_progress_grows_to_the_final_front(make: Make) -> None:
    """It is the hypervolume of the trials so far, and ends at 100%; time counts work, not the pause of an hour."""
    results = make()
    course, feasible = progress(results), results.feasible
    unit = unit_costs(feasible[list(results.objectives)].to_numpy(float), list(results.objectives.values()))
    volumes = [hypervolume(unit[feasible.index <= number], np.full(2, 1.1)) for number in results.records]
    assert course.quality == pytest.approx(100 * np.array(volumes) / volumes[-1])
    seconds = [(record.finished - record.started).total_seconds() for record in results.records.values()]
    assert course.minutes == pytest.approx(np.cumsum(seconds) / 60)
    assert list(course.minutes) == sorted(course.minutes)
    assert course.minutes[-1] < 30
    single = progress(make(objectives={"kl_divergence": "minimize"}))
    finite = [value for value in single.quality if value == value]
    assert finite == sorted(finite, reverse=True)


def test_an_interrupted_trial_names_the_one_that_did_its_work(fake: ModuleType) -> None:
    """An interruption is no failure, and needs no remedy once the point was taken up again."""
    import optuna

    study = fake.build(trials=3)
    settings = fake.settings_of({"mode": "int8_sym"})
    error = {"type": "interrupted", "message": "the process ended", "traceback": ""}
    fail = optuna.trial.TrialState.FAIL
    study.add_trial(optuna.trial.create_trial(state=fail, user_attrs={"settings": settings, "error": error}))
    results = results_of(study)
    assert "run `autotune search` again" in remedy(results, results.records[3])
    study.add_trial(optuna.trial.create_trial(state=fail, user_attrs={"settings": settings, "retry_of": 3}))
    results = results_of(study)
    assert remedy(results, results.records[3]) == "None needed: done again as trial 4."
    assert "2 interrupted" in build_report(results).counts


def test_int8_is_compared_with_even_where_it_was_too_large(make: Make) -> None:
    """A limit on the footprint that stops int8 before scoring does not take its size out of the comparison."""
    limit = {"footprint": {"op": "<=", "value": 16e6, "text": "<= 16 MB"}}
    results = make(constraints=limit, without_metrics=["similarity"])
    assert results.records[0].state == "PRUNED"
    assert "smaller than int8_asym (22.03 MB)" in decision_sentence(results)
