"""LoRA correction: adapters of low rank make up for the largest part of what quantization costs the layer's output.

For a weight's error E = W - Q(W) and the second moments H of its input, the adapters B A of rank r with the least
output error tr((E - B A) H (E - B A)ᵀ) follow from Eckart and Young's theorem in the metric of H (as in Zhang et al.,
"QERA: an Analytical Framework for Quantization Error Reconstruction" (2024), theorem 2): B spans the leading
eigenvectors of E H Eᵀ and A = Bᵀ E. Weight and adapters are then fitted to each other in turn, after Li et al.,
"LoftQ: LoRA-Fine-Tuning-Aware Quantization" (2023), algorithm 1. The adapters are stored in int8_asym, and B is fitted
to A as stored.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from autotune.compression.formats import FORMATS, Array, Codes, decode, encode, initial_scale, store_scale, stored_value
from autotune.compression.parallel import one_blas_thread
from autotune.compression.variants import Packed, RowReader, Treatment, Variant, compress_weight, restore
from autotune.compression.weights import Weight

__all__ = ["compress_with_adapters", "fit_adapters", "leading_directions"]

OVERSAMPLING = 8
POWER_ITERATIONS = 6
ADAPTER_FORMAT = FORMATS["int8_asym"]


def compress_with_adapters(read: RowReader, weight: Weight, variant: Variant, treatment: Treatment) -> Packed:
    """Quantize one weight and fit adapters to its error; of all iterations the one with the least output error.

    Args:
        read, weight, treatment: as for `variants.compress_weight`; the second moments are needed in full.
        variant: with a `lora_rank` above 0.
    """
    assert treatment.second_moment is not None
    moment = treatment.second_moment
    target = treatment.scaled(read(0, weight.rows), 0)
    alone = replace(variant, lora_rank=0, lora_iterations=0)
    inner = Treatment(second_moment=moment)
    best: dict[str, Codes] = {}
    least = np.inf
    rest = target
    for _ in range(max(1, variant.lora_iterations)):
        packed = compress_weight(lambda start, stop, rows=rest: rows[start:stop], weight, alone, inner)  # type: ignore[misc]
        error = target - restore(packed, weight, alone)
        with one_blas_thread():
            adapters, product = fit_adapters(error, moment, variant.lora_rank)
            left = error - product
            loss = float(np.einsum("rk,rk->", left @ moment, left, dtype=np.float64))
        if loss < least:
            least, best = loss, {**packed, **adapters}
        rest = target - product
    return best


def fit_adapters(error: Array, moment: Array, rank: int) -> tuple[dict[str, Codes], Array]:
    """The adapters of an error.

    Args:
        error: float32 [R, K].
        moment: float32 [K, K], second moments of the input.
        rank: r, less than R and K.

    Returns:
        The parts ``lora_a`` [r, K] and ``lora_b`` [R, r] with scales and zero points, and their product as stored,
        float32 [R, K].
    """
    directions = leading_directions(error, moment, rank)
    a_parts, a = _stored("lora_a", directions.T @ error)
    seen = a @ moment  # [r, K]
    gram = (seen @ a.T).astype(np.float64)
    gram += 1e-6 * (np.trace(gram) / rank + np.finfo(np.float32).tiny) * np.eye(rank)
    b_parts, b = _stored("lora_b", np.linalg.solve(gram, (seen @ error.T).astype(np.float64)).T.astype(np.float32))
    return {**a_parts, **b_parts}, b @ a


def leading_directions(error: Array, moment: Array, rank: int) -> Array:
    """Orthonormal leading eigenvectors of E H Eᵀ, float32 [R, r], by subspace iteration (Halko et al., 2011, 4.4)."""
    width = min(rank + OVERSAMPLING, *error.shape)
    basis = np.random.default_rng(0).standard_normal((len(error), width), np.float32)
    for _ in range(POWER_ITERATIONS):
        basis = np.linalg.qr(error @ (moment @ (error.T @ basis)))[0]
    seen = error.T @ basis
    _, vectors = np.linalg.eigh(seen.T @ (moment @ seen))
    return np.asarray(basis @ vectors[:, ::-1][:, :rank])


def _stored(name: str, values: Array) -> tuple[dict[str, Codes], Array]:
    """An adapter in int8_asym, one scale a row: its parts, and the values that they stand for."""
    rows = values[:, None, :]
    scale, zero = initial_scale(rows, ADAPTER_FORMAT)
    # An adapter of nearly nothing has scales that float16 would round to zero.
    scale = np.maximum(stored_value(scale, ADAPTER_FORMAT), np.float32(2.0**-24))
    codes = encode(rows, scale, zero, ADAPTER_FORMAT)
    assert zero is not None
    parts = {
        name: codes.reshape(-1),
        f"{name}_scale": np.ascontiguousarray(store_scale(scale, ADAPTER_FORMAT)).reshape(-1).view(np.uint8),
        f"{name}_zero_point": zero.astype(np.uint8).reshape(-1),
    }
    return parts, decode(codes, scale, zero, ADAPTER_FORMAT)[:, 0]
