from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import normal
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from autotune.compression.ir.constants import (
    all_finite,
    constant,
    raw_bytes,
    read_f32,
    type_name,
    widen_bf16,
    widen_f16,
)


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16", "f64"])
def test_read_f32_gives_the_values_of_every_float_storage(storage: str) -> None:
    """Numbers that the storage holds exactly come back as they are, in the constant's shape."""
    values = normal(3, 5)
    node = ops.constant(values, dtype=getattr(ov.Type, storage))
    assert type_name(node) == storage
    found = read_f32(node)
    assert found.dtype == np.float32
    assert np.array_equal(found, values)


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
def test_bf16_is_the_upper_half_of_float32(numbers: list[float]) -> None:
    """A bfloat16 constant over the upper halves of float32 numbers reads as the numbers without their lower halves."""
    bits = np.array(numbers, np.float32).view(np.uint32)
    node = constant((bits >> 16).astype(np.uint16), (len(numbers),), "bf16")
    assert np.array_equal(read_f32(node).view(np.uint32), bits & 0xFFFF0000)


FLOAT16 = np.arange(1 << 16, dtype=np.uint16).view(np.float16)


@pytest.mark.parametrize("subnormals", [True, False])
def test_widen_f16_is_exact(subnormals: bool) -> None:
    """Every finite float16 number has its own value and sign as float32, in a thread that keeps subnormals or not."""
    halves = FLOAT16[np.isfinite(FLOAT16)].reshape(4, -1).T  # rows of a constant may lie in another order
    wide = widen_f16(halves, keeps_subnormals=subnormals)
    assert wide.flags.c_contiguous
    assert np.array_equal(wide, halves.astype(np.float32))
    assert np.array_equal(np.signbit(wide), np.signbit(halves))


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("f16", FLOAT16),
        ("bf16", np.arange(1 << 16, dtype=np.uint16)),
        ("f32", np.array([1, np.nan, -np.inf, np.inf, 0], np.float32)),
        ("f64", np.array([1e-300, np.nan, 1e39, -3e38], np.float64)),
    ],
)
def test_all_finite_is_of_every_number(kind: str, values: npt.NDArray[Any]) -> None:
    """It is true of all finite numbers together, and false as soon as one other is among them."""
    with np.errstate(over="ignore"):
        finite = np.isfinite(widen_bf16(values) if kind == "bf16" else values.astype(np.float32))
    assert all_finite(values[finite], kind)
    assert all_finite(values[:0], kind)
    for position in np.flatnonzero(~finite)[::61]:
        assert not all_finite(values[[0, position]], kind)


@pytest.mark.parametrize(
    ("storage", "shape", "nbytes"), [("u4", (3, 3), 5), ("f4e2m1", (2, 4), 4), ("f8e8m0", (5,), 5)]
)
def test_constant_has_the_bytes_it_was_made_of(storage: str, shape: tuple[int, ...], nbytes: int) -> None:
    """Packed bytes of any type are the constant's own: what happens to the array later does not change them."""
    data = np.arange(nbytes, dtype=np.uint8)
    node = constant(data, shape, storage)
    assert type_name(node) == storage
    assert tuple(node.get_output_shape(0)) == shape
    data += 1
    assert raw_bytes(node).tolist() == list(range(nbytes))
