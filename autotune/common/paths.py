"""Checks of the files and folders that a configuration names, before any work starts on them."""

from __future__ import annotations

import codecs
import os
import re
from pathlib import Path
from typing import Any

from autotune.common.validation import nearest

BLOCK = 1 << 20
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


LONGEST_NAME = 255
"""Bytes of a file's or folder's name on Linux, macOS and Windows; asking for a longer one fails in every call."""


def absolute(path: str | Path, base_dir: Path) -> Path:
    """`path` from `base_dir` on, ``~`` and ``..`` worked out.

    Raises:
        ValueError: a name in it is longer than file systems allow.
    """
    whole = Path(os.path.abspath(base_dir / Path(path).expanduser()))
    longest = max(whole.parts, key=lambda part: len(os.fsencode(part)))
    if len(os.fsencode(longest)) > LONGEST_NAME:
        raise ValueError(
            f"a name of {len(os.fsencode(longest))} bytes, {longest[:20]}...; file systems allow {LONGEST_NAME}. "
            "Shorten it"
        )
    return whole


def text_problem(path: Path) -> str | None:
    """Return the reason why `path` cannot be read as non-empty UTF-8 text, or None."""
    if path.is_dir():
        return f"is a folder: {path}; give one text file"
    line, blank = 1, True
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        with path.open("rb") as stream:
            while block := stream.read(BLOCK):
                text = decoder.decode(block)
                blank = blank and not text.strip()
                line += block.count(b"\n")
            decoder.decode(b"", final=True)
    except FileNotFoundError:
        around = path.parent
        if not around.is_dir():
            return f"no such file: {path} (there is no folder {around})"
        return f"no such file: {path}{nearest(path.name, (each.name for each in around.iterdir()))}"
    except UnicodeDecodeError as error:
        line += error.object[: error.start].count(b"\n")
        return f"is not UTF-8 text: {path}, line {line}; save it as UTF-8"
    except OSError as error:
        return f"cannot be read: {path} ({error.strerror})"
    return f"is empty: {path}" if blank else None


def looks_like_path(name: str) -> bool:
    """Return True if `name` can only be a local folder, not a Hugging Face id."""
    return name.startswith((".", "/", "~")) or "\\" in name or name.count("/") > 1 or bool(re.match(r"[A-Za-z]:", name))


def local_model(name: str, base_dir: Path) -> Path | None:
    """Return the absolute folder of a local model, or None if `name` is a Hugging Face id.

    Raises:
        ValueError: a path without a folder, a folder without a model, or neither path nor id.
    """
    folder = absolute(name, base_dir)
    if folder.is_dir():
        if not any((folder / file).is_file() for file in ("config.json", "openvino_model.xml")):
            raise ValueError(f"is a folder without a model (neither config.json nor openvino_model.xml): {folder}")
        return folder
    if folder.is_file():
        raise ValueError(f"is a file: {folder}; give the folder of the model")
    if looks_like_path(name):
        elsewhere = Path(name).expanduser().absolute()
        hint = f"; there is {elsewhere}, but paths start from the file's folder" if elsewhere.is_dir() else ""
        raise ValueError(f"no such folder: {folder}{hint}")
    if not HUB_ID.fullmatch(name):
        raise ValueError(f"is neither a folder nor a Hugging Face id (owner/name), got {name!r}")
    return None


def local_or_hub(name: str, base_dir: Path) -> str:
    """Return the absolute path of a local file or folder, or `name` if it is a Hugging Face id.

    Raises:
        ValueError: a path with nothing there.
    """
    path = absolute(name, base_dir)
    if path.exists():
        return str(path)
    if looks_like_path(name):
        raise ValueError(f"no such file or folder: {path}")
    return name


def file_name(text: str) -> str:
    """Turn a text, such as a metric's name, into a file's name: no separators, and no dot in front."""
    return re.sub(r"[^\w.-]+", "-", text).lstrip(".") or "-"


def slug(model: str) -> str:
    """Turn a model's name into a folder's name: ``HuggingFaceTB/SmolLM2-135M`` gives ``smollm2-135m``."""
    last: Any = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    return re.sub(r"[^a-z0-9._-]+", "-", last.lower()).strip("-.") or "model"
