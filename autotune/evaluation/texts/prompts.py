"""Prompts and conversations from a file: plain text, CSV, YAML or JSON lines."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from autotune.errors import ConfigError

T = TypeVar("T")

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
    suffix = path.suffix.lower()
    if suffix in _STRUCTURED:
        found = _entries(path, "prompts", _prompt, _KEYS)
    else:
        found = _parsed(path, "prompts", _csv if suffix in _CSV else str.splitlines)
    prompts = [prompt.strip() for prompt in found if prompt.strip()]
    if not prompts:
        raise ConfigError("the file contains no prompts. Write one prompt on each line.", file=path)
    return prompts


def read_images(path: str | Path) -> list[Path | None]:
    """Return the image of each prompt that `read_prompts` reads from the same file; None for a prompt without one.

    An object of a JSON or YAML file names it under ``image``, relative to the folder of the file.

    Raises:
        ConfigError: as `read_prompts`, or an image does not exist.
    """
    path = Path(path)
    if path.suffix.lower() not in _STRUCTURED:
        return [None] * len(read_prompts(path))
    found = _entries(path, "prompts", lambda entry: (_prompt(entry), _image(entry)), _KEYS)
    images = [None if image is None else path.parent / image for prompt, image in found if prompt.strip()]
    missing = next((image for image in images if image is not None and not image.is_file()), None)
    if missing is not None:
        raise ConfigError(f"names the image {missing}, which does not exist. Correct the path.", file=path)
    return images


def read_conversations(path: str | Path) -> list[tuple[str, ...]]:
    """Read conversations from a UTF-8 file, each as the texts of its user turns.

    - ``.jsonl``, ``.ndjson``: one list of strings a line, or one object with such a list under ``turns``.
    - ``.yaml``, ``.yml``, ``.json``: a list of these, or a mapping with it under ``conversations``.

    Raises:
        ConfigError: the file is missing, not UTF-8, not in this format, or has no conversation; a turn is blank.
    """
    path = Path(path)
    if path.suffix.lower() not in _STRUCTURED:
        raise ConfigError(
            f"conversations are read from {', '.join(_STRUCTURED)} files. Write one JSON list of user turns on each "
            'line, such as ["Hello", "And now?"], and name the file with .jsonl.',
            file=path,
        )
    conversations = _entries(path, "conversations", _conversation, ("conversations",))
    if not conversations:
        raise ConfigError("the file contains no conversations. Write one list of user turns on each line.", file=path)
    return conversations


ENGLISH = frozenset(
    {"the", "of", "a", "and", "is", "are", "do", "does", "what", "how", "why", "in", "for", "with", "to"}
)


def is_english(prompt: str) -> bool:
    """Guess the language of a prompt: without letters beyond ASCII, or with at least two common English words."""
    return prompt.isascii() or len(ENGLISH & set(re.findall(r"[a-z]+", prompt.lower()))) > 1


def _read(path: Path, what: str) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(f"the file of {what} does not exist. Check the path.", file=path) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start}); save it as UTF-8.", file=path) from error
    except OSError as error:
        raise ConfigError(
            f"the file of {what} cannot be read: {error.strerror or error}. Check its permissions.", file=path
        ) from error


def _parsed(path: Path, what: str, parse: Callable[[str], list[T]]) -> list[T]:
    """Parse the text of a file of prompts or conversations."""
    text = _read(path, what)
    try:
        return parse(text)
    except (ValueError, csv.Error, RecursionError) as error:
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(f"invalid {what}: {problem}. Correct the file.", file=path) from error


def _entries(path: Path, what: str, entry: Callable[[Any], T], keys: Sequence[str]) -> list[T]:
    """Read the entries of a JSON lines or YAML file; `keys` may hold the list in a mapping."""
    if path.suffix.lower() in _JSON_LINES:
        return _parsed(path, what, lambda text: _json_lines(text, entry))
    return _parsed(path, what, lambda text: _yaml(text, entry, keys))


def _json_lines(text: str, entry: Callable[[Any], T]) -> list[T]:
    entries = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            entries.append(entry(json.loads(line)))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
    return entries


def _yaml(text: str, entry: Callable[[Any], T], keys: Sequence[str]) -> list[T]:
    import yaml

    try:
        loaded = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML, {' '.join(str(error).split())}") from error
    if isinstance(loaded, Mapping):
        loaded = next((loaded[key] for key in keys if key in loaded), None)
    if not isinstance(loaded, list):
        raise ValueError(
            f"a list is needed, or a mapping with a list under {keys[-1] if len(keys) == 1 else 'prompts'}"
        )
    return [entry(each) for each in loaded]


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
        raise ValueError(
            f"a text or an object with the key prompt is needed, got {json.dumps(entry, default=str)[:60]}"
        )
    return entry


def _image(entry: Any) -> str | None:
    image = entry.get("image") if isinstance(entry, Mapping) else None
    if image is not None and (not isinstance(image, str) or not image):
        raise ValueError(f"image must be the path of a file, got {json.dumps(image, default=str)[:60]}")
    return image


def _conversation(entry: Any) -> tuple[str, ...]:
    turns = entry.get("turns") if isinstance(entry, Mapping) else entry
    if not isinstance(turns, list) or not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
        raise ValueError(
            "a list of user turns, none of them blank, or an object with it under the key turns is needed, got "
            f"{json.dumps(entry, default=str)[:60]}"
        )
    return tuple(turn.strip() for turn in turns)


_JSON_LINES = (".jsonl", ".ndjson")
_STRUCTURED = (*_JSON_LINES, ".yaml", ".yml", ".json")  # JSON is YAML
_CSV = (".csv", ".tsv")
