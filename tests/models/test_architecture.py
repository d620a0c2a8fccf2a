"""Checkpoints that do not fill their model, tokenizers that do not work, and versions that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, write_family
from once import built_once

from autotune.common.cache import Cache
from autotune.errors import ConfigError, PrerequisiteError
from autotune.models import tokenizer
from autotune.models.architecture import check_tensors
from autotune.models.checkpoint import check_folder
from autotune.models.exporters import find_exporter, load_config
from autotune.models.source import resolve_model
from autotune.models.tasks.registry import DEFAULT, task_named
from autotune.models.tokenizer import load_tokenizer

Tensors = dict[str, Any]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The Hugging Face folder of a family."""
    return lambda name: built_once(tmp_path_factory, f"{name}-hf", lambda out: write_family(FAMILIES[name], out))


def _check(folder: Path) -> None:
    config = load_config(folder, trust_remote_code=False)
    check_tensors(folder, config, check_folder(folder), task_named(DEFAULT), trust_remote_code=False)


def _changed(source: Path, out: Path, change: Callable[[Tensors], Tensors], **config: Any) -> Path:
    """Copy a folder with other tensors, and with keys of config.json changed."""
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(source, out)
    tensors = {name: value.contiguous() for name, value in change(load_file(folder / "model.safetensors")).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **config}))
    return folder


def _without(*ends: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {name: value for name, value in tensors.items() if not name.endswith(ends)}


def _prefixed(tensors: Tensors) -> Tensors:
    return {f"wrapped.inner.{name}": value for name, value in tensors.items()}


def _narrower(tensors: Tensors) -> Tensors:
    return {
        name: value[:, :-8] if name.endswith("0.mlp.gate_proj.weight") else value for name, value in tensors.items()
    }


def _quantized(tensors: Tensors) -> Tensors:
    import torch

    weights = {name: value for name, value in tensors.items() if "down_proj" in name}
    packed = {name.replace(".weight", ".qweight"): value.to(torch.int32) for name, value in weights.items()}
    return {name: value for name, value in tensors.items() if name not in weights} | packed


def _flat_expert(tensors: Tensors) -> Tensors:
    name = "model.layers.0.block_sparse_moe.experts.1.w1.weight"
    return {**tensors, name: tensors[name].reshape(-1)}


def _scaled(tensors: Tensors) -> Tensors:
    import torch

    return {**tensors, "model.layers.0.mlp.down_proj.weight_scale": torch.ones(1)}


def _float8(tensors: Tensors) -> Tensors:
    import torch

    name = "model.layers.0.mlp.down_proj.weight"
    return {**tensors, name: tensors[name].to(torch.float8_e4m3fn)}


def _classifier(tensors: Tensors) -> Tensors:
    import torch

    return {**_without("lm_head.weight")(tensors), "score.weight": torch.zeros(2, 64)}


UNFILLED: dict[str, tuple[Callable[[Tensors], Tensors], dict[str, Any], str]] = {
    "head": (_without("lm_head.weight"), {}, r"1 tensor is missing from the checkpoint: lm_head\.weight.*incomplete"),
    "layer": (_without("1.mlp.down_proj.weight"), {}, r"missing from the checkpoint: model\.layers\.1\.mlp\.down_proj"),
    "prefix": (_prefixed, {}, r"another prefix: wrapped\.inner\.(\S+) should be \1\."),
    "shape": (_narrower, {}, r"gate_proj\.weight \(\[128, 56\] in the file, \[128, 64\] in the model\)"),
    "quantized": (
        _quantized,
        {},
        r"down_proj\.qweight are stored as I32, as in a quantized checkpoint, and config\.json",
    ),
    "scaled": (_scaled, {}, r"quantized checkpoint \(model\S+down_proj\.weight_scale\) whose config\.json has no"),
    "float8": (_float8, {}, r"model\S+down_proj\.weight is stored as F8_E4M3"),
    "classifier": (_classifier, {"architectures": ["LlamaForSequenceClassification"]}, "It is a LlamaForSequenceClas"),
    "fewer layers": (lambda tensors: tensors, {"num_hidden_layers": 1}, r"9 tensors are not used: model\.layers\.1"),
    "wider": (lambda tensors: tensors, {"hidden_size": 128}, r"of another shape.*another size of the model"),
}


@pytest.mark.parametrize("kind", UNFILLED)
def test_a_checkpoint_that_does_not_fill_its_model_is_refused(kind: str, tiny_llama_hf: Path, tmp_path: Path) -> None:
    """The error names the tensors and says what such a checkpoint looks like."""
    change, config, message = UNFILLED[kind]
    with pytest.raises(ConfigError, match=message):
        _check(_changed(tiny_llama_hf, tmp_path / "model", change, **config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            _without("0.block_sparse_moe.experts.2.w3.weight"),
            r"incomplete: model\.layers\.0\S+experts\.2\.w3\.weight is",
        ),
        (_flat_expert, r"damaged: model\.layers\.0\S+experts\.1\.w1\.weight has the shape \[6144\], other than"),
        (_without("1.block_sparse_moe.experts.3.w2.weight"), r"experts\.down_proj \(\[3, 64, 96\] in the file"),
    ],
)
def test_a_missing_or_damaged_expert_is_named(
    change: Callable[[Tensors], Tensors], message: str, written: Callable[[str], Path], tmp_path: Path
) -> None:
    """transformers stacks the experts of a layer, which fails or gives another shape."""
    with pytest.raises(ConfigError, match=message):
        _check(_changed(written("mixtral"), tmp_path / "model", change))


@pytest.mark.parametrize("name", ["qwen2", "gpt2", "mixtral", "qwen2_moe"])
def test_whole_checkpoints_pass(name: str, written: Callable[[str], Path]) -> None:
    """Tied heads are stored once, and experts under other names than transformers uses."""
    _check(written(name))


def test_buffers_of_older_versions_are_harmless(
    tiny_llama_hf: Path, written: Callable[[str], Path], tmp_path: Path
) -> None:
    """Rotary frequencies and causal masks were saved once, and are computed now."""
    import torch

    _check(_changed(tiny_llama_hf, tmp_path / "a", lambda t: {**t, "model.rotary_emb.inv_freq": torch.ones(8)}))
    mask = {"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8), "transformer.h.0.attn.masked_bias": torch.tensor(-1e4)}
    _check(_changed(written("gpt2"), tmp_path / "b", lambda tensors: {**tensors, **mask}))


def test_a_tied_checkpoint_needs_its_table(written: Callable[[str], Path], tmp_path: Path) -> None:
    """Tying explains a missing head, not a missing embedding."""
    with pytest.raises(ConfigError, match=r"embed_tokens\.weight"):
        _check(_changed(written("qwen2"), tmp_path / "model", _without("embed_tokens.weight")))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_type": "lama"}, r"lama"),
        ({"num_attention_heads": 0}, r"config\.json: transformers cannot"),
        ({"hidden_size": "wide"}, r"config\.json: transformers cannot"),
    ],
)
def test_a_configuration_without_a_model_is_refused(
    config: dict[str, Any], message: str, tiny_llama_hf: Path, tmp_path: Path
) -> None:
    """A configuration that transformers cannot build is an error of config.json."""
    folder = _changed(tiny_llama_hf, tmp_path / "model", lambda tensors: tensors, **config)
    with pytest.raises(ConfigError, match=message):
        _check(folder)


@pytest.mark.parametrize("kind", ["phi", "stablelm", "llama"])
def test_special_tokens_that_no_file_names_are_none(kind: str, tmp_path: Path) -> None:
    """Some classes of transformers 5.0.0 forget them, and the model's class then fails."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    config = load_config(tmp_path, trust_remote_code=False)
    assert config.pad_token_id is None
    assert hasattr(type(config)(), "pad_token_id")


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("t5", r"`t5` is an encoder-decoder model"),
        ("olmo3", r"model_type `olmo3` \(did you mean 'olmo'\?\); it exports \d+ others"),
    ],
)
def test_an_architecture_that_is_not_exported_is_refused(kind: str, message: str) -> None:
    """The nearest supported one is named, and how many there are."""
    from transformers import AutoConfig

    with pytest.raises(ConfigError, match=message):
        find_exporter(AutoConfig.for_model(kind), Path("config.json"), task_named(DEFAULT))


def test_the_exporters_version_limits_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another version of transformers is named with the command that installs it."""
    import transformers
    from optimum.exporters.openvino import model_configs
    from transformers import AutoConfig

    config = AutoConfig.for_model("llama")
    exporter = find_exporter(config, Path("config.json"), task_named(DEFAULT))
    assert (exporter.name, exporter.maximum) == ("LlamaOpenVINOConfig", None)
    monkeypatch.setattr(model_configs.LlamaOpenVINOConfig, "MAX_TRANSFORMERS_VERSION", "4.50", raising=False)
    installed = transformers.__version__
    message = rf"llama needs transformers <= 4\.50 .*; {installed} is installed: pip install 'transformers<=4\.50'"
    with pytest.raises(PrerequisiteError, match=message):
        find_exporter(config, Path("config.json"), task_named(DEFAULT))
    monkeypatch.setattr(model_configs.LlamaOpenVINOConfig, "MAX_TRANSFORMERS_VERSION", None)
    monkeypatch.setattr(model_configs.LlamaOpenVINOConfig, "MIN_TRANSFORMERS_VERSION", "99.0")
    with pytest.raises(PrerequisiteError, match=r"pip install 'transformers>=99\.0'"):
        find_exporter(config, Path("config.json"), task_named(DEFAULT))


@pytest.mark.parametrize(
    ("maximum", "remedy"),
    [
        (None, r"pip install 'transformers>=5'"),
        ("5.4", r"pip install 'transformers>=5,<=5\.4'"),
        ("4.99", r"needs transformers <= 4\.99 .*replace the key by .*`rope_theta` and, .* `rope_scaling`"),
    ],
)
def test_a_rotary_base_that_is_ignored_is_refused(
    maximum: str | None, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers 4 has logits of another base, without an error; the keys that it reads are accepted."""
    import transformers
    from optimum.exporters.openvino import model_configs
    from transformers import AutoConfig

    monkeypatch.setattr(transformers, "__version__", "4.57.6")
    monkeypatch.setattr(model_configs.LlamaOpenVINOConfig, "MAX_TRANSFORMERS_VERSION", maximum, raising=False)
    config = AutoConfig.for_model("llama")
    config.rope_parameters = {"rope_type": "default", "rope_theta": 1e6}
    with pytest.raises(PrerequisiteError, match=rf"config\.json: `rope_parameters` .*4\.57\.6 ignores.*{remedy}"):
        find_exporter(config, Path("config.json"), task_named(DEFAULT))
    del config.rope_parameters
    find_exporter(config, Path("config.json"), task_named(DEFAULT))


def test_code_that_comes_with_a_model_needs_consent(tiny_llama_hf: Path, tmp_path: Path) -> None:
    """The remedy is the option, after reading the code."""
    remote = {"model_type": "my_llama", "auto_map": {"AutoConfig": "configuration_mine.MyConfig"}}
    folder = _changed(tiny_llama_hf, tmp_path / "model", lambda tensors: tensors, **remote)
    (folder / "configuration_mine.py").write_text("raise SystemExit\n")
    with pytest.raises(ConfigError, match=r"code that comes with the model.*set trust_remote_code: true"):
        load_config(folder, trust_remote_code=False)


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"_attn_implementation_internal": "some/kernel"}, "_attn_implementation_internal: some/kernel"),
        ({"text_config": {"_experts_implementation": "some/kernel"}}, "_experts_implementation: some/kernel"),
        ({"_attn_implementation": "sdpa"}, None),
    ],
)
def test_kernels_of_the_hub_are_code(
    config: dict[str, Any], named: str | None, tiny_llama_hf: Path, tmp_path: Path
) -> None:
    """transformers before 5.3 runs them whatever trust_remote_code says."""
    folder = _changed(tiny_llama_hf, tmp_path / "model", lambda tensors: tensors, **config)
    if named is None:
        load_config(folder, trust_remote_code=False)
        return
    with pytest.raises(ConfigError, match=rf"config\.json: names code on the hub \({named}\)"):
        load_config(folder, trust_remote_code=True)


def test_a_missing_tokenizer_is_refused_before_the_export(tiny_llama_hf: Path, tmp_path: Path) -> None:
    """transformers makes an empty one of such a folder; nothing is left in the cache."""
    folder = shutil.copytree(tiny_llama_hf, tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(PrerequisiteError, match="tokenizer"):
        resolve_model(str(folder), cache=Cache.resolve(tmp_path / "cache"))
    assert [path.name for path in (tmp_path / "cache" / "models").iterdir() if path.is_dir()] == []


def test_a_tokenizer_without_words_is_refused(written: Callable[[str], Path], tmp_path: Path) -> None:
    """A vocabulary of one token is not a tokenizer."""
    folder = shutil.copytree(written("qwen2"), tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(PrerequisiteError, match=r"no usable vocabulary \(1 tokens\): copy tokenizer\.json"):
        load_tokenizer(folder, trust_remote_code=False)


def test_a_tokenizer_of_another_model_is_refused(tiny_llama_hf: Path) -> None:
    """Its tokens have no row in the embedding table."""
    with pytest.raises(PrerequisiteError, match=r"belongs to another model: it gives token \d+, and the model has 50"):
        load_tokenizer(tiny_llama_hf, trust_remote_code=False, vocabulary=50)


def test_the_tokenizer_is_auto_tokenizers(tiny_llama_hf: Path) -> None:
    """The class that the folder names is the one that AutoTokenizer takes, with the same content."""
    from transformers import AutoTokenizer

    loaded = load_tokenizer(tiny_llama_hf, trust_remote_code=False)
    expected = AutoTokenizer.from_pretrained(tiny_llama_hf)
    assert type(loaded) is type(expected)
    assert loaded.init_kwargs == expected.init_kwargs
    assert loaded.backend_tokenizer.to_str() == expected.backend_tokenizer.to_str()


def test_what_libraries_print_does_not_reach_the_results(
    tiny_llama_hf: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The package tokenizers prints the number of each token that a vocabulary has not."""
    folder = shutil.copytree(tiny_llama_hf, tmp_path / "model")
    content = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["another"] = len(vocabulary) + 2000
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(folder, trust_remote_code=False)("another")["input_ids"]
    assert capfd.readouterr().out == ""
    print("results")
    assert capfd.readouterr().out == "results\n"


@pytest.mark.parametrize(
    ("file", "absent", "message"),
    [
        ("tokenizer.model", {"sentencepiece", "google.protobuf"}, "pip install sentencepiece protobuf$"),
        ("tokenizer.model", {"google.protobuf"}, "pip install protobuf$"),
        ("vocab.tiktoken", {"tiktoken", "sentencepiece"}, "pip install tiktoken$"),
    ],
)
def test_a_missing_package_of_a_tokenizer_is_named(
    file: str, absent: set[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """transformers tries tiktoken last, and its error names only that."""
    import transformers

    def fail(*_: Any, **__: Any) -> None:
        raise ValueError("`tiktoken` is required to read a `tiktoken` file. Install it with `pip install tiktoken`.")

    (tmp_path / file).write_bytes(b"x")
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", fail)
    monkeypatch.setattr(tokenizer, "_is_installed", lambda module: module not in absent)
    with pytest.raises(PrerequisiteError, match=message):
        load_tokenizer(tmp_path, trust_remote_code=False)
