"""Settings, spaces and commands agree with the engine on whether calibration statistics are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import openvino as ov
import pytest
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.engine import Engine
from autotune.compression.settings import SETTINGS, Settings
from autotune.config.space.space import Choices, SearchSpace
from autotune.errors import PlanError
from autotune.reporting.text.commands import compress_command
from autotune.results.frame import effective_settings

BANK = Bank(weights_in_memory=False)
CHOICES = {
    "mode": ["int8_asym", "int4_asym", "nf4", "fp8_e4m3"],
    "group_size": [32],
    "ratio": [0.0, 0.5, 1.0],
    "sensitivity_metric": [None, "weight_quantization_error", "mean_activation_magnitude", "output_error"],
    "lora_rank": [4],
}


@st.composite
def valid_settings(draw: st.DrawFn) -> Settings:
    """Settings without problems, each algorithm on or off; distillation reads texts, but no statistics."""
    values: dict[str, Any] = {name: draw(st.sampled_from(choices)) for name, choices in CHOICES.items()}
    values |= {name: draw(st.booleans()) for name, info in SETTINGS.items() if info.kind == "switch"}
    values["distillation"] = False
    for problem in list(Settings(**values).problems()):
        values[problem.key] = SETTINGS[problem.key].default
    return Settings(**values)


def command_calibrates(settings: Settings) -> bool:
    """Return True if the command of a trial with these settings has a calibration text."""
    record = SimpleNamespace(settings=effective_settings(settings.as_dict()))
    results: Any = SimpleNamespace(
        config={"model": "m", "calibration": {"path": "text.txt"}}, records={0: record}, folder=None, storage=None
    )
    return "--calibration text.txt" in compress_command(results, 0)


@example(drawn=Settings("int4_asym", 32, ratio=0.5))
@example(drawn=Settings("int4_asym", 32, ratio=0.5, sensitivity_metric="weight_quantization_error"))
@example(drawn=Settings("int4_asym", 32, ratio=0.0, sensitivity_metric="output_error"))
@example(drawn=Settings("int4_asym", 32, ratio=0.0, awq=True, gptq=True))
@example(drawn=Settings("int4_asym", 32, awq=True, awq_data_free=True))
@given(drawn=valid_settings())
@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_all_agree_with_the_engine(llama: ov.Model, statistics: Callable[[], Statistics], drawn: Settings) -> None:
    """The engine reads statistics exactly if the resolved settings need them, and refuses them without a text."""
    assert not list(drawn.problems())
    calls: list[Statistics] = []

    def collect() -> Statistics:
        calls.append(statistics())
        return calls[-1]

    engine = Engine(llama, bank=BANK, statistics=collect)
    plan = engine.plan(drawn)
    engine.apply(plan)
    resolved = drawn.resolved(calibrated=True)
    assert engine.resolve(drawn) == resolved
    assert bool(calls) == resolved.needs_calibration
    assert not plan.depends_on_calibration or resolved.needs_calibration
    space = SearchSpace("", {name: Choices((getattr(drawn, name),)) for name in SETTINGS if name != "codebook"})
    assert space.needs_calibration == resolved.needs_calibration
    assert command_calibrates(resolved) == resolved.needs_calibration
    without_text = Engine(llama, bank=BANK)
    if without_text.resolve(drawn).needs_calibration:
        with pytest.raises(PlanError, match="need a calibration text"):
            without_text.plan(drawn)
    else:
        without_text.plan(drawn)


def test_settings_survive_plain_data() -> None:
    """`from_dict` reads what `as_dict` writes; a mode's default backup is written out."""
    settings = Settings("codebook", codebook=(-1.0, 0.0, 1.0), backup_mode="int8_sym", ignored_scope=("a", "b"))
    assert Settings.from_dict(settings.as_dict()) == settings
    assert Settings.from_dict({"mode": "nf4", "ratio": None, "unknown": 1}) == Settings("nf4")
    assert asdict(Settings.from_dict({})) == asdict(Settings())
