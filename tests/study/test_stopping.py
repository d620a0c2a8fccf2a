"""First points of a study, and its stopping rule."""

from __future__ import annotations

from pathlib import Path

import pytest
from optuna.trial import create_trial
from search_fakes import LARGE, SMALL, FakeConfig, Recorder, StudyOptions, search
from stored import current_trials, trials_of

from autotune.errors import ConfigError
from autotune.study.loop import LAG, has_converged
from autotune.study.storage.history import History


def test_a_front_that_stands_still_ends_the_search(tmp_path: Path) -> None:
    """The search ends where so many trials have gained nothing, by what is known when the next one could begin."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=200, patience=12, sampler="random"))
    listener = Recorder()
    outcome = search(config, listener=listener)
    assert outcome.reason == "patience"
    assert 12 < outcome.finished < 200
    assert "study.patience" in listener.message
    trials = trials_of(config.output)
    directions = ["minimize", "minimize"]
    assert has_converged(History(trials[: 1 - LAG]), directions, 12)
    assert not has_converged(History(trials[:-LAG]), directions, 12)
    assert search(config).ran == 0
    parts = FakeConfig(tmp_path / "parts", study=StudyOptions(trials=200, patience=12, sampler="random"))
    search(parts, trials=9)
    search(parts)
    assert current_trials(parts.output) == current_trials(config.output)


def test_nothing_stands_still_before_it_moved() -> None:
    """Without trials, and before any came to a result, there is nothing to lose patience with."""
    assert not has_converged(History([]), ["minimize"], 1)


def test_exactly_the_last_trials_are_looked_at() -> None:
    """The front moved with the third of five trials: two trials have gained nothing, three have."""
    trials = [create_trial(value=value) for value in (3.0, 2.0, 1.0, 1.0, 1.0)]
    for number, trial in enumerate(trials):
        trial.number = number
    found = [has_converged(History(trials), ["minimize"], last) for last in (1, 2, 3, 4, 5)]
    assert found == [True, True, False, False, False]


def test_wished_points_come_first(tmp_path: Path) -> None:
    """In their order, completed by defaults, before the known good ones."""
    points = [{"mode": "nf4", "group_size": 32}, {"mode": "int4_sym", "ratio": 0.7, "awq": True}]
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=4, enqueue=points))
    search(config)
    first, second, third, _ = (trial.user_attrs for trial in trials_of(config.output))
    assert (first["settings"]["mode"], first["settings"]["group_size"], first["settings"]["ratio"]) == ("nf4", 32, 1.0)
    assert (second["settings"]["ratio"], second["settings"]["awq"]) == (0.7, True)
    assert first["origin"] == second["origin"] == "enqueued: as wished"
    assert third["settings"]["mode"] == "int8_asym"


@pytest.mark.parametrize(
    ("point", "key", "message"),
    [
        ({"group_size": 32}, "mode", "needs a mode"),
        ({"mode": "nf4", "group_sizes": 32}, "group_sizes", "group_size"),
        ({"mode": "nf4", "group_size": 48}, "group_size", "outside the space"),
        ({"mode": "int8_asym", "awq": True}, "awq", "has no effect"),
    ],
)
def test_a_wish_outside_the_space_is_refused(tmp_path: Path, point: dict[str, object], key: str, message: str) -> None:
    """Before any trial, with the key and the reason."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(enqueue=[{"mode": "nf4"}, point]))
    with pytest.raises(ConfigError, match=message) as caught:
        search(config)
    assert caught.value.key == f"study.enqueue[1].{key}"


def test_a_study_starts_from_the_front_of_another(tmp_path: Path) -> None:
    """Its front comes first, moved into the space, and again when the study is continued without saying so."""
    earlier = FakeConfig(tmp_path / "earlier", space=SMALL, study=StudyOptions(trials=12))
    search(earlier)
    config = FakeConfig(tmp_path / "study", space=LARGE)
    search(config, start_from=earlier.output, trials=2)
    search(config, trials=8)
    origins = [trial.user_attrs["origin"] for trial in trials_of(config.output)]
    inherited = [origin for origin in origins if origin.endswith("of earlier")]
    assert len(inherited) >= 3
    assert origins[: len(inherited)] == inherited
