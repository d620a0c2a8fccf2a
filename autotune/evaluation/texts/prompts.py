"""Prompts from a file: plain text, CSV, YAML or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError

_KEYS = ("prompt", "prompts", "text", "question", "instruction")  # columns and keys that may hold a prompt


def read_prompts(path: str | Path) -> list[str]:
    """Read the prompts of a UTF-8 file, in the format of its suffix; blank prompts are skipped.

    - ``.jsonl``, ``.ndjson``: one string or object a line.
    - ``.yaml``, ``.yml``, ``.json``: a list of strings or objects, or a mapping with such a list.
    - ``.csv``, ``.tsv``: the only column, or the column with one of the keys below as heading.
    - any other suffix: one prompt a line.

    The key of a prompt is ``prompt``, ``prompts``, ``text``, ``question`` or ``instruction``.

    Raises:
        ConfigError: the file is missing, not UTF-8, not in this format, or has no prompt.
    """
    path = Path(path)
    reader = _READERS.get(path.suffix.lower(), str.splitlines)
    text = _read(path)
    try:
        prompts = [prompt.strip() for prompt in reader(text)]
    except ValueError as error:
        raise ConfigError(f"invalid prompts: {error}. Correct the file.", file=path) from error
    prompts = [prompt for prompt in prompts if prompt]
    if not prompts:
        raise ConfigError("the file contains no prompts. Write one prompt on each line.", file=path)
    return prompts


ENGLISH = frozenset(
    {"the", "of", "a", "and", "is", "are", "do", "does", "what", "how", "why", "in", "for", "with", "to"}
)


def is_english(prompt: str) -> bool:
    """Guess the language of a prompt: without letters beyond ASCII, or with at least two common English words."""
    return prompt.isascii() or len(ENGLISH & set(re.findall(r"[a-z]+", prompt.lower()))) > 1


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("the file of prompts does not exist. Check the path.", file=path) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start}); save it as UTF-8.", file=path) from error
    except OSError as error:
        raise ConfigError(
            f"the file of prompts cannot be read: {error.strerror or error}. Check its permissions.", file=path
        ) from error


def _json_lines(text: str) -> list[str]:
    prompts = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            prompts.append(_prompt(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return prompts


def _yaml(text: str) -> list[str]:
    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML, {' '.join(str(error).split())}") from error
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in _KEYS if key in loaded), None)
    if not isinstance(loaded, list):
        raise ValueError("a list is needed, or a mapping with a list under prompts")
    return [_prompt(entry) for entry in loaded]


def _csv(text: str) -> list[str]:
    dialect = "excel-tab" if "\t" in text.partition("\n")[0] else "excel"
    rows = [row for row in csv.reader(io.StringIO(text), dialect) if any(row)]
    heading = [cell.strip().lower() for cell in rows[0]] if rows else []
    column = next((heading.index(key) for key in _KEYS if key in heading), None)
    if column is not None:
        return [row[column] for row in rows[1:] if column < len(row)]
    if len(heading) > 1:
        raise ValueError(f"several columns ({', '.join(heading)}), and none is called prompt")
    return [row[0] for row in rows]


def _prompt(entry: Any) -> str:
    if isinstance(entry, Mapping):
        entry = next((entry[key] for key in _KEYS if key in entry), None)
    if not isinstance(entry, str):
        raise ValueError(f"a text or an object with the key prompt is needed, got {json.dumps(entry)[:60]}")
    return entry


_READERS: dict[str, Callable[[str], list[str]]] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".yaml": _yaml,
    ".yml": _yaml,
    ".json": _yaml,  # JSON is YAML
    ".csv": _csv,
    ".tsv": _csv,
}
