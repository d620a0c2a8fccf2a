"""Files of an OpenVINO folder: the IR that is compressed, the IRs beside it, configuration, tokenizer, licence."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from autotune.errors import ConfigError

MODEL_FILE = "openvino_model.xml"
LANGUAGE_MODEL_FILE = "openvino_language_model.xml"
"""IR that is compressed: a whole model, or the language model of one in parts."""

COPIED_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "[0-9]*_*/config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "*.tiktoken",
    "*.spm",
    "*.model",
    "additional_chat_templates/*.jinja",
    "*.py",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
"""Files and patterns of a Hugging Face folder that a compressed model's folder has as well."""


def main_file(folder: Path) -> Path:
    """Return the .xml file of the IR that is compressed; it need not exist."""
    found = folder / LANGUAGE_MODEL_FILE
    return found if found.is_file() else folder / MODEL_FILE


def part_files(folder: Path) -> list[Path]:
    """Return the .xml files of the IRs beside the language model; none if the model is in one IR."""
    main = main_file(folder)
    parts = sorted(folder.glob("openvino_*_model.xml")) if main.name == LANGUAGE_MODEL_FILE else []
    return [file for file in parts if file != main]


def ir_files(folder: Path) -> list[Path]:
    """Return the .xml and .bin files of a model's IRs, those of the compressed one first."""
    return [file for xml in (main_file(folder), *part_files(folder)) for file in (xml, xml.with_suffix(".bin"))]


def has_chat_template(folder: Path) -> bool | None:
    """Test if the files of a local model have a chat template, without loading its tokenizer; None if it is not known.

    A tokenizer without tokenizer_config.json may have a template in its code.
    """
    if any((folder / name).is_file() for name in ("chat_template.jinja", "chat_template.json")):
        return True
    try:
        data = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return bool(data.get("chat_template")) or any(folder.glob("additional_chat_templates/*.jinja"))


def companions(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder that belong to `COPIED_FILES`, each once.

    Raises:
        ConfigError: one is a link out of the folder. Its content, such as a private key, would be part of every export.
    """
    found: dict[Path, None] = {}
    for pattern in COPIED_FILES:
        found |= dict.fromkeys(sorted(file for file in folder.glob(pattern) if file.is_file()))
    whole = folder.resolve()
    allowed = [whole, *(parent.parent / "blobs" for parent in whole.parents[:1])]  # the hub's cache has links
    for file in found:
        target = file.resolve()
        if not any(target.is_relative_to(place.resolve()) for place in allowed):
            raise ConfigError(
                f"is a link to {target}, outside the model's folder. Compressed models get a copy of this file, so "
                "replace the link by the file itself if it belongs to the model.",
                file=file,
            )
        yield file
