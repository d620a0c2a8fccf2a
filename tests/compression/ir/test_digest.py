"""Digests of two models differ only if the models compute different things."""

from __future__ import annotations

from collections.abc import Callable

import openvino as ov
import pytest

from autotune.compression.calibration.statistics import Statistics
from autotune.compression.engine import Engine
from autotune.compression.ir.constants import model_digest
from autotune.compression.settings import Settings

GetStatistics = Callable[[], Statistics]
CASES = [
    Settings(),
    Settings(mode="int4_asym", group_size=32, awq=True, scale_estimation=True),
    Settings(mode="nf4", group_size=32, gptq=True, all_layers=True),
    Settings(mode="int4_sym", group_size=32, lora_correction=True, lora_rank=2),
]


@pytest.mark.parametrize("settings", CASES, ids=lambda settings: settings.mode)
def test_a_plan_gives_one_digest(llama: ov.Model, statistics: GetStatistics, settings: Settings) -> None:
    """However many nodes the process has made before, and whether the bank was empty or full."""
    first = Engine(llama, statistics=statistics)
    digests = {model_digest(first.apply(first.plan(settings))) for _ in range(2)}
    again = Engine(llama.clone(), statistics=statistics)
    digests.add(again.digest(again.apply(again.plan(settings))))
    assert len(digests) == 1


def test_one_bit_is_another_digest(llama: ov.Model, statistics: GetStatistics) -> None:
    """Other settings are other bytes, and the original is none of them."""
    engine = Engine(llama, statistics=statistics)
    digests = [model_digest(engine.apply(engine.plan(settings))) for settings in CASES]
    assert len({*digests, model_digest(llama)}) == len(CASES) + 1
