"""Dry run: sizes, time, memory, disk, and a limit that cannot be kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import openvino as ov
import pytest
from families import FAMILIES

from autotune.common.machine import check_memory
from autotune.compression.engine import Engine
from autotune.config.config import Config
from autotune.distillation.memory import divide
from autotune.errors import ConfigError, PlanError
from autotune.evaluation import Measurement
from autotune.study.planning.dry_run import dry_run
from autotune.study.planning.scoring_cost import share_needed
from autotune.study.session import Session
from evaluators.perplexity import Perplexity

DEMO = Path(__file__).parents[3] / "examples" / "demo"
SPACE = {
    "mode": ["int8_asym", "int4_asym", "int4_sym", "nf4"],
    "group_size": [32, 64, 128],
    "ratio": [0.8, 1.0],
    "sensitivity_metric": "weight_quantization_error",
    "all_layers": [False, True],
}


def configuration(model: Path, folder: Path, **changes: Any) -> Config:
    """A study of `model` on the demo's texts, with everything in `folder`."""
    text = {"path": str(DEMO / "search.txt"), "sequence_length": 32, "samples": 32}
    prompts = ["The old house", "A ship", "Nobody knows", "In the morning"]
    data = {
        "model": str(model),
        "output": str(folder / "study"),
        "calibration": {**text, "path": str(DEMO / "calibration.txt")},
        "space": SPACE,
        "evaluators": {
            "similarity": {"prompts": prompts, "max_new_tokens": 8, "embedder": "minilm"},
            "perplexity": text,
        },
        "cache": {"directory": str(folder / "cache")},
        **changes,
    }
    return Config.model_validate(data)


@pytest.mark.parametrize("family", FAMILIES)
def test_told_sizes_are_those_of_the_files(family: str, family_folder: Callable[[str], Path], tmp_path: Path) -> None:
    """Each point that a study begins with has the size that its `.bin` has, to the byte, in every family."""
    model = family_folder(family) / "ov"
    config = configuration(model, tmp_path)
    plan = dry_run(config, lambda text: None)
    assert plan.forecast is None
    engine = Engine(ov.Core().read_model(model / "openvino_model.xml"))
    exact = [point for point in plan.points if point.exact]
    assert len(exact) >= 4
    for point in exact:
        tuples = {name: tuple(point.settings[name]) for name in ("ignored_scope", "codebook")}
        settings = type(config.space.settings({"mode": "int8_asym"}))(**{**point.settings, **tuples})
        file = tmp_path / "model.xml"
        ov.save_model(engine.apply(engine.plan(settings)), file, compress_to_fp16=False)
        assert file.with_suffix(".bin").stat().st_size == point.footprint, point.label


def test_the_forecast_counts_everything_and_leaves_nothing(tiny_llama: Path, tmp_path: Path) -> None:
    """More trials and more text take longer; what was measured to find out is gone; data for --json."""
    space = {**SPACE, "awq": [False, True], "gptq": [False, True], "distillation": [False, True]}
    runtime = {"deployed": True, "search": {"KV_CACHE_PRECISION": ["f16", "u8"]}}
    config = configuration(tiny_llama, tmp_path, space=space, study={"trials": 20}, runtime=runtime)
    plan = dry_run(config, lambda text: None, measure=True)
    forecast = plan.forecast
    assert forecast is not None
    assert forecast.deployment is not None
    assert (forecast.deployment.models, forecast.deployment.settings) == (8, 2)
    assert 0 < forecast.deployment.seconds < forecast.seconds
    assert 0 < forecast.trial_seconds < forecast.seconds
    assert 0 < forecast.preparation_seconds < forecast.seconds
    assert forecast.memory > 50_000_000
    temporary = divide(ov.Core().read_model(tiny_llama / "openvino_model.xml"), (128, 32), 1 << 40).disk
    assert forecast.temporary == forecast.workers * temporary
    assert forecast.disk > plan.original_footprint / 4 + forecast.temporary
    assert forecast.not_measured == ()
    assert plan.as_dict()["forecast"]["seconds"] == forecast.seconds
    assert not any((tmp_path / "cache" / room).exists() for room in ("statistics", "references"))
    assert not (tmp_path / "study").exists()


def test_a_memory_limit_that_will_not_do_is_refused_in_planning(tiny_llama: Path, tmp_path: Path) -> None:
    """With the key and both numbers: by the forecast, and before a search where not even the original fits."""
    config = configuration(tiny_llama, tmp_path, study={"trials": 4, "memory_limit": "20 MB"})
    with pytest.raises(ConfigError, match=r"0\.02 GB.*about") as caught:
        dry_run(config, lambda text: None, measure=True)
    assert caught.value.key == "study.memory_limit"
    with pytest.raises(ConfigError, match="original model"):
        check_memory(1_000_000, 44_000_000)
    check_memory(None, 44_000_000)
    check_memory(45_000_000, 44_000_000)


def test_a_distillation_that_cannot_run_is_refused_before_the_first_trial(tiny_llama: Path, tmp_path: Path) -> None:
    """Distilled trials come last: without this, hours of a search could pass before they fail."""
    text = {"path": str(DEMO / "calibration.txt"), "sequence_length": 32, "samples": 2}
    config = configuration(tiny_llama, tmp_path, space={**SPACE, "distillation": [False, True]}, calibration=text)
    with pytest.raises(PlanError, match="at least 16 windows"):
        Session(config, lambda text: None).describe()


def test_a_precision_needs_windows_in_proportion_to_the_variance() -> None:
    """So that plan forecasts less time for a long text; all of it where the precision is out of reach."""
    measured = {"kl_divergence": Measurement(2.0, 0.2, (2.0,) * 8)}

    def share(precision: str | None, times: float = 100.0) -> float:
        study = SimpleNamespace(precision=precision)
        config: Any = SimpleNamespace(objectives={"footprint": "minimize", "kl_divergence": "minimize"}, study=study)
        return share_needed(config, Perplexity(path="text.txt"), measured, times)

    assert share(None) == 1.0
    assert share("5%") == pytest.approx(4 / 100)
    assert share("0.1") == pytest.approx(4 / 100)  # in the score's unit
    assert share("90%") == pytest.approx(1 / 100)  # no fewer than eight windows
    assert share("1%", times=10.0) == 1.0
