"""Trials in Weights & Biases, MLflow and TensorBoard, by their own libraries; without these the tests are skipped.

To run them: pip install wandb mlflow tensorboard. They are no part of the extra `dev`, since they bring 40 packages.
"""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from autotune.errors import PrerequisiteError, UsageError
from autotune.reporting import trackers
from autotune.reporting.trackers import TRACKERS, numbers_of, settings_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of third parties


@pytest.fixture
def study(fake: ModuleType, tmp_path: Path) -> Any:
    """An Optuna study with complete, stopped, failed and repeated trials."""
    return fake.build(trials=14, config={"model": "org/llama", "output": str(tmp_path / "study")})


def test_what_is_logged(study: Any) -> None:
    """Names and numbers are those of trials.csv; a trial without all of its texts has no scores."""
    from autotune.results.load import results_of

    results = results_of(study)
    for trial in study.get_trials(deepcopy=False):
        if "duplicate_of" in trial.user_attrs:
            continue
        numbers = numbers_of(trial)
        assert set(numbers) | set(settings_of(trial)) <= set(results.trials.columns)
        for name, value in numbers.items():
            assert value == results.value(trial.number, name), name
        assert ("kl_divergence" in numbers) == results.records[trial.number].complete


def test_a_missing_package_and_an_unknown_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before any work, with the command that installs it."""
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    for name in TRACKERS:
        with (
            pytest.raises(PrerequisiteError, match=rf"pip install 'ov-autotune\[{name}\]'"),
            trackers.trackers([name]),
        ):
            pass
    with pytest.raises(UsageError, match="did you mean 'mlflow'"), trackers.trackers(["mlflw"]):
        pass


def test_an_error_of_a_tracker_is_a_warning(
    study: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A lost server does not end a search of hours."""
    monkeypatch.setattr(trackers, "find_spec", lambda name: True)
    callback = TRACKERS["mlflow"]()
    monkeypatch.setattr(callback, "log", lambda *_: (_ for _ in ()).throw(ConnectionError("no route to host")))
    with caplog.at_level(logging.WARNING):
        callback(study, study.trials[0])
    assert "trial 0 was not logged to mlflow: no route to host" in caplog.text


def logged(study: Any, name: str) -> list[Any]:
    """Log all trials of the study; return those that are no repeats."""
    with trackers.trackers([name]) as (callback,):
        for trial in study.get_trials(deepcopy=False):
            callback(study, trial)
    return [trial for trial in study.trials if "duplicate_of" not in trial.user_attrs]


def test_wandb(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """One offline run with a row for each trial, and a second search continues it; nothing on stdout."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "study").mkdir()
    trials = logged(study, "wandb")
    logged(study, "wandb")
    files = sorted((tmp_path / "study" / "wandb").glob("offline-run-*/*.wandb"))
    assert len(files) == 2
    assert len({file.name for file in files}) == 1  # the same run
    rows = list(history(files[0]))
    assert [row["trial"] for row in rows] == [trial.number for trial in trials]
    assert [row.get("kl_divergence") for row in rows] == [numbers_of(trial).get("kl_divergence") for trial in trials]
    assert rows[0]["mode"] == settings_of(trials[0])["mode"]
    assert capfd.readouterr().out == ""


def history(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of an offline run, whose file is a LevelDB log: blocks of 32 KiB, records in one or more parts."""
    from wandb.proto import wandb_internal_pb2

    data, at, parts = file.read_bytes(), 7, b""  # after the file's own header
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            record = wandb_internal_pb2.Record.FromString(parts)
            parts = b""
            if record.HasField("history"):
                yield {
                    each.key or ".".join(each.nested_key): json.loads(each.value_json) for each in record.history.item
                }


def test_mlflow(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One run for each trial, with parameters, metrics, times and status."""
    pytest.importorskip("mlflow")
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.chdir(tmp_path)
    trials = logged(study, "mlflow")
    client = MlflowClient()
    experiment = client.get_experiment_by_name("autotune/study")
    assert experiment is not None
    runs = sorted(client.search_runs([experiment.experiment_id]), key=lambda run: int(run.data.tags["trial"]))
    assert len(runs) == len(trials)
    for run, trial in zip(runs, trials, strict=True):
        assert run.data.metrics == numbers_of(trial)
        assert run.data.params == {name: str(value) for name, value in settings_of(trial).items()}
        assert run.info.start_time == int(1000 * trial.datetime_start.timestamp())
        expected = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}
        assert run.info.status == expected[trial.state.name]


def test_tensorboard(study: Any, tmp_path: Path) -> None:
    """A folder for each trial, whose event file has its settings and its scores."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.util.tensor_util import make_ndarray

    trials = logged(study, "tensorboard")
    folders = sorted((tmp_path / "study" / "tensorboard").iterdir())
    assert [folder.name for folder in folders] == [f"trial-{trial.number:03}" for trial in trials]
    for folder, trial in zip(folders, trials, strict=True):
        events = EventAccumulator(str(folder)).Reload()
        found = {tag: make_ndarray(events.Tensors(tag)[0].tensor_proto).item() for tag in events.Tags()["tensors"]}
        numbers = numbers_of(trial)
        assert {name: found[name] for name in numbers} == pytest.approx(numbers, rel=1e-6)
        content = events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
        hparams = HParamsPluginData.FromString(content).session_start_info.hparams
        assert set(hparams) == set(settings_of(trial))
