"""The graph in torch computes what OpenVINO computes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch
from families import FAMILIES

from autotune.compression.calibration.segments import text_inputs
from autotune.distillation.graph import Graph
from autotune.distillation.sweeps import forward
from autotune.errors import PlanError

F32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
FORMATS: dict[str, dict[str, Any]] = {
    "int8": {"mode": "int8_asym"},
    "symmetric": {"mode": "int4_sym", "group_size": 32, "all_layers": True},
    "asymmetric": {"mode": "int4_asym", "group_size": 32},
    "nf4": {"mode": "nf4", "group_size": 64},
    "codebook": {"mode": "cb4"},
    "mxfp4": {"mode": "mxfp4"},
    "nvfp4": {"mode": "nvfp4"},
    "int3": {"mode": "int3_sym", "group_size": 32},
    "int2": {"mode": "int2_sym", "group_size": 32},
    "scaled": {"mode": "int4_sym", "group_size": 32, "awq": True, "awq_data_free": True},
}


HYBRIDS = ("lfm2", "granitemoehybrid")
"""Their convolutions and scans are not trained."""


def logits(model: Any, tokens: Any) -> tuple[Any, Any]:
    """Of OpenVINO and of the graph in torch."""
    compiled = ov.Core().compile_model(model, "CPU", F32)
    given = text_inputs(tokens)
    expected = compiled({port.any_name: given[port.any_name] for port in compiled.inputs})[0]
    graph = Graph(model)
    graph.prepare({}, *tokens.shape)
    (found,) = forward(graph, [torch.from_numpy(tokens)], {}, lambda _, given: graph.head(given))
    return expected, found.numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family_folder: Callable[[str], Path], family: str) -> None:
    model = ov.Core().read_model(family_folder(family) / "ov" / "openvino_model.xml")
    if family in HYBRIDS:
        with pytest.raises(PlanError, match=r"GroupConvolution.*without distillation"):
            Graph(model)
        return
    expected, found = logits(model, np.random.default_rng(1).integers(0, 320, (2, 40)))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(compressed: Callable[..., Any], name: str) -> None:
    """Packed constants are read as OpenVINO decompresses them."""
    model, _ = compressed(**FORMATS[name])
    expected, found = logits(model, np.random.default_rng(1).integers(0, 320, (2, 40)))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


def test_what_is_not_supported_is_named() -> None:
    """An operation without a torch function is refused with its name and the remedy."""
    from openvino import opset15 as ops

    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    found = ops.non_zero(ids)
    model = ov.Model([ops.result(found)], [ids], "")
    with pytest.raises(PlanError, match=r"NonZero.*without distillation"):
        Graph(model)
