"""Models in a folder and in memory: fingerprints, tokenizers, and what is saved of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest

from autotune.compression.engine import Engine
from autotune.compression.settings import Settings
from autotune.errors import PrerequisiteError
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from autotune.models.save import save_model
from autotune.models.source import SourceModel
from autotune.testing import FakeTokenizer


@pytest.fixture(scope="module")
def original(tiny_llama: Path) -> ov.Model:
    return ov.Core().read_model(tiny_llama / "openvino_model.xml")


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


def test_a_model_in_memory_is_its_own_source(original: ov.Model, tiny_llama: Path) -> None:
    """It is returned as it is, with the tokenizer that came with it."""
    tokenizer = _tokenizer(tiny_llama)
    source = SourceModel.from_model(original, tokenizer, name="mine")
    assert source.read() is original
    assert source.tokenizer() is tokenizer
    assert (source.name, source.path) == ("mine", None)


def test_the_fingerprint_is_of_graph_and_weights(original: ov.Model, tiny_llama: Path) -> None:
    """A copy and the model read again have the same fingerprint, a changed weight has another one."""
    again = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    prints = [SourceModel.from_model(model).fingerprint for model in (original, original.clone(), again)]
    assert len(set(prints)) == 1
    engine = Engine(original)
    changed = engine.apply(engine.plan(Settings(mode="int8_asym")))
    assert SourceModel.from_model(changed).fingerprint != prints[0]


def test_the_tokenizers_fingerprint_is_of_its_files(original: ov.Model, tiny_llama: Path, tmp_path: Path) -> None:
    """Loaded again it is the same, with another end-of-text token another one; one without files works, too."""
    other = shutil.copytree(tiny_llama, tmp_path / "other")
    file = other / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 77}))
    tokenizers = [_tokenizer(tiny_llama), _tokenizer(tiny_llama), _tokenizer(other), FakeTokenizer(), FakeTokenizer()]
    prints = [SourceModel.from_model(original, tokenizer).tokenizer_fingerprint for tokenizer in tokenizers]
    assert prints[0] == prints[1]
    assert prints[3] == prints[4]
    assert len(set(prints)) == 3


def test_a_model_without_a_tokenizer_says_what_to_do(original: ov.Model) -> None:
    """Only texts need it, and the error names the remedies."""
    source = SourceModel.from_model(original, name="mine")
    assert source.tokenizer_fingerprint
    with pytest.raises(PrerequisiteError, match=r"mine was given without a tokenizer.*Pass the tokenizer.*calibration"):
        source.tokenizer()


def test_a_saved_model_in_memory_answers_like_it(original: ov.Model, tiny_llama: Path, tmp_path: Path) -> None:
    """The folder has the tokenizer and its IR, and the model in it computes what the one in memory does."""
    tokenizer = _tokenizer(tiny_llama)
    save_model(original, SourceModel.from_model(original, tokenizer), tmp_path / "out", record={})
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"openvino_model.bin", "tokenizer.json", "openvino_tokenizer.xml", "openvino_detokenizer.xml"} <= names
    loaded = _tokenizer(tmp_path / "out")
    tokens = loaded("Mira keeps eleven hens")["input_ids"]
    assert tokens == tokenizer("Mira keeps eleven hens")["input_ids"]
    with OpenVINOLanguageModel(original, tokenizer) as one, OpenVINOLanguageModel(tmp_path / "out", loaded) as two:
        assert one.greedy(tokens, 8) == two.greedy(tokens, 8)


@pytest.mark.parametrize("tokenizer", [None, FakeTokenizer()], ids=["none", "without files"])
def test_a_model_is_saved_without_a_tokenizer(original: ov.Model, tmp_path: Path, tokenizer: Any) -> None:
    """Then the folder holds the model and the record of what was done."""
    save_model(original, SourceModel.from_model(original, tokenizer), tmp_path / "out", record={"settings": {}})
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["autotune.json", "openvino_config.json", "openvino_model.bin", "openvino_model.xml"]


def test_a_converted_torch_module_is_compressed_and_saved(tmp_path: Path) -> None:
    """`ov.convert_model` is all that a PyTorch module needs for compression without data."""
    import torch

    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 32))
    source = SourceModel.from_model(ov.convert_model(module, example_input=torch.zeros(1, 64)), name="module")
    engine = Engine(source.read(), model_fingerprint=source.fingerprint)
    compressed = engine.apply(engine.plan(Settings(mode="int8_asym")))
    save_model(compressed, source, tmp_path / "out", record={})
    assert (tmp_path / "out" / "openvino_model.bin").stat().st_size < 64 * 128 * 2 + 128 * 32 * 2
    values = np.random.default_rng(0).normal(size=(5, 64)).astype(np.float32)
    found = ov.compile_model(tmp_path / "out" / "openvino_model.xml")(values)[0]
    expected = module(torch.from_numpy(values)).detach().numpy()
    np.testing.assert_allclose(found, expected, atol=0.02)
