from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino as ov
import pytest
from builders import as_constant, bin_size, cast_weights, chain, features, language_chain, normal, result_model
from openvino import opset15 as ops

from autotune.compression.calibration.statistics import Statistics, StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.ir.sizes import Sizes
from autotune.compression.ir.weights import find_weights
from autotune.compression.settings import Settings


def four_bit_settings(mode: str, **algorithms: bool) -> Iterator[Settings]:
    for group_size in (None,) if mode == "mxfp4" else (32, 64, 128, -1):
        for backup in ("int8_asym", "int8_sym", "none"):
            for all_layers in (False, True):
                yield Settings(
                    mode=mode, group_size=group_size, backup_mode=backup, all_layers=all_layers, ratio=0.7, **algorithms
                )  # fmt: skip


def assert_predicted(engine: Engine, settings: Settings, folder: Path) -> None:
    plan = engine.plan(settings)
    assert plan.footprint == bin_size(engine.apply(plan), folder), settings


@pytest.mark.parametrize("mode", ["int4_asym", "int4_sym", "nf4", "mxfp4"])
def test_footprint_is_the_saved_file_to_the_byte(
    llama: ov.Model, statistics: Callable[[], Statistics], tmp_path: Path, mode: str
) -> None:
    """For every group size, backup and all_layers, the plan's footprint is the size of the weights file."""
    engine = Engine(llama, statistics=statistics)
    for settings in four_bit_settings(mode):
        assert_predicted(engine, settings, tmp_path)


FEW, MANY = (-1.0, -0.5, 0.0, 0.5, 1.0), tuple((np.arange(-20, 21) / 20).tolist())


@pytest.mark.parametrize(
    "settings",
    [
        *(Settings(mode=mode, group_size=size) for mode in ("fp4", "int3_sym", "int2_sym", "cb4") for size in (32, -1)),
        *(Settings(mode=mode, all_layers=True) for mode in ("nvfp4", "fp8_e4m3", "mxfp8_e4m3", "int3_sym", "cb4")),
        *(Settings(mode=mode, ratio=0.5) for mode in ("nvfp4", "fp8_e4m3", "mxfp8_e4m3", "int2_sym")),
        *(Settings(mode="codebook", codebook=table, group_size=size) for table in (FEW, MANY) for size in (32, -1)),
        *(Settings(mode="int4_sym", group_size=64, backup_mode=mode) for mode in ("fp8_e4m3", "mxfp8_e4m3")),
        Settings(mode="nvfp4", gptq=True, scale_estimation=True),
        Settings(mode="cb4", group_size=64, lora_correction=True, lora_rank=4),
    ],
    ids=lambda settings: f"{settings.mode}-{settings.group_size}-{settings.backup_mode}-{settings.ratio}",
)
def test_footprint_of_every_format_is_exact(
    llama: ov.Model, statistics: Callable[[], Statistics], tmp_path: Path, settings: Settings
) -> None:
    """Tables that all weights share are counted once, three-bit weights in eights, second-order scales one by one."""
    assert_predicted(Engine(llama, statistics=statistics), settings, tmp_path)


@pytest.mark.parametrize("mode", ["int4_asym", "nf4"])
@pytest.mark.parametrize(
    "algorithms", [{"awq": True}, {"scale_estimation": True}, {"awq": True, "scale_estimation": True}]
)
def test_footprint_holds_with_algorithms(
    llama: ov.Model,
    statistics: Callable[[], Statistics],
    tmp_path: Path,
    mode: str,
    algorithms: dict[str, bool],
) -> None:
    """AWQ and scale estimation change numbers, not sizes."""
    engine = Engine(llama, statistics=statistics)
    for settings in list(four_bit_settings(mode, **algorithms))[::5]:
        assert_predicted(engine, settings, tmp_path)


@pytest.mark.parametrize("storage", ["f32", "f16", "bf16"])
@pytest.mark.parametrize(
    "settings",
    [
        Settings(),
        Settings(mode="int8_sym", ignored_scope=(".*mlp.*",)),
        Settings(mode="int4_asym", group_size=32, ignored_scope=(".*q_proj.*", ".*lm_head.*")),
        Settings(mode="int4_sym", group_size=64, ratio=0.0, backup_mode="none"),
    ],
)
def test_footprint_holds_for_every_storage(llama: ov.Model, tmp_path: Path, storage: str, settings: Settings) -> None:
    """Weights that stay as they are count in their own storage type."""
    names = [weight.name for weight in find_weights(llama)]
    assert_predicted(Engine(cast_weights(llama, names, storage)), settings, tmp_path)


def odd() -> ov.Model:
    """Numbers of elements that are odd, so that the last byte of every four-bit constant is half empty."""
    return language_chain([normal(7, 7), normal(7, 7, seed=1)], normal(11, 7))


def tied() -> ov.Model:
    return language_chain([normal(32, 32)], normal(40, 32), tied=True)


def equal_weights() -> ov.Model:
    """Two weights of the same bytes and shape, one of the same bytes in another layout, and one of equal rows."""
    x = features(32)
    w = normal(32, 32)
    constants = [as_constant(w, "A"), as_constant(w.copy(), "B")]
    y = ops.concat([ops.matmul(x, c, False, True) for c in constants], -1)
    y = ops.matmul(y, as_constant(np.tile(normal(1, 64), (16, 1)), "C"), False, True)
    y = ops.concat([y, ops.matmul(x, as_constant(w.copy(), "D"), False, False)], -1)
    return result_model([ops.matmul(y, as_constant(normal(8, 48), "L"), False, True)], [x])


def same_bytes_in_two_shapes() -> ov.Model:
    x, z = features(32), ops.parameter([-1, -1, 64], np.float32)
    w = normal(64, 32)
    first = ops.matmul(x, as_constant(w, "A"), False, True)
    second = ops.matmul(z, as_constant(w.reshape(32, 64).copy(), "B"), False, True)
    y = ops.concat([first, second], -1)
    return result_model([ops.matmul(y, as_constant(normal(8, 96), "L"), False, True)], [x, z])


def test_equal_second_order_scales_are_counted_once(tmp_path: Path) -> None:
    """Weights with one largest value, as coarse storage types make them, share the scale over their scales."""
    weights = [normal(32, 32, seed=seed) for seed in range(3)]
    for w in weights[:2]:
        w[0, 0] = 7
    engine = Engine(language_chain(weights, normal(40, 32)))
    for settings in (Settings(mode="nvfp4"), Settings(mode="nvfp4", all_layers=True)):
        assert_predicted(engine, settings, tmp_path)


@pytest.mark.parametrize(
    ("build", "group_sizes"),
    [(odd, (-1, 7)), (tied, (-1, 16)), (equal_weights, (-1, 16)), (same_bytes_in_two_shapes, (-1,))],
)
def test_footprint_counts_equal_constants_once(
    build: Callable[[], ov.Model], group_sizes: tuple[int, ...], tmp_path: Path
) -> None:
    """Weights whose bytes are equal are in the file once, before and after compression, as long as they stay equal."""
    model = build()
    assert Sizes(model).original == bin_size(model, tmp_path)
    engine = Engine(model)
    assert_predicted(engine, Settings(), tmp_path)
    for mode in ("int4_asym", "int4_sym", "nf4", "int3_sym", "int2_sym", "cb4", "fp8_e4m3"):
        for group_size in group_sizes:
            for ratio in (1, 0.5):
                assert_predicted(engine, Settings(mode=mode, group_size=group_size, ratio=ratio), tmp_path)


def test_equal_weights_differ_where_their_activations_do(tmp_path: Path) -> None:
    """Two equal weights are one in the file with plain rounding and two with scales searched for different inputs."""
    model = language_chain([normal(32, 32)] * 2, normal(40, 32))
    cache, tokens = StatisticsCache(tmp_path / "statistics"), np.arange(40).reshape(4, 10)
    engine = Engine(
        model,
        statistics=lambda: cache.get_or_collect(model, engine.activations, tokens, model_fingerprint=""),
    )
    plain = Settings(mode="int4_sym", group_size=16)
    assert_predicted(engine, plain, tmp_path)
    assert_predicted(engine, replace(plain, scale_estimation=True), tmp_path)
    searched = engine.plan(replace(plain, scale_estimation=True))
    assert searched.footprint > engine.plan(plain).footprint


def test_sizes_of_the_original(llama: ov.Model, tmp_path: Path) -> None:
    """The original's size is that of its file, and its float32 size is the same for half-precision weights."""
    sizes = Sizes(llama)
    assert sizes.original == bin_size(llama, tmp_path)
    halves = Sizes(cast_weights(llama, [w.name for w in find_weights(llama)], "f16"))
    assert halves.fp32 == sizes.fp32 == sizes.original
    assert halves.original < 0.6 * sizes.original


def test_weight_sizes_are_those_of_their_storage() -> None:
    """A weight's own bytes: elements times the bytes of its type."""
    for storage, size in (("f32", 4), ("f16", 2), ("bf16", 2), ("f64", 8)):
        model = chain([normal(8, 16)], storage=storage)
        (weight,) = find_weights(model)
        assert Sizes(model).nbytes(weight) == 8 * 16 * size
