"""Trials in worker processes: the same study, and what a worker's end costs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest
from search_fakes import (
    FakeConfig,
    FakeSession,
    Recorder,
    StudyOptions,
    open_faulty,
    score_texts,
    search,
    space,
    undisturbed,
)
from stored import current_trials, trials_of

from autotune.errors import ConfigError, StudyError
from autotune.study.storage.history import is_interrupted
from autotune.study.workers.process_pool import WorkerPool

MODES = space(mode=["int8_asym", "int4_asym", "int4_sym", "nf4"], group_size=[32, 64], ratio=1.0)
"""Seven points; two with each mode of a group size."""


def worked(config: FakeConfig, **options: Any) -> Any:
    """A search with workers that have the faults of the configuration."""
    return search(config, open_session=open_faulty, **options)


def failed(folder: Path) -> list[dict[str, str]]:
    """The errors of the failed trials."""
    return [trial.user_attrs["error"] for trial in trials_of(folder) if trial.state.name == "FAIL"]


def test_one_worker_makes_the_study_that_the_search_itself_makes(tmp_path: Path) -> None:
    """Trial by trial the same, also where it is interrupted and the worker replaced."""
    here = FakeConfig(tmp_path / "here", study=StudyOptions(trials=14))
    search(here)
    there = FakeConfig(tmp_path / "there", study=StudyOptions(trials=14, workers=1))
    worked(there, trials=5)
    outcome = worked(there)
    assert (outcome.finished, outcome.ran) == (14, 9)
    assert current_trials(there.output) == current_trials(here.output)


def test_several_workers_try_no_plan_twice_and_give_the_same_scores(tmp_path: Path) -> None:
    """Three workers over a space with twins: each plan is scored once, with the values that it always has."""
    twins = space(
        mode=["int8_asym", "int4_asym", "nf4"], group_size=[32, 64], backup_mode=["int8_asym", "int8_sym"], ratio=1.0
    )
    log = tmp_path / "log.txt"
    config = FakeConfig(tmp_path / "study", space=twins, faults={"log": log, "delay": 0.05})
    config.study = StudyOptions(trials=30, workers=3)
    listener = Recorder()
    outcome = worked(config, listener=listener)
    assert (outcome.reason, outcome.finished, outcome.duplicates, outcome.failed) == ("exhausted", 5, 4, 0)
    assert max(Counter(log.read_text().split()).values()) == 1
    assert "variants 5 computed" in listener.message
    alone = FakeConfig(tmp_path / "alone", space=twins, study=StudyOptions(trials=30))
    search(alone)
    values = [{trial.user_attrs["plan"]: trial.values for trial in trials_of(c.output)} for c in (config, alone)]
    assert values[0] == values[1]


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_two_workers_make_the_study_that_one_makes(tmp_path: Path, sampler: str) -> None:
    """Trial by trial, whichever worker is faster: with races, and with plans that come up while they are worked on."""
    twins = space(
        mode=["int8_asym", "int4_asym", "nf4"],
        group_size=[32, 64, 128, -1],
        backup_mode=["int8_asym", "int8_sym"],
        ratio=[0.6, 0.8, 1.0],
        all_layers=[False, True],
    )
    two = FakeConfig(tmp_path / "two", space=twins, faults={"jitter": 0.1, "texts": True})
    two.study = StudyOptions(trials=24, workers=2, sampler=sampler)
    worked(two, trials=13)
    worked(two)
    one = FakeConfig(tmp_path / "one", space=twins, study=StudyOptions(trials=24, sampler=sampler))
    search(one, FakeSession(scorer=score_texts))
    assert current_trials(two.output) == current_trials(one.output)
    for attribute in ("duplicate_of", "beaten_by"):
        assert any(attribute in trial.user_attrs for trial in trials_of(two.output))


@pytest.mark.parametrize(
    ("kind", "message", "how"),
    [("segfault", "SIGSEGV", "about to read at address zero"), ("exit", "status 7", "")],
)
def test_a_worker_that_dies_costs_one_trial(tmp_path: Path, kind: str, message: str, how: str) -> None:
    """The trial fails with the signal's name and the worker's stderr; the others finish in a new worker."""
    config = FakeConfig(tmp_path / "study", space=MODES, study=StudyOptions(trials=7, workers=1), faults={"nf4": kind})
    outcome = worked(config)
    assert (outcome.finished, outcome.failed) == (7, 2)
    for error in failed(config.output):
        assert error["type"] == "worker lost"
        assert message in error["message"]
        assert how in str(error)
    assert worked(config).ran == 0


@pytest.mark.parametrize(
    ("kind", "options", "named"),
    [
        ("hang", {"trial_timeout": 8.0}, ["trial timeout", "study.trial_timeout"]),
        ("memory", {"memory_limit": 300_000_000}, ["memory limit", "study.memory_limit"]),
    ],
)
def test_a_trial_that_takes_too_much_is_ended(
    tmp_path: Path, kind: str, options: dict[str, Any], named: list[str]
) -> None:
    """Time and memory have limits: the trial fails with the limit's name, the study goes on."""
    study = StudyOptions(trials=7, workers=2, **options)
    config = FakeConfig(tmp_path / "study", space=MODES, study=study, faults={"nf4": kind})
    outcome = worked(config)
    assert (outcome.finished, outcome.failed) == (7, 2)
    for error in failed(config.output):
        assert error["type"] == named[0]
        assert named[1] in error["message"]


def test_workers_are_replaced_after_some_trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker ends after so many trials, and the study does not notice."""
    monkeypatch.setattr(WorkerPool, "TRIALS_A_WORKER", 3)
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=8, workers=1))
    listener = Recorder()
    worked(config, listener=listener)
    assert current_trials(config.output) == undisturbed(trials=8)
    assert "variants 8 computed" in listener.message


def test_workers_that_all_die_end_the_search(tmp_path: Path) -> None:
    """If the first trials all crash their worker, the search stops instead of failing every trial."""
    faults = dict.fromkeys(("int8_asym", "int4_asym", "int4_sym", "nf4"), "kill")
    config = FakeConfig(tmp_path / "study", space=MODES, study=StudyOptions(trials=7, workers=1), faults=faults)
    with pytest.raises(StudyError, match=r"first 3 trials.*SIGKILL.*memory"):
        worked(config)


@pytest.mark.parametrize(("kind", "error"), [("kill", StudyError), ("setup", ConfigError)])
def test_a_worker_that_cannot_prepare_ends_the_search(tmp_path: Path, kind: str, error: type[Exception]) -> None:
    """Death and errors of preparation come out of the search as what they are."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(workers=1), faults={"prepare": kind})
    with pytest.raises(error) as caught:
        worked(config)
    if isinstance(caught.value, ConfigError):
        assert caught.value.key == "calibration.path"


def test_a_wrong_setup_found_in_a_trial_ends_the_search(tmp_path: Path) -> None:
    """As without workers: what would be wrong with every trial is no failure of one."""
    faults = {"int4_asym": "setup"}
    config = FakeConfig(tmp_path / "study", space=MODES, study=StudyOptions(workers=1), faults=faults)
    with pytest.raises(ConfigError, match="too short"):
        worked(config)
    assert failed(config.output)
    assert all(is_interrupted(trial) for trial in trials_of(config.output) if trial.state.name == "FAIL")


def start(tmp_path: Path, workers: int, delay: float = 0.3) -> tuple[subprocess.Popen[bytes], Path]:
    """A search in a process of its own, once its first trial is scored."""
    log = tmp_path / "log.txt"
    script = Path(__file__).parents[2] / "support" / "search_fakes.py"
    command = [sys.executable, str(script), str(tmp_path / "study"), str(log), "12", str(delay), str(workers)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert process.poll() is None
    return process, log


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stop_signal_ends_the_search_with_its_report(tmp_path: Path, number: signal.Signals) -> None:
    """The exit code tells the signal, no worker is left, and the continued study is the undisturbed one."""
    process, _ = start(tmp_path, workers=1)
    workers = psutil.Process(process.pid).children()
    process.send_signal(number)
    assert process.wait(60) == 128 + number
    assert workers
    assert not psutil.wait_procs(workers, timeout=10)[1]
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=12, workers=1))
    assert worked(config).finished == 12
    assert current_trials(config.output) == undisturbed(trials=12)


def test_workers_end_with_a_search_that_is_killed(tmp_path: Path) -> None:
    """SIGKILL of the search leaves no process behind, in the middle of a trial."""
    process, _ = start(tmp_path, workers=2)
    workers = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    assert len(workers) == 2
    assert not psutil.wait_procs(workers, timeout=10)[1]


def test_a_killed_worker_repeats_its_trial(tmp_path: Path) -> None:
    """SIGKILL from outside, as the system does it: the study is the undisturbed one."""
    process, _ = start(tmp_path, workers=2)
    for _ in range(2):
        victim = psutil.Process(process.pid).children()[0]
        os.kill(victim.pid, signal.SIGKILL)
        psutil.wait_procs([victim], timeout=10)
    assert process.wait(120) == 0
    assert not failed(tmp_path / "study")
    assert current_trials(tmp_path / "study") == undisturbed(trials=12)


def test_a_trial_that_is_killed_twice_fails(tmp_path: Path) -> None:
    """It is begun twice, with a note, and not a third time."""
    config = FakeConfig(
        tmp_path / "study", space=MODES, study=StudyOptions(trials=7, workers=1), faults={"nf4": "kill"}
    )
    listener = Recorder()
    assert worked(config, listener=listener).failed == 2
    for error in failed(config.output):
        assert (error["type"], error["signal"]) == ("worker lost", "SIGKILL")
        assert "study.memory_limit" in error["message"]
    assert sum("runs once more" in note for note in listener.notes) == 2


def test_a_share_of_the_cores_is_bound_to_none(
    tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO would bind the threads of every worker to the first cores; a search alone may have them bound."""
    from autotune.config.config import load_config
    from autotune.study.session import Session

    text = Path(__file__).parents[3] / "examples" / "demo" / "search.txt"
    (tmp_path / "model.yaml").write_text(
        f"model: {tiny_llama}\noutput: study\nspace: {{mode: int8_asym}}\n"
        f"evaluators: {{perplexity: {{path: {text}, sequence_length: 32, samples: 2}}}}\n"
        f"cache: {{directory: {tmp_path / 'cache'}}}\n"
    )
    session = Session(load_config(tmp_path / "model.yaml"), lambda _: None)
    monkeypatch.setenv("AUTOTUNE_THREADS", "1")
    with session.compiled(session.model) as model:
        assert model.properties["INFERENCE_NUM_THREADS"] == "1"
        assert model.properties["ENABLE_CPU_PINNING"].upper() in ("NO", "FALSE")
