"""The front is scored once more on the report texts, when a search has come to its end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import optuna
import pytest
from search_fakes import FakeConfig, FakeSession, Recorder, StudyOptions, open_faulty, search
from stored import trials_of

from autotune.errors import ConfigError
from autotune.results.load import load_results
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
from autotune.study.trials.held_out import ReportTexts
from autotune.study.workers.front import REPORT
from autotune.study.workers.pool import Stopped
from evaluators.perplexity import Perplexity
from evaluators.similarity import Similarity


def study(folder: Path, trials: int = 10) -> FakeConfig:
    return FakeConfig(folder, study=StudyOptions(trials=trials))


def test_each_model_of_the_front_is_scored_once(tmp_path: Path) -> None:
    """Those and no others, with the settings that they had; a continued study scores what is new on its front."""
    config, session = study(tmp_path / "study"), FakeSession(report="texts")
    search(config, session)
    results = load_results(config.output)
    assert results.held_out is not None
    assert set(results.held_out.trials) == set(results.front)
    settings = {n: trial.user_attrs["settings"] for n, trial in enumerate(trials_of(config.output))}
    assert [one.as_dict() for one in session.reported] == [settings[n] for n in results.held_out.trials]
    for trial, scores in results.held_out.trials.items():
        assert scores["kl_divergence"].value == 1.1 * (results.value(trial, "kl_divergence") or 0)
    again = FakeSession(report="texts")
    search(config, again)
    assert again.reported == []
    search(config, again, trials=30)
    later = load_results(config.output)
    assert {one.as_dict()["mode"] for one in again.reported} <= {s["mode"] for s in settings.values()} | {
        "nf4",
        "mxfp4",
    }
    assert later.held_out is not None
    assert set(later.front) <= set(later.held_out.trials)
    assert len(again.reported) == len(set(later.held_out.trials) - set(results.held_out.trials))


def test_other_report_texts_mean_other_scores(tmp_path: Path) -> None:
    """Scores on texts that are no longer the study's are not shown beside new ones."""
    config = study(tmp_path / "study")
    search(config, FakeSession(report="texts"))
    changed = FakeSession(report="other texts")
    search(config, changed, trials=config.study.trials + 1)
    assert len(changed.reported) == len(load_results(config.output).front)


def test_without_report_texts_nothing_is_scored(tmp_path: Path) -> None:
    """Then the report has no such section."""
    config, session = study(tmp_path / "study"), FakeSession()
    search(config, session)
    assert session.reported == []
    assert load_results(config.output).held_out is None


def test_what_goes_wrong_there_does_not_cost_the_search(tmp_path: Path) -> None:
    """An error is a note; a signal ends the search as it does elsewhere, and the next run goes on."""
    config, listener = study(tmp_path / "study"), Recorder()
    outcome = search(config, FakeSession(report="texts", report_error=ConfigError("too short")), listener=listener)
    assert outcome.reason == "trials"
    assert any("too short" in note for note in listener.notes)
    stopped = search(config, FakeSession(report="texts", report_error=Stopped(15)))
    assert stopped.exit_code == 128 + 15
    session = FakeSession(report="texts")
    search(config, session)
    assert len(session.reported) == len(load_results(config.output).front)


def test_deferred_metrics_are_those_of_the_front(tmp_path: Path) -> None:
    """They are added to those of the trial, and so is their time; a trial off the front has none. Once is enough."""
    config = study(tmp_path / "study")
    search(config, FakeSession(deferred=("similarity",)))
    results = load_results(config.output)
    for number, record in results.records.items():
        assert ("similarity" in record.metrics) == (number in results.front)
        assert "kl_divergence" in record.metrics or not record.complete
    first = results.records[results.front[0]]
    assert first.metrics["similarity"].value == 1 - first.metrics["kl_divergence"].value
    assert first.metrics["relative_error"].value > 0
    assert first.stages[-1] == ["scoring", 0.0, 1.0]
    again = FakeSession(deferred=("similarity",))
    search(config, again)
    assert again.reported == []


def test_report_texts_are_for_what_selects() -> None:
    """Evaluators that decide nothing score none, unless `report` names them."""
    search = {"similarity": Similarity(embedder="minilm"), "perplexity": Perplexity(texts=["a text"], samples=2)}

    def chosen(options: dict[str, dict[str, str]] | None, *deciding: str) -> set[str]:
        texts = ReportTexts(options, search, set(deciding), Mock(), Mock(), Mock(), Mock())
        return set(texts.evaluators)

    assert chosen(None, "perplexity") == {"perplexity"}
    assert chosen(None, "perplexity", "similarity") == {"perplexity", "similarity"}
    assert chosen({"similarity": {"prompts": "short", "embedder": "minilm"}}, "perplexity") == set(search)


def by_workers(folder: Path, workers: int, trials: int = 4, **faults: object) -> FakeConfig:
    """A study that worker processes have done."""
    config = study(folder, trials=trials)
    config = replace(config, study=replace(config.study, workers=workers), faults={"report": "texts", **faults})
    search(config, open_session=open_faulty)
    return config


@pytest.mark.parametrize("workers", [1, 3])
def test_workers_score_them_too(tmp_path: Path, workers: int) -> None:
    """In worker processes that run at the same time and receive the settings."""
    results = load_results(by_workers(tmp_path / "study", workers).output)
    assert results.held_out is not None
    assert set(results.held_out.trials) == set(results.front)
    for trial, scores in results.held_out.trials.items():
        assert scores["kl_divergence"].value == 1.1 * (results.value(trial, "kl_divergence") or 0)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_over_one_costs_its_scores(tmp_path: Path, workers: int) -> None:
    """The others have theirs, and the reason is kept."""
    config = by_workers(tmp_path / "study", workers, trials=8, reporting={"int8_asym": "kill"})
    results = load_results(config.output)
    lost = {trial for trial in results.front if results.records[trial].settings["mode"] == "int8_asym"}
    assert lost
    assert results.held_out is not None
    assert {trial for trial, scores in results.held_out.trials.items() if scores} == set(results.front) - lost
    storage = connect(database_url(config.output / DATABASE))
    attributes = optuna.load_study(study_name=STUDY_NAME, storage=storage).user_attrs[REPORT]["trials"]
    close(storage)
    assert {attributes[str(trial)]["error"]["signal"] for trial in lost} == {"SIGKILL"}
