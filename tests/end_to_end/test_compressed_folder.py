"""A compressed folder is a complete model for the tools that users load it with."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Command
from once import built_once

from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import ALGORITHMS, MODES, Settings

PROMPT = "Mira keeps eleven hens"


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory, tiny_llama_hf: Path, run: Command) -> Path:
    """The tiny Llama in int4 with AWQ and scale estimation, by the command line."""

    def compress(folder: Path) -> None:
        done = run(
            *("compress", str(tiny_llama_hf), str(folder / "model"), "--mode", "int4_asym", "--group-size", "32"),
            *("--awq", "--scale-estimation", "--calibration", "calibration.txt", "--samples", "8"),
            *("--sequence-length", "32", "--json"),
        )
        assert done.returncode == 0, done.stderr
        output = json.loads(done.stdout)
        assert output["footprint"] == (folder / "model" / "openvino_model.bin").stat().st_size

    return built_once(tmp_path_factory, "compressed", compress) / "model"


def test_the_folder_holds_everything(compressed: Path) -> None:
    """Model, configuration, tokenizer, its IR and the record of what was done."""
    names = {path.name for path in compressed.iterdir()}
    assert {
        *("openvino_model.xml", "openvino_model.bin", "config.json", "generation_config.json", "tokenizer.json"),
        *("openvino_tokenizer.xml", "openvino_detokenizer.xml", "openvino_config.json", "autotune.json"),
    } <= names
    record = json.loads((compressed / "autotune.json").read_text(encoding="utf-8"))
    assert record["settings"]["mode"] == "int4_asym"
    assert record["plan"]["awq"]


def test_optimum_and_genai_give_the_same_greedy_answer(compressed: Path) -> None:
    """Both load the folder as it is, and agree with our own runtime on a greedy answer."""
    openvino_genai = pytest.importorskip("openvino_genai")
    from transformers import AutoTokenizer

    from autotune.models.runtime.language_model import OpenVINOLanguageModel

    tokenizer = AutoTokenizer.from_pretrained(compressed)
    prompt = tokenizer(PROMPT)["input_ids"]
    with OpenVINOLanguageModel(compressed, tokenizer) as ours:
        expected = ours.greedy(prompt, 10)

    properties = {
        "INFERENCE_PRECISION_HINT": "f32",
        "KV_CACHE_PRECISION": "f32",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimum's and torch's own
        from optimum.intel import OVModelForCausalLM

        model = OVModelForCausalLM.from_pretrained(compressed, ov_config=properties)
        answer = model.generate(**tokenizer(PROMPT, return_tensors="pt"), max_new_tokens=10, do_sample=False)
    assert [token for token in answer[0, len(prompt) :].tolist() if token != 0] == expected

    pipe = openvino_genai.LLMPipeline(str(compressed), "CPU", **properties)
    config = openvino_genai.GenerationConfig(max_new_tokens=10, do_sample=False, apply_chat_template=False)
    assert pipe.generate(PROMPT, config) == tokenizer.decode(expected, skip_special_tokens=True)


@pytest.mark.parametrize("mode", MODES)
def test_optimum_reads_the_configuration_of_every_mode(tmp_path: Path, mode: str) -> None:
    """`openvino_config.json` never says what optimum-intel refuses, whatever was applied."""
    from optimum.intel.openvino.configuration import OVConfig

    from autotune.models.save import openvino_config

    choices: list[dict[str, Any]] = [{"mode": mode}]
    if "int8" not in mode:
        choices += [{"mode": mode, "ratio": 0.8, "all_layers": True}, {"mode": mode, "backup_mode": "fp8_e4m3"}]
    if FORMATS[mode].takes_algorithms:
        choices += [{"mode": mode, name: True} for name in ALGORITHMS]
    for choice in choices:
        written = openvino_config({"settings": Settings(**choice).as_dict()})
        (tmp_path / "openvino_config.json").write_text(json.dumps(written))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read = OVConfig.from_pretrained(tmp_path)
        assert read.dtype == written["dtype"]


def test_a_folder_with_a_users_codebook_loads(tmp_path: Path, tiny_llama_hf: Path, run: Command) -> None:
    """From the command line to an answer, with a table in a file."""
    (tmp_path / "table.json").write_text("[-1, -0.6, -0.3, -0.1, 0, 0.1, 0.3, 0.6, 1]")
    done = run(
        *("compress", str(tiny_llama_hf), str(tmp_path / "model"), "--mode", "codebook", "--group-size", "32"),
        *("--codebook", str(tmp_path / "table.json"), "--json"),
    )
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["footprint"] == (tmp_path / "model" / "openvino_model.bin").stat().st_size
    assert output["expanded_percent"] > 50
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optimum's and torch's own
        from optimum.intel import OVModelForCausalLM
        from transformers import AutoTokenizer

        model = OVModelForCausalLM.from_pretrained(tmp_path / "model")
        inputs = AutoTokenizer.from_pretrained(tmp_path / "model")(PROMPT, return_tensors="pt")
        assert model.generate(**inputs, max_new_tokens=4, do_sample=False).shape[1] > len(inputs["input_ids"][0])


def test_the_plugin_keeps_the_weights_compressed(compressed: Path) -> None:
    """In the CPU plugin's execution graph the fully connected layers read u4 and u8 constants."""
    import openvino as ov

    compiled = ov.Core().compile_model(compressed / "openvino_model.xml", "CPU")
    found = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        if node.get_rt_info()["layerType"].astype(str) == "FullyConnected":
            found.append(node.input_value(1).get_element_type().get_type_name())
    assert set(found) == {"u4", "u8"}
    assert np.mean([kind == "u4" for kind in found]) > 0.8


def test_the_most_accurate_model_of_a_size_is_found_by_one_command(
    tmp_path: Path, tiny_llama_hf: Path, run: Command
) -> None:
    """It keeps the size, and prints its measurement and the uniform settings that it improves on."""
    out = tmp_path / "model"
    text = ("--text", "search.txt", "--calibration", "calibration.txt", "--samples", "8", "--sequence-length", "32")
    done = run("compress", str(tiny_llama_hf), str(out), "--max-size", "80 kB", *text, "--json")
    assert done.returncode == 0, done.stderr
    output = json.loads(done.stdout)
    assert output["footprint"] == (out / "openvino_model.bin").stat().st_size <= 80_000
    found = json.loads((out / "autotune.json").read_text(encoding="utf-8"))["allocation"]
    assert found["footprint"] == output["footprint"]
    assert all(found["kl_divergence"]["value"] <= one["kl_divergence"]["value"] for one in found["uniform"])
    assert any(note.startswith("KL divergence") for note in output["notes"])

    refused = run("compress", str(tiny_llama_hf), str(tmp_path / "other"), "--max-size", "1 kB", *text)
    assert refused.returncode == 2
    assert "more than 1,000" in refused.stderr
    assert not (tmp_path / "other").exists()
