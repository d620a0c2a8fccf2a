"""Load a tokenizer, and check that it is the model's: missing files, missing packages, tokens of another vocabulary."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from autotune.errors import PrerequisiteError, reason
from autotune.models.architecture import quiet
from autotune.models.checkpoint import CONFIG, check_json

_TOKENIZER_PACKAGES = {"sentencepiece": "sentencepiece", "protobuf": "google.protobuf", "tiktoken": "tiktoken"}
"""Packages that some tokenizers need, and the modules they install."""


_PROBE = "The quick brown fox counts 12 eggs."


def load_tokenizer(folder: Path, *, trust_remote_code: bool, vocabulary: int | None = None) -> Any:
    """Load the `transformers` tokenizer of a folder, and check that it turns a sentence into tokens of the model.

    Args:
        folder: a Hugging Face or OpenVINO folder.
        trust_remote_code: whether code that comes with the model may run.
        vocabulary: number of tokens of the model; None if it is not known.

    Raises:
        PrerequisiteError: there is none, a package is missing, or it belongs to another model.
    """
    try:
        with quiet():
            tokenizer = _tokenizer_class(folder).from_pretrained(folder, trust_remote_code=trust_remote_code)
            tokens = list(tokenizer(_PROBE, add_special_tokens=False)["input_ids"])
    except Exception as error:
        raise PrerequisiteError(f"{folder}: {_tokenizer_advice(folder, error)}") from error
    # transformers 5 makes an empty tokenizer of a folder that has no vocabulary.
    if not tokens or (len(set(tokens)) == 1 and len(tokens) > 1) or set(tokens) == {tokenizer.unk_token_id}:
        raise PrerequisiteError(
            f"{folder}: the tokenizer has no usable vocabulary ({len(tokenizer)} tokens): copy tokenizer.json or "
            "tokenizer.model, and tokenizer_config.json, of the original model into the folder"
        )
    if vocabulary is not None and max(tokens) >= vocabulary:
        raise PrerequisiteError(
            f"{folder}: the tokenizer belongs to another model: it gives token {max(tokens)}, and the model has "
            f"{vocabulary} tokens (vocab_size in {CONFIG}). Copy the tokenizer's files of the original model into the "
            "folder"
        )
    return tokenizer


def _tokenizer_class(folder: Path) -> Any:
    """Return the class that loads the folder's tokenizer: AutoTokenizer, or the one that it would take.

    AutoTokenizer imports what generates text, too: 3 s in every process. Most folders name the class of all tokenizers
    that are one tokenizer.json, which it takes as it stands (transformers 5, models/auto/tokenization_auto.py).
    """
    import transformers

    file = folder / "tokenizer_config.json"
    named = check_json(file) if file.is_file() else {}
    if named.get("tokenizer_class") == "TokenizersBackend" and "auto_map" not in named:
        return getattr(transformers, "TokenizersBackend", None) or transformers.AutoTokenizer
    return transformers.AutoTokenizer


def _tokenizer_advice(folder: Path, error: Exception) -> str:
    message = str(error).lower()
    if any(package in message for package in _TOKENIZER_PACKAGES):
        # If sentencepiece is missing, transformers tries tiktoken and reports only that.
        pieces = any(folder.glob("*.model")) and not any(folder.glob("*.tiktoken"))
        needed = ("sentencepiece", "protobuf") if pieces else ("tiktoken",)
        absent = [package for package in needed if not _is_installed(_TOKENIZER_PACKAGES[package])]
        if absent:
            return f"the tokenizer needs a package that is not installed: pip install {' '.join(absent)}"
    if "trust_remote_code" in message:
        return (
            "the tokenizer needs code that comes with the model, which runs only with your consent: read that code, "
            "then set trust_remote_code: true"
        )
    return (
        f"no tokenizer could be loaded from this folder ({reason(error)}): copy tokenizer.json and "
        "tokenizer_config.json of the original model into it"
    )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False
