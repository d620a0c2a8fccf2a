"""Broken downloads: one error that names the file, says what is wrong with it and what to do."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.common.cache import Cache
from autotune.errors import ConfigError
from autotune.models.checkpoint import check_folder, check_openvino, read_header
from autotune.models.source import resolve_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:1234\nsize 1234\n"


@pytest.fixture
def folder(tiny_llama_hf: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_llama_hf, tmp_path / "model")


def _shard(folder: Path) -> Path:
    """Split the weights into two files with an index."""
    from safetensors.torch import load_file, save_file

    whole = folder / "model.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    weight_map = {}
    for number, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :])):
        file = f"model-{number}.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    whole.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def _cut(file: str, size: int) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[:size])

    return change


def _write(file: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).write_text(text) and None


def _remove(file: str) -> Callable[[Path], None]:
    return lambda folder: (folder / file).unlink()


def _append(folder: Path) -> None:
    with (folder / "model.safetensors").open("ab") as stream:
        stream.write(b"more")


def _shrink_tensor(folder: Path) -> None:
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content.replace(b"[320,64]", b"[319,64]", 1))


BROKEN = {
    "weights cut": (_cut("model.safetensors", 5000), r"model\.safetensors: is cut off: it has 5,000 bytes, its header"),
    "header cut": (
        _cut("model.safetensors", 100),
        r"model\.safetensors: is cut off: it has 100 bytes, its header",
    ),
    "weights empty": (_cut("model.safetensors", 0), r"model\.safetensors: is empty\. Download it again"),
    "weights longer": (_append, r"model\.safetensors: is damaged: it has .* its header describes"),
    "shape": (
        _shrink_tensor,
        r"damaged: its header gives the tensor .* \(F32, shape \[319, 64\]\)",
    ),
    "pointer": (_write("model.safetensors", POINTER), r"model\.safetensors: is a Git LFS pointer.*git lfs pull"),
    "not safetensors": (
        _write("model.safetensors", "<html>404: not found</html>"),
        "is not a safetensors",
    ),
    "tokenizer pointer": (_write("tokenizer.json", POINTER), r"tokenizer\.json: is a Git LFS pointer"),
    "config empty": (_write("config.json", ""), r"config\.json: is empty"),
    "config cut": (_cut("config.json", 60), r"config\.json: is not valid JSON: .* at line \d+, column \d+"),
    "config list": (_write("config.json", "[]"), r"config\.json: must hold a JSON object, found list"),
    "generation": (_cut("generation_config.json", 10), r"generation_config\.json: is not valid JSON"),
    "tokenizer config": (_cut("tokenizer_config.json", 30), r"tokenizer_config\.json: is not valid JSON"),
    "tokenizer cut": (_cut("tokenizer.json", 3000), r"tokenizer\.json: is not valid JSON"),
    "no weights": (_remove("model.safetensors"), "no weights that transformers finds"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_download_is_refused_by_the_files_name(kind: str, folder: Path, tmp_path: Path) -> None:
    """The error is shown before any export, and the cache stays empty."""
    change, message = BROKEN[kind]
    change(folder)
    with pytest.raises(ConfigError, match=message):
        resolve_model(str(folder), cache=Cache.resolve(tmp_path / "cache"))
    assert not (tmp_path / "cache").exists()


SHARDED = {
    "whole": (lambda folder: None, None),
    "missing": (
        _remove("model-1.safetensors"),
        r"index\.json: names 2 files with weights, and 1 .* model-1",
    ),
    "cut": (_cut("model-0.safetensors", 4000), r"model-0\.safetensors: is cut off"),
    "no map": (_write("model.safetensors.index.json", "{}"), r"index\.json: has no `weight_map`"),
    "overwritten": (
        lambda folder: shutil.copy(folder / "model-0.safetensors", folder / "model-1.safetensors") and None,
        r"index\.json: names \d+ tensors that no file holds: .* and \d+ more",
    ),
}


@pytest.mark.parametrize("kind", SHARDED)
def test_an_index_and_its_files_belong_together(kind: str, folder: Path) -> None:
    """Every file that the index names is whole, and the files hold every tensor that it names."""
    change, message = SHARDED[kind]
    change(_shard(folder))
    if message is None:
        assert "model.norm.weight" in check_folder(folder)
    else:
        with pytest.raises(ConfigError, match=message):
            check_folder(folder)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("adapter_config.json", "PEFT adapter"),
        ("model.gguf", "GGUF only"),
        ("other.safetensors", "there are other"),
    ],
)
def test_a_folder_without_weights_says_what_it_holds(file: str, message: str, folder: Path) -> None:
    """An adapter, GGUF, and files under other names each have a remedy of their own."""
    (folder / "model.safetensors").unlink()
    (folder / file).write_text("{}")
    with pytest.raises(ConfigError, match=message):
        check_folder(folder)


def test_pytorch_files_are_checked_too(folder: Path) -> None:
    """A .bin file that is cut off lacks the end of its zip archive."""
    import torch

    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1000)}, folder / "pytorch_model.bin")
    assert check_folder(folder) == {}
    _cut("pytorch_model.bin", 3000)(folder)
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin: is cut off: it is a zip archive without its end"):
        check_folder(folder)


def test_the_header_gives_every_tensors_place(tiny_llama_hf: Path) -> None:
    """Type, shape and bytes are those that the safetensors library reads."""
    from safetensors import safe_open

    file = tiny_llama_hf / "model.safetensors"
    header = read_header(file)
    with safe_open(file, framework="pt") as tensors:  # type: ignore[no-untyped-call]
        assert set(header) == set(tensors.keys())
        for name, tensor in header.items():
            value = tensors.get_tensor(name)
            assert (tensor.dtype, tensor.shape) == ("F32", tuple(value.shape))
            assert file.read_bytes()[tensor.offset : tensor.offset + tensor.size] == value.numpy().tobytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_cut("openvino_model.bin", 5000), r"openvino_model\.bin: is cut off: it has 5,000 bytes"),
        (_cut("openvino_model.xml", 5000), r"openvino_model\.xml: is cut off: it does not end with </net>"),
        (_write("openvino_model.bin", POINTER), r"openvino_model\.bin: is a Git LFS pointer"),
        (_remove("openvino_model.bin"), r"openvino_model\.bin: does not exist"),
    ],
)
def test_a_broken_openvino_folder_is_refused(
    change: Callable[[Path], None], message: str, tiny_llama: Path, tmp_path: Path
) -> None:
    """A model is whole if its graph is, and if the weights reach as far as the graph reads."""
    folder = shutil.copytree(tiny_llama, tmp_path / "ov")
    check_openvino(folder / "openvino_model.xml", folder / "openvino_model.bin")
    change(folder)
    with pytest.raises(ConfigError, match=message):
        resolve_model(str(folder), cache=Cache.resolve(tmp_path / "cache"))
