from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from builders import chain, constants, normal

from autotune.compression.algorithms.gptq import propagation
from autotune.compression.algorithms.scale_estimation import blocks_of, estimate_scale
from autotune.compression.formats.encoding import pack
from autotune.compression.formats.quantize import encode, initial_scale, store_scale, stored_value
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.layout import Packed, Variant, layout, restore
from autotune.compression.ir.model_weights import Rows, rows_of_constant
from autotune.compression.ir.weights import Weight, find_weights
from autotune.compression.variants import Treatment, compress_weight
from autotune.errors import CompressionError

FloatArray = npt.NDArray[np.float32]


def prepared(values: FloatArray, storage: str = "f32") -> tuple[Weight, FloatArray]:
    model = chain([values], storage=storage)
    (weight,) = find_weights(model)
    return weight, rows_of_constant(constants(model)["W0"], weight).whole()


def packed(values: FloatArray, variant: Variant, treatment: Treatment) -> Packed:
    weight, _ = prepared(values)
    return compress_weight(Rows.of(weight, values), variant, treatment)


def same(a: Packed, b: Packed) -> bool:
    return a.keys() == b.keys() and all(np.array_equal(a[part], b[part]) for part in a)


def moments(width: int) -> FloatArray:
    """Second moments of correlated activations with uneven channels."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(4 * width, width)) @ rng.normal(size=(width, width)) * rng.lognormal(0, 1, width)
    return (x.T @ x / len(x)).astype(np.float32)


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16", "f64"])
def test_rows_are_read_as_float32_from_every_storage(storage: str) -> None:
    """A reader gives the same numbers from every storage that holds them."""
    values = normal(6, 8)
    _, rows = prepared(values, storage)
    assert rows.dtype == np.float32
    assert np.array_equal(rows, values)


TABLES = {"codebook": (-1.0, 0.0, 0.5, 1.0)}


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("group_size", [-1, 32])
def test_packed_bytes_are_those_foretold(name: str, group_size: int) -> None:
    """Every part is as large as `layout` says from shapes alone, those whose content it knows included."""
    values = normal(5, 96)
    weight, _ = prepared(values)
    variant = Variant(name, group_size, TABLES.get(name, ()))
    found = packed(values, variant, Treatment())
    parts = layout(weight, variant)
    assert all(part.content is None or len(part.content) == part.nbytes for part in parts.values())
    sizes = {name: part.nbytes for name, part in parts.items() if part.content is None}
    assert {name: part.nbytes for name, part in found.items()} == sizes


@pytest.mark.parametrize("name", ["int4_asym", "int4_sym", "nf4"])
def test_estimated_codes_belong_to_the_stored_scales(name: str) -> None:
    """With scale estimation, codes are those of the very scales and zero points that are stored."""
    fmt, values, moment = FORMATS[name], normal(8, 64), moments(64)
    rows = values.reshape(8, 2, 32)
    scale, zero = estimate_scale(rows, *initial_scale(rows, fmt), blocks_of(moment, 32), fmt)
    found = packed(values, Variant(name, 32, scale_estimation=True), Treatment(second_moment=moment))
    assert np.array_equal(found["scale"].view(np.float16), store_scale(scale, fmt).ravel())
    assert np.array_equal(found["weight"], pack(encode(rows, stored_value(scale, fmt), zero, fmt), 4))
    if zero is not None:
        assert np.array_equal(found["zero_point"], pack(zero.astype(np.uint8), 4))


@pytest.mark.parametrize("estimated", [False, True])
def test_scaled_weights_are_compressed_as_what_they_become(estimated: bool) -> None:
    """Input scales multiply columns, output scales divide rows, and the second moments are of the scaled input."""
    rng = np.random.default_rng(1)
    values, moment = normal(8, 64), moments(64)
    columns = np.exp(rng.normal(size=64)).astype(np.float32)
    rows = np.exp(rng.normal(size=8)).astype(np.float32)
    variant = Variant("int4_asym", 32, scale_estimation=estimated)
    statistics = moment if estimated else None
    found = packed(values, variant, Treatment(columns, rows, statistics))
    plain = packed(values * columns / rows[:, None], variant, Treatment(second_moment=statistics))
    assert same(found, plain)


def losing(name: str) -> bool:
    return FORMATS[name].takes_algorithms


@pytest.mark.parametrize("name", sorted(filter(losing, FORMATS)))
def test_every_algorithm_lowers_the_output_error_of_every_format(name: str) -> None:
    """Scale estimation, GPTQ, both, and adapters: as stored, each loses less than plain rounding does."""
    values, moment = normal(16, 128), moments(128)
    weight, _ = prepared(values)
    spread = propagation(moment)
    plain = Variant(name, FORMATS[name].group_size if FORMATS[name].fixed_group_size else 32, TABLES.get(name, ()))

    def loss(**algorithms: Any) -> float:
        variant = replace(plain, **algorithms)
        treatment = Treatment(second_moment=moment, spread=spread if variant.gptq else None)
        found = compress_weight(Rows.of(weight, values), variant, treatment)
        error = restore(found, weight, variant) - values
        if variant.lora_rank:
            b, a = (restore_adapter(found, weight, variant, part) for part in ("lora_b", "lora_a"))
            error += b @ a
        return float(np.einsum("rk,kl,rl->", error, moment, error))

    rounded = loss()
    assert loss(scale_estimation=True) < 0.97 * rounded
    assert loss(gptq=True) < 0.7 * rounded
    assert loss(scale_estimation=True, gptq=True) < 0.7 * rounded
    assert loss(lora_rank=8, lora_iterations=2) < 0.7 * rounded


def restore_adapter(found: Packed, weight: Weight, variant: Variant, part: str) -> FloatArray:
    shape = layout(weight, variant)[part].shape
    zero, scale = found[f"{part}_zero_point"].astype(np.float32), found[f"{part}_scale"].view(np.float16)
    return (found[part].reshape(shape) - zero[:, None]) * scale.astype(np.float32)[:, None]


@pytest.mark.parametrize("name", ["mxfp4", "mxfp8_e4m3", "nvfp4", "int2_sym", "cb4"])
def test_scales_beyond_float16_are_refused_whatever_they_are_stored_in(name: str) -> None:
    """The model computes with float16 scales, so one that is stored with a wider range would become infinite."""
    values = normal(4, 32)
    values[1, 1] = 4e7
    with pytest.raises(CompressionError, match=r"W0: values up to 4e\+07 need a scale that float16 cannot hold"):
        packed(values, Variant(name, 16 if name == "nvfp4" else 32), Treatment())


def test_tiny_weights_do_not_vanish_in_nvfp4() -> None:
    """A group far below the largest gets the smallest scale instead of zero, and keeps what that can tell."""
    values = normal(2, 32) * np.float32([[1e-3], [1]])
    values[0, 16:] = 0
    weight, _ = prepared(values)
    found = restore(packed(values, Variant("nvfp4", 16), Treatment()), weight, Variant("nvfp4", 16))
    assert np.abs(found[0, :16] - values[0, :16]).sum() < np.abs(values[0, :16]).sum()
    assert not found[0, 16:].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("mode", ["int8_asym", "int4_sym", "nf4", "mxfp4"])
def test_weights_that_are_not_finite_are_refused(value: float, storage: str, mode: str) -> None:
    """NaN and infinity are an error that names the weight, in every format and storage."""
    values = normal(4, 32)
    values[2, 5] = value
    model = chain([values], storage=storage)
    (weight,) = find_weights(model)
    with pytest.raises(CompressionError, match="W0: contains NaN or infinite values"):
        compress_weight(rows_of_constant(constants(model)["W0"], weight), Variant(mode), Treatment())


@pytest.mark.parametrize("estimated", [False, True])
def test_values_beyond_a_float16_scale_are_refused(estimated: bool) -> None:
    """A scale that float16 cannot hold would decode to infinity; the error names the weight."""
    values = normal(4, 32)
    values[1, 1] = 1e7
    variant = Variant("int4_asym", scale_estimation=estimated)
    with pytest.raises(CompressionError, match=r"W0: values up to 1e\+07 need a scale that float16 cannot hold"):
        packed(values, variant, Treatment(second_moment=moments(32)))


def test_variant_comes_back_from_plain_data() -> None:
    """`as_dict` is undone by the constructor."""
    for variant in (Variant("nf4", 64, scale_estimation=True, awq=True), Variant("codebook", 32, (0.0, 0.5, 1.0))):
        assert Variant(**json.loads(json.dumps(variant.as_dict()))) == variant
