"""Tables of a codebook in every form in which users give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from autotune.compression.formats.table import parse_codebook, read_codebook

TABLE = (-1.0, -0.25, 0.0, 0.5, 1.5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_numpy_file_holds_a_table(tmp_path: Path, dtype: str) -> None:
    """One axis of numbers in any floating-point type."""
    np.save(tmp_path / "table.npy", np.array(TABLE, dtype))
    assert read_codebook(tmp_path / "table.npy") == TABLE


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("table.json", "[-1, -0.25, 0, 0.5, 1.5]"),
        ("table.txt", "# levels\n-1\n-0.25\n0\n0.5  # half\n1.5\n"),
        ("table.csv", "-1,-0.25,0,0.5,1.5\n"),
        ("table.csv", "-1;-0.25;0\n0.5;1.5\n"),
        ("table", "-1 -25e-2 0 .5 1.5"),
    ],
)
def test_text_files_hold_a_table(tmp_path: Path, name: str, text: str) -> None:
    """JSON lists, and numbers with white space, commas or semicolons between them."""
    (tmp_path / name).write_text(text)
    assert read_codebook(tmp_path / name) == TABLE
    assert parse_codebook(str(tmp_path / name)) == TABLE


def test_a_word_with_commas_is_the_table_itself() -> None:
    """As in --codebook=-1,0,1."""
    assert parse_codebook("-1,-0.25,0,0.5,1.5") == TABLE


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("table.json", b'{"a": 1}', "one flat list"),
        ("table.json", b"[[1, 2]]", "one flat list"),
        ("table.json", b"[true, 2]", "one flat list"),
        ("table.json", b"[1, 2", "not a list of numbers"),
        ("table.npy", b"nothing", "not a list of numbers"),
        ("table.txt", b"1 two", "not a list of numbers"),
        ("table.txt", b"\xff\xfe\x00", "not a list of numbers"),
    ],
)
def test_what_is_no_table_is_refused_with_the_file(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    """The message names the file and what is wrong with it."""
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_codebook(tmp_path / name)
    assert name in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    """No traceback of the operating system's."""
    with pytest.raises(ValueError, match=r"no such file: .*nowhere\.txt"):
        parse_codebook(str(tmp_path / "nowhere.txt"))
