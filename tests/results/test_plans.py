"""Plans as maps, answers side by side."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.reporting.html.page import compare_words
from autotune.results.plans import bits_of, known_sensitivity, place_of, plan_frame, read_plan, weight_map


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("self.model.layers.3.mlp.down_proj._openvino_orig_weight", ("3", "mlp.down_proj")),
        ("__module.model.layers.11.self_attn.q_proj/ov_ext::linear/MatMul", ("11", "self_attn.q_proj")),
        ("self.transformer.h.0.attn.c_attn.weight", ("0", "attn.c_attn")),
        ("self.model.embed_tokens._openvino_orig_weight", (None, "embed_tokens")),
        ("self.lm_head._openvino_orig_weight", (None, "lm_head")),
        ("Constant_1234", (None, "Constant_1234")),
    ],
)
def test_names_tell_layer_and_kind(name: str, place: tuple[str | None, str]) -> None:
    """The exporters' names for the same thing lead to the same place."""
    assert place_of(name) == place


def test_layers_are_rows_and_kinds_columns() -> None:
    """Layers in the order of their numbers, a gap where a layer lacks a kind, the rest outside."""
    variants = {
        f"self.model.layers.{layer}.mlp.{kind}": {"mode": "int4_sym", "group_size": 32, "awq": True}
        for layer in (10, 2)
        for kind in ("up_proj", "gate")
        if (layer, kind) != (2, "gate")
    }
    variants["self.lm_head"] = {"mode": "int8_asym", "group_size": -1}
    drawn = weight_map({"variants": variants, "notes": []})
    assert drawn.kinds == ("up_proj", "gate")
    assert [layer for layer, _ in drawn.layers] == ["2", "10"]
    assert drawn.layers[0][1][1] is None
    cell = drawn.layers[1][1][0]
    assert cell is not None
    assert (cell.format, cell.bits, cell.applied) == ("int4_sym g32", 4, ("AWQ",))
    assert [cell.format for cell in drawn.outside] == ["int8_asym"]
    assert drawn.formats == (("int4_sym g32", 3), ("int8_asym", 1))
    assert drawn.metric is None


def test_weights_that_stay_are_shown_where_they_are_known() -> None:
    """The study's list of weights brings those that the plan leaves alone, and their place by sensitivity."""
    plan = {"variants": {"a.1.x": {"mode": "nf4", "group_size": 64}}}
    other = {**plan, "sensitivity": {"metric": "output_error", "values": {"a.0.x": 3.0, "a.1.x": 1.0, "a.2.x": None}}}
    assert known_sensitivity([plan]) == {}
    drawn = weight_map(plan, known_sensitivity([plan, other]))
    cells = [cell for _, row in drawn.layers[:2] for cell in row if cell is not None]
    assert [(cell.format, cell.bits, cell.rank) for cell in cells] == [("", None, 1.0), ("nf4 g64", 4, 0.0)]
    assert drawn.metric == "output_error"


def test_a_plan_is_a_table_of_weights() -> None:
    """One row a weight, in the plan's order; a weight without a variant has no mode."""
    variants = {
        "self.model.layers.3.mlp.up_proj": {"mode": "nf4", "group_size": 64, "awq": True, "lora_rank": 8},
        "self.lm_head": {"mode": "int8_asym", "group_size": -1},
    }
    frame = plan_frame({"variants": variants, "sensitivity": {"values": {"self.lm_head": 2.0, "x.1.y": None}}})
    assert frame["weight"].tolist() == [*variants, "x.1.y"]
    assert frame["layer"].fillna("").tolist() == ["3", "", "x.1"]
    assert frame["bits"].tolist()[:2] == [4, 8]
    assert frame["mode"].isna().tolist() == frame["bits"].isna().tolist() == [False, False, True]
    assert frame["awq"].tolist() == [True, False, False]
    assert frame["lora_rank"].tolist() == [8, 0, 0]
    assert frame["sensitivity"].notna().tolist() == [False, True, False]
    assert plan_frame({"variants": {}}).empty


def test_bits_come_from_the_modes_name() -> None:
    """Also of modes that this table has never heard of."""
    assert [bits_of(mode) for mode in ("int8_asym", "nf4", "mxfp8_e4m3", "odd")] == [8, 4, 8, 16]


def test_missing_or_broken_files_are_left_out(tmp_path: Path) -> None:
    """A plan that cannot be read is none."""
    assert read_plan(tmp_path, "x") is None
    (tmp_path / "plans").mkdir()
    (tmp_path / "plans" / "x.json").write_text('{"variants": [1]')
    assert read_plan(tmp_path, "x") is None


@given(st.text(" \nab<é", max_size=30), st.text(" \nab<é", max_size=30))
def test_parts_join_to_the_texts_again(original: str, answer: str) -> None:
    """Nothing is lost or invented, and what both say is the same on both sides."""
    left, right = compare_words(original, answer)
    assert "".join(text for _, text in left) == original
    assert "".join(text for _, text in right) == answer
    assert [text for kind, text in left if kind == "same"] == [text for kind, text in right if kind == "same"]


def test_weights_are_named_by_the_layers_of_the_model() -> None:
    """Parts of names that the export added are left out, alone and in a sentence."""
    from autotune.results.plans import readable

    name = "self.model.layers.0.mlp.down_proj._openvino_orig_weight"
    assert readable(name) == "layers.0.mlp.down_proj"
    assert readable(f"{name}: no gptq, since") == "layers.0.mlp.down_proj: no gptq, since"
    assert readable("a weight of its own") == "a weight of its own"
