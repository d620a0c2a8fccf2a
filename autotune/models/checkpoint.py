"""Files of a model folder, checked before any work: downloads that were cut off, Git LFS pointers, broken JSON."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError

CONFIG = "config.json"
SAFETENSORS_INDEX = "model.safetensors.index.json"
_WEIGHTS = ("model.safetensors", SAFETENSORS_INDEX, "pytorch_model.bin", "pytorch_model.bin.index.json")
"""Names under which transformers looks for weights, in this order."""

_JSON_FILES = (
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "vocab.json",
    "preprocessor_config.json",
)
_COMPANIONS = ("*.model", "*.tiktoken", "merges.txt", "*.jinja")
_POINTER = b"version https://git-lfs"
_AGAIN = "Download it again"
_BITS = {"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "C64": 64}
_BITS |= {f"{kind}{bits}": bits for kind in "UI" for bits in (8, 16, 32, 64)}
_BITS |= {"F16": 16, "BF16": 16, "F32": 32, "F64": 64}
"""Bits of an element, by the type's name in safetensors."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a safetensors file, as its header describes it.

    Attributes:
        dtype: in the terms of safetensors, e.g. ``BF16``.
        shape: its shape.
        file: the file that holds it.
        offset: position of its first byte in the file.
        size: its bytes.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    size: int


def check_json(file: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ConfigError: the file is empty, a Git LFS pointer, or not a JSON object.
    """
    check_content(file)
    try:
        data = json.loads(file.read_bytes().decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text. {_AGAIN}.", file=file) from error
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"is not valid JSON: {error.msg} at line {error.lineno}, column {error.colno}. {_AGAIN}, or correct it if "
            "you edited it.",
            file=file,
        ) from error
    if not isinstance(data, dict):
        raise ConfigError(f"must hold a JSON object, found {type(data).__name__}. {_AGAIN}.", file=file)
    return data


def check_content(file: Path) -> None:
    """Refuse an empty file, and a Git LFS pointer in place of the content.

    Raises:
        ConfigError: it is one of them, or cannot be read.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_POINTER))
    except OSError as error:
        raise ConfigError(f"cannot be read ({error.strerror}). Check its permissions.", file=file) from error
    if not start:
        raise ConfigError(f"is empty. {_AGAIN}.", file=file)
    if start == _POINTER:
        raise ConfigError(
            "is a Git LFS pointer, not the file itself. Run `git lfs install` and `git lfs pull` in its folder, or "
            "download the model with `hf download`.",
            file=file,
        )


def read_header(file: Path) -> dict[str, StoredTensor]:
    """Read the header of a safetensors file: name -> tensor. The tensors themselves are not read.

    Raises:
        ConfigError: the file is cut off, or is not a safetensors file.
    """
    check_content(file)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or (length > size - 8 and length < 2**32):
            raise ConfigError(
                f"is cut off: it has {size:,} bytes, its header alone needs {length + 8:,}. {_AGAIN}.", file=file
            )
        try:
            header = json.loads(stream.read(length).decode("utf-8")) if length < 2**32 else None
            return _tensors(header, file, 8 + length, size)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(f"is not a safetensors file: its header cannot be read. {_AGAIN}.", file=file) from error


def _tensors(header: Any, file: Path, start: int, size: int) -> dict[str, StoredTensor]:
    tensors: dict[str, StoredTensor] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        shape = tuple(int(length) for length in entry["shape"])
        tensors[name] = StoredTensor(str(entry["dtype"]), shape, file, start + begin, end - begin)
    reached = start
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].offset, item[1].size)):
        bits = _BITS.get(tensor.dtype)
        expected = tensor.size if bits is None else math.prod(tensor.shape) * bits // 8
        if tensor.offset != reached or tensor.size != expected:
            raise ConfigError(
                f"is damaged: its header gives the tensor {name} ({tensor.dtype}, shape {list(tensor.shape)}) "
                f"{tensor.size:,} bytes at {tensor.offset:,}, which must be {expected:,} bytes at {reached:,}. "
                f"{_AGAIN}.",
                file=file,
            )
        reached += tensor.size
    if reached != size:
        what = "is cut off" if size < reached else "is damaged"
        raise ConfigError(f"{what}: it has {size:,} bytes, its header describes {reached:,}. {_AGAIN}.", file=file)
    return tensors


def check_folder(folder: Path) -> dict[str, StoredTensor]:
    """Check the files of a Hugging Face folder; return its tensors by name, empty if they are not in safetensors.

    Reads the headers of weights and the JSON files only.

    Raises:
        ConfigError: a file is missing, cut off, a Git LFS pointer, or not valid JSON.
    """
    if not (folder / CONFIG).is_file():
        raise ConfigError(
            f"{folder} has no {CONFIG}; it is not a Hugging Face model folder. Name the folder with config.json",
            key="model",
        )
    config = check_json(folder / CONFIG)
    for name in _JSON_FILES:
        if (folder / name).is_file():
            check_json(folder / name)
    for pattern in _COMPANIONS:
        for file in folder.glob(pattern):
            check_content(file)
    quantized = quantization(config) is not None  # read from all safetensors files, whatever their names
    files = sorted(folder.glob("*.safetensors")) if quantized else []
    files = files or weight_files(folder)
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors |= read_header(file)
        else:
            _check_pickle(file)
    index = folder / SAFETENSORS_INDEX
    if tensors and index.is_file() and not quantized and not (folder / _WEIGHTS[0]).is_file():
        missing = sorted(set(check_json(index)["weight_map"]) - set(tensors))
        if missing:
            raise ConfigError(
                f"names {len(missing)} tensors that no file holds: {some(missing)}. Its safetensors files belong to "
                "another version of the model, or one was overwritten: download all of them again.",
                file=index,
            )
    return tensors


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads the weights from.

    Raises:
        ConfigError: there are none, or the index names a file that does not exist.
    """
    found = next((folder / name for name in _WEIGHTS if (folder / name).is_file()), None)
    if found is None:
        raise ConfigError(f"{folder} {_why_no_weights(folder)}", key="model")
    if found.suffix != ".json":
        return [found]
    weight_map = check_json(found).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ConfigError(f"has no `weight_map`, so it names no file with weights. {_AGAIN}.", file=found)
    names = sorted({str(name) for name in weight_map.values()})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise ConfigError(
            f"names {len(names)} files with weights, and {len(missing)} of them do not exist: {some(missing)}. "
            "Download them.",
            file=found,
        )
    return [folder / name for name in names]


def _why_no_weights(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return (
            "holds a PEFT adapter, not a whole model; merge it into its base model with `merge_and_unload()` and "
            "`save_pretrained`"
        )
    if any(folder.glob("*.gguf")):
        return (
            "has its weights in GGUF only. Name the original model, or convert it: pip install gguf, load it by "
            "transformers' `from_pretrained(folder, gguf_file=...)`, as model and tokenizer, and save both with "
            "`save_pretrained`"
        )
    others = sorted(
        file.name for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth") for file in folder.glob(pattern)
    )
    listed = f"; there are {some(others)}" if others else ""
    return (
        f"has a {CONFIG} and no weights that transformers finds: model.safetensors, pytorch_model.bin, or the index "
        f"of several files{listed}. Download the model again"
    )


def _check_pickle(file: Path) -> None:
    check_content(file)
    with file.open("rb") as stream:
        zipped = stream.read(2) == b"PK"
    if zipped and not zipfile.is_zipfile(file):
        raise ConfigError(f"is cut off: it is a zip archive without its end. {_AGAIN}.", file=file)


_CONSTANT = re.compile(rb'offset="(\d+)"\s+size="(\d+)"')


def check_openvino(model: Path, weights: Path) -> None:
    """Check the two files of an OpenVINO model.

    Raises:
        ConfigError: one is missing, cut off or a Git LFS pointer.
    """
    if not weights.is_file():
        raise ConfigError(f"does not exist beside {model.name}. Export the model again.", file=weights)
    check_content(model)
    content = model.read_bytes()
    if not content.rstrip().endswith(b"</net>"):
        raise ConfigError(f"is cut off: it does not end with </net>. {_AGAIN}, or export the model again.", file=model)
    needed = max((int(offset) + int(size) for offset, size in _CONSTANT.findall(content)), default=0)
    if needed:
        check_content(weights)
    found = weights.stat().st_size
    if found < needed:
        raise ConfigError(
            f"is cut off: it has {found:,} bytes, {model.name} needs {needed:,}. {_AGAIN}, or export the model again.",
            file=weights,
        )


def quantization(config: Mapping[str, Any]) -> str | None:
    """Return the method by which a checkpoint is quantized, as config.json names it; None if it is not."""
    section = config.get("quantization_config")
    if isinstance(config.get("quantization"), dict) and "quant_method" not in (section or {}):
        return "mlx"
    return str(section.get("quant_method", "unknown")) if isinstance(section, dict) else None


def some(names: Iterable[str], count: int = 3) -> str:
    """Join the first names with commas, and say how many are left out."""
    listed = list(names)
    rest = f" and {len(listed) - count} more" if len(listed) > count else ""
    return ", ".join(listed[:count]) + rest


def dominant_dtype(tensors: Mapping[str, StoredTensor]) -> str | None:
    """Return the type that most elements are stored in, in the terms of safetensors; None without tensors."""
    totals: dict[str, int] = {}
    for tensor in tensors.values():
        totals[tensor.dtype] = totals.get(tensor.dtype, 0) + tensor.size
    return max(totals, key=lambda kind: totals[kind]) if totals else None
