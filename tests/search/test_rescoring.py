"""The front is scored once more on the report texts, when a search has come to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from search_fakes import FakeConfig, FakePrepared, Recorder, StudyOptions, search
from test_study import trials_of

from autotune.errors import ConfigError
from autotune.reporting.results import load_results
from autotune.search.pool import Stopped


def study(folder: Path, trials: int = 10) -> FakeConfig:
    return FakeConfig(folder, study=StudyOptions(trials=trials))


def test_each_model_of_the_front_is_scored_once(tmp_path: Path) -> None:
    """Those and no others, with the settings that they had; a continued study scores what is new on its front."""
    config, prepared = study(tmp_path / "study"), FakePrepared(report="texts")
    search(config, prepared)
    results = load_results(config.output)
    assert results.unseen is not None
    assert set(results.unseen.trials) == set(results.front)
    settings = {n: trial.user_attrs["settings"] for n, trial in enumerate(trials_of(config.output))}
    assert [one.as_dict() for one in prepared.reported] == [settings[n] for n in results.unseen.trials]
    for trial, scores in results.unseen.trials.items():
        assert scores["kl_divergence"].value == 1.1 * (results.value(trial, "kl_divergence") or 0)
    again = FakePrepared(report="texts")
    search(config, again)
    assert again.reported == []
    search(config, again, trials=30)
    later = load_results(config.output)
    assert {one.as_dict()["mode"] for one in again.reported} <= {s["mode"] for s in settings.values()} | {
        "nf4",
        "mxfp4",
    }
    assert later.unseen is not None
    assert set(later.front) <= set(later.unseen.trials)
    assert len(again.reported) == len(set(later.unseen.trials) - set(results.unseen.trials))


def test_other_report_texts_mean_other_scores(tmp_path: Path) -> None:
    """Scores on texts that are no longer the study's are not shown beside new ones."""
    config = study(tmp_path / "study")
    search(config, FakePrepared(report="texts"))
    changed = FakePrepared(report="other texts")
    search(config, changed)
    assert len(changed.reported) == len(load_results(config.output).front)


def test_without_report_texts_nothing_is_scored(tmp_path: Path) -> None:
    """Then the report has no such section."""
    config, prepared = study(tmp_path / "study"), FakePrepared()
    search(config, prepared)
    assert prepared.reported == []
    assert load_results(config.output).unseen is None


def test_what_goes_wrong_there_does_not_cost_the_search(tmp_path: Path) -> None:
    """An error is a note; a signal ends the search as it does elsewhere, and the next run goes on."""
    config, listener = study(tmp_path / "study"), Recorder()
    outcome = search(config, FakePrepared(report="texts", report_error=ConfigError("too short")), listener=listener)
    assert outcome.reason == "trials"
    assert any("too short" in note for note in listener.notes)
    stopped = search(config, FakePrepared(report="texts", report_error=Stopped(15)))
    assert stopped.exit_code == 128 + 15
    prepared = FakePrepared(report="texts")
    search(config, prepared)
    assert len(prepared.reported) == len(load_results(config.output).front)


def test_workers_score_them_too(tmp_path: Path) -> None:
    """In a worker process, which is told the settings."""
    config = study(tmp_path / "study", trials=4)
    config = replace(config, study=replace(config.study, workers=1), faults={"report": "texts"})
    from search_fakes import prepare_faulty

    search(config, prepare=prepare_faulty)
    results = load_results(config.output)
    assert results.unseen is not None
    assert set(results.unseen.trials) == set(results.front)
