"""New codes for the weights of a compressed model, rounded against the curvature of the divergence; scales stay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from autotune.compression.algorithms.gptq import propagation
from autotune.compression.formats.encoding import Codes, pack
from autotune.compression.ir.constants import constant_digest
from autotune.compression.ir.layout import unpacked
from autotune.compression.ir.weights import rows_to_shape
from autotune.compression.variants import CompressedWeight
from autotune.distillation.curvature import MOMENT_BYTES, Curvature, measure_curvature, moment_bytes, scaled, shrunk
from autotune.distillation.graph import Graph
from autotune.distillation.rounding import ROWS, round_both_sides
from autotune.distillation.sweeps import Store

if TYPE_CHECKING:
    import openvino as ov

MOST_BITS = 4
"""Formats of more bits are left alone: their errors are hundreds of times smaller."""

MOST_TOKENS = 32_768
"""Tokens of the training windows whose gradients are used: with 2.5 times as many, KL of a Qwen3 was 5% lower."""

DAMPING = 0.1
"""Share of the mean diagonal that is added to the shrunk second moments of gradients.

On the demo model 0.3 and 0.03 are worse, with 32,768 tokens and with 2,048.
"""


def find_products(graph: Graph, model: ov.Model, weights: Mapping[str, CompressedWeight]) -> dict[str, int]:
    """Find the weights that can be rounded again, each with the step of its MatMul.

    Those are matrices of at most `MOST_BITS` bits without adapters, which one MatMul before the head reads. A constant
    that the file has once for several weights is left alone.

    Args:
        graph: of the original model.
        model: the compressed one.
        weights: its compressed weights.
    """
    steps = {step.name: index for index, step in enumerate(graph.steps) if step.kind == "MatMul"}
    constants = constants_by_name(model)
    copies = Counter(map(constant_digest, constants.values()))
    found = {}
    for name, compressed in weights.items():
        weight, variant = compressed.rows.weight, compressed.variant
        step = steps.get(weight.uses[0].node)
        matrix = weight.kind == "matmul" and len(weight.shape) == 2 and weight.uses[0].port == 1
        if not matrix or len(weight.uses) > 1 or step is None or step in graph.after or step not in graph.dynamic:
            continue
        if variant.format.bits > MOST_BITS or variant.lora_rank:
            continue
        once = copies[constant_digest(constants[codes_name(compressed)])] == 1
        if once and moment_bytes(graph, step) <= MOMENT_BYTES:
            found[name] = step
    return found


def codes_name(compressed: CompressedWeight) -> str:
    """Return the name of the constant with a weight's codes."""
    name = compressed.rows.weight.name
    return f"{name}_nncf_codebook_idxs" if compressed.variant.format.table_storage else name


def constants_by_name(model: ov.Model) -> dict[str, ov.Node]:
    """Return the Constants of a model."""
    return {n.get_friendly_name(): n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"}


def round_again(
    graph: Graph,
    products: Mapping[str, int],
    weights: Mapping[str, CompressedWeight],
    tokens: npt.NDArray[np.int64],
    share: int,
    stage: Callable[[str], None],
    *,
    limit: float = math.inf,
    folder: Path | None = None,
) -> dict[str, Codes]:
    """Round weights with the scales that they have.

    Args:
        graph: of the original model.
        products: from `find_products`.
        weights: the compressed weights.
        tokens: int64 [n, T], training windows.
        share: windows that run on one thread at a time.
        stage: receives progress messages.
        limit: see `measure_curvature`.
        folder: keeps the codes of each weight that is finished, and activations as `measure_curvature` says. A later
            call continues from there. None: all is kept in memory.

    Returns:
        Bytes of the codes' constants, by their names.
    """
    length = tokens.shape[1]
    windows = max(share, min(len(tokens), MOST_TOKENS // length) // share * share)
    texts = torch.from_numpy(np.ascontiguousarray(tokens[:windows]))
    store = Store(folder)
    finished = {name for name, step in products.items() if store.has(f"codes-{step}")}
    count = len(finished)

    def report(text: str) -> None:
        stage(f"distillation: {text}")

    places: dict[str, Any] = {"limit": limit, "folder": folder, "finished": finished}
    for name, curvature in measure_curvature(graph, products, texts, share, report, **places):
        count += 1
        report(f"rounding {count} of {len(products)} weights")
        store.put(f"codes-{products[name]}", {0: torch.from_numpy(_rounded(weights[name], curvature))})
    return {codes_name(weights[name]): store.get(f"codes-{step}")[0].numpy() for name, step in products.items()}


def _rounded(compressed: CompressedWeight, measured: Curvature) -> Codes:
    weight, variant = compressed.rows.weight, compressed.variant
    _, scale, zero, fmt = unpacked(compressed.packed(), weight, variant)
    measured = scaled(shrunk(measured), compressed.input_scale, compressed.output_scale)
    rows = compressed.rows.whole().reshape(weight.rows, variant.groups(weight), -1)
    across, down = propagation(measured.inputs), propagation(measured.outputs, damping=DAMPING)
    codes = round_both_sides(rows, scale, zero, across, down, fmt)
    return pack(np.ascontiguousarray(rows_to_shape(codes, weight)[0]).reshape(-1), fmt.bits)


def rounding_steps(rows: int, columns: int) -> int:
    """Return the steps in which a weight is rounded."""
    return -(-rows // ROWS) * (columns + ROWS)
