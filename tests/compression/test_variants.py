from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from builders import chain, constants, normal

from autotune.compression.formats import FORMATS, encode, initial_scale, pack, store_scale, stored_value
from autotune.compression.scale_estimation import estimate_scale
from autotune.compression.variants import Packed, Treatment, Variant, compress_weight, layout, read_rows
from autotune.compression.weights import Weight, find_weights
from autotune.errors import CompressionError

FloatArray = npt.NDArray[np.float32]


def prepared(values: FloatArray, storage: str = "f32") -> tuple[Weight, FloatArray]:
    model = chain([values], storage=storage)
    (weight,) = find_weights(model)
    return weight, read_rows(constants(model)["W0"], weight)(0, len(values))


def packed(values: FloatArray, variant: Variant, treatment: Treatment) -> Packed:
    weight, _ = prepared(values)
    return compress_weight(lambda start, stop: values[start:stop], weight, variant, treatment)


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


@pytest.mark.parametrize("name", sorted(FORMATS))
@pytest.mark.parametrize("group_size", [-1, 32])
def test_packed_bytes_are_those_foretold(name: str, group_size: int) -> None:
    """Weight, scale and zero point are as large as `layout` says from shapes alone."""
    values = normal(5, 96)
    weight, _ = prepared(values)
    variant = Variant(name, group_size)
    found = packed(values, variant, Treatment())
    sizes = {name: part.nbytes for name, part in layout(weight, variant).items()}
    assert {name: part.nbytes for name, part in found.items()} == sizes


@pytest.mark.parametrize("name", ["int4_asym", "int4_sym", "nf4"])
def test_estimated_codes_belong_to_the_stored_scales(name: str) -> None:
    """With scale estimation, codes are those of the very scales and zero points that are stored."""
    fmt, values, moment = FORMATS[name], normal(8, 64), moments(64)
    rows = values.reshape(8, 2, 32)
    scale, zero = estimate_scale(rows, *initial_scale(rows, fmt), moment, fmt)
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
    seen = moment if estimated else None
    treated = packed(values, variant, Treatment(columns, rows, seen))
    plain = packed(values * columns / rows[:, None], variant, Treatment(second_moment=seen))
    assert same(treated, plain)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("mode", ["int8_asym", "int4_sym", "nf4", "mxfp4"])
def test_weights_that_are_not_finite_are_refused(value: float, storage: str, mode: str) -> None:
    """NaN and infinity are an error that names the weight, in every format and storage."""
    values = normal(4, 32)
    values[2, 5] = value
    model = chain([values], storage=storage)
    (weight,) = find_weights(model)
    with pytest.raises(CompressionError, match="W0: holds values that are not finite"):
        compress_weight(read_rows(constants(model)["W0"], weight), weight, Variant(mode), Treatment())


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
    variant = Variant("nf4", 64, scale_estimation=True, awq=True)
    assert Variant(**variant.as_dict()) == variant
