"""The files and constants of a saved model."""

from __future__ import annotations

from pathlib import Path

import openvino as ov
import pytest
from builders import chain, content, normal

from autotune.compression.engine import Engine
from autotune.compression.settings import Settings
from autotune.models.save import save_model
from autotune.models.source import SourceModel


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("left", ["W1", ".*"])
def test_every_constant_keeps_its_type_and_bytes(tmp_path: Path, left: str, storage: str) -> None:
    """The plan alone decides on precision: a weight that it leaves is not rounded, and the size is the plan's."""
    model = chain([normal(32, 32), normal(32, 32, seed=1)], storage=storage)
    engine = Engine(model)
    plan = engine.plan(Settings(mode="int8_sym", ignored_scope=(left,)))
    compressed = engine.apply(plan)
    save_model(compressed, SourceModel.from_model(model), tmp_path / "out", record={})
    assert content(ov.Core().read_model(tmp_path / "out" / "openvino_model.xml")) == content(compressed)
    assert (tmp_path / "out" / "openvino_model.bin").stat().st_size == plan.footprint
