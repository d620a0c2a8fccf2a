from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import normal
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from openvino import opset15 as ops

from autotune.compression.formats.encoding import E2M1_LEVELS, decode_e4m3, pack, packed_bytes, unpack
from autotune.compression.formats.quantize import (
    decode,
    encode,
    initial_scale,
    read_scale,
    round_trip,
    store_scale,
    stored_value,
    with_second_order_scale,
)
from autotune.compression.formats.table import CB4_LEVELS, FORMATS, LARGEST_FLOAT16, codebook_format
from autotune.compression.ir.constants import constant, raw_bytes

FEW = codebook_format((-2.0, -0.5, 0.0, 0.25, 1.0))
MANY = codebook_format(tuple((np.arange(-20, 25) / 8.0).tolist()))
TABLE = {**FORMATS, "codebook": FEW, "codebook of 45": MANY}
ALL = sorted(TABLE)
INTEGER = [name for name in ALL if TABLE[name].family in ("asymmetric", "symmetric")]

floats = st.floats(-1e4, 1e4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3)
groups = hnp.arrays(np.float32, st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9)), elements=floats)


def levels_of(name: str) -> npt.NDArray[np.float64]:
    """Every value that the format has, in units of its scale (integers before the zero point is taken off)."""
    fmt = TABLE[name]
    if fmt.family == "levels":
        return np.array(fmt.levels)
    if fmt.family == "minifloat":
        positive = E2M1_LEVELS if fmt.bits == 4 else decode_e4m3(np.arange(127, dtype=np.uint8))
        return np.concatenate([-positive[::-1], positive]).astype(np.float64)
    return np.arange(fmt.lowest, fmt.highest + 1, dtype=np.float64)


@given(st.sampled_from((2, 3, 4, 8)), st.integers(1, 33), st.randoms(use_true_random=False))
def test_unpack_is_the_inverse_of_pack_for_any_number_of_elements(bits: int, size: int, random: Any) -> None:
    """Codes survive packing, and the number of bytes equals the predicted one."""
    codes = np.array([random.randrange(1 << bits) for _ in range(size)], np.uint8)
    packed = pack(codes, bits)
    assert packed.nbytes == packed_bytes(size, bits)
    assert np.array_equal(unpack(packed, bits, size), codes)


@pytest.mark.parametrize(
    ("storage", "size"),
    [("u2", 7), ("u3", 11), ("u4", 7), ("i4", 6), ("u8", 5), ("i8", 4), ("nf4", 16), ("f4e2m1", 16), ("f8e4m3", 256)],
)
def test_packed_constants_mean_to_openvino_what_decode_says(storage: str, size: int) -> None:
    """OpenVINO's own Convert of a packed constant gives the values that `decode` gives at scale one."""
    fmt = next(f for f in FORMATS.values() if f.storage == storage)
    codes = np.random.default_rng(0).permutation(1 << max(fmt.bits, 4))[:size].astype(np.uint8) & (2**fmt.bits - 1)
    node = constant(pack(codes, fmt.bits), (size,), fmt.storage)
    # The constant is an input of the multiplication so that it is not folded to something else before.
    x = ops.parameter([size], np.float32)
    model = ov.Model([ops.multiply(ops.convert(node, np.float32), x)], [x], "convert")
    result = ov.Core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(np.ones(size, np.float32))[0]
    one = np.ones((1, 1, 1), np.float32)
    expected = decode(codes.reshape(1, 1, -1), one, 0 * one if fmt.has_zero_point else None, fmt)
    if fmt.is_offset:  # its zero point is subtracted in the model
        expected -= fmt.lowest
    assert np.array_equal(result, expected.reshape(-1), equal_nan=True)


@pytest.mark.parametrize(("kind", "bits"), [("u2", 2), ("u3", 3), ("u4", 4)])
@pytest.mark.parametrize("size", [1, 7, 8, 9, 64])
def test_bytes_are_those_that_openvino_packs(kind: str, bits: int, size: int) -> None:
    """Packing gives the bytes of a Constant that OpenVINO makes of the same elements."""
    codes = np.random.default_rng(size).integers(0, 1 << bits, size, dtype=np.uint8)
    node = ops.constant(codes, dtype=getattr(ov.Type, kind))
    assert pack(codes, bits).tobytes() == raw_bytes(node).tobytes()


@pytest.mark.parametrize("name", ["int8_sym", "int4_sym"])
def test_negative_levels_are_stored_in_twos_complement(name: str) -> None:
    """Level -1 has every bit set, the lowest level only the highest bit."""
    fmt = TABLE[name]
    rows = np.array([[[-1, fmt.lowest, 0, fmt.highest]]], np.float32)
    codes = encode(rows, np.ones((1, 1, 1), np.float32), None, fmt)
    assert codes.ravel().tolist() == [2**fmt.bits - 1, 2 ** (fmt.bits - 1), 0, 2 ** (fmt.bits - 1) - 1]


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40)
@given(rows=groups)
def test_round_trip_is_decode_after_encode(name: str, rows: npt.NDArray[np.float32]) -> None:
    """The short way, without codes, gives the same numbers to the bit."""
    fmt = TABLE[name]
    scale, zero = initial_scale(rows, fmt)
    assert np.array_equal(round_trip(rows, scale, zero, fmt), decode(encode(rows, scale, zero, fmt), scale, zero, fmt))


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40)
@given(rows=groups)
def test_every_value_goes_to_a_nearest_level(name: str, rows: npt.NDArray[np.float32]) -> None:
    """No level of the format, found by trying all, is nearer to a value than the one it gets."""
    fmt = TABLE[name]
    scale, zero = initial_scale(rows, fmt)
    offset = 0 if zero is None else zero.astype(np.float64)[..., None]
    values = (levels_of(name) - offset) * scale.astype(np.float64)[..., None]
    nearest = np.abs(values - rows[..., None]).min(axis=-1)
    error = np.abs(decode(encode(rows, scale, zero, fmt), scale, zero, fmt).astype(np.float64) - rows)
    # E4M3 is reached by way of float16, half a unit of whose last place (2^-11) may carry a value over a midpoint:
    # its error is then as far above half a step as the nearest level is below it.
    detour = np.abs(rows) * (2.0**-10 if fmt.storage == "f8e4m3" else 0)
    assert np.all(error <= nearest + 2e-5 * np.abs(scale) + detour)


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=40)
@given(rows=groups)
def test_quantizing_what_was_quantized_changes_nothing(name: str, rows: npt.NDArray[np.float32]) -> None:
    """With the same scale, the values of the levels go to the same codes again."""
    fmt = TABLE[name]
    scale, zero = initial_scale(rows, fmt)
    codes = encode(rows, scale, zero, fmt)
    again = encode(decode(codes, scale, zero, fmt), scale, zero, fmt)
    if fmt.family == "minifloat":  # zero has two codes
        negative = 1 << (fmt.bits - 1)
        codes, again = codes * (codes != negative), again * (again != negative)
    assert np.array_equal(again, codes)


@pytest.mark.parametrize("name", ["int8_asym", "int4_asym"])
@settings(max_examples=60)
@given(rows=groups)
def test_asymmetric_error_is_at_most_half_a_step(name: str, rows: npt.NDArray[np.float32]) -> None:
    """Half a step where the zero point's rounding clips nothing, a whole one at the range's ends; zero is exact."""
    fmt = TABLE[name]
    scale, zero = initial_scale(rows, fmt)
    assert zero is not None
    error = np.abs(round_trip(rows, scale, zero, fmt) - rows) / scale
    levels = rows / scale + zero
    clipped = (levels < fmt.lowest) | (levels > fmt.highest)
    assert np.all(error <= np.where(clipped, 1, 0.5) + 1e-3)
    assert not round_trip(np.zeros_like(rows), scale, zero, fmt).any()


@pytest.mark.parametrize("size", [1, 5, 16, 24, 32, 64, 128, 256, 512])
def test_a_group_has_the_range_of_its_own_elements(size: int) -> None:
    """Whatever its size, and wherever in it the smallest and the largest are."""
    rows = normal(2, 3 * size, size)
    scale, zero = initial_scale(rows, FORMATS["int8_asym"])
    assert zero is not None
    low, high = (np.minimum(rows.min(-1, keepdims=True), 0), np.maximum(rows.max(-1, keepdims=True), 0))
    assert np.array_equal(scale, (high - low) / np.float32(255))
    assert np.array_equal(zero, -np.rint(low / scale))


@pytest.mark.parametrize("name", ["int8_sym", "int4_sym", "int3_sym", "int2_sym"])
@settings(max_examples=40)
@given(rows=groups)
def test_larger_side_of_a_symmetric_range_lands_on_the_lowest_level(name: str, rows: npt.NDArray[np.float32]) -> None:
    """The extreme of a group is not clipped: the sign of the scale turns it to the side that has one level more."""
    fmt = TABLE[name]
    scale, _ = initial_scale(rows, fmt)
    low, high = rows.min(axis=-1), rows.max(axis=-1)
    extreme = np.where(np.abs(low) >= high, -np.abs(low), high)
    levels = extreme / scale[..., 0]
    clear = extreme != 0
    assert np.allclose(levels[clear], fmt.lowest, rtol=1e-5)


@pytest.mark.parametrize(
    ("group", "scale", "codes"),
    [([1, 2, 3, 4], 0.26667, [4, 7, 11, 15]), ([-22, -19, -16, -15], 1.46667, [0, 2, 4, 5])],
)
def test_asymmetric_groups_of_one_sign_keep_their_differences(
    group: list[float], scale: float, codes: list[int]
) -> None:
    """Ranges include zero, so a group far from zero still spreads over several levels (values worked out by hand)."""
    fmt = FORMATS["int4_asym"]
    rows = np.array([[group]], np.float32)
    found, zero = initial_scale(rows, fmt)
    assert found.item() == pytest.approx(scale, rel=1e-4)
    assert encode(rows, found, zero, fmt).ravel().tolist() == codes


@pytest.mark.parametrize("name", [name for name in ALL if TABLE[name].levels])
def test_midpoints_go_to_the_lower_level(name: str) -> None:
    """A value half-way between two levels gets the lower code, the next float above it the higher one."""
    fmt, one = TABLE[name], np.ones((1, 1, 1), np.float32)
    levels = np.array(fmt.levels)
    middles = ((levels[1:] + levels[:-1]) / 2).astype(np.float32)
    above = np.nextafter(middles, np.float32(np.inf))
    codes = list(range(len(levels)))
    assert encode(middles[None, None], one, None, fmt).ravel().tolist() == codes[:-1]
    assert encode(above[None, None], one, None, fmt).ravel().tolist() == codes[1:]


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-5, -4), (-3.5, -4), (1.75, 2), (2.5, 2), (0.25, 0), (-0.25, 0), (0.75, 1), (1.25, 1), (5, 4), (7, 6), (-7, -6)],
)
def test_e2m1_ties_go_to_the_even_code(value: float, expected: float) -> None:
    """Half-way values of E2M1 go to the neighbour with mantissa bit zero, and what is beyond six to six."""
    fmt, one = FORMATS["mxfp4"], np.ones((1, 1, 1), np.float32)
    assert round_trip(np.full((1, 1, 1), value, np.float32), one, None, fmt).item() == expected


@given(st.floats(np.float32(1e-6).item(), 2.0**100, width=32))
def test_mxfp4_scale_is_the_smallest_power_of_two_that_clips_nothing(largest: float) -> None:
    """The scale's byte is a biased exponent; the largest value fits below six of them and not below three."""
    fmt = FORMATS["mxfp4"]
    scale, _ = initial_scale(np.full((1, 1, 4), -largest, np.float32), fmt)
    assert np.ldexp(1.0, int(store_scale(scale, fmt).item()) - 127) == scale.item() == stored_value(scale, fmt).item()
    ratio = np.float32(largest) / np.float32(6)
    assert scale.item() / 2 < ratio <= scale.item()


@pytest.mark.parametrize("exponent", range(-20, 21))
def test_mxfp4_exact_powers_of_two_are_not_rounded_up(exponent: int) -> None:
    """Six times a power of two gets that power as its scale, exactly (NNCF's OpenVINO path sometimes doubles it)."""
    scale, _ = initial_scale(np.full((1, 1, 1), 6 * 2.0**exponent, np.float32), FORMATS["mxfp4"])
    assert scale.item() == 2.0**exponent


@given(st.floats(np.float32(1e-4).item(), 1e4, width=32), st.booleans())
def test_stored_value_is_what_float16_holds(scale: float, negative: bool) -> None:
    """Scales are stored in float16, and `stored_value` is the float32 number that comes back."""
    fmt = FORMATS["int4_sym"]
    signed = np.full((1, 1, 1), -scale if negative else scale, np.float32)
    assert store_scale(signed, fmt).dtype == np.float16
    assert store_scale(signed, fmt).astype(np.float32).item() == stored_value(signed, fmt).item()


@pytest.mark.parametrize("name", ALL)
def test_groups_of_zeros_stay_zeros(name: str) -> None:
    """A group without any value has a scale that is neither zero nor NaN after it was stored, and decodes to zeros."""
    fmt = TABLE[name]
    rows = np.zeros((2, 2, 4), np.float32)
    scale, zero = initial_scale(rows, fmt)
    stored = stored_value(scale, fmt)
    assert np.all(stored > 0)
    assert not decode(encode(rows, scale, zero, fmt), stored, zero, fmt).any()


@pytest.mark.parametrize("name", ALL)
@settings(max_examples=20)
@given(rows=groups)
def test_codes_and_zero_points_are_within_range(name: str, rows: npt.NDArray[np.float32]) -> None:
    """A code is one of the levels and fits its bits; a zero point is a level."""
    fmt = TABLE[name]
    scale, zero = initial_scale(rows, fmt)
    codes = encode(rows, scale, zero, fmt)
    assert codes.shape == rows.shape
    assert codes.max() < (len(fmt.levels) or 1 << fmt.bits)
    assert np.isfinite(decode(codes, scale, zero, fmt)).all()
    assert (zero is not None) == fmt.has_zero_point
    if zero is not None:
        assert np.isin(zero, np.arange(fmt.lowest, fmt.highest + 1)).all()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("sign", [-1, 1])
def test_the_largest_float16_keeps_its_sign_and_never_overflows(name: str, sign: int) -> None:
    """A group of the largest float16 has a finite scale as stored, and decodes to finite numbers of its sign."""
    rows = np.full((1, 1, 16), sign * LARGEST_FLOAT16, np.float32)
    rows[..., 0] = 0
    fmt = TABLE[name]
    if fmt.scale_storage == "f8e4m3":
        fmt = with_second_order_scale(fmt, LARGEST_FLOAT16)
    scale, zero = initial_scale(rows, fmt)
    found = decode(encode(rows, scale, zero, fmt), stored_value(scale, fmt), zero, fmt)
    assert np.isfinite(stored_value(scale, fmt)).all()
    assert found[..., 0] == 0
    # Half a step of the coarsest formats, whose levels reach further on one side than on the other.
    assert np.all(np.abs(found[..., 1:] / rows[..., 1:] - 1) <= 0.5)


def test_integer_formats_have_as_many_levels_as_bits_allow() -> None:
    """The table of integer formats spans 2^bits levels."""
    for name in INTEGER:
        assert TABLE[name].highest - TABLE[name].lowest + 1 == 2 ** TABLE[name].bits


def test_e4m3_is_the_nearest_number_with_ties_to_the_even_code() -> None:
    """Rounding edges of E4M3, subnormals included; what is beyond the largest number becomes the largest."""
    fmt, one = FORMATS["fp8_e4m3"], np.ones((1, 1, 1), np.float32)
    cases = {0.001: 2.0**-9, 2.0**-10: 0, 3 * 2.0**-10: 2.0**-8, 17: 16, 19: 20, 400: 384, 432: 448, 500: 448, 1e9: 448}
    for value, expected in cases.items():
        for sign in (1, -1):
            assert round_trip(np.full((1, 1, 1), sign * value, np.float32), one, None, fmt).item() == sign * expected


@given(st.floats(-448, 448, width=16))
def test_e4m3_conversion_is_openvinos(value: float) -> None:
    """The code of any float16 number is the byte that OpenVINO's Convert gives."""
    fmt, one = FORMATS["fp8_e4m3"], np.ones((1, 1, 1), np.float32)
    code = encode(np.full((1, 1, 1), value, np.float32), one, None, fmt).item()
    node = ops.constant(np.array([value], np.float32), dtype=ov.Type.f8e4m3)
    assert code == raw_bytes(node)[0]


@given(hnp.arrays(np.float32, (3, 2, 16), elements=st.floats(-1e4, 1e4, width=32)))
def test_nvfp4_scales_are_read_back_as_they_were_stored(rows: npt.NDArray[np.float32]) -> None:
    """Storing what was read changes nothing, no scale is zero, and the largest is one of the two largest of E4M3."""
    fmt = with_second_order_scale(FORMATS["nvfp4"], float(np.abs(rows).max()))
    scale, _ = initial_scale(rows, fmt)
    stored = store_scale(scale, fmt)
    value = read_scale(stored, fmt)
    assert np.array_equal(read_scale(store_scale(value, fmt), fmt), value)
    assert np.all(value > 0)
    assert stored.max() >= 125 or fmt.second_order_scale == np.float32(2.0**-23)


def test_codebooks_are_stored_in_float16() -> None:
    """The table that is searched is the one that is stored; its length decides the bits of an index."""
    fmt = codebook_format((-0.1, 0.0, 0.3))
    assert fmt.levels == tuple(np.float16([-0.1, 0, 0.3]).astype(float).tolist())
    assert fmt.largest == np.float16(0.3)
    assert [codebook_format(tuple(map(float, range(n)))).storage for n in (2, 16, 17, 256)] == ["u4", "u4", "u8", "u8"]


def test_the_default_codebook_is_exact_in_e4m3() -> None:
    """Every entry of CB4 is a number of E4M3, in which the table is stored."""
    one = np.ones((1, 1, 1), np.float32)
    table = np.array(CB4_LEVELS, np.float32).reshape(1, 1, -1)
    assert np.array_equal(round_trip(table, one, None, FORMATS["fp8_e4m3"]), table)
