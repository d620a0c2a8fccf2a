"""Search spaces: what they say, what they allow, what is refused."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import MODES, Settings
from autotune.config.space import presets as spaces
from autotune.config.space.parse import space_schema
from autotune.config.space.presets import load_space, presets
from autotune.config.space.space import DRAWN_PARAMETERS, Choices, Range, active_parameters
from autotune.errors import ConfigError

HERE = Path(__file__).parent
OURS = {"accuracy", "budget", "footprint", "full", "int4", "quick"}
PRESETS = sorted(preset.name for preset in presets())
FULL = {
    "mode": list(MODES),
    "codebook": [-1.0, -0.25, 0.0, 0.5, 1.0],
    "group_size": [32, -1],
    "ratio": [0.0, 0.5, 1.0],
    "sensitivity_metric": ["weight_quantization_error", "max_activation_variance"],
    "all_layers": [False, True],
    "backup_mode": ["int8_asym", "none"],
    "awq": [False, True],
    "scale_estimation": [False, True],
    "gptq": [False, True],
    "gptq_act_order": [True, False],
    "lora_correction": [False, True],
    "lora_rank": [4, 8],
    "distillation": [False, True],
}


@st.composite
def inline_spaces(draw: st.DrawFn) -> dict[str, Any]:
    """Spaces of random parameters with random choices; some are refused, as no mode can have them."""
    names = draw(st.sets(st.sampled_from(DRAWN_PARAMETERS[1:])))
    values: dict[str, Any] = {name: FULL[name] for name in DRAWN_PARAMETERS if name in names or name == "mode"}
    drawn = {
        name: draw(st.lists(st.sampled_from(allowed), min_size=1, max_size=3, unique=True))
        for name, allowed in values.items()
    }
    return {**drawn, "codebook": FULL["codebook"]} if "codebook" in drawn["mode"] else drawn


def test_every_preset_is_there_and_reads() -> None:
    """The presets that DESIGN names exist, describe themselves, and read back equal from their own data."""
    found = {preset.name: preset for preset in presets()}
    assert set(found) >= OURS
    for name in PRESETS:
        space = load_space(name, base_dir=HERE)
        assert space.name == name
        assert space.description == found[name].description
        assert found[name].origin == "search_spaces"
        again = load_space(json.loads(json.dumps(space.as_dict())), base_dir=HERE)
        assert again == space
        assert again.fingerprint() == space.fingerprint()


@pytest.mark.parametrize("name", PRESETS)
def test_no_point_of_a_preset_is_invalid(name: str) -> None:
    """Every point that a preset can draw is a valid setting (a continuous ratio stands in by its ends and middle)."""
    data = load_space(name, base_dir=HERE).as_dict()
    if isinstance(data.get("ratio"), dict):
        data["ratio"] = [data["ratio"]["low"], 0.9, data["ratio"]["high"]]
    space = load_space(data, base_dir=HERE)
    points = space.enumerate(100_000)
    assert points
    assert not [problem for point in points for problem in space.settings(point).problems()]


def test_quick_is_small_and_a_continuous_space_is_endless() -> None:
    """The quick preset can be tried exhaustively in one study; a continuous ratio cannot be enumerated."""
    assert 24 <= len(load_space("quick", base_dir=HERE).enumerate(64) or ()) <= 64
    assert load_space({"mode": "int4_asym", "ratio": {"low": 0.0, "high": 1.0}}, base_dir=HERE).enumerate(10**6) is None
    assert len(load_space("full", base_dir=HERE).enumerate(10**6) or ()) > 10_000


@given(inline_spaces())
def test_points_are_distinct_valid_and_complete(data: dict[str, Any]) -> None:
    """Points are pairwise different, hold active parameters in order only, make valid settings, and none is missing."""
    try:
        space = load_space(data, base_dir=HERE)
    except ConfigError as error:
        assert "fits no mode" in str(error)  # noqa: PT017 - a refused space has no points to look at
        return
    points = space.enumerate(10_000)
    assert points
    assert len({json.dumps(point) for point in points}) == len(points)
    for point in points:
        assert list(point) == [
            name for name in DRAWN_PARAMETERS if name in active_parameters(point["mode"], point) and name in data
        ]
        assert not list(space.settings(point).problems())
    assert space.enumerate(len(points)) == points
    assert space.enumerate(len(points) - 1) is None
    assert {point["mode"] for point in points} == set(data["mode"])


def test_what_means_nothing_is_not_active() -> None:
    """The rules: int8 has its mode alone, mxfp4 its own groups, fp8 no algorithms, a metric counts only in between."""
    assert active_parameters("int8_sym", {"ratio": 0.5}) == ("mode",)
    assert "group_size" not in active_parameters("mxfp4", {"ratio": 0.5})
    assert {"awq", "scale_estimation", "gptq"} <= set(active_parameters("mxfp4", {}))
    assert not {"awq", "scale_estimation", "gptq", "lora_correction"} & set(active_parameters("fp8_e4m3", {}))
    assert "sensitivity_metric" not in active_parameters("int4_sym", {})
    assert "sensitivity_metric" not in active_parameters("nf4", {"ratio": 1.0})
    without_gptq = tuple(name for name in DRAWN_PARAMETERS if name != "gptq_act_order")
    assert active_parameters("int4_asym", {"ratio": 0.5, "lora_correction": True}) == without_gptq
    with_gptq = tuple(name for name in DRAWN_PARAMETERS if not name.startswith("lora"))
    assert active_parameters("int4_asym", {"ratio": 0.5, "gptq": True}) == with_gptq
    assert active_parameters("int4_asym", {"ratio": 0.0}) == ("mode", "ratio", "backup_mode")
    assert all("backup_mode" in active_parameters(mode, {}) for mode in MODES if not mode.startswith("int8"))


def test_settings_take_the_point_the_fixed_and_the_defaults() -> None:
    """Settings come from the point's active parameters and the space's fixed ones; the rest keeps its default."""
    space = load_space(
        {"mode": ["int8_asym", "int4_sym"], "ratio": [0.8], "ignored_scope": ["a.*"], "group_size_fallback": "ignore"},
        base_dir=HERE,
    )
    assert space.settings({"mode": "int4_sym", "ratio": 0.8}) == Settings(
        mode="int4_sym", ratio=0.8, ignored_scope=("a.*",), group_size_fallback="ignore"
    )
    assert space.settings({"mode": "int8_asym", "ratio": 0.8}).ratio == 1.0
    assert space.enumerate(9) == [{"mode": "int8_asym"}, {"mode": "int4_sym", "ratio": 0.8}]
    assert load_space(space.as_dict(), base_dir=HERE) == space


def test_three_forms_of_a_parameter() -> None:
    """A list is choices, one value is one choice, low and high are a range, whose steps count both ends."""
    space = load_space(
        {"mode": "nf4", "ratio": {"low": 0.6, "high": 1, "step": 0.1}, "group_size": [32, 64]}, base_dir=HERE
    )
    assert space.parameters == {
        "mode": Choices(("nf4",)),
        "group_size": Choices((32, 64)),
        "ratio": Range(0.6, 1.0, 0.1),
    }
    assert space.parameters["ratio"].values == (0.6, 0.7, 0.8, 0.9, 1.0)
    assert Range(0.5, 0.5).values == (0.5,)
    assert Range(0.5, 1.0).values is None
    assert Range(32, 128, 32).values == (32, 64, 96, 128)


def test_a_fingerprint_is_of_what_may_be_tried() -> None:
    """Name and description do not change a fingerprint; a choice, and the order of choices, do."""
    first = load_space({"mode": ["nf4", "int4_sym"], "name": "a", "description": "x"}, base_dir=HERE)
    assert load_space({"mode": ["nf4", "int4_sym"]}, base_dir=HERE).fingerprint() == first.fingerprint()
    assert load_space({"mode": ["int4_sym", "nf4"]}, base_dir=HERE).fingerprint() != first.fingerprint()
    assert load_space({"mode": "nf4"}, base_dir=HERE).fingerprint() != first.fingerprint()


def test_adapters_come_only_without_gptq_and_their_rank_only_with_them() -> None:
    """Of gptq and lora_correction at most one is on, and lora_rank is drawn only where lora_correction is."""
    data = {"mode": "nf4", "gptq": [False, True], "lora_correction": [False, True], "lora_rank": [4, 8]}
    points = load_space(data, base_dir=HERE).enumerate(100)
    assert points is not None
    found = [(p["gptq"], p.get("lora_correction"), p.get("lora_rank")) for p in points]
    assert sorted(found, key=str) == sorted(
        [(False, False, None), (False, True, 4), (False, True, 8), (True, None, None)], key=str
    )


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        ({}, None, "has no mode"),
        ({"mode": []}, "mode", "no choices"),
        ({"mode": "int4"}, "mode", "did you mean 'int4_"),
        ({"mode": ["nf4", "nf4"]}, "mode[1]", "listed twice"),
        ({"mode": {"low": 1, "high": 2}}, "mode", "cannot be a range"),
        ({"mode": "nf4", "groupsize": 3}, "groupsize", "did you mean 'group_size'"),
        ({"mode": "nf4", "group_size": 0}, "group_size", "positive number or -1"),
        ({"mode": "nf4", "group_size": [64, -3]}, "group_size[1]", "got -3"),
        ({"mode": "nf4", "group_size": 64.0}, "group_size", "whole number"),
        ({"mode": "nf4", "group_size": {"low": 32, "high": 64}}, "group_size", "needs a step"),
        ({"mode": "nf4", "ratio": -0.5}, "ratio", "between 0 and 1, got -0.5"),
        ({"mode": "nf4", "ratio": [0.5, 1.5]}, "ratio[1]", "between 0 and 1, got 1.5"),
        ({"mode": "nf4", "ratio": float("nan")}, "ratio", "between 0 and 1"),
        ({"mode": "nf4", "ratio": "0.5"}, "ratio", "must be a number"),
        ({"mode": "nf4", "ratio": True}, "ratio", "must be a number"),
        ({"mode": "nf4", "ratio": {"low": 0.5}}, "ratio", "without high"),
        ({"mode": "nf4", "ratio": {"low": 0.5, "high": 1, "steps": 0.1}}, "ratio.steps", "did you mean 'step'"),
        ({"mode": "nf4", "ratio": {"low": 0.9, "high": 0.5}}, "ratio.low", "above high"),
        ({"mode": "nf4", "ratio": {"low": 0.6, "high": 0.95, "step": 0.1}}, "ratio.step", "reach 0.9, not 0.95"),
        ({"mode": "nf4", "ratio": {"low": 0.0, "high": 1.0, "step": 0}}, "ratio.step", "above 0"),
        ({"mode": "nf4", "ratio": {"low": 0.0, "high": 1.0, "step": 1e-6}}, "ratio.step", "larger step"),
        ({"mode": "nf4", "backup_mode": None}, "backup_mode", "none, int8_asym"),
        ({"mode": "nf4", "awq": "on"}, "awq", "write true"),
        ({"mode": "nf4", "awq": 1}, "awq", "true or false"),
        ({"mode": "nf4", "ignored_scope": [3]}, "ignored_scope[0]", "pattern"),
        ({"mode": "nf4", "group_size_fallback": ["adjust"]}, "group_size_fallback", "one value"),
        ({"mode": "nf4", "lora_correction": "on"}, "lora_correction", "write true"),
        ({"mode": "nf4", "lora_correction": True, "lora_rank": 0}, "lora_rank", "at least 1"),
        ({"mode": "int8_asym", "ratio": 0.8}, "ratio", "every weight to 8 bits"),
        ({"mode": ["int8_asym", "fp8_e4m3"], "awq": True}, "awq", "not supported for the 8-bit mode"),
        ({"mode": "mxfp4", "group_size": 64}, "group_size", "group size 32"),
        ({"mode": "codebook"}, "mode", "needs a table"),
        ({"mode": "nf4", "codebook": [0, 1]}, "codebook", "which this space does not have"),
        ({"mode": "codebook", "codebook": "nowhere.txt"}, "codebook", "no such file"),
        ({"mode": "codebook", "codebook": [0, "x"]}, "codebook", "list of numbers"),
        ({"mode": "codebook", "codebook": [1, 0]}, "codebook", "rising order"),
        ({"mode": "nf4", "name": 3}, "name", "must be a text"),
    ],
)
def test_a_wrong_space_is_refused_with_its_key(data: dict[str, Any], key: str | None, message: str) -> None:
    """A wrong space is refused, and the message has the key, the reason and the allowed values."""
    with pytest.raises(ConfigError, match=r"^") as caught:
        load_space(data, base_dir=HERE)
    assert caught.value.key == key
    assert message in str(caught.value)


def test_a_codebook_is_a_list_or_a_file_beside_the_space(tmp_path: Path) -> None:
    """The table goes into the settings of mode codebook only, and the space as written holds the numbers themselves."""
    (tmp_path / "table.txt").write_text("-1 0 0.5")
    (tmp_path / "mine.yaml").write_text("mode: [codebook, nf4]\ncodebook: table.txt\n")
    space = load_space("mine.yaml", base_dir=tmp_path)
    assert space == load_space({"mode": ["codebook", "nf4"], "codebook": [-1, 0, 0.5], "name": "mine"}, base_dir=HERE)
    assert space.as_dict()["codebook"] == [-1.0, 0.0, 0.5]
    assert load_space(space.as_dict(), base_dir=HERE) == space
    assert space.enumerate(9) == [{"mode": "codebook"}, {"mode": "nf4"}]
    assert space.settings({"mode": "codebook"}).codebook == (-1.0, 0.0, 0.5)
    assert space.settings({"mode": "nf4"}).codebook == ()


def test_default_spaces_have_only_formats_that_the_cpu_computes_with() -> None:
    """Formats that save only disk space are not in a default space."""
    for name in PRESETS:
        for mode in load_space(name, base_dir=HERE).parameters["mode"].values or ():
            assert "matmul" in FORMATS[mode].runtime_compressed


def test_a_parameter_may_be_idle_in_some_modes() -> None:
    """Combinations that would be invalid are fine where another mode gives the parameter a meaning."""
    space = load_space({"mode": ["int8_asym", "mxfp4", "int4_sym"], "group_size": 64, "awq": True}, base_dir=HERE)
    assert space.enumerate(9) == [
        {"mode": "int8_asym"},
        {"mode": "mxfp4", "awq": True},
        {"mode": "int4_sym", "group_size": 64, "awq": True},
    ]


def test_a_space_in_a_file_is_refused_with_its_own_line(tmp_path: Path) -> None:
    """An error in a space's file names that file and line; a missing file and a wrong preset say so."""
    (tmp_path / "mine.yaml").write_text("# a space\nmode: nf4\n\nratio: 1.5\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml:4: ratio: must be between 0 and 1, got 1\.5"):
        load_space("mine.yaml", base_dir=tmp_path)
    with pytest.raises(ConfigError, match="no such file"):
        load_space("./yours.yaml", base_dir=tmp_path)
    with pytest.raises(ConfigError, match=r"unknown preset 'int5' \(did you mean 'int4'\?\); the presets are accuracy"):
        load_space("int5", base_dir=tmp_path)
    (tmp_path / "mine.yaml").write_text("mode: nf4\n")
    assert load_space("mine.yaml", base_dir=tmp_path).name == "mine"


def test_presets_of_another_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package named by an entry point adds presets, a broken one costs only its own, and no name comes from two."""
    package = tmp_path / "autotune_test_presets"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "theirs.yaml").write_text("description: another one\nmode: nf4\n")
    (package / "int4.yaml").write_text("mode: nf4\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("broken", "autotune_no_such_package", spaces.ENTRY_POINTS),
        EntryPoint("theirs", "autotune_test_presets", spaces.ENTRY_POINTS),
    ]
    monkeypatch.setattr(spaces, "entry_points", lambda group: [point for point in points if point.group == group])
    assert ("theirs", "another one", "autotune_test_presets") in presets()
    assert load_space("theirs", base_dir=HERE).parameters == {"mode": Choices(("nf4",))}
    assert load_space("quick", base_dir=HERE).name == "quick"
    with pytest.raises(ConfigError, match="both autotune_test_presets and search_spaces"):
        load_space("int4", base_dir=HERE)


def test_the_schema_knows_every_parameter() -> None:
    """The JSON Schema of a space names the parameters of every preset."""
    properties = space_schema()["properties"]
    for name in PRESETS:
        assert set(load_space(name, base_dir=HERE).as_dict()) <= set(properties)


def test_uniform_settings_of_a_space_with_budgets() -> None:
    """Every mode and group size, the strongest algorithms, and 8 bits if no mode has them."""
    space = {
        "mode": ["int4_asym", "mxfp4"],
        "group_size": [32, 64],
        "allocation": "budget",
        "gptq": [False, True],
        "scale_estimation": [False, True],
        "awq": [False, True],
        "all_layers": [False, True],
        "ignored_scope": ["lm_head"],
    }
    found = load_space(space, base_dir=HERE).uniform_settings()
    assert [(s.mode, s.group_size) for s in found] == [
        ("int4_asym", 32),
        ("int4_asym", 64),
        ("mxfp4", None),
        ("int8_asym", None),
    ]
    assert all(s.gptq and s.scale_estimation and s.all_layers and not s.awq for s in found[:3])
    assert all(s.ignored_scope == ("lm_head",) and s.ratio == 1 for s in found)


@pytest.mark.parametrize(
    ("space", "needed"),
    [
        ({"mode": "int4_asym", "ratio": {"low": 0.0, "high": 1.0}}, True),
        ({"mode": "int4_asym", "ratio": [0.0, 1.0]}, False),
        ({"mode": "int4_asym", "ratio": [0.5, 1.0], "sensitivity_metric": "weight_quantization_error"}, False),
        ({"mode": "int4_asym", "ratio": 0.0, "gptq": True}, False),
        ({"mode": ["int8_asym", "int4_asym"], "awq": [False, True], "awq_data_free": True}, False),
        ({"mode": ["int8_asym", "int4_asym"], "awq": [False, True]}, True),
        ({"mode": "int4_asym", "allocation": "budget"}, True),
    ],
)
def test_a_space_needs_calibration_if_one_of_its_points_does(space: dict[str, Any], needed: bool) -> None:
    """A ratio between 0 and 1 counts, also inside a continuous range."""
    assert load_space(space, base_dir=HERE).needs_calibration is needed
