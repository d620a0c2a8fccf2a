"""Candidates in a study: models of other tools and settings by value, on the same tables; export for a target."""

from __future__ import annotations

import filecmp
import json
import shutil
from pathlib import Path

import nncf
import openvino as ov
import pandas as pd
import pytest
from demo_study import rows, write_texts

import autotune
from autotune.errors import UsageError

RUNTIME = {
    "INFERENCE_PRECISION_HINT": ["f32"],
    "KV_CACHE_PRECISION": ["f32", "u4"],
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": [0],
}


def test_candidates_are_trials_with_the_scores_of_ordinary_models(tiny_llama: Path, tmp_path: Path) -> None:
    """NNCF's model scores as `evaluate` says, and its settings by value give our model of the same size.

    The study is resumed once, with a search of runtime properties.
    """
    write_texts(tmp_path)
    other = tmp_path / "by-nncf"
    shutil.copytree(tiny_llama, other)
    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    (other / "openvino_model.bin").unlink()
    mode = nncf.CompressWeightsMode.INT4_SYM
    ov.save_model(nncf.compress_weights(model, mode=mode, group_size=32), other / "openvino_model.xml", False)
    text = {"path": str(tmp_path / "search.txt"), "sequence_length": 96, "samples": 4}
    config = {
        "model": str(tiny_llama),
        "output": str(tmp_path / "study"),
        "target": "CPU",
        "space": {"mode": ["int8_asym", "int4_sym"], "group_size": [32], "awq": False},
        "candidates": [str(other), {"name": "by value", "config": {"bits": 4, "sym": True, "group_size": 32}}],
        "evaluators": {"perplexity": text},
        "study": {"workers": 0},
        "cache": {"directory": str(tmp_path / "cache")},
        "report": False,
        "runtime": {"deployed": True},
    }
    study = autotune.search(config, trials=3, progress=False)
    config["runtime"] = {"deployed": True, "search": RUNTIME}
    study = autotune.search(config, trials=4, progress=False)  # the candidates are not tried again
    trials = study.trials
    assert trials["origin"].tolist()[:2] == ["candidate: by-nncf", "candidate: by value"]
    assert trials["origin"].str.startswith("candidate").sum() == 2
    assert trials["state"].eq("COMPLETE").all()
    scores = autotune.evaluate(other, reference=tiny_llama, evaluators={"perplexity": text}, progress=False)
    assert trials["kl_divergence"][0] == pytest.approx(scores["kl_divergence"].value, rel=1e-6)
    footprints = [int(value) for value in trials["footprint"][:2]]
    assert footprints[0] == (other / "openvino_model.bin").stat().st_size
    assert abs(footprints[0] - footprints[1]) < 64
    assert trials["int4_percent"][0] == pytest.approx(trials["int4_percent"][1])
    assert trials["bits_per_weight"][0] == pytest.approx(trials["bits_per_weight"][1], rel=1e-3)
    assert trials["kl_divergence"][0] == pytest.approx(trials["kl_divergence"][1], rel=0.05)
    assert rows(tmp_path / "study")[0]["candidate"] == "by-nncf"
    assert "by-nncf" in (tmp_path / "study" / "report.md").read_text() or not trials["on_front"][0]

    front = study.front
    parts = [
        front["kl_divergence"],
        front["deployed_kl_divergence_activations"],
        front["deployed_kl_divergence_kv_cache"],
    ]
    assert front["deployed_kl_divergence"].notna().all()
    assert front["deployed_kl_divergence"].to_numpy() == pytest.approx(sum(parts).to_numpy(), rel=0.5)
    assert "KV_CACHE_PRECISION" in (tmp_path / "study" / "deployed.md").read_text()

    settings = pd.read_csv(tmp_path / "study" / "runtime.csv")
    assert sorted(settings["trial"]) == sorted([*front.index, *front.index])
    exact = settings[settings["KV_CACHE_PRECISION"] == "f32"].set_index("trial")
    assert exact["kl_divergence"].to_dict() == pytest.approx(front["kl_divergence"].to_dict(), rel=1e-3)
    four = settings[settings["KV_CACHE_PRECISION"] == "u4"].set_index("trial")
    assert (four["cache_bytes_per_token"] < exact["cache_bytes_per_token"] / 2).all()
    assert (settings["tokens_per_second"] > 0).all()
    assert settings.groupby("trial")["recommended"].sum().eq(1).all()
    ours = next(int(each) for each in front.index if trials["candidate"].isna()[each])
    saved = study.export(tmp_path / "four", trial=ours, runtime=1, progress=False)
    compiled = ov.Core().compile_model(saved.folder / "openvino_model.xml", "CPU", {})
    assert compiled.get_property("KV_CACHE_PRECISION") == ov.Type.u4
    assert saved.unstored == {"INFERENCE_PRECISION_HINT": "f32"}
    assert "ov_config={'INFERENCE_PRECISION_HINT': 'f32'}" in (saved.folder / "README.md").read_text()
    with pytest.raises(UsageError, match=f"trial {ours} has 2 of them"):
        study.export(tmp_path / "none", trial=ours, runtime=2, progress=False)

    study.export(tmp_path / "copy", trial=0)
    for name in ("openvino_model.bin", "openvino_model.xml"):
        assert filecmp.cmp(tmp_path / "copy" / name, other / name, shallow=False)
    record = json.loads((tmp_path / "copy" / "autotune.json").read_text())
    assert set(record["target"]["weights"]) == {"int4_sym, group size 32", "int8_asym"}
    assert record["target"]["compiled"]["CPU"]
    assert autotune.reproduce(tmp_path / "study", 0, progress=False).same
