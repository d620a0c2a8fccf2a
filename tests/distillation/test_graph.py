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
from openvino import opset15 as ops

from autotune.compression.calibration.segments import text_inputs
from autotune.distillation.graph import Graph
from autotune.distillation.operations import operation, read_constant
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
    expected, found = logits(model, np.random.default_rng(1).integers(0, 320, (2, 40)))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("name", FORMATS)
def test_every_format(compressed: Callable[..., Any], name: str) -> None:
    """Packed constants are read as OpenVINO decompresses them."""
    model, _ = compressed(**FORMATS[name])
    expected, found = logits(model, np.random.default_rng(1).integers(0, 320, (2, 40)))
    np.testing.assert_allclose(found, expected, atol=2e-3 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("NonZero", ops.non_zero),
        ("CumSum", lambda ids: ops.cum_sum(ids, 1, reverse=True)),
        ("Pad", lambda ids: ops.pad(ids, [0, 1], [0, 0], "edge")),
    ],
)
def test_what_is_not_supported_is_named(kind: str, make: Callable[[Any], Any]) -> None:
    """An operation without a torch function, or not for its attributes, is refused with its name and the remedy."""
    ids = ops.parameter([-1, -1], np.int64, name="input_ids")
    ids.output(0).set_names({"input_ids"})
    model = ov.Model([ops.result(make(ids))], [ids], "")
    with pytest.raises(PlanError, match=rf"{kind}.*without distillation"):
        Graph(model)


def kernel(*shape: int) -> Any:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


OPERATIONS: dict[str, tuple[list[int], Callable[[Any], Any]]] = {
    "slice backwards": ([5, 4], lambda x: ops.slice(x, [-1, 1], [-100, 3], [-2, 1], [0, 1])),
    "pad and cut": ([3, 4], lambda x: ops.pad(x, [0, 2], [1, -1], "constant", np.float32(0.5))),
    "broadcast along axes": ([3], lambda x: ops.broadcast(x, [2, 3, 4], [1], "EXPLICIT")),
    "roll": ([3, 4], lambda x: ops.roll(x, [1, -2], [0, 1])),
    "cumulative sum": ([3, 4], lambda x: ops.cum_sum(x, -1)),
    "scatter and add": (
        [3, 4],
        lambda x: ops.scatter_elements_update(x, np.array([[0, 2, 2]]), np.float32([[1, 2, 3]]), 1, "sum"),
    ),
    "depthwise convolution": (
        [2, 4, 9],
        lambda x: ops.group_convolution(x, kernel(4, 1, 1, 3), [2], [1], [0], [2]),
    ),
    "grouped convolution": (
        [2, 4, 6, 7],
        lambda x: ops.group_convolution(x, kernel(2, 3, 2, 3, 2), [1, 2], [1, 0], [0, 1], [1, 1]),
    ),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_single_operations(name: str) -> None:
    """Operations that the models of the tests lack, or use in one way only, equal those of OpenVINO."""
    shape, make = OPERATIONS[name]
    given = ops.parameter(shape, np.float32)
    node = make(given)
    values = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = ov.Core().compile_model(ov.Model([node], [given]), "CPU", F32)(values)[0]
    apply = operation(node)
    assert apply is not None
    constants = [read_constant(value.get_source_output().get_node()) for value in node.inputs()[1:]]
    np.testing.assert_allclose(apply(torch.from_numpy(values), *constants), expected, atol=1e-6)
