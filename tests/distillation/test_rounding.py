"""Rounding against the curvature on both sides, and where that curvature comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
import torch

from autotune.common.threads import limited_to
from autotune.compression.algorithms.gptq import propagation, quantize_columns
from autotune.compression.formats.encoding import Array
from autotune.compression.formats.quantize import decode, initial_scale, stored_value
from autotune.compression.formats.table import FORMATS
from autotune.distillation import curvature as module
from autotune.distillation.codes import find_products, round_again
from autotune.distillation.curvature import (
    Curvature,
    mean_square_gradients,
    measure_curvature,
    moment_bytes,
    products_of,
    scaled,
    shrunk,
)
from autotune.distillation.graph import Graph
from autotune.distillation.rounding import round_both_sides
from autotune.distillation.sweeps import forward
from autotune.distillation.training import Divergence


def moments(width: int, seed: int) -> Array:
    """Second moments of correlated vectors."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4 * width, width)) @ rng.standard_normal((width, width))
    return (x.T @ x / len(x)).astype(np.float32)


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4"])
def test_both_sides(mode: str) -> None:
    """Without correlated outputs it is GPTQ; with them the cost on both sides falls."""
    fmt = FORMATS[mode]
    rows = np.random.default_rng(0).standard_normal((100, 3, 32)).astype(np.float32)
    scale, zero = initial_scale(rows, fmt)
    scale = stored_value(scale, fmt)
    inputs, outputs = moments(96, 1), moments(100, 2)
    spread = propagation(inputs)
    gptq = quantize_columns(rows, scale, zero, spread, fmt).codes
    identity = propagation(np.eye(100, dtype=np.float32))
    np.testing.assert_array_equal(round_both_sides(rows, scale, zero, spread, identity, fmt), gptq)

    def cost(codes: Any) -> float:
        error = (rows - decode(codes, scale, zero, fmt)).reshape(100, 96).astype(np.float64)
        return float(np.einsum("rk,rs,sl,kl->", error, outputs, error, inputs, optimize=True))

    assert cost(round_both_sides(rows, scale, zero, spread, propagation(outputs), fmt)) < 0.6 * cost(gptq)


def test_noise_has_the_covariance_of_the_divergence(llama: Any, compressed: Callable[..., Any], tokens: Any) -> None:
    """The curvature predicts the divergence that a small change of one weight causes; bits are those of one thread."""
    graph = Graph(llama)
    model, weights = compressed(mode="int4_sym", group_size=32)
    products = find_products(graph, model, weights)
    assert len(products) == sum(len(each.rows.weight.shape) == 2 for each in weights.values()) - 2  # embedding and head
    name, step = next(item for item in products.items() if "down" in item[0])
    texts = torch.from_numpy(tokens).repeat(4, 1)
    curvature = dict(measure_curvature(graph, {name: step}, texts, 4))[name]
    with limited_to(1):
        again = dict(measure_curvature(graph, {name: step}, texts, 4))[name]
    np.testing.assert_array_equal(curvature.outputs, again.outputs)
    np.testing.assert_array_equal(curvature.inputs, again.inputs)

    rows = weights[name].rows.whole()
    change = 0.01 * np.random.default_rng(1).standard_normal(rows.shape).astype(np.float32)
    constant = next(i for i, each in enumerate(graph.steps) if each.name == name)
    graph.prepare({constant: torch.from_numpy(rows)}, 20, tokens.shape[1])
    logits = []
    for values in (rows, rows + change):
        given = {constant: torch.from_numpy(values).reshape(rows.shape)}
        logits += forward(graph, [torch.from_numpy(tokens)], given, lambda _, found: graph.head(found))
    divergence = float(Divergence.apply(logits[1], logits[0]).sum())
    # One noise vector a token is exact in expectation, and the texts are there four times.
    predicted = np.einsum("rk,rs,sl,kl->", change, curvature.outputs, change, curvature.inputs, optimize=True)
    assert predicted / np.trace(curvature.outputs) / 2 / 4 == pytest.approx(divergence, rel=0.3)


def test_scaled_weights_have_scaled_curvature() -> None:
    """An error costs the same if columns are multiplied (AWQ), rows divided, and the curvature is changed with them."""
    rng = np.random.default_rng(0)
    error, columns, rows = rng.standard_normal((6, 8)), rng.uniform(0.5, 2, 8), rng.uniform(0.5, 2, 6)
    curvature = Curvature(moments(8, 1), moments(6, 2), 0.0, 1)

    def cost(error: Any, curvature: Curvature) -> float:
        return float(np.einsum("rk,rs,sl,kl->", error, curvature.outputs, error, curvature.inputs))

    changed = scaled(curvature, columns, rows)
    assert cost(error * columns / rows[:, None], changed) == pytest.approx(cost(error, curvature))


@pytest.mark.parametrize(("tokens", "least", "most"), [(32, 0.2, 0.6), (512, 0.8, 0.95), (131_072, 0.99, 1.0)])
def test_shrunk_second_moments_are_nearer_to_the_true_ones(tokens: int, least: float, most: float) -> None:
    """Those of few tokens change most; uncorrelated channels become the identity."""
    rng = np.random.default_rng(0)
    mixing = np.eye(64) + 0.1 * rng.standard_normal((64, 64))
    x, gradients = rng.standard_normal((tokens, 64)) @ mixing, rng.standard_normal((tokens, 16))
    pair = torch.from_numpy(x).float(), torch.from_numpy(gradients).float()
    inputs, outputs, squares = module._add(None, [pair])
    measured = Curvature(inputs.numpy(), outputs.numpy(), float(squares), tokens)

    def distances(curvature: Curvature) -> Array:
        pairs = [(curvature.inputs, mixing.T @ mixing), (curvature.outputs, np.eye(16))]
        return np.array([np.linalg.norm(m / np.trace(m) - true / np.trace(true)) for m, true in pairs])

    ratios = distances(shrunk(measured)) / distances(measured)
    assert least < ratios[0] < most
    assert ratios[1] < 0.01


@pytest.mark.parametrize("family", ["lfm2", "granitemoehybrid"])
def test_every_matrix_of_hybrids(family_folder: Callable[[str], Path], family: str) -> None:
    """Also where channels are not the last axis of the input: the two moments have one trace, as sums over tokens."""
    graph = Graph(ov.Core().read_model(family_folder(family) / "ov" / "openvino_model.xml"))
    products = {graph.steps[step].name: step for step in products_of(graph)}
    tokens = torch.from_numpy(np.random.default_rng(1).integers(3, 256, (4, 24)))
    found = dict(measure_curvature(graph, products, tokens, 2))
    assert found.keys() == products.keys()
    for name, (inputs, outputs, *_) in found.items():
        shape = graph.nodes[products[name]].input_value(1).get_shape()
        assert sorted(shape) == sorted([len(inputs), len(outputs)])
        assert np.trace(inputs) == pytest.approx(np.trace(outputs), rel=1e-4)


def test_limited_memory_takes_more_passes(
    llama: Any, compressed: Callable[..., Any], tokens: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The codes are the same."""
    graph = Graph(llama)
    model, weights = compressed(mode="int4_asym", group_size=32)
    products = find_products(graph, model, weights)
    whole = round_again(graph, products, weights, tokens, 4, lambda text: None)
    least = max(moment_bytes(graph, step) for step in products.values())
    monkeypatch.setattr(module, "MOMENT_BYTES", least)
    messages: list[str] = []
    parts = round_again(graph, products, weights, tokens, 4, messages.append)
    assert whole.keys() == parts.keys()
    assert all(np.array_equal(whole[name], parts[name]) for name in whole)
    assert sum("gradients of 20 of 20 " in message for message in messages) > 1


def test_mean_squares_are_those_of_the_curvature(llama: Any, compressed: Callable[..., Any], tokens: Any) -> None:
    """The diagonal without weights of tokens; the logits have the variance p (1 - p), and an embedding its columns."""
    _, weights = compressed(mode="int4_sym", group_size=32)
    every = [each.rows.weight for each in weights.values()]
    found = mean_square_gradients(llama, every, tokens)
    assert {use.node for weight in every for use in weight.uses} == found.keys()
    graph = Graph(llama)
    graph.prepare({}, len(tokens), tokens.shape[1])
    (logits,) = forward(graph, [torch.from_numpy(tokens)], {}, lambda _, found: graph.head(found))
    p = logits.softmax(-1)
    (head,) = [weight for weight in every if weight.is_last]
    expected = (p * (1 - p)).mean((0, 1))
    np.testing.assert_allclose(found[head.uses[0].node].sum(), expected.sum(), rtol=0.05)
