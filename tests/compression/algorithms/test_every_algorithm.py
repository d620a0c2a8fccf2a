"""Laws of every algorithm that reduces the quantization error, by its name in `settings.ALGORITHMS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import pytest
from builders import chain
from hypothesis import given
from hypothesis import strategies as st

from autotune.common.threads import limited_to
from autotune.compression.algorithms.awq.search import Member, search_scale
from autotune.compression.algorithms.gptq import propagation
from autotune.compression.ir.layout import Packed, Variant, layout, restore
from autotune.compression.ir.model_weights import Rows
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import ALGORITHMS
from autotune.compression.variants import Treatment, compress_weight

Array = npt.NDArray[np.float32]
Compressed = tuple[Packed, Array]
"""The bytes of a weight, and the values that the model computes with."""

ROWS, GROUP = 24, 32
PLAIN = Variant("int4_asym", GROUP)


def case(seed: int, strength: float, groups: int = 1) -> tuple[Array, Array]:
    """A weight [24, 32 G] with outliers, and second moments of correlated activations; some channels are dead."""
    rng = np.random.default_rng(seed)
    width = groups * GROUP
    x = rng.normal(size=(4 * width, width)) @ (np.eye(width) + rng.normal(size=(width, width)) / np.sqrt(width))
    x *= np.exp(strength * rng.normal(size=width))
    x[:, rng.integers(0, width, 2)] = 0
    return rng.standard_t(3, (ROWS, width)).astype(np.float32), (x.T @ x / len(x)).astype(np.float32)


def compressed(values: Array, variant: Variant, treatment: Treatment) -> Compressed:
    (weight,) = find_weights(chain([values]))
    # Small blocks: several threads have something to do.
    rows = Rows(weight, lambda start, stop: values[start:stop], 4 * values.shape[1])
    packed = compress_weight(rows, variant, treatment)
    return packed, restore(packed, weight, variant)


def plain(values: Array, moment: Array) -> Compressed:
    return compressed(values, PLAIN, Treatment())


def awq(values: Array, moment: Array) -> Compressed:
    (weight,) = find_weights(chain([values]))
    scale = search_scale([Member(Rows.of(weight, values), PLAIN)], moment)
    packed, found = compressed(values, PLAIN, Treatment(input_scale=scale))
    return packed, found / scale


def scale_estimation(values: Array, moment: Array) -> Compressed:
    variant = Variant(PLAIN.mode, GROUP, scale_estimation=True)
    return compressed(values, variant, Treatment(second_moment=moment))


def gptq(values: Array, moment: Array) -> Compressed:
    variant = Variant(PLAIN.mode, GROUP, gptq=True)
    return compressed(values, variant, Treatment(second_moment=moment, spread=propagation(moment)))


def gptq_with_scale_estimation(values: Array, moment: Array) -> Compressed:
    variant = Variant(PLAIN.mode, GROUP, gptq=True, scale_estimation=True)
    return compressed(values, variant, Treatment(second_moment=moment, spread=propagation(moment)))


def lora_correction(values: Array, moment: Array) -> Compressed:
    variant = Variant(PLAIN.mode, GROUP, lora_rank=4, lora_iterations=2)
    packed, found = compressed(values, variant, Treatment(second_moment=moment))
    (weight,) = find_weights(chain([values]))
    parts = layout(weight, variant)

    def adapter(name: str) -> Array:
        levels = packed[name].reshape(parts[name].shape) - packed[f"{name}_zero_point"].astype(np.float32)[:, None]
        return levels * packed[f"{name}_scale"].view(np.float16).astype(np.float32)[:, None]

    return packed, found + adapter("lora_b") @ adapter("lora_a")


TRANSFORMED: Mapping[str, Callable[[Array, Array], Compressed]] = {
    "awq": awq,
    "scale_estimation": scale_estimation,
    "gptq": gptq,
    "lora_correction": lora_correction,
    "gptq with scale_estimation": gptq_with_scale_estimation,
}


def output_error(found: Array, values: Array, moment: Array) -> float:
    error = (found - values).astype(np.float64)
    return float(np.einsum("rk,kl,rl->", error, moment.astype(np.float64), error))


@pytest.mark.parametrize("name", [*ALGORITHMS, "gptq with scale_estimation"])
@given(seed=st.integers(0, 999), strength=st.floats(0, 2))
def test_no_algorithm_has_a_larger_output_error_than_plain_rounding(name: str, seed: int, strength: float) -> None:
    """On the activations that it was calibrated on, as stored."""
    values, moment = case(seed, strength)
    before = output_error(plain(values, moment)[1], values, moment)
    after = output_error(TRANSFORMED[name](values, moment)[1], values, moment)
    assert after <= before * (1 + 1e-5)


@pytest.mark.parametrize("name", [*ALGORITHMS, "gptq with scale_estimation"])
def test_no_algorithm_depends_on_the_number_of_threads(name: str) -> None:
    """One thread and two give the same bytes."""
    values, moment = case(0, 1.0, groups=4)
    found = []
    for threads in (1, 2):
        with limited_to(threads):
            packed, _ = TRANSFORMED[name](values, moment)
            found.append({part: array.tobytes() for part, array in packed.items()})
    assert found[0] == found[1]
