"""Use of the whole Python API, for `mypy --strict`; it is never run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, assert_type

import numpy as np
import openvino as ov
import optuna
import pandas as pd
from matplotlib.figure import Figure
from optuna.trial import FrozenTrial

import autotune
from autotune.errors import AutotuneError, ConfigError
from autotune.evaluation import Measurement


def compress(model: ov.Model, tokenizer: Any) -> autotune.CompressedModel:
    """A path, a model in memory, every form of texts, and the attributes of the result."""
    autotune.compress("owner/name", mode="int4_asym", group_size=64, ratio=0.8, calibration="text.txt")
    autotune.compress(Path("folder"), scale_estimation=True, calibration=["a text", "another"], samples=8)
    autotune.compress(model, gptq=True, calibration=np.zeros((4, 32), np.int64))
    autotune.compress(model, tokenizer=tokenizer, awq=True, calibration={"dataset": "owner/name", "split": "train"})
    autotune.compress(model, mode="codebook", codebook=[-1.0, 0.0, 1.0], ignored_scope=("head",), output="out")
    small = autotune.compress(
        "owner/name", max_size="90 MB", evaluation="synthetic", allow=["int2"], cache=Path("cache"), progress=False
    )
    assert_type(small, autotune.CompressedModel)
    assert_type(small.footprint, int)
    assert_type(small.original_footprint, int)
    assert_type(small.compression_rate, float)
    assert_type(small.notes, tuple[str, ...])
    assert_type(small.settings, Mapping[str, Any])
    plan: pd.DataFrame = small.plan
    compressed: ov.Model = small.model
    saved = small.save("folder")
    assert_type(saved.folder, Path)
    assert_type(saved.trial, int | None)
    assert_type(small.evaluate({"perplexity": {"path": "text.txt"}}), autotune.Scores)
    autotune.compress(compressed)
    print(plan)
    return small


def evaluate(small: autotune.CompressedModel, model: ov.Model) -> dict[str, dict[str, float | None]]:
    """Models of each kind, evaluators by name or with options."""
    autotune.evaluate("folder", reference="owner/name", evaluators=["similarity"])
    autotune.evaluate(model, reference=model, tokenizer=None, options={"perplexity": {"samples": 4}})
    autotune.evaluate("folder", config=Path("model.yaml"), progress=False)
    scores = autotune.evaluate(small, evaluators={"perplexity": {"path": "text.txt", "samples": 4}})
    assert_type(scores, autotune.Scores)
    assert_type(scores["kl_divergence"], Measurement)
    assert_type(scores["kl_divergence"].value, float)
    assert_type(scores["kl_divergence"].stderr, float | None)
    for name, measurement in scores.items():
        print(name.upper(), measurement.value + 1.0)
    frame: pd.DataFrame = scores.to_frame()
    print(frame)
    return scores.as_dict()


def show(study: optuna.Study, trial: FrozenTrial) -> None:
    """A callback."""
    print(trial.number, len(study.trials))


def search() -> autotune.Study:
    """A path, a mapping and a configuration, and the methods of a study."""
    config = autotune.Config.model_validate({"model": "owner/name", "space": "int4"})
    autotune.search(config, fresh=True, start_from="reports/other")
    autotune.search({"model": "owner/name"}, trials=4, timeout="2h", seed=1, storage="sqlite:///study.db")
    file = autotune.init(
        "owner/name", Path("model.yaml"), space="budget", trials=8, max_size="1 GB", evaluators=["latency"]
    )
    assert_type(file, Path)
    autotune.search("owner/name", callbacks=["wandb", autotune.MLflowCallback(experiment="x"), show], open_page=True)
    study = autotune.search(
        "model.yaml", workers=0, output="out", overrides=["a.b=c"], callbacks=[show], progress=False
    )
    assert_type(study, autotune.Study)
    assert_type(study.folder, Path)
    assert_type(study.knee, int | None)
    assert_type(study.best(max_size="90 MB"), int)
    assert_type(study.best(max_drop=0.5, metric="perplexity_increase"), int)
    frames: list[pd.DataFrame] = [study.trials, study.front, study.plan(0), study.answers(0), study.effects()]
    figures: list[Figure] = [study.plot_front(), study.plot_progress(), study.plot_settings("kl_divergence")]
    inner: optuna.Study = study.optuna
    assert_type(study.export("out", trial=study.knee).original_footprint, int)
    study.export(
        Path("out"), max_size=90_000_000, max_drop="2%", metric="similarity", progress=False, upload="me/small"
    )
    assert_type(study.to_html("report.html"), Path)
    if study.outcome is not None:
        assert_type(study.outcome.seconds, float)
        assert_type(study.outcome.finished, int)
    print(frames, figures, inner)
    return study


def read(study: autotune.Study) -> None:
    """The functions on studies that exist."""
    assert_type(autotune.load_study("reports/a", "sqlite:///study.db"), autotune.Study)
    table: pd.DataFrame = autotune.compare(["reports/a", Path("reports/b"), study], whole=True, output="comparison")
    autotune.compare(["reports/a"], output="comparison", report=True)
    studies: pd.DataFrame = autotune.list_studies("reports")
    print(studies, study.write_report(open_page=True).report_html)
    planned = autotune.plan("model.yaml", overrides=["study.trials=4"], forecast=False)
    assert_type(planned.original_footprint, int)
    assert_type([point.footprint for point in planned.points], list[int | None])
    assert_type([finding.text for finding in planned.findings], list[str])
    if planned.forecast is not None:
        assert_type(planned.forecast.seconds, float)
    reproduction = autotune.reproduce("reports/a", 3, progress=False)
    assert_type(reproduction.same, bool)
    assert_type(reproduction.changed, tuple[str, ...])
    outcome = autotune.worker("model.yaml", "postgresql://host/studies", workers=2)
    assert_type(outcome.ran, int)
    assert_type(autotune.__version__, str)
    print(table)


def errors() -> str:
    """Errors have the file, the line and the key."""
    try:
        autotune.search("model.yaml")
    except ConfigError as error:
        assert_type(error.line, int | None)
        return str(error.key)
    except AutotuneError as error:
        return f"{error.exit_code}"
    return ""
