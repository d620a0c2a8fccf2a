"""Files beside the weights that a compressed model needs as well: configuration, tokenizer, templates, licence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from autotune.errors import ConfigError

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
