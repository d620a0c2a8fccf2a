from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import (
    FloatArray,
    as_constant,
    bin_size,
    cast_weights,
    constants,
    content,
    distance,
    features,
    gated_block,
    logits,
    named,
    normal,
    outputs_of,
    result_model,
)
from channel_scaling import random_scale
from hypothesis import given
from hypothesis import strategies as st
from openvino import opset15 as ops

from autotune.compression.algorithms.awq.groups import find_groups
from autotune.compression.algorithms.awq.search import LARGEST, Member, Scaling, search_scale
from autotune.compression.algorithms.awq.selection import possible
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import Statistics
from autotune.compression.engine import Engine
from autotune.compression.ir.constants import read_f32, type_name
from autotune.compression.ir.layout import Variant, restore
from autotune.compression.ir.model_weights import Rows
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import Settings
from autotune.compression.variants import Treatment, compress_weight

LOSSLESS = Variant("int4_asym", 1)
"""One value a group is an end of its own range: nothing is lost but the rounding of its scale to float16."""

INT4 = Settings(mode="int4_sym", group_size=32)


def with_random_scales(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the search find a random scale for every group."""

    def search(scalings: Sequence[Scaling], *_: Any) -> list[FloatArray]:
        return [random_scale(s.group, merged=s.merge is not None, seed=i) for i, s in enumerate(scalings)]

    monkeypatch.setattr(engine.channel_scales, "search", search)


@pytest.mark.parametrize("storage", ["f32", "f16"])
def test_awq_does_not_change_the_function(
    llama: ov.Model, tokens: npt.NDArray[np.int64], storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a format without loss, logits with every group scaled differ from the original's as little as without."""
    model = cast_weights(llama, [n for n in constants(llama) if n.endswith(".weight")], storage)
    engine = Engine(model)
    with_random_scales(engine, monkeypatch)
    planned = engine.plan(replace(INT4, awq=True, all_layers=True))
    assert len(planned.awq) == 9
    lossless = {
        n: replace(v, mode=LOSSLESS.mode, group_size=1) for n, v in planned.variants.items() if "embed" not in n
    }
    plain = {n: replace(v, awq=False, awq_output=False) for n, v in lossless.items()}
    original = logits(model, tokens)
    without = distance(original, logits(engine.apply(replace(planned, variants=plain, awq={})), tokens))
    with_awq = distance(original, logits(engine.apply(replace(planned, variants=lossless)), tokens))
    assert without < 0.01
    assert with_awq < 2 * without


def gelu_block(width: int = 32, inner: int = 64) -> ov.Model:
    """fc1 -> GELU -> fc2: fc2's input can be divided by nothing that is there."""
    x = features(width)
    first = ops.matmul(x, as_constant(normal(inner, width, seed=1), "fc1"), False, True)
    active = named(ops.gelu(first, "erf"), "active")
    second = ops.matmul(active, as_constant(normal(width, inner, seed=2), "fc2"), False, True)
    head = ops.matmul(ops.tanh(second), as_constant(normal(8, width, seed=3), "head"), False, True)
    return result_model([head], [x])


@pytest.mark.parametrize("storage", ["f32", "f16"])
def test_an_inserted_multiply_is_counted_and_changes_nothing_else(
    storage: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The footprint is exact to the byte with Multiplies, the original has none, and only scaled weights see them."""
    model = cast_weights(gelu_block(), ["fc1", "fc2", "head"], storage)
    engine = Engine(model)
    plan = engine.plan(INT4)
    (fc2,) = (group for group in engine.channel_scales.groups.values() if group.weights == ("fc2",))
    with_random_scales(engine, monkeypatch)
    variants = {**plan.variants, "fc2": replace(plan.variants["fc2"], awq=True)}
    scaled = replace(plan, variants=variants, awq={fc2.activation: "inserted"}, awq_data_free=True)
    compressed = engine.apply(scaled)
    assert [n for n in constants(compressed) if n.endswith("awq_mul/scale")] == ["active:0/awq_mul/scale"]
    assert bin_size(compressed, tmp_path) == plan.footprint + 2 * 64
    assert not any("awq_mul" in node.get_friendly_name() for node in model.get_ordered_ops())
    x = normal(2, 7, 32, seed=9)
    lossless = {n: replace(v, mode=LOSSLESS.mode, group_size=1) for n, v in variants.items()}
    assert distance(outputs_of(model, x), outputs_of(engine.apply(replace(scaled, variants=lossless)), x)) < 2e-3


def variants_of(model: ov.Model, **other: str | None) -> dict[str, Variant]:
    """int4_sym everywhere, but for the named weights: another mode, or not compressed."""
    modes = {weight.name: other.get(weight.name, "int4_sym") for weight in find_weights(model)}
    return {name: Variant(mode) for name, mode in modes.items() if mode is not None}


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, {("gate", "up"): True, ("down",): True}),
        ({"down": "int8_asym"}, {("gate", "up"): True}),
        ({"gate": "int8_asym"}, {("gate", "up"): True, ("down",): True}),
        ({"gate": None}, {("up",): False, ("down",): True}),
        ({"up": None}, {("gate",): False, ("down",): False}),
        ({"gate": "int8_asym", "up": "int8_asym", "down": "int8_asym"}, {}),
    ],
)
def test_what_is_not_compressed_cannot_take_a_scale(
    other: dict[str, str | None], expected: dict[tuple[str, ...], bool]
) -> None:
    """A scale is merged where all that it touches is compressed, else inserted before the weights of few bits."""
    model = gated_block()
    found = possible(variants_of(model, **other), find_groups(model, find_weights(model)))
    assert {s.weights: s.merge is not None for s in found} == expected


def member(rows: FloatArray, variant: Variant = Variant("int4_sym", 32)) -> Member:  # noqa: B008
    """A member of a group over these rows [R, K]."""
    x = features(rows.shape[1])
    (weight,) = find_weights(result_model([ops.matmul(x, as_constant(rows, "W"), False, True)], [x]))
    return Member(Rows.of(weight, rows), variant)


def uneven(count: int, width: int, seed: int = 0, strength: float = 1.0) -> FloatArray:
    """Second moments of correlated activations whose channels differ in strength."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, width)) @ (np.eye(width) + 0.2 * rng.normal(size=(width, width)))
    x *= np.exp(strength * rng.normal(size=width))
    return np.asarray(x.T @ x / count, np.float32)


def error_of(rows: FloatArray, scale: FloatArray, moment: FloatArray, variant: Variant) -> float:
    """tr(E H Eᵀ) of the weight as it is really stored."""
    one = member(rows, variant)
    packed = compress_weight(one.rows, variant, Treatment(input_scale=scale))
    error = restore(packed, one.rows.weight, variant) / scale - rows
    return float(np.einsum("rk,kl,rl->", error, moment, error, dtype=np.float64))


@pytest.mark.parametrize("variant", [Variant(m, g) for m in ("int4_sym", "int4_asym", "nf4") for g in (16, 64)])
def test_the_search_lowers_the_error_of_the_stored_weight(variant: Variant) -> None:
    """With uneven activations the whole output error, blocks and all, is at least a tenth smaller."""
    rows, moment = normal(96, 128), uneven(400, 128)
    scale = search_scale([member(rows, variant)], moment)
    plain = error_of(rows, np.ones(128, np.float32), moment, variant)
    assert error_of(rows, scale, moment, variant) < 0.9 * plain


@given(seed=st.integers(0, 99), strength=st.floats(0, 3))
def test_the_search_is_never_worse_than_no_scale(seed: int, strength: float) -> None:
    """If H has no entries outside the groups, the minimised error is the exact one."""
    rows, moment = normal(24, 32, seed=seed), uneven(64, 32, seed, strength)
    scale = search_scale([member(rows)], moment)
    assert 1 / LARGEST <= scale.min() <= scale.max() <= LARGEST
    plain = error_of(rows, np.ones(32, np.float32), moment, Variant("int4_sym", 32))
    assert error_of(rows, scale, moment, Variant("int4_sym", 32)) <= plain * (1 + 1e-5)


def test_channels_with_large_activations_get_larger_scales() -> None:
    """If a few channels carry the activation, AWQ protects these."""
    strength = np.where(np.arange(64) % 16 == 0, 400, 1).astype(np.float32)
    scale = search_scale([member(normal(64, 64))], np.diag(strength))
    assert scale[::16].min() > 1.5 * np.delete(scale, np.s_[::16]).max()
    assert np.array_equal(scale, search_scale([member(normal(64, 64))], strength))  # a diagonal alone is enough


def test_a_group_that_gains_nothing_has_no_scale() -> None:
    """Dead channels only, and a saving that is asked to be larger than it can be: all ones."""
    ones = np.ones(32, np.float32)
    assert np.array_equal(search_scale([member(normal(8, 32))], np.zeros((32, 32), np.float32)), ones)
    assert np.array_equal(search_scale([member(normal(8, 32))], uneven(64, 32), least_gain=0.99), ones)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@given(seed=st.integers(0, 99), span=st.integers(0, 36), unused=st.integers(0, 8))
def test_channels_without_weights_or_tokens_do_no_harm(seed: int, span: int, unused: int) -> None:
    """Experts that hardly any token reaches: activations from 1e-36 to 1, and columns of zeros; no number overflows."""
    rng = np.random.default_rng(seed)
    rows = normal(24, 64, seed=seed)
    rows[:, rng.permutation(64)[:unused]] = 0
    moment = (10.0 ** -rng.uniform(0, span, 64)).astype(np.float32)
    scale = search_scale([member(rows)], moment)
    assert 1 / LARGEST <= scale.min() <= scale.max() <= LARGEST


def test_tied_channels_have_equal_scales_within_their_bounds() -> None:
    """Across groups, too; no scale and no inverse of one exceeds its channel's bound."""
    shared = np.arange(64) % 16
    bounds = np.where(np.arange(64) % 16 < 8, 1.5, 8.0)
    scale = search_scale([member(normal(48, 64))], uneven(200, 64, strength=2), shared=shared, largest=bounds)
    assert np.array_equal(scale, scale[shared])
    assert scale.max() > 1.2
    assert (np.maximum(scale, 1 / scale) <= bounds * (1 + 1e-6)).all()


def test_members_share_the_search() -> None:
    """A weight with nothing to gain does not hide that another gains, and both get one scale."""
    moment = uneven(200, 64, strength=2)
    members = [member(normal(32, 64)), member(normal(16, 64, seed=1), Variant("int8_asym"))]
    assert (search_scale(members, moment) != 1).any()


def test_awq_scales_are_really_applied(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """Gains are the original ones over a scale that differs from channel to channel; the plan says where."""
    engine = Engine(llama, statistics=statistics)
    plan = engine.plan(replace(INT4, awq=True))
    assert set(plan.awq.values()) == {"merged"}
    before, after = constants(llama), constants(engine.apply(plan))
    gains = [name for name in before if name.endswith("layernorm.weight")]
    changed = [name for name in gains if before[name].data.tobytes() != after[name].data.tobytes()]
    assert changed
    for name in changed:
        scale = before[name].data / after[name].data
        assert scale.max() > 1.05 * scale.min()
    groups = [engine.channel_scales.groups[activation] for activation in plan.awq]
    marked = {name for group in groups for name in group.weights}
    assert {name for name, variant in plan.variants.items() if variant.awq} == marked


@pytest.mark.parametrize("storage", ["f16", "bf16"])
def test_a_gain_of_few_digits_is_divided_without_loss(
    llama: ov.Model, statistics: Callable[[], Statistics], storage: str
) -> None:
    """The scale found is the one that the stored quotient stands for, so that no rounding changes the function."""
    model = cast_weights(llama, [n for n in constants(llama) if n.endswith("norm.weight")], storage)
    engine = Engine(model, statistics=statistics)
    plan = engine.plan(replace(INT4, awq=True))
    before, after = constants(model), constants(engine.apply(plan))
    scalings = possible(plan.variants, (engine.channel_scales.groups[activation] for activation in plan.awq))
    gains = 0
    for scaling, scale in zip(
        scalings, engine.channel_scales.search(scalings, plan.variants, statistics()), strict=True
    ):
        assert scaling.merge is not None
        for name in scaling.merge.constants:
            gains += 1
            assert type_name(after[name]) == storage
            assert np.allclose(read_f32(after[name]) * scale, read_f32(before[name]), rtol=1e-6, atol=0)
    assert gains


def test_scales_come_from_the_bank(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """Planning again, and applying, search no scale again; and compressing the same twice gives the same bytes."""
    bank = Bank(weights_in_memory=False)
    engine = Engine(llama, statistics=statistics, bank=bank)
    settings = replace(INT4, awq=True, scale_estimation=True)
    plan = engine.plan(settings)
    computed = bank.counters["computed"]
    assert engine.plan(settings) == plan
    assert bank.counters["computed"] == computed
    first = sorted(content(engine.apply(plan)).values())
    other = Engine(llama, statistics=statistics)
    assert sorted(content(other.apply(other.plan(settings))).values()) == first


def test_a_group_without_gain_leaves_the_plan(
    llama: ov.Model, statistics: Callable[[], Statistics], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If every scale is 1, the plan with AWQ equals the plan without it, and has a note."""
    engine = Engine(llama, statistics=statistics)
    monkeypatch.setattr(
        engine.channel_scales, "search", lambda scalings, *_: [np.ones(s.group.width, np.float32) for s in scalings]
    )
    found = engine.plan(replace(INT4, awq=True))
    assert found.key == engine.plan(INT4).key
    assert [note for note in found.notes if note.startswith("awq: ")]


def test_planning_without_awq_looks_at_no_group(llama: ov.Model) -> None:
    """Nothing is searched, and no weight read, for settings that do not ask for it."""
    engine = Engine(llama)
    engine.plan(INT4)
    assert "channel_scales" not in vars(engine)


def block_with_gain(spread: float) -> ov.Model:
    """A gated block whose gain differs from channel to channel by so much, and a head behind it."""
    model = gated_block(64)
    gain = constants(model)["gain"]
    values = np.exp(spread * np.random.default_rng(3).normal(size=(1, 1, 64))).astype(np.float32)
    new = as_constant(values, "gain")
    gain.set_friendly_name("old")
    for target in gain.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))
    head = ops.matmul(model.get_results()[0].input_value(0), as_constant(normal(8, 64, seed=8), "head"), False, True)
    return result_model([head], model.get_parameters())


def test_scales_of_another_variant_are_searched_anew() -> None:
    """Format and group size are in the key of the scales: an engine that searched others finds what a new one does."""
    model = block_with_gain(1.5)
    used = Engine(model)
    used.plan(replace(INT4, awq=True))
    for change in ({"mode": "nf4"}, {"group_size": 16}):
        settings = replace(INT4, awq=True, **change)  # type: ignore[arg-type]
        scales = []
        for engine in (used, Engine(model)):
            plan = engine.plan(settings)
            (found,) = engine.channel_scales.of_plan(plan.awq, plan.variants, None)
            scales.append(found[1])
        assert np.array_equal(*scales)


def test_data_free_scales_follow_the_gain() -> None:
    """Without a text AWQ takes a gain's square for the activation's energy; where that is uneven the error falls."""
    model = block_with_gain(1.5)
    engine = Engine(model)
    plan = engine.plan(replace(INT4, awq=True))
    assert plan.awq == {"normed:0": "merged"}
    assert plan.awq_data_free
    x = normal(4, 32, 64, seed=9)
    original = outputs_of(model, x)
    scaled, plain = (distance(original, outputs_of(engine.apply(p), x)) for p in (plan, engine.plan(INT4)))
    assert scaled < 0.95 * plain


def test_data_free_leaves_even_weights_alone(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """It is a guess, so it has to promise more; asked for beside a text, it looks at no statistics."""

    def refuse() -> Statistics:
        raise AssertionError

    even = block_with_gain(0)
    assert Engine(even).plan(replace(INT4, awq=True)).key == Engine(even).plan(INT4).key
    engine = Engine(llama, statistics=refuse)
    explicit = engine.plan(replace(INT4, awq=True, awq_data_free=True))
    assert explicit == Engine(llama).plan(replace(INT4, awq=True))
