"""Callbacks that log every trial to Weights & Biases, MLflow or TensorBoard, under the names of trials.csv.

`optuna-integration` has callbacks for them that are deprecated, to be removed in version 6. They log the objectives
alone, and not the settings that a budget resolves to; the one for TensorBoard needs TensorFlow and takes one objective.
"""

from __future__ import annotations

import logging
import math
import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.common.validation import nearest
from autotune.errors import PrerequisiteError, UsageError
from autotune.results.frame import SIZE_COLUMNS, TIME_COLUMNS, effective_settings

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

logger = logging.getLogger(__name__)


class Tracker(ABC):
    """A callback of a search; an error of the tracker is logged as a warning, and the search goes on."""

    extra: ClassVar[str]
    """Name of the package, and of the extra that installs it."""

    def __init__(self) -> None:
        """Check that the package is installed.

        Raises:
            PrerequisiteError: it is not.
        """
        if find_spec(self.extra) is None:
            raise PrerequisiteError(f"{self.extra} is not installed: pip install 'ov-autotune[{self.extra}]'")

    def __call__(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Log a finished trial; one that repeats another is left out."""
        if "duplicate_of" in trial.user_attrs:
            return
        try:
            self.log(study, trial)
        except Exception as error:
            logger.warning("trial %d was not logged to %s: %s", trial.number, self.extra, error)

    @abstractmethod
    def log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """Log one trial."""

    def close(self) -> None:  # noqa: B027
        """Finish what is open, at the end of a search."""


def settings_of(trial: FrozenTrial) -> dict[str, Any]:
    """Return the settings of a trial that have a value; lists as text."""
    found = effective_settings(trial.user_attrs.get("settings") or dict(trial.params))
    plain = {name: ", ".join(map(str, v)) if isinstance(v, (list, tuple)) else v for name, v in found.items()}
    return {name: value for name, value in plain.items() if value not in (None, "")}


def numbers_of(trial: FrozenTrial) -> dict[str, float]:
    """Return sizes and times of a trial and, if all of its texts were scored, its metrics with standard errors."""
    attributes = trial.user_attrs
    found = {name: attributes.get(name) for name in (*SIZE_COLUMNS, *TIME_COLUMNS)}
    if trial.state.name == "COMPLETE":
        for name, score in (attributes.get("metrics") or {}).items():
            found |= {name: score.get("value"), f"{name}_stderr": score.get("stderr")}
    return {name: float(v) for name, v in found.items() if v is not None and math.isfinite(v)}


def folder_of(study: optuna.Study) -> Path:
    """Return the study's folder."""
    return Path(str((study.user_attrs.get("config") or {}).get("output", "study")))


class WeightsAndBiasesCallback(Tracker):
    """One run for the study, one step for each trial, with the study's model.yaml as the run's configuration.

    A resumed study continues its run.

    Example:
        >>> callback = autotune.WeightsAndBiasesCallback(project="smollm2", mode="offline")
        >>> sorted(callback.init)  # autotune.search("model.yaml", callbacks=[callback])
        ['mode', 'project']
    """

    extra = "wandb"

    def __init__(self, **init: Any) -> None:
        """Take arguments of `wandb.init`; by default the project is WANDB_PROJECT, or autotune."""
        super().__init__()
        self.init = init
        self.run: Any = None

    def log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See `Tracker`."""
        if self.run is None:
            self.run = self._open(study)
        state = {"trial": trial.number, "state": trial.state.name}
        # Trials of several workers finish in any order, and steps of wandb must not decrease.
        self.run.log({**state, **settings_of(trial), **numbers_of(trial)})

    def _open(self, study: optuna.Study) -> Any:
        import wandb

        folder, identity = folder_of(study), study.user_attrs.get("wandb_run") or uuid.uuid4().hex[:8]
        study.set_user_attr("wandb_run", identity)
        given = {
            "project": os.environ.get("WANDB_PROJECT", "autotune"),
            "name": folder.name,
            "id": identity,
            "resume": "allow",
            "dir": os.environ.get("WANDB_DIR", str(folder)),
            "config": dict(study.user_attrs.get("config") or {}),
            "settings": wandb.Settings(console="off"),
        }
        run = wandb.init(**{**given, **self.init})
        run.define_metric("trial")
        run.define_metric("*", step_metric="trial")
        return run

    def close(self) -> None:
        """See `Tracker`."""
        if self.run is not None:
            self.run.finish()
            self.run = None


class MLflowCallback(Tracker):
    """One experiment for the study, one run for each trial, with its settings as parameters.

    Example:
        >>> callback = autotune.MLflowCallback("sqlite:///mlflow.db", experiment="smollm2")
        >>> callback.experiment  # autotune.search("model.yaml", callbacks=[callback])
        'smollm2'
    """

    extra = "mlflow"

    def __init__(self, tracking_uri: str | None = None, experiment: str | None = None) -> None:
        """Take a tracking server and the name of an experiment.

        Args:
            tracking_uri: by default MLFLOW_TRACKING_URI, or what MLflow takes without it.
            experiment: by default MLFLOW_EXPERIMENT_NAME, or autotune/ and the name of the study's folder.
        """
        super().__init__()
        self.tracking_uri, self.experiment = tracking_uri, experiment

    def log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See `Tracker`."""
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        client = MlflowClient(self.tracking_uri)
        name = self.experiment or os.environ.get("MLFLOW_EXPERIMENT_NAME") or f"autotune/{folder_of(study).name}"
        experiment = client.get_experiment_by_name(name)
        identity = client.create_experiment(name) if experiment is None else experiment.experiment_id
        begun, ended = (
            None if time is None else int(1000 * time.timestamp())
            for time in (trial.datetime_start, trial.datetime_complete)
        )
        tags = {"trial": str(trial.number), "state": trial.state.name, "model": str(_model(study))}
        run = client.create_run(identity, start_time=begun, tags=tags, run_name=f"trial {trial.number}")
        metrics = [Metric(key, value, ended or 0, trial.number) for key, value in numbers_of(trial).items()]
        params = [Param(key, str(value)) for key, value in settings_of(trial).items()]
        client.log_batch(run.info.run_id, metrics=metrics, params=params)
        status = {"COMPLETE": "FINISHED", "PRUNED": "KILLED"}.get(trial.state.name, "FAILED")
        client.set_terminated(run.info.run_id, status, ended)


class TensorBoardCallback(Tracker):
    """One run for each trial, for the tabs HPARAMS and TIME SERIES; by default in ``tensorboard/`` of the study.

    Example:
        >>> callback = autotune.TensorBoardCallback("runs/smollm2")
        >>> callback.dirname.name  # autotune.search("model.yaml", callbacks=[callback])
        'smollm2'
    """

    extra = "tensorboard"

    def __init__(self, dirname: str | Path | None = None) -> None:
        """Take another folder for the event files."""
        super().__init__()
        self.dirname = None if dirname is None else Path(dirname)

    def log(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """See `Tracker`."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb
        from tensorboard.plugins.scalar.summary_v2 import scalar_pb
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        name = f"trial-{trial.number:03}"
        begun, ended = (
            0.0 if time is None else time.timestamp() for time in (trial.datetime_start, trial.datetime_complete)
        )
        writer = EventFileWriter(str((self.dirname or folder_of(study) / "tensorboard") / name))
        try:
            summaries = [hparams_pb(settings_of(trial), trial_id=name, start_time_secs=begun)]
            summaries += [scalar_pb(key, value) for key, value in numbers_of(trial).items()]
            for summary in summaries:
                writer.add_event(Event(wall_time=ended, step=trial.number, summary=summary))
        finally:
            writer.close()


def _model(study: optuna.Study) -> Any:
    config: Mapping[str, Any] = study.user_attrs.get("config") or {}
    return config.get("model", "")


TRACKERS: Mapping[str, type[Tracker]] = {
    each.extra: each for each in (WeightsAndBiasesCallback, MLflowCallback, TensorBoardCallback)
}


@contextmanager
def trackers(callbacks: Sequence[str | Callable[..., None]]) -> Iterator[list[Callable[..., None]]]:
    """Replace the names of trackers by their callbacks, which are closed at the end.

    Raises:
        UsageError: an unknown name.
        PrerequisiteError: its package is not installed.
    """
    made: list[Callable[..., None]] = []
    for callback in callbacks:
        if isinstance(callback, str) and callback not in TRACKERS:
            names = ", ".join(TRACKERS)
            raise UsageError(f"unknown tracker {callback!r}{nearest(callback, TRACKERS)}; there are {names}")
        made.append(TRACKERS[callback]() if isinstance(callback, str) else callback)
    try:
        yield made
    finally:
        for each in made:
            if isinstance(each, Tracker):
                each.close()
