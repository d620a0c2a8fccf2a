"""Comparison with NNCF 3.4.0 on the same models, to the byte."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from builders import (
    Content,
    as_constant,
    by_name,
    chain,
    constants,
    content,
    decoded,
    differing,
    features,
    language_chain,
    named,
    normal,
    result_model,
)
from openvino import opset15 as ops
from openvino import opset17

from autotune.compression.calibration.statistics import StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.constants import raw_bytes, read_f32
from autotune.compression.settings import DATA_METRICS, Settings

nncf = pytest.importorskip("nncf")
nncf.set_log_level(logging.ERROR)

K = 384
SMALL, LARGE = 20, 32
"""Rows on either side of the 10,000 elements from which on NNCF computes in OpenVINO instead of NumPy."""

GROUPED = ("int4_asym", "int4_sym", "int3_sym", "int2_sym", "nf4", "cb4")
FEW = (-1.0, -0.5, -0.125, 0.0, 0.25, 0.5, 0.75, 2.0)
MANY = tuple((np.arange(-20, 25) / 8).tolist())
CASES = [("int8_asym", -1), ("int8_sym", -1)]
CASES += [(mode, size) for mode in GROUPED for size in (32, 64, 96, 128, -1)]


def edge_cases(rows: int, seed: int) -> npt.NDArray[np.float32]:
    """Normal rows, and the rows on which formulas for ranges disagree."""
    w = normal(rows, K, seed=seed)
    w[0] = 0
    w[1] = 1.5
    w[2] = np.abs(w[2])
    w[3] = -np.abs(w[3])
    w[4] = -2
    w[5] *= 2.0**-20
    w[6] *= 2.0**-30
    w[7] = np.round(w[7] * 4) / 4  # ties
    w[8] = 6 * 2.0**-3
    w[9] = np.linspace(-1, 1, K)
    w[10, 3] = 1000
    w[11, 1:] = 0
    w[12, :2], w[12, 2:] = (1, -1), w[12, 2:] / 16  # both sides of the range equal
    return w


LAYOUTS = [(SMALL, "f32", False), (SMALL, "f16", True), (SMALL, "bf16", True)]
LAYOUTS += [(LARGE, "f32", True), (LARGE, "f16", False), (LARGE, "bf16", False), (LARGE, "bf16", True)]
"""Rows, storage and whether the weight is transposed, of the weight with this seed."""


def model_of_edge_cases() -> ov.Model:
    """Weights of both sizes in every storage and layout side by side, and a last layer L."""
    x = features(K)
    outputs = []
    for seed, (rows, storage, transposed) in enumerate(LAYOUTS):
        w = edge_cases(rows, seed)
        constant = as_constant(w if transposed else np.ascontiguousarray(w.T), f"W{rows}_{seed}", storage)
        outputs.append(ops.matmul(x, constant, False, transposed))
    y = ops.concat(outputs, -1)
    last = as_constant(normal(8, y.get_output_partial_shape(0)[2].get_length()), "L")
    return result_model([named(ops.matmul(y, last, False, True), "last")], [x])


def ours(model: ov.Model, **settings: Any) -> Content:
    engine = Engine(model)
    return content(engine.apply(engine.plan(Settings(**settings))))


def nncf_content(model: ov.Model, mode: str, **arguments: Any) -> Content:
    return content(nncf.compress_weights(model, mode=getattr(nncf.CompressWeightsMode, mode.upper()), **arguments))


@pytest.mark.parametrize(("mode", "group_size"), CASES)
def test_integers_scales_and_zero_points_equal_nncf(mode: str, group_size: int) -> None:
    """Every constant has NNCF's name, type, shape and bytes, on both sides of its threshold and in every layout."""
    arguments = {} if "int8" in mode else {"group_size": group_size}
    expected = nncf_content(model_of_edge_cases(), mode, **arguments)
    assert differing(ours(model_of_edge_cases(), mode=mode, group_size=group_size), expected) == []


@pytest.mark.parametrize("group_size", [32, 128, -1])
@pytest.mark.parametrize("table", [FEW, MANY])
def test_codebooks_equal_nncf(table: tuple[float, ...], group_size: int) -> None:
    """A user's table, short or long, gives NNCF's indices, scales and table."""
    parameters = nncf.AdvancedCompressionParameters(codebook=np.array(table, np.float16))
    expected = nncf_content(model_of_edge_cases(), "codebook", group_size=group_size, advanced_parameters=parameters)
    found = ours(model_of_edge_cases(), mode="codebook", group_size=group_size, codebook=table)
    assert differing(found, expected) == []


def in_groups(model: ov.Model, name: str, part: str, groups: int) -> npt.NDArray[Any]:
    """A constant of an edge-case weight in channels, groups and what is left, [R, G, ...]: its bytes or numbers."""
    rows, _, transposed = LAYOUTS[int(name.rpartition("_")[2])]
    if part == "numbers":
        values = decoded(model, name) if f"{name}/scale" in constants(model) else read_f32(constants(model)[name])
    else:
        values = raw_bytes(constants(model)[f"{name}/{part}"])
        if part == "scale" and values.size == 2 * rows * groups:
            values = values.view(np.uint16)
    return values.reshape(rows, groups, -1) if transposed else values.reshape(groups, -1, rows).transpose(2, 0, 1)


MINIFLOATS = [("mxfp4", 32), ("mxfp8_e4m3", 32)]
MINIFLOATS += [(mode, size) for mode in ("fp4", "fp8_e4m3") for size in (32, 128, -1)]


@pytest.mark.parametrize(("mode", "group_size"), MINIFLOATS)
def test_minifloats_equal_nncf_but_for_its_defects(mode: str, group_size: int) -> None:
    """NNCF's OpenVINO path doubles MX scales at some powers of two, and guards against zero before it divides.

    Where that makes a difference, ours has no larger error; everywhere else the bytes are equal.
    """
    engine = Engine(model_of_edge_cases())
    found = engine.apply(engine.plan(Settings(mode=mode, group_size=group_size, backup_mode="int8_asym")))
    expected = nncf.compress_weights(
        model_of_edge_cases(),
        mode=getattr(nncf.CompressWeightsMode, mode.upper()),
        group_size=group_size,
        backup_mode=nncf.BackupMode.INT8_ASYM,
    )
    names = {name.split("/")[0] for name in differing(content(found), content(expected))}
    assert all(name.startswith(f"W{LARGE}_") for name in names)
    groups = 1 if group_size == -1 else K // group_size
    largest_element = FORMATS[mode].largest
    for name in names:
        original = in_groups(model_of_edge_cases(), name, "numbers", groups)
        step = np.abs(original).max(axis=-1) / np.float32(largest_element)
        excused = (step < 2.0**-22) | ((np.frexp(step)[0] == 0.5) & mode.startswith("mx"))
        stored, other = (in_groups(model, name, "scale", groups)[..., 0] for model in (found, expected))
        assert np.array_equal(stored[~excused], other[~excused])
        numbers, others = (in_groups(model, name, "numbers", groups) for model in (found, expected))
        assert np.array_equal(numbers[~excused], others[~excused])
        error, its_error = (np.square(each - original).sum(axis=-1)[excused] for each in (numbers, others))
        assert np.all(error <= its_error * (1 + 1e-6))


def test_nvfp4_has_the_second_order_scale_of_nncf_and_a_lower_error() -> None:
    """NNCF rounds elements by scales that it does not store; ours is the best of three scales for every group."""
    engine = Engine(model_of_edge_cases())
    found = engine.apply(engine.plan(Settings(mode="nvfp4")))
    expected = nncf.compress_weights(model_of_edge_cases(), mode=nncf.CompressWeightsMode.NVFP4)
    assert by_name(content(found)).keys() == by_name(content(expected)).keys()
    for seed, (rows, _, _) in enumerate(LAYOUTS):
        name = f"W{rows}_{seed}"
        original = in_groups(model_of_edge_cases(), name, "numbers", K // 16)
        unit, its_unit = (second_order_scale(model, name) for model in (found, expected))
        assert unit == its_unit
        error, its_error = (
            np.square(in_groups(model, name, "numbers", K // 16).astype(np.float64) - original).sum(axis=-1)
            for model in (found, expected)
        )
        assert np.all(error <= its_error * (1 + 1e-6))
        assert error.sum() < 0.9 * its_error.sum()


def second_order_scale(model: ov.Model, name: str) -> float:
    return float(constants(model)[f"{name}/second_order_scale"].data.item())


def embedded() -> ov.Model:
    return language_chain([normal(32, 32, seed=i) for i in range(3)], normal(50, 32, seed=9))


def tied() -> ov.Model:
    return language_chain([normal(32, 32, seed=i) for i in range(3)], normal(50, 32, seed=9), tied=True)


def batched() -> ov.Model:
    x = named(ops.parameter([3, -1, 64], np.float32), "x")
    y = ops.matmul(x, as_constant(normal(3, 32, 64), "W"), False, True)
    return result_model([ops.matmul(y, as_constant(normal(8, 32, seed=1), "L"), False, True)], [x])


def grouped() -> ov.Model:
    """Experts as one constant: tokens sorted by expert, then some of each expert's."""
    x, ends = ops.parameter([-1, 64], np.float32), ops.parameter([3], np.int32)
    y = opset17.grouped_matmul(x, as_constant(normal(3, 32, 64), "W"), ends)
    y = ops.reshape(y, np.array([3, -1, 32]), special_zero=False)
    return result_model([opset17.grouped_matmul(y, as_constant(normal(3, 8, 32, seed=1), "L"))], [x, ends])


def convolutional() -> ov.Model:
    x = ops.parameter([1, 4, 8, 8], np.float32)
    y = ops.convolution(x, as_constant(normal(8, 4, 3, 3), "C"), [1, 1], [1, 1], [1, 1], [1, 1])
    y = ops.group_convolution(y, as_constant(normal(2, 3, 4, 1, 1), "G"), [1, 1], [0, 0], [0, 0], [1, 1])
    y = ops.reshape(y, np.array([1, 6, 64]), special_zero=False)
    y = ops.matmul(y, as_constant(normal(32, 64, seed=1), "W"), False, True)
    return result_model([ops.matmul(y, as_constant(normal(8, 32, seed=2), "L"), False, True)], [x])


@pytest.mark.parametrize(
    ("mode", "backup"),
    [
        *((mode, None) for mode in ("int4_asym", "nf4", "fp8_e4m3", "mxfp8_e4m3", "nvfp4", "cb4", "int3_sym")),
        *(("int4_sym", backup) for backup in ("fp8_e4m3", "mxfp8_e4m3")),
        *(("mxfp4", backup) for backup in ("fp8_e4m3", "mxfp8_e4m3", "int8_sym")),
    ],
)
def test_backup_formats_equal_nncf(mode: str, backup: str | None) -> None:
    """Default backup modes are NNCF's, and the 8-bit floats have NNCF's groups, names and bytes as backup."""
    arguments = {} if backup is None else {"backup_mode": getattr(nncf.BackupMode, backup.upper())}
    sizes = {} if FORMATS[mode].fixed_group_size else {"group_size": 32}
    for build in (embedded, tied):
        expected = nncf_content(build(), mode, **arguments, **sizes)
        found = ours(build(), mode=mode, backup_mode=backup, **sizes)
        differ = differing(found, expected)
        assert not differ if mode != "nvfp4" else {"H", "E", "H/scale", "E/scale"}.isdisjoint(differ)


def test_4_bit_floats_keep_a_backup_that_the_cpu_computes_with() -> None:
    """NNCF's default backup for fp4 and mxfp4 is an 8-bit float, which the CPU expands; ours is int8_asym."""
    for mode in ("fp4", "mxfp4"):
        assert Settings(mode=mode).effective_backup_mode == "int8_asym"


@pytest.mark.parametrize("build", [embedded, tied, batched, grouped, convolutional])
@pytest.mark.parametrize("all_layers", [False, True])
@pytest.mark.parametrize("backup", ["int8_asym", "int8_sym", "none"])
def test_embedding_last_layer_and_convolutions_equal_nncf(
    build: Callable[[], ov.Model], all_layers: bool, backup: str
) -> None:
    """Backup goes to the layers that NNCF gives it to, and what stays float stays so in both."""
    expected = nncf_content(
        build(),
        "int4_sym",
        group_size=32,
        all_layers=all_layers,
        backup_mode=getattr(nncf.BackupMode, backup.upper()),
    )
    found = ours(build(), mode="int4_sym", group_size=32, all_layers=all_layers, backup_mode=backup)
    assert differing(found, expected) == []


def uneven_chain() -> ov.Model:
    widths = (32, 64, 96, 32, 128, 64)
    weights = [normal(o, i, seed=i * o) for i, o in pairwise(widths)]
    return chain([w * np.float32(2.0 ** (i % 3 - 4)) for i, w in enumerate(weights)])


@pytest.mark.parametrize("ratio", [0.0001, 0.2, 0.4, 0.5, 0.7, 0.9, 0.999, 1])
@pytest.mark.parametrize("all_layers", [False, True])
def test_ratio_without_data_picks_the_layers_that_nncf_picks(ratio: float, all_layers: bool) -> None:
    """On float32 weights, where NNCF's own metric ranks by numbers alone, the same layers get four bits."""
    expected = nncf_content(uneven_chain(), "int4_asym", group_size=32, ratio=ratio, all_layers=all_layers)
    found = ours(uneven_chain(), mode="int4_asym", group_size=32, ratio=ratio, all_layers=all_layers)
    assert differing(found, expected) == []


def dissimilar_layers() -> ov.Model:
    """Layers whose weights, activations and their variances rank differently, and an embedding with uneven rows."""
    rng = np.random.default_rng(6)
    weights = [normal(64, 64, seed=i) * np.float32(2.0**power) for i, power in enumerate((-5, -1, -4, -3, -2, -6))]
    weights[2][:, 5:9] *= 16
    weights[4][7] *= 8
    return language_chain(weights, normal(50, 64, seed=9) * rng.lognormal(0, 1, (50, 1)).astype(np.float32))


@pytest.mark.parametrize("all_layers", [False, True])
@pytest.mark.parametrize("metric", DATA_METRICS)
def test_ratio_with_data_picks_the_layers_that_nncf_picks(metric: str, all_layers: bool, tmp_path: Path) -> None:
    """The four metrics that use activations rank float32 weights as NNCF does on the same windows."""
    tokens = np.random.default_rng(3).integers(0, 50, (5, 8), dtype=np.int64)
    picks = set()
    for ratio in (0.3, 0.5, 0.7, 0.9):
        expected = nncf_content(
            dissimilar_layers(),
            "int4_sym",
            group_size=32,
            ratio=ratio,
            all_layers=all_layers,
            dataset=nncf.Dataset([window[None] for window in tokens]),
            sensitivity_metric=getattr(nncf.SensitivityMetric, metric.upper()),
        )
        model = dissimilar_layers()
        cache = StatisticsCache(tmp_path)
        engine = Engine(
            model,
            statistics=lambda m=model, c=cache: c.get_or_collect(
                m, Engine(m).activations, tokens, model_fingerprint=""
            ),
        )
        settings = Settings(
            mode="int4_sym", group_size=32, ratio=ratio, all_layers=all_layers, sensitivity_metric=metric
        )
        found = content(engine.apply(engine.plan(settings)))
        assert differing(found, expected) == []
        picks.add(tuple(sorted(name for name, value in found.items() if value[0] == "i4")))
    assert len(picks) == 4


def test_ratio_zero_gives_no_layer_four_bits() -> None:
    """Zero means none here; NNCF reads it as not given and gives four bits to all."""
    found = ours(uneven_chain(), mode="int4_asym", group_size=32, ratio=0)
    expected = nncf_content(uneven_chain(), "int4_asym", group_size=32, ratio=0)
    assert {found[f"W{i}"][0] for i in range(5)} == {"u8"}
    assert {expected[f"W{i}"][0] for i in range(4)} == {"u4"}


@pytest.mark.parametrize("pattern", ["W1", "M1", "M[12]"])
def test_ignored_weights_equal_nncf(pattern: str) -> None:
    """A weight ignored by its own name, its operation's, or a pattern, is left out of both in the same way."""
    scope = nncf.IgnoredScope(patterns=[pattern]) if "[" in pattern else nncf.IgnoredScope(names=[pattern])
    expected = nncf_content(uneven_chain(), "int4_sym", group_size=32, ratio=0.7, ignored_scope=scope)
    found = ours(uneven_chain(), mode="int4_sym", group_size=32, ratio=0.7, ignored_scope=(pattern,))
    assert differing(found, expected) == []


def test_adjusted_group_sizes_equal_nncf() -> None:
    """If the group size does not divide, both use the same smaller one, or the backup mode if there is none."""
    weights = [normal(40, 192), normal(64, 40), normal(32, 64), normal(8, 32)]
    parameters = nncf.AdvancedCompressionParameters(group_size_fallback_mode=nncf.GroupSizeFallbackMode.ADJUST)
    expected = nncf_content(chain(weights), "int4_sym", group_size=128, advanced_parameters=parameters)
    assert differing(ours(chain(weights), mode="int4_sym", group_size=128), expected) == []
    assert {name: value[1] for name, value in expected.items() if name == "W0"} == {"W0": (40, 3, 64)}
