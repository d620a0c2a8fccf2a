"""Hugging Face hub: advice for failed downloads, and a first look at a model's configuration before any work."""

from __future__ import annotations

import errno
import importlib
import json
import sys
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import reason

_MISSING = {"RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError", "HFValidationError"}
_UNREACHABLE = "the hub could not be reached"


def import_progress_bars() -> None:
    """Import the hub's progress bars without their warning, once a notebook, that ipywidgets is not installed."""
    if "ipykernel" in sys.modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module("tqdm.auto")


def hub_advice(model: str, error: BaseException) -> str:
    """Say why a model could not be downloaded and what to do, as one clause after ``the model X``.

    Args:
        model: its hub id.
        error: any error of the hub's client, the exporter or the disk; its causes are examined, too.
    """
    return _known_problem(model, error) or (
        f"could not be had from the hub ({reason(error)}): check name, network and `hf auth whoami`, or name a local "
        "folder"
    )


def is_hub_problem(error: BaseException) -> bool:
    """Return True if an error is about the hub or the disk, and not about the model's architecture."""
    return _known_problem("", error) is not None


def _known_problem(model: str, error: BaseException) -> str | None:
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    names = {type(link).__name__ for link in chain}
    if "GatedRepoError" in names:
        return (
            f"is gated: accept its terms at https://huggingface.co/{model}, then run `hf auth login` with a token that "
            "may read it"
        )
    if any(isinstance(link, OSError) and link.errno in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return (
            "does not fit on the disk: free some, or set HF_HOME (downloads) and cache.directory or AUTOTUNE_CACHE "
            "(exports) to a larger one"
        )
    if names & _MISSING:
        return (
            "is not on the hub under this name, or is private: check the name at https://huggingface.co/models, and "
            "for a private model run `hf auth login`"
        )
    if reason(error) == _UNREACHABLE:
        return (
            "is neither a local folder nor in the local hub cache, and the hub could not be reached: check the network "
            "(and HF_HUB_OFFLINE, HTTPS_PROXY), or name a local folder"
        )
    return None


_WEIGHTS = ("*.safetensors", "pytorch_model*.bin", "openvino_model.bin")
_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True, slots=True)
class Facts:
    """Properties of a model, read from its files; None if the files do not give them.

    Attributes:
        stored: bytes of the weights as they are stored.
        parameters: number of parameters, from that size and the stored type.
        vocabulary: number of tokens.
        context: longest sequence that the model supports, in tokens.
        chat: True if the tokenizer has a chat template.
    """

    stored: int | None = None
    parameters: int | None = None
    vocabulary: int | None = None
    context: int | None = None
    chat: bool | None = None


def look_at(model: str) -> Facts | None:
    """Read the configuration of a local folder, or of a hub model (a few kB); None if neither can be read.

    A failure is not reported here: the search reports it, with advice.
    """
    folder = Path(model).expanduser()
    try:
        return _local(folder) if folder.is_dir() else _on_hub(model)
    except Exception:  # `init` works without these facts, too
        return None


def _local(folder: Path) -> Facts:
    config = _json(folder / "config.json")
    sizes = [sum(file.stat().st_size for file in folder.glob(pattern)) for pattern in _WEIGHTS]
    stored = next((size for size in sizes if size), None)
    tokenizer = _json(folder / "tokenizer_config.json")
    chat = bool(tokenizer.get("chat_template")) or (folder / "chat_template.jinja").is_file()
    return _facts(config, stored, chat if tokenizer else None)


def _on_hub(model: str) -> Facts:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(model, files_metadata=True, timeout=10)
    files = {file.rfilename: file.size or 0 for file in info.siblings or ()}
    stored = sum(size for name, size in files.items() if name.endswith(".safetensors"))
    stored = stored or sum(size for name, size in files.items() if name.endswith(".bin"))
    config = _json(Path(hf_hub_download(model, "config.json")))
    tokenizer: Mapping[str, Any] = {}
    if "tokenizer_config.json" in files:
        tokenizer = _json(Path(hf_hub_download(model, "tokenizer_config.json")))
    chat = bool(tokenizer.get("chat_template")) or "chat_template.jinja" in files
    return _facts(config, stored or None, chat if tokenizer else None)


def _facts(config: Mapping[str, Any], stored: int | None, chat: bool | None) -> Facts:
    text = config.get("text_config") or config
    kind = str(text.get("dtype") or text.get("torch_dtype") or config.get("torch_dtype") or "")
    each = _BYTES.get(kind)
    parameters = stored // each if stored and each else None
    return Facts(stored, parameters, text.get("vocab_size"), text.get("max_position_embeddings"), chat)


def _json(file: Path) -> Mapping[str, Any]:
    if not file.is_file():
        return {}
    data = json.loads(file.read_text(encoding="utf-8"))
    return data if isinstance(data, dict) else {}
