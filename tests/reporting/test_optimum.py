"""optimum.md: entries that optimum-intel accepts, that mean the same model, and its own default configurations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from autotune.common.validation import Invalid
from autotune.compression.settings import Settings
from autotune.config.candidates import settings_of
from autotune.config.config import Config
from autotune.reporting.text.commands import optimum_command
from autotune.reporting.text.optimum import optimum_entry, optimum_markdown
from autotune.results.records import StudyResults
from autotune.study.sampling.optimum_default import hub_id, optimum_default, with_optimum_default
from autotune.study.sampling.proposals import Proposer
from autotune.study.storage.history import History

Make = Callable[..., StudyResults]


def test_an_entry_is_accepted_and_means_the_same_settings() -> None:
    """For every combination that optimum-intel can express; read back as a candidate it is the same."""
    from optimum.intel import OVWeightQuantizationConfig

    values = product(("int8_asym", "int8_sym", "int4_sym", "nf4"), (64, -1), (1.0, 0.7), (False, True), (False, True))
    checked = 0
    for mode, group_size, ratio, all_layers, awq in values:
        settings = Settings(mode)
        if not mode.startswith("int8"):
            metric = "hessian_input_activation" if ratio < 1 else None
            common = {"ratio": ratio, "sensitivity_metric": metric, "all_layers": all_layers, "awq": awq}
            settings = replace(settings, group_size=group_size, backup_mode="int8_sym", scale_estimation=awq, **common)
        if optimum_command("m", settings.as_dict()).call is None:
            continue
        entry = optimum_entry(settings.as_dict())
        OVWeightQuantizationConfig(**entry)
        assert settings_of(entry) == replace(settings, backup_mode=None if mode.startswith("int8") else "int8_sym")
        checked += 1
    assert checked == 64


def test_every_default_of_optimum_is_a_candidate() -> None:
    """Each 4-bit entry of its table is converted, or refused as one of two steps; an unknown id has none."""
    from optimum.intel.openvino.configuration import _DEFAULT_4BIT_WQ_CONFIGS

    converted = 0
    for name in _DEFAULT_4BIT_WQ_CONFIGS:
        found = optimum_default(name)
        assert found is not None
        if "quantization_config1" in found:
            with pytest.raises(Invalid, match="two steps"):
                settings_of(found)
            continue
        assert settings_of(found).mode.startswith(("int4", "int8")), name
        converted += 1
    assert converted > 60
    assert optimum_default("nobody/has-this-model") is None


def test_the_id_of_a_model(tmp_path: Path) -> None:
    """A hub id is one; a folder has that of its config.json."""
    assert hub_id("org/model") == "org/model"
    assert hub_id(str(tmp_path)) is None
    (tmp_path / "config.json").write_text('{"_name_or_path": "meta-llama/Llama-2-7b-hf"}')
    assert hub_id(str(tmp_path)) == "meta-llama/Llama-2-7b-hf"
    found = optimum_default("meta-llama/Llama-2-7b-hf")
    assert found is not None
    expected = Settings("int4_sym", group_size=128, ratio=0.6, sensitivity_metric="weight_quantization_error")
    assert settings_of(found) == expected


def test_optimums_default_is_the_first_trial(tmp_path: Path) -> None:
    """Before the usual first trials, and before the candidates that the user names; other ids have no such trial."""
    (tmp_path / "config.json").write_text('{"_name_or_path": "meta-llama/Llama-2-7b-hf"}')
    notes: list[str] = []
    default = optimum_default("meta-llama/Llama-2-7b-hf")
    assert default is not None
    for model, first in ((str(tmp_path), settings_of(default)), ("nobody/has-this-model", Settings("int8_sym"))):
        given = {"model": model, "candidates": [{"name": "mine", "config": {"mode": "int8_sym"}}]}
        config = with_optimum_default(Config.model_validate(given), notes.append)
        proposer = Proposer(
            config.space, directions=["minimize"], sampler="tpe", budget=5, seed=0, candidates=config.candidates
        )
        proposal = proposer.next(History([]))
        assert proposal is not None
        assert proposal.settings is not None
        assert replace(proposal.settings, candidate="") == first
        assert with_optimum_default(config, notes.append) == config
    assert not notes


def test_the_page_has_an_entry_of_the_front_and_scores_before_and_after(make: Make) -> None:
    """The entry is valid Python and belongs to the trial that is named; a study without a front has no page."""
    text = optimum_markdown(make(trials=24))
    assert text is not None
    entry = text.split("```python\n")[1].split("```")[0]
    table = eval(f"{{{entry}}}", {"OVQuantizationMethod": type("M", (), {"AWQ": "awq"})})
    ((name, config),) = table.items()
    assert "bits" in config, name
    assert "| original " in text
    assert "| after " in text
    assert optimum_markdown(make(trials=3, only_failing=True)) is None
