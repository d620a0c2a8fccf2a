"""Candidates: forms of an entry, and settings of NNCF and optimum-intel by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from autotune.common.validation import Invalid
from autotune.compression.settings import Settings
from autotune.config.candidates import read_candidates, settings_of

INT4 = Settings("int4_asym", group_size=64)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"bits": 4, "sym": False, "group_size": 64}, INT4),
        ({"mode": "INT4_ASYM", "group_size": 64}, INT4),
        ({"bits": 8, "sym": True, "ratio": 1.0, "group_size": -1}, Settings("int8_sym")),
        ({"bits": 4, "dtype": "nf4", "group_size": -1}, Settings("nf4", group_size=-1)),
        ({"weight_format": "int4", "sym": True, "group_size": 128}, Settings("int4_sym", group_size=128)),
        (
            {"bits": 4, "sym": True, "quant_method": "awq", "group_size": 64, "backup_precision": "int8_sym"},
            Settings("int4_sym", group_size=64, awq=True, awq_data_free=True, backup_mode="int8_sym"),
        ),
        (
            {"bits": 4, "quant_method": "AWQ", "dataset": "wikitext2", "scale_estimation": True, "ratio": 0.8},
            Settings(
                "int4_asym", awq=True, scale_estimation=True, ratio=0.8, sensitivity_metric="max_activation_variance"
            ),
        ),
        (
            {"bits": 4, "ratio": 0.8, "ignored_scope": {"names": ["a"], "patterns": ["b.*"]}, "gptq": None},
            Settings(
                "int4_asym",
                ratio=0.8,
                sensitivity_metric="weight_quantization_error",
                ignored_scope=("a", "b.*"),
            ),
        ),
        (
            {"mode": "int4_sym", "ratio": 0.5, "sensitivity_metric": "HESSIAN_INPUT_ACTIVATION", "all_layers": True},
            Settings("int4_sym", ratio=0.5, sensitivity_metric="hessian_input_activation", all_layers=True),
        ),
        ({"quantization_configs": {"lm_model": {"bits": 4, "group_size": 64}, "vision": {"bits": 8}}}, INT4),
    ],
)
def test_settings_of_other_tools_are_converted(config: dict[str, Any], expected: Settings) -> None:
    """The same model: names, defaults that depend on a data set, and what has no effect."""
    assert settings_of(config) == expected


@pytest.mark.parametrize(
    ("entry", "path", "message"),
    [
        (3, (), "must be a folder, a hub id, or a mapping"),
        ({"name": "x"}, (), "needs either model"),
        ({"model": "./missing"}, ("model",), "missing"),
        ({"model": "a/b", "config": {}}, (), "needs either model"),
        ({"models": "a/b"}, ("models",), "did you mean 'model'"),
        ({"config": {"bits": 2}}, ("config", "bits"), "int2_asym, which does not exist"),
        ({"config": {"bits": 4, "ratio": 2}}, ("config", "ratio"), "must be between 0 and 1"),
        ({"config": {"mode": "int4_sym", "group_sise": 64}}, ("config", "group_sise"), "did you mean 'group_size'"),
        ({"config": {"bits": 4, "quant_method": "hybrid"}}, ("config", "quant_method"), "default or awq"),
        (
            {"config": {"bits": 4, "ignored_scope": {"types": ["MatMul"]}}},
            ("config", "ignored_scope", "types"),
            "names",
        ),
    ],
)
def test_a_wrong_candidate_is_refused_with_its_key(entry: Any, path: tuple[Any, ...], message: str) -> None:
    """The path leads to the entry and the key in it."""
    with pytest.raises(Invalid) as caught:
        read_candidates(["a/b", entry], Path())
    assert [finding.path for finding in caught.value.findings] == [(1, *path)]
    assert message in caught.value.findings[0].message


def test_names_and_folders(tmp_path: Path) -> None:
    """A folder is relative to the file; names come from the model or the settings, and are unique."""
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "openvino_model.xml").touch()
    found = read_candidates(["small", "org/model", {"config": {"bits": 4}}, {"name": "x", "model": "small"}], tmp_path)
    assert [each.name for each in found] == ["small", "org/model", "int4_asym", "x"]
    assert [each.model for each in found] == [str(tmp_path / "small"), "org/model", "", str(tmp_path / "small")]
    assert read_candidates([each.as_data() for each in found], Path("/")) == found
    with pytest.raises(Invalid, match="second candidate"):
        read_candidates(["org/model", {"name": "org/model", "config": {"bits": 4}}], tmp_path)
