"""Queries with passages, as retrieval data sets have them, and texts that stand alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError
from autotune.evaluation import TextOptions, describe_source, read_prompts, read_rows, read_texts

__all__ = ["PassageOptions", "Passages", "read_passages"]


class PassageOptions(TextOptions):
    """Options of an evaluator of passages; `samples` and `skip` count queries, or texts without a query."""

    path: Path | None = None
    """A file: jsonl with `query` and `passages` (a list) in each row; or texts alone: jsonl with `text`, csv, yaml, or
    one a line."""
    dataset: str | None = None
    """A Hugging Face dataset with the columns query and passages, such as microsoft/ms_marco, or a column of texts."""
    max_length: int | None = None
    """Tokens after which a text is cut off; by default what the model's own files say, else 200."""


@dataclass(frozen=True, slots=True)
class Passages:
    """The passages of one query; a text that stands alone has an empty query."""

    query: str
    passages: tuple[str, ...]


def read_passages(options: PassageOptions, stop: int | None) -> list[Passages]:
    """Read queries with their passages, or texts as passages of an empty query; the first `stop` are enough.

    Raises:
        ConfigError: the file or the dataset has neither.
    """
    if options.dataset is not None:
        rows = read_rows(options, stop)
        if rows and "passages" in rows[0]:
            return [_passages(row, describe_source(options)) for row in rows]
    if options.path is not None:
        found = _json_rows(options.path)
        return found if found is not None else [Passages("", (text,)) for text in read_prompts(options.path)]
    return [Passages("", (text,)) for text in read_texts(options)]


def _json_rows(path: Path) -> list[Passages] | None:
    """Read jsonl whose rows have passages; None for any other file."""
    if path.suffix.lower() not in (".jsonl", ".ndjson"):
        return None
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError):
        return None  # `read_prompts` reports it
    if not rows or not isinstance(rows[0], Mapping) or "passages" not in rows[0]:
        return None
    return [_passages(row, f"{path}, row {number}") for number, row in enumerate(rows, 1)]


def _passages(row: Any, name: str) -> Passages:
    found = row.get("passages") if isinstance(row, Mapping) else None
    found = found.get("passage_text") if isinstance(found, Mapping) else found
    texts = [text for text in found if isinstance(text, str) and text.strip()] if isinstance(found, list) else []
    if not texts or not isinstance(row.get("query", ""), str):
        raise ConfigError(f"{name} has no passages: each row needs a query (a text) and passages (a list of texts).")
    return Passages(row.get("query", ""), tuple(texts))
