from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import openvino as ov
import pytest
from builders import as_constant, chain, content, features, language_chain, normal, result_model
from openvino import opset15 as ops

from autotune.compression.calibration.statistics import Statistics
from autotune.compression.engine import Engine
from autotune.compression.ir.layout import Variant
from autotune.compression.ir.weights import find_weights
from autotune.compression.plan import Plan, make_variants
from autotune.compression.settings import Settings
from autotune.errors import PlanError


def plan(model: ov.Model, **settings: Any) -> Plan:
    return Engine(model).plan(Settings(**settings))


def parallel(weights: Sequence[np.ndarray]) -> ov.Model:
    """One input that feeds every weight, W0 to Wn [O, K]."""
    x = features(weights[0].shape[1])
    outputs = [ops.matmul(x, as_constant(values, f"W{i}"), False, True) for i, values in enumerate(weights)]
    return result_model(outputs, [x])


def modes(found: Plan) -> dict[str, str]:
    return {name: variant.mode for name, variant in found.variants.items()}


def language_model() -> ov.Model:
    """E [40, 32], W0 to W2 [32, 32], H [40, 32]."""
    return language_chain([normal(32, 32, seed=i) for i in range(3)], normal(40, 32))


def uneven_widths() -> ov.Model:
    """W0 sums over 192 channels, W1 over 40, W2 over 64; W3 is the last."""
    return chain([normal(40, 192), normal(64, 40), normal(32, 64), normal(8, 32)])


def test_body_gets_the_mode_and_the_rest_gets_backup() -> None:
    """Embedding and last layer are kept at backup precision, MatMuls between them get the mode."""
    found = plan(language_model(), mode="int4_sym", group_size=16)
    assert modes(found) == {"E": "int8_asym", "W0": "int4_sym", "W1": "int4_sym", "W2": "int4_sym", "H": "int8_asym"}
    assert {variant.group_size for variant in found.variants.values()} == {16, -1}


def test_all_layers_includes_embedding_and_last_layer() -> None:
    """With all_layers nothing is left for backup."""
    assert set(modes(plan(language_model(), mode="nf4", group_size=16, all_layers=True)).values()) == {"nf4"}


@pytest.mark.parametrize("mode", ["int8_asym", "int8_sym"])
def test_int8_modes_take_every_weight(mode: str) -> None:
    """All weights, embedding and last layer too, one group a row."""
    assert set(plan(language_model(), mode=mode).variants.values()) == {Variant(mode)}


def test_backup_none_leaves_weights_as_they_are() -> None:
    """Weights outside the mode stay uncompressed."""
    assert set(modes(plan(language_model(), mode="int4_sym", group_size=16, backup_mode="none"))) == {"W0", "W1", "W2"}
    assert modes(plan(language_model(), mode="int4_sym", group_size=16, ratio=0, backup_mode="none")) == {}


@pytest.mark.parametrize(
    ("ratio", "expected"), [(0, 0), (1 / 3, 0), (0.34, 1), (2 / 3, 1), (0.67, 2), (0.999, 2), (1, 3)]
)
def test_ratio_stays_below_its_share(ratio: float, expected: int) -> None:
    """Of three equal layers, a third is none, a little more is one, almost all is two; zero is none and one is all."""
    found = plan(language_model(), mode="int4_sym", group_size=16, ratio=ratio)
    assert list(modes(found).values()).count("int4_sym") == expected


def test_ratio_counts_elements_not_layers() -> None:
    """One large layer outweighs three small ones, and the first one over the ratio ends the choice."""
    model = chain([normal(32, 32), normal(32, 32, seed=1), normal(512, 32) * 64, normal(8, 512)])
    chosen = [
        name
        for name, mode in modes(plan(model, mode="int4_sym", group_size=32, ratio=0.5)).items()
        if mode == "int4_sym"
    ]
    assert chosen == []  # the large layer has the largest error, comes first and does not fit
    small_first = chain([normal(32, 32) * 64, normal(32, 32, seed=1) * 64, normal(512, 32), normal(8, 512)])
    found = modes(plan(small_first, mode="int4_sym", group_size=32, ratio=0.5))
    assert [name for name, mode in found.items() if mode == "int4_sym"] == ["W0", "W1"]


@pytest.mark.parametrize(("metric", "expected"), [("max_activation_variance", {"W0"}), ("output_error", {"W0", "W2"})])
def test_output_error_comes_as_close_to_the_ratio_as_it_can(metric: str, expected: set[str]) -> None:
    """With NNCF's metrics the first weight that does not fit ends the choice."""
    rows = {"W0": 32, "W1": 160, "W2": 32}
    weights = find_weights(parallel([normal(count, 32, seed=i) for i, count in enumerate(rows.values())]))
    order = ["W0", "W1", "W2"]
    variants, _ = make_variants(
        Settings(mode="int4_sym", group_size=16, ratio=0.5, all_layers=True, sensitivity_metric=metric),
        weights,
        lambda _, weight, __: float(order.index(weight.name)),
    )
    assert {name for name, variant in variants.items() if variant.mode == "int4_sym"} == expected


def test_bits_and_percentages_count_elements() -> None:
    """Shares are of all weights' elements, bits include scales and zero points, the rate is against float32."""
    found = plan(language_model(), mode="int4_asym", group_size=16)
    body, ends = 3 * 32 * 32, 2 * 40 * 32
    assert found.int4_percent == pytest.approx(100 * body / (body + ends))
    assert found.int8_percent == pytest.approx(100 * ends / (body + ends))
    bits = body * (4 + 16 / 16 + 4 / 16) + ends * (8 + 16 / 32 + 8 / 32)
    assert found.bits_per_weight == pytest.approx(bits / (body + ends))
    assert found.compression_rate == pytest.approx(Engine(language_model()).sizes.fp32 / found.footprint)


def test_uncompressed_weights_count_their_own_bits() -> None:
    """A plan that compresses nothing has the original's bits and size."""
    engine = Engine(chain([normal(32, 32), normal(8, 32)], storage="f16"))
    found = engine.plan(Settings(mode="int4_sym", group_size=32, ratio=0, backup_mode="none"))
    assert found.variants == {}
    assert found.bits_per_weight == engine.original_bits_per_weight() == 16
    assert found.footprint == engine.sizes.original
    assert found.compression_rate == 2


def test_group_size_is_adjusted_where_it_does_not_divide() -> None:
    """The largest power of two that divides and is at least 32, else backup; each is noted with the weight's name."""
    found = plan(uneven_widths(), mode="int4_sym", group_size=128)
    assert found.variants["W0"] == Variant("int4_sym", 64)
    assert found.variants["W1"] == Variant("int8_asym")
    assert found.variants["W2"] == Variant("int4_sym", -1)
    assert [note.split(":")[0] for note in found.notes] == ["W0", "W2", "W1"]
    assert "128" in found.notes[0]
    assert "192" in found.notes[0]
    assert "64 instead" in found.notes[0]
    assert "int8_asym instead" in found.notes[2]


def test_unfit_weights_are_ignored_on_request() -> None:
    """With ``ignore`` they stay as they are, and the note says so."""
    found = plan(uneven_widths(), mode="int4_sym", group_size=128, group_size_fallback="ignore")
    assert modes(found) == {"W3": "int8_asym"}
    assert all("left as it is" in note for note in found.notes)


def test_unfit_weights_are_an_error_on_request() -> None:
    """With ``error`` the plan fails and names the weights, their channels and the way out."""
    with pytest.raises(PlanError, match=r"group_size: 128 .* W0 \(192 input channels\), W1 \(40 .*adjust"):
        plan(uneven_widths(), mode="int4_sym", group_size=128, group_size_fallback="error")


def test_unfit_weights_are_not_counted_by_the_ratio() -> None:
    """The ratio is a share of the weights that can have the mode."""
    model = chain([normal(32, 32), normal(40, 32), normal(32, 40), normal(32, 32, seed=1), normal(8, 32)])
    found = plan(model, mode="int4_sym", group_size=32, ratio=0.5)
    assert found.variants["W2"] == Variant("int8_asym")
    four_bits = [name for name, mode in modes(found).items() if mode == "int4_sym"]
    assert len(four_bits) == 1


def test_last_layer_and_embedding_are_not_asked_for_the_group_size() -> None:
    """Backup is one group a row, so their widths need no divisor."""
    found = plan(chain([normal(40, 64), normal(8, 40)]), mode="int4_sym", group_size=64, group_size_fallback="error")
    assert found.notes == ()


def test_mxfp4_needs_its_own_group_size() -> None:
    """A width that 32 does not divide gets backup, whatever the fallback could adjust."""
    found = plan(uneven_widths(), mode="mxfp4")
    assert modes(found) == {"W0": "mxfp4", "W1": "int8_asym", "W2": "mxfp4", "W3": "int8_asym"}
    assert [note.split(":")[0] for note in found.notes] == ["W1"]


def test_group_as_wide_as_the_row_is_one_group_a_row() -> None:
    """Two ways to ask for the same model give the same plan."""
    wide, per_row = (plan(language_model(), mode="int4_sym", group_size=size) for size in (32, -1))
    assert wide.variants == per_row.variants
    assert wide.key == per_row.key


@pytest.mark.parametrize(
    ("pattern", "left_out"),
    [("W1", {"W1"}), ("M1", {"W1"}), ("W[02]", {"W0", "W2"}), ("embed", {"E"}), (".*", {"E", "W0", "W1", "W2", "H"})],
)
def test_ignored_scope_matches_whole_names_of_weights_and_operations(pattern: str, left_out: set[str]) -> None:
    """A pattern is a name or a regular expression in full match; what it matches stays as it is."""
    for mode in ("int8_asym", "int4_sym"):
        found = plan(
            language_model(), mode=mode, group_size=None if mode == "int8_asym" else 16, ignored_scope=(pattern,)
        )
        assert {"E", "W0", "W1", "W2", "H"} - set(found.variants) == left_out


def test_names_with_special_characters_are_matched_as_they_are() -> None:
    """A weight's own name is taken literally even where it is an odd regular expression."""
    x = features(32)
    model = result_model([ops.matmul(x, as_constant(normal(8, 32), "layers.0.w+(a)"), False, True)], [x])
    assert plan(model, ignored_scope=("layers.0.w+(a)",)).variants == {}


def test_ignoring_the_last_layer_leaves_the_body_alone() -> None:
    """As in NNCF, an ignored head is not replaced by another last layer."""
    found = plan(language_model(), mode="int4_sym", group_size=16, ignored_scope=("H",))
    assert modes(found) == {"E": "int8_asym", "W0": "int4_sym", "W1": "int4_sym", "W2": "int4_sym"}


def test_unknown_patterns_are_refused_with_the_nearest_name() -> None:
    """A pattern without any match is an error that names it and the weight that was perhaps meant."""
    model = chain([normal(32, 32), normal(8, 32)])
    with pytest.raises(PlanError, match=r"ignored_scope: 'W11' matches no weight .* nearest weight is W[01]"):
        plan(model, ignored_scope=("W0", "W11"))
    with pytest.raises(PlanError, match=r"ignored_scope: 'W\(' is not a regular expression"):
        plan(model, ignored_scope=("W(",))


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"mode": "int5"}, "mode"),
        ({"mode": "int8_asym", "ratio": 0.8}, "ratio"),
        ({"mode": "int8_sym", "all_layers": True}, "all_layers"),
        ({"mode": "int8_asym", "awq": True}, "awq"),
        ({"mode": "int8_asym", "scale_estimation": True}, "scale_estimation"),
        ({"mode": "int8_asym", "group_size": 64}, "group_size"),
        ({"mode": "mxfp4", "group_size": 64}, "group_size"),
        ({"mode": "nvfp4", "group_size": 32}, "group_size"),
        ({"mode": "mxfp8_e4m3", "group_size": 128}, "group_size"),
        ({"mode": "fp8_e4m3", "awq": True}, "awq"),
        ({"mode": "mxfp8_e4m3", "gptq": True}, "gptq"),
        ({"mode": "codebook"}, "codebook"),
        ({"mode": "cb4", "codebook": (0.0, 1.0)}, "codebook"),
        ({"mode": "codebook", "codebook": (1.0,)}, "codebook"),
        ({"mode": "codebook", "codebook": tuple(map(float, range(257)))}, "codebook"),
        ({"mode": "codebook", "codebook": (0.0, 1.0, 1.0)}, "codebook"),
        ({"mode": "codebook", "codebook": (0.0, 1.0, 1.0001)}, "codebook"),
        ({"mode": "codebook", "codebook": (2.0, 1.0)}, "codebook"),
        ({"mode": "codebook", "codebook": (0.0, 1e6)}, "codebook"),
        ({"mode": "codebook", "codebook": (float("nan"), 1.0)}, "codebook"),
        ({"mode": "int4_sym", "group_size": 0}, "group_size"),
        ({"mode": "int4_sym", "group_size": -2}, "group_size"),
        ({"mode": "int4_sym", "ratio": 1.01}, "ratio"),
        ({"mode": "int4_sym", "ratio": -0.1}, "ratio"),
        ({"mode": "int4_sym", "ratio": float("nan")}, "ratio"),
        ({"mode": "int4_sym", "backup_mode": "int4"}, "backup_mode"),
        ({"mode": "int4_sym", "sensitivity_metric": "magic"}, "sensitivity_metric"),
        ({"mode": "int4_sym", "group_size_fallback": "shrug"}, "group_size_fallback"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_key(settings: dict[str, Any], key: str) -> None:
    """Each problem names its key, and planning raises it before anything else."""
    assert [problem.key for problem in Settings(**settings).problems()] == [key]
    with pytest.raises(PlanError, match=f"^{key}: "):
        plan(language_model(), **settings)


@pytest.mark.parametrize("algorithm", ["gptq", "scale_estimation"])
def test_algorithms_without_a_text_are_refused(algorithm: str) -> None:
    """Settings that use activations need a calibration text, and the message says so."""
    with pytest.raises(PlanError, match="calibration text"):
        plan(language_model(), mode="int4_sym", group_size=16, **{algorithm: True})


def test_default_metric_looks_at_data_where_there_is_some(statistics: Callable[[], Statistics]) -> None:
    """The error of the mode itself with a calibration text, the data-free metric without."""
    assert Engine(language_model()).resolve(Settings()).sensitivity_metric == "weight_quantization_error"
    engine = Engine(language_model(), statistics=statistics)
    assert engine.resolve(Settings()).sensitivity_metric == "output_error"
    assert engine.resolve(Settings(sensitivity_metric="x")).sensitivity_metric == "x"


def test_planning_without_need_collects_no_statistics() -> None:
    """If there is nothing to choose, no statistics are read."""

    def refuse() -> Statistics:
        pytest.fail("statistics were collected")

    engine = Engine(language_model(), statistics=refuse)
    for settings in (
        Settings(),
        Settings(mode="int4_sym", group_size=16),
        Settings(mode="nf4", group_size=16, ratio=0),
    ):
        engine.plan(settings)
    engine.plan(Settings(mode="nf4", group_size=16, ratio=0.5, sensitivity_metric="weight_quantization_error"))


def test_plan_comes_back_from_json(llama: ov.Model, statistics: Callable[[], Statistics]) -> None:
    """A plan written as JSON and read back is the same plan with the same key, and gives the same model."""
    engine = Engine(llama, statistics=statistics)
    found = engine.plan(Settings(mode="nf4", group_size=128, ratio=0.7, awq=True, scale_estimation=True))
    again = Plan.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == found
    assert again.key == found.key == found.as_dict()["key"]
    assert content(engine.apply(again)) == content(engine.apply(found))


SETTINGS = [
    Settings(),
    Settings(mode="int8_sym"),
    Settings(mode="int4_sym", group_size=16),
    Settings(mode="int4_sym", group_size=16, backup_mode="int8_sym"),
    Settings(mode="int4_sym", group_size=16, backup_mode="none"),
    Settings(mode="int4_sym", group_size=16, ratio=0.7),
    Settings(mode="int4_asym", group_size=16),
    Settings(mode="nf4", group_size=16),
    Settings(mode="nf4", group_size=16, all_layers=True),
    Settings(mode="mxfp4"),
    Settings(ignored_scope=("W1",)),
]


def test_keys_differ_exactly_where_models_differ() -> None:
    """Different settings that change the model change the key; settings that do not change it do not."""
    engine = Engine(language_model())
    plans = [engine.plan(settings) for settings in SETTINGS]
    assert len({found.key for found in plans}) == len(SETTINGS)
    assert len(
        {json.dumps(sorted((k, v[2].hex()) for k, v in content(engine.apply(p)).items())) for p in plans}
    ) == len(plans)
    same = [
        (Settings(mode="int4_sym", group_size=16), {"sensitivity_metric": "weight_quantization_error"}),
        (Settings(mode="int4_sym", group_size=16), {"group_size_fallback": "error"}),
        (Settings(mode="int4_sym", group_size=16, all_layers=True), {"backup_mode": "none"}),
        (Settings(mode="int4_sym", group_size=16, ratio=0.7), {"ratio": 0.75}),
        (Settings(mode="int4_sym", group_size=16, ratio=0), {"mode": "nf4"}),
        (Settings(ignored_scope=("W1",)), {"ignored_scope": ("M1", "W[1]")}),
        (Settings(), {"mode": "int4_sym", "ratio": 0.0}),
    ]
    for settings, change in same:
        assert engine.plan(replace(settings, **change)).key == engine.plan(settings).key
    scaled = replace(plans[0], awq={"x:0": "merged"})
    others = [plans[0], replace(scaled, awq={"x:0": "inserted"}), replace(scaled, awq_data_free=True)]
    assert len({plan.key for plan in (scaled, *others)}) == 4


def test_plan_is_pure() -> None:
    """Planning twice gives equal plans and computes no variant."""
    engine = Engine(language_model())
    settings = Settings(mode="int4_sym", group_size=16, ratio=0.5)
    assert engine.plan(settings) == engine.plan(settings)
    assert engine.counters == {"variants_computed": 0, "variants_reused": 0}


@pytest.mark.parametrize("algorithm", ["scale_estimation", "gptq"])
def test_weights_without_activations_are_rounded(statistics: Callable[[], Statistics], algorithm: str) -> None:
    """An embedding in four bits has no activation to look at; the plan says so instead of failing later."""
    engine = Engine(language_model(), statistics=statistics)
    found = engine.plan(Settings(mode="int4_sym", group_size=16, all_layers=True, **{algorithm: True}))
    assert not getattr(found.variants["E"], algorithm)
    assert getattr(found.variants["W0"], algorithm)
    assert [note for note in found.notes if note.startswith(f"E: no {algorithm}")]


def test_awq_without_a_place_is_noted() -> None:
    """If no scale can be merged, the plan equals the plan without AWQ, and has a note."""
    engine = Engine(
        chain([normal(32, 32), normal(8, 32, seed=1)])
    )  # nothing stands before the first, the last has 8 bits
    found = engine.plan(Settings(mode="int4_sym", group_size=16, awq=True))
    assert found.awq == {}
    assert any(note.startswith("awq:") for note in found.notes)
    assert found.key == engine.plan(Settings(mode="int4_sym", group_size=16)).key


def test_weights_of_a_convolution_always_get_backup() -> None:
    """Convolutions have no groups of input channels, with all_layers or without."""
    x = ops.parameter([1, 4, 8, 8], np.float32)
    y = ops.convolution(x, as_constant(normal(8, 4, 3, 3), "C"), [1, 1], [1, 1], [1, 1], [1, 1])
    y = ops.matmul(
        ops.reshape(y, np.array([1, 8, 64]), special_zero=False), as_constant(normal(4, 64), "W"), False, True
    )
    found = plan(result_model([y], [x]), mode="int4_sym", group_size=32, all_layers=True)
    assert modes(found) == {"C": "int8_asym", "W": "int4_sym"}
