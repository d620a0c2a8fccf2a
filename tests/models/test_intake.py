"""Intake: positions, the report, NaN in the original, stale exports, and output folders that are whole or not there."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from openvino import opset15 as ops

from autotune import api
from autotune.common.cache import Cache
from autotune.errors import CompressionError, ConfigError, PrerequisiteError
from autotune.models import save, source
from autotune.models.checkpoint import read_header
from autotune.models.finite import check_model, check_stored
from autotune.models.intake import intake_of, positions_of, read_intake
from autotune.models.source import SourceModel, resolve_model

TEXT = "Mira counts the hens. " * 400


@pytest.mark.parametrize(
    ("config", "positions"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"n_positions": 1024, "n_ctx": 1024}, 1024),
        ({"max_position_embeddings": 4096, "sliding_window": 512}, 4096),
        ({"max_position_embeddings": 2048, "rope_scaling": {"type": "linear", "factor": 4.0}}, 8192),
        (
            {
                "max_position_embeddings": 32768,
                "rope_parameters": {
                    "rope_type": "yarn",
                    "factor": 4.0,
                    "original_max_position_embeddings": 32768,
                },
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 131072,
                "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 8192},
            },
            131072,
        ),
        (
            {
                "max_position_embeddings": 1000,
                "rope_parameters": {"full_attention": {"factor": 2.0}, "sliding_attention": {"rope_type": "default"}},
            },
            2000,
        ),
        ({"text_config": {"max_position_embeddings": 512}}, 512),
        ({"model_type": "bloom", "seq_length": 2048}, None),
        ({"model_type": "falcon", "alibi": True, "max_position_embeddings": 2048}, None),
        ({"max_seq_len": 2048, "attn_config": {"alibi": True}}, None),
        ({}, None),
    ],
)
def test_positions_are_the_longest_sequence(config: dict[str, Any], positions: int | None) -> None:
    """RoPE scaling lengthens it; sliding windows do not shorten it; ALiBi has no limit."""
    assert positions_of(config) == positions


def test_positions_that_config_json_leaves_out_are_those_of_the_class(tiny_llama: Path, tmp_path: Path) -> None:
    """`save_pretrained` leaves out defaults: Llama's is 2048."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    del config["max_position_embeddings"]
    (folder / "config.json").write_text(json.dumps(config))
    assert SourceModel("m", tiny_llama).positions == 512
    assert SourceModel("m", folder).positions == 2048


def test_the_report_comes_from_headers_and_configurations(tiny_llama_hf: Path) -> None:
    """Parameters are counted in the headers; the exporter is looked up only on request."""
    intake = read_intake(str(tiny_llama_hf), exporter=True)
    assert intake is not None
    shapes = [tensor.shape for tensor in read_header(tiny_llama_hf / "model.safetensors").values()]
    assert intake.parameters == sum(int(np.prod(shape)) for shape in shapes)
    expected = {
        "architecture": "llama",
        "dtype": "float32",
        "quantization": None,
        "tied": False,
        "vocabulary": 320,
        "positions": 512,
        "chat": False,
        "exporter": "LlamaOpenVINOConfig",
    }
    assert expected.items() <= intake.as_dict().items()
    assert intake.transformers is not None
    assert intake.transformers.startswith(">=")
    text = "\n".join(intake.lines())
    for message in ("llama, 0.1 M parameters", "stored as float32", "512 positions, 320 tokens", "no chat template"):
        assert message in text
    plain = read_intake(str(tiny_llama_hf))
    assert plain is not None
    assert plain.exporter is None


def test_a_quantized_model_has_no_made_up_size() -> None:
    """Bytes divided by the declared type would be a fraction of its parameters."""
    config = {"model_type": "llama", "torch_dtype": "float16", "quantization_config": {"quant_method": "awq"}}
    intake = intake_of("m", config, stored=1000)
    assert (intake.quantization, intake.parameters) == ("awq", None)
    assert "quantized by awq" in intake.lines()[0]


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_not_finite_is_found_in_the_checkpoint(kind: str, value: float, tmp_path: Path) -> None:
    """In any tensor, in any storage type; the tensor is named with the count."""
    import torch
    from safetensors.torch import save_file

    tensors = {"a": torch.ones(3, 5), "norm.weight": torch.ones(7), "ids": torch.arange(4)}
    tensors = {name: t.to(getattr(torch, kind)) if name != "ids" else t for name, t in tensors.items()}
    save_file(tensors, tmp_path / "whole.safetensors")
    check_stored(read_header(tmp_path / "whole.safetensors"), "m")
    tensors["norm.weight"][4] = value
    save_file(tensors, tmp_path / "bad.safetensors")
    with pytest.raises(ConfigError, match=r"m: the model has NaN .* in one tensor: norm\.weight \(1 of 7 values\)"):
        check_stored(read_header(tmp_path / "bad.safetensors"), "m")


def _model(values: Any, kind: str) -> ov.Model:
    given = ops.parameter([-1, 4], ov.Type.f32)
    node = ops.constant(values, dtype=getattr(ov.Type, kind))
    node.set_friendly_name("gain")
    mask = ops.constant(np.array([[0.0, -np.inf, 0.0, 0.0]], np.float32))
    fill = ops.constant(np.float32(-np.inf))
    chosen = ops.select(ops.greater(given, ops.constant(np.float32(0))), given, fill)
    return ov.Model([ops.add(ops.multiply(chosen, ops.convert(node, ov.Type.f32)), mask)], [given])


@pytest.mark.parametrize("kind", ["f32", "f16", "bf16"])
def test_a_value_that_is_not_finite_is_found_in_a_graph(kind: str) -> None:
    """Attention masks and their fill values are infinite on purpose; a weight is not."""
    check_model(_model(np.ones(4, np.float32), kind), "m")
    for value in (np.nan, np.inf, -np.inf):
        values = np.ones(4, np.float32)
        values[2] = value
        with pytest.raises(ConfigError, match=r"m: the model has NaN or infinite values in one tensor: gain \(1 of 4"):
            check_model(_model(values, kind), "m")


def test_an_openvino_folder_with_nan_is_refused_once_checked(tiny_llama: Path, tmp_path: Path) -> None:
    """The result of a whole model is kept in the cache by its fingerprint."""
    cache = Cache.resolve(tmp_path / "cache")
    resolve_model(str(tiny_llama), cache=cache)
    assert len(list(cache.models.glob("*.finite"))) == 1
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    content = bytearray((folder / "openvino_model.bin").read_bytes())
    content[4000:4004] = np.float32(np.nan).tobytes()
    (folder / "openvino_model.bin").write_bytes(content)
    with pytest.raises(ConfigError, match=r"NaN or infinite values in one tensor: \S+ \(1 of"):
        resolve_model(str(folder), cache=cache)
    with pytest.raises(ConfigError, match="the model in memory: the model has NaN"):
        SourceModel.from_model(ov.Core().read_model(folder / "openvino_model.xml"))


def test_an_export_is_of_one_code_configuration_and_version(
    tiny_llama_hf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed modeling file, configuration, package or trust gives another folder; the same gives the same."""
    folder = shutil.copytree(tiny_llama_hf, tmp_path / "model")
    (folder / "modeling_mine.py").write_text("FIRST = 1\n")
    exported: list[str] = []

    def export(model: str, revision: str | None, out: Path, trust: bool, task: str | None) -> None:
        exported.append(out.name)
        (out / source._EXPORT_RECORD).write_text("done")

    monkeypatch.setattr(source, "_export", export)
    monkeypatch.setattr(source, "_is_as_exported", lambda model: True)

    def key(trust: bool = False) -> str:
        path = resolve_model(str(folder), cache=Cache.resolve(tmp_path / "cache"), trust_remote_code=trust).path
        assert path is not None
        return path.name

    keys = [key(), key(trust=True)]
    assert key() == keys[0]
    (folder / "modeling_mine.py").write_text("SECOND = 2\n")
    keys.append(key())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 0.5}))
    keys.append(key())
    monkeypatch.setattr(source, "version", lambda package: "9.9.9")
    keys.append(key())
    assert len(set(keys)) == len(keys) == len(exported)


def test_windows_longer_than_the_positions_are_refused(tiny_llama: Path, tiny_llama_hf: Path, tmp_path: Path) -> None:
    """In every command, before any work, with both numbers and the key."""
    cache = tmp_path / "cache"
    message = (
        r"calibration\.sequence_length: sequences of 600 tokens are longer than the 512 positions of .* 512 or less"
    )
    with pytest.raises(ConfigError, match=message):
        api.compress(
            tiny_llama, mode="int4_sym", awq=True, calibration=[TEXT], sequence_length=600, cache=cache, progress=False
        )
    perplexity = {"perplexity": {"texts": [TEXT], "sequence_length": 1024}}
    with pytest.raises(ConfigError, match=r"evaluators\.perplexity\.sequence_length: sequences of 1024 tokens"):
        api.evaluate(tiny_llama, reference=tiny_llama, evaluators=perplexity, cache=cache, progress=False)
    config = {
        "model": str(tiny_llama),
        "output": str(tmp_path / "out"),
        "cache": {"directory": str(cache)},
        "calibration": {"texts": [TEXT], "samples": 2, "sequence_length": 64},
        "space": {"mode": "int8_asym"},
        "evaluators": perplexity,
        "study": {"workers": 0, "trials": 1},
    }
    for run in (api.plan, api.search):
        with pytest.raises(ConfigError, match=r"evaluators\.perplexity\.sequence_length: sequences of 1024 tokens"):
            run(config, progress=False)
    exported = {**config, "model": str(tiny_llama_hf), "cache": {"directory": str(tmp_path / "other")}}
    with pytest.raises(ConfigError, match="sequences of 1024 tokens"):
        api.plan(exported, progress=False)
    assert not (tmp_path / "other" / "models").exists()
    fitting = {**config, "evaluators": {"perplexity": {"texts": [TEXT], "sequence_length": 64, "samples": 2}}}
    planned = api.plan(fitting, forecast=False, progress=False)
    assert planned.intake is not None
    assert planned.intake.architecture == "llama"
    assert planned.as_dict()["intake"]["positions"] == 512


def test_a_folder_is_whole_or_not_there(tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure on the way leaves nothing; an empty folder that existed stays, and is filled in the end."""
    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    original = SourceModel("m", tiny_llama)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(save, "_save_companions", fail)
        with pytest.raises(CompressionError, match="disk full"):
            save.save_model(model, original, tmp_path / "out" / "new", record={})
    assert list((tmp_path / "out").iterdir()) == []
    save.save_model(model, original, tmp_path / "out", record={})
    assert (tmp_path / "out" / "autotune.json").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_all_files_of_the_original_are_carried_along(tiny_llama: Path, tmp_path: Path) -> None:
    """Templates, preprocessors, generation settings and code are in the compressed folder."""
    folder = shutil.copytree(tiny_llama, tmp_path / "model")
    names = ("generation_config.json", "chat_template.jinja", "preprocessor_config.json", "modeling_mine.py")
    names = (*names, "words.tiktoken", "additional_chat_templates/tools.jinja", "vocab.txt", "LICENSE", "NOTICE.txt")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    save.save_model(
        ov.Core().read_model(folder / "openvino_model.xml"), SourceModel("m", folder), tmp_path / "out", record={}
    )
    assert [name for name in names if not (tmp_path / "out" / name).is_file()] == []


def test_an_export_of_another_function_is_refused(
    tiny_llama_hf: Path, tiny_llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here, one with another head; the right one passes, and nothing is left in the cache."""
    from safetensors.torch import load_file, save_file

    def export(_: str, __: Path, out: Path, *___: Any) -> None:
        shutil.copytree(tiny_llama, out, dirs_exist_ok=True)

    monkeypatch.setattr(source, "_export_float", export)
    cache = Cache.resolve(tmp_path / "cache")
    assert resolve_model(str(tiny_llama_hf), cache=cache).path is not None
    other = shutil.copytree(tiny_llama_hf, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    tensors["lm_head.weight"] = tensors["lm_head.weight"].flip(0).contiguous()
    save_file(tensors, other / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PrerequisiteError, match=r"is not the original: on 16 tokens.*differ .* by 1\d\d%.*`llama`"):
        resolve_model(str(other), cache=cache)
    assert sum(path.is_dir() for path in cache.models.iterdir()) == 1
