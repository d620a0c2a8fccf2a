"""Tables of a codebook as users give them: numbers in a file, or numbers themselves."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

__all__ = ["parse_codebook", "read_codebook"]


def parse_codebook(text: str) -> tuple[float, ...]:
    """The table that a word of the command line stands for: numbers with commas between them, or a file.

    Raises:
        ValueError: neither; says what is wrong.
    """
    if "," in text:
        try:
            return tuple(float(word) for word in text.split(","))
        except ValueError:
            pass  # a file's name may have a comma
    return read_codebook(Path(text).expanduser())


def read_codebook(path: Path) -> tuple[float, ...]:
    """The table in a file: ``.npy`` (one axis), ``.json`` (a list), or any other as text of numbers between white
    space, commas or semicolons; ``#`` begins a comment.

    Raises:
        ValueError: no such file, or it holds anything but one list of numbers; says what is wrong.
    """
    try:
        if path.suffix == ".npy":
            return _numbers(_load_npy(path))
        text = path.read_text("utf-8")
        if path.suffix == ".json":
            return _numbers(json.loads(text))
    except FileNotFoundError:
        raise ValueError(f"no such file: {path}") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path} is not a list of numbers ({error})") from None
    words = re.sub(r"#.*", "", text).replace(",", " ").replace(";", " ").split()
    try:
        return tuple(float(word) for word in words)
    except ValueError as error:
        raise ValueError(f"{path} is not a list of numbers ({error})") from None


def _load_npy(path: Path) -> Any:
    import numpy as np

    return np.load(path, allow_pickle=False).tolist()


def _numbers(data: Any) -> tuple[float, ...]:
    if not isinstance(data, list) or not all(type(each) in (int, float) for each in data):
        raise ValueError("it must be one flat list")
    return tuple(float(each) for each in data)
