from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
from builders import normal
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from autotune.compression.arrays import constant, raw_bytes, read_f32, type_name


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
