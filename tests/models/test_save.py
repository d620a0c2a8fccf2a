"""The files and constants of a saved model."""

from __future__ import annotations

import json
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


def test_an_ir_carries_the_properties_of_its_deployment(tmp_path: Path) -> None:
    """OpenVINO reads them back as defaults of the compiled model, and optimum-intel from its configuration."""
    model = chain([normal(32, 32)])
    engine = Engine(model)
    settings = Settings(mode="int8_sym")
    record = {
        "settings": settings.as_dict(),
        "runtime": {"DYNAMIC_QUANTIZATION_GROUP_SIZE": 64, "KV_CACHE_PRECISION": "f16"},
    }
    save_model(engine.apply(engine.plan(settings)), SourceModel.from_model(model), tmp_path / "out", record=record)
    compiled = ov.Core().compile_model(tmp_path / "out" / "openvino_model.xml", "CPU")
    assert compiled.get_property("DYNAMIC_QUANTIZATION_GROUP_SIZE") == 64
    assert compiled.get_property("KV_CACHE_PRECISION").get_type_name() == "f16"
    config = json.loads((tmp_path / "out" / "openvino_config.json").read_text())
    assert config["quantization_config"]["dq_group_size"] == 64
