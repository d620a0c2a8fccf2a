"""LoRA correction: low-rank adapters that compensate most of the output error of a quantized layer.

For a weight's error E = W - Q(W) and the second moments H of its input, the adapters B A of rank r with the least
output error tr((E - B A) H (E - B A)ᵀ) follow from Eckart and Young's theorem in the metric of H (as in Zhang et al.,
"QERA: an Analytical Framework for Quantization Error Reconstruction" (2024), theorem 2): B spans the leading
eigenvectors of E H Eᵀ and A = Bᵀ E. Weight and adapters are then fitted to each other in turn, after Li et al.,
"LoftQ: LoRA-Fine-Tuning-Aware Quantization" (2023), algorithm 1. The adapters are stored in int8_asym, and B is fitted
to A as stored.

Scale estimation together with adapters must ignore the few strong directions that the adapters correct anyway.
Otherwise its scales are worse for the rest. From the second iteration on it uses the second moments without them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import Array, Codes
from autotune.compression.formats.quantize import (
    FLOAT16_SMALLEST,
    decode,
    encode,
    initial_scale,
    store_scale,
    stored_value,
)
from autotune.compression.formats.table import FORMATS

Floats = npt.NDArray[np.floating[Any]]

OVERSAMPLING = 8
POWER_ITERATIONS = 6
ADAPTER_FORMAT = FORMATS["int8_asym"]


def cost_beside(a: Array, moment: Array) -> Array:
    """Return the cost matrix of errors that adapters with this A cannot correct: H - H Aᵀ (A H Aᵀ)⁻¹ A H.

    Args:
        a: float32 [r, K].
        moment: float32 [K, K].
    """
    product = a @ moment
    # The eigenvalues that float32 leaves below zero are far below the damping of any error's cost.
    return np.asarray(moment - product.T @ _solve(product @ a.T, product), dtype=np.float32)


def fit_adapters(error: Array, moment: Array, rank: int) -> tuple[dict[str, Codes], Array, Array]:
    """Fit adapters to an error.

    Args:
        error: float32 [R, K].
        moment: float32 [K, K], second moments of the input.
        rank: r, less than R and K.

    Returns:
        The parts ``lora_a`` [r, K] and ``lora_b`` [R, r] with scales and zero points, and B and A as stored,
        float32.
    """
    directions = leading_directions(error, moment, rank)
    a_parts, a = _stored("lora_a", directions.T @ error)
    product = a @ moment  # [r, K]
    b_parts, b = _stored("lora_b", _solve(product @ a.T, product @ error.T).T.astype(np.float32))
    return {**a_parts, **b_parts}, b, a


def _solve(gram: Floats, right: Floats) -> npt.NDArray[np.float64]:
    """Solve with the r x r matrix of adapters, which is singular where there is nothing to correct."""
    rank = len(gram)
    ridge = 1e-6 * (np.trace(gram) / rank + np.finfo(np.float32).tiny)
    return np.linalg.solve(gram.astype(np.float64) + ridge * np.eye(rank), right.astype(np.float64))


def leading_directions(error: Array, moment: Array, rank: int) -> Array:
    """Orthonormal leading eigenvectors of E H Eᵀ, float32 [R, r], by subspace iteration (Halko et al., 2011, 4.4)."""
    width = min(rank + OVERSAMPLING, *error.shape)
    basis = np.random.default_rng(0).standard_normal((len(error), width), np.float32)
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(error @ (moment @ (error.T @ basis)))[0]
    product = error.T @ basis
    _, vectors = np.linalg.eigh(product.T @ (moment @ product))
    return np.asarray(basis @ vectors[:, ::-1][:, :rank])


def _stored(name: str, values: Array) -> tuple[dict[str, Codes], Array]:
    """Quantize an adapter to int8_asym, one scale a row; return its parts and their values."""
    rows = values[:, None, :]
    scale, zero = initial_scale(rows, ADAPTER_FORMAT)
    # An adapter of nearly nothing has scales that float16 would round to zero.
    scale = np.maximum(stored_value(scale, ADAPTER_FORMAT), FLOAT16_SMALLEST)
    codes = encode(rows, scale, zero, ADAPTER_FORMAT)
    assert zero is not None
    parts = {
        name: codes.reshape(-1),
        f"{name}_scale": np.ascontiguousarray(store_scale(scale, ADAPTER_FORMAT)).reshape(-1).view(np.uint8),
        f"{name}_zero_point": zero.astype(np.uint8).reshape(-1),
    }
    return parts, decode(codes, scale, zero, ADAPTER_FORMAT)[:, 0]
