"""Texts from files and datasets, windows of tokens, prompt lists."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from autotune.errors import ConfigError, PrerequisiteError
from autotune.evaluation.texts.sources import TextSource as Source
from autotune.evaluation.texts.sources import describe_source, read_texts, token_windows
from autotune.testing import FakeTokenizer


def test_a_file_is_one_text(tmp_path: Path) -> None:
    """A file is read as UTF-8, with its blank lines, without a byte order mark."""
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbf" + "Ä first line\n\nand a third\n".encode())
    assert read_texts(Source(path=file)) == ["Ä first line\n\nand a third\n"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [(None, "does not exist"), (b" \n\n", "is empty"), (b"caf\xe9 noir", "not UTF-8 text \\(byte 3\\)")],
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes | None, problem: str) -> None:
    """A missing, empty or wrongly encoded file is a ConfigError that carries the file."""
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=problem) as caught:
        read_texts(Source(path=file))
    assert caught.value.file == file


def test_a_folder_is_no_text_file(tmp_path: Path) -> None:
    """A folder given as a text file is a ConfigError."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read_texts(Source(path=tmp_path))


@pytest.mark.parametrize("options", [{}, {"path": Path("a.txt"), "dataset": "b"}])
def test_a_source_is_a_file_or_a_dataset(options: dict[str, Any]) -> None:
    """Neither or both is refused, before anything is read."""
    with pytest.raises(ValidationError, match="one of path, dataset, texts and tokens"):
        Source(**options)


def _rows(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


# datasets leaves the csv file open; its reader is collected sooner or later.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_dataset_file_gives_its_rows_without_blank_ones(tmp_path: Path) -> None:
    """Each row of a local json, csv or text dataset that is not blank is one text."""
    _rows(tmp_path / "rows.jsonl", [{"text": "one"}, {"text": " "}, {"text": "two"}])
    (tmp_path / "rows.csv").write_text("id,text\n1,one\n2,two\n")
    (tmp_path / "rows.txt").write_text("one\n\ntwo\n")
    for name in ("rows.jsonl", "rows.csv", "rows.txt"):
        assert read_texts(Source(dataset=str(tmp_path / name))) == ["one", "two"], name


def test_a_dataset_folder_has_splits(tmp_path: Path) -> None:
    """A local dataset folder is read by split; without one, several splits are a ConfigError that names them."""
    _rows(tmp_path / "train.jsonl", [{"text": "learn"}])
    _rows(tmp_path / "test.jsonl", [{"text": "try"}])
    assert read_texts(Source(dataset=str(tmp_path), split="test")) == ["try"]
    with pytest.raises(ConfigError, match=r"several splits: name one of (train, test|test, train)"):
        read_texts(Source(dataset=str(tmp_path)))
    with pytest.raises(ConfigError, match="nonesuch"):
        read_texts(Source(dataset=str(tmp_path), split="nonesuch"))


def test_the_text_column_is_found_or_named(tmp_path: Path) -> None:
    """The only column of strings is the text; of several, one has to be named, and a wrong name lists them."""
    one, several, none = tmp_path / "one.jsonl", tmp_path / "several.jsonl", tmp_path / "none.jsonl"
    one.write_text('{"id": 1, "body": "only"}\n')
    several.write_text('{"title": "t", "body": "b"}\n')
    none.write_text('{"text": " "}\n')
    assert read_texts(Source(dataset=str(one))) == ["only"]
    assert read_texts(Source(dataset=str(several), column="title")) == ["t"]
    with pytest.raises(ConfigError, match="name one of title, body as column"):
        read_texts(Source(dataset=str(several)))
    with pytest.raises(ConfigError, match="no text column 'text'; its text columns are title, body"):
        read_texts(Source(dataset=str(several), column="text"))
    with pytest.raises(ConfigError, match="all rows of the column are blank"):
        read_texts(Source(dataset=str(none)))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize(
    ("name", "content"),
    [("cut.jsonl", '{"text": "one"}\n{"text": "tw'), ("odd.csv", "id,text\n1,one\n2,two,three,four\n")],
)
def test_a_damaged_dataset_file_is_named(name: str, content: str, tmp_path: Path) -> None:
    """With the reader's reason."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=rf"{name} cannot be read: .*(JSON|[Ee]xpected|line).* Correct the file"):
        read_texts(Source(dataset=str(tmp_path / name)))


def test_a_dataset_that_is_not_here_says_what_to_do() -> None:
    """A hub dataset without a network is a PrerequisiteError that names it and the way around."""
    with pytest.raises(PrerequisiteError, match=r"dataset nobody/nothing \(main, test\).*use path"):
        read_texts(Source(dataset="nobody/nothing", name="main", split="test"))


def test_sources_are_described_briefly() -> None:
    """A source is described by its file or by its dataset and split."""
    assert describe_source(Source(path=Path("a/b.txt"))) == str(Path("a/b.txt"))
    assert describe_source(Source(dataset="a/b")) == "dataset a/b"
    assert describe_source(Source(dataset="a/b", name="c", split="test")) == "dataset a/b (c, test)"


@given(
    texts=st.lists(st.text(alphabet="abc", min_size=1, max_size=30), min_size=1, max_size=5),
    length=st.integers(1, 12),
    samples=st.none() | st.integers(1, 4),
)
def test_windows_are_the_text_cut_up(texts: list[str], length: int, samples: int | None) -> None:
    """Windows in a row are the beginning of the joined texts' tokens, as many as fit or as are wanted."""
    tokens = FakeTokenizer()("\n\n".join(texts))["input_ids"]
    fitting = len(tokens) // length
    if fitting == 0:
        with pytest.raises(ConfigError):
            token_windows(FakeTokenizer(), texts, sequence_length=length, samples=samples)
        return
    windows = token_windows(FakeTokenizer(), texts, sequence_length=length, samples=samples)
    count = fitting if samples is None else min(samples, fitting)
    assert windows.dtype == np.int64
    assert windows.shape == (count, length)
    assert windows.ravel().tolist() == tokens[: count * length]


def test_few_windows_of_a_long_text_read_only_its_beginning() -> None:
    """The beginning of a long text gives the same windows as all of it, at the cost of the beginning."""
    lengths: list[int] = []

    class Counting(FakeTokenizer):
        def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
            lengths.append(len(text))
            return super().__call__(text)

    text = "The quick brown fox. " * 20_000
    windows = token_windows(Counting(), [text], sequence_length=16, samples=4)
    assert max(lengths) < len(text) // 10
    np.testing.assert_array_equal(windows, token_windows(FakeTokenizer(), [text], sequence_length=16)[:4])


def test_a_beginning_with_too_few_tokens_is_not_enough() -> None:
    """If the beginning has too few tokens, the whole text is tokenised."""

    class Sparse(FakeTokenizer):
        def __call__(self, text: str, **options: bool) -> dict[str, list[int]]:
            return {"input_ids": [len(word) for word in text.split()]}

    text = " " * 20_000 + "a bb ccc dddd " * 100
    assert token_windows(Sparse(), [text], sequence_length=4, samples=2).tolist() == [[1, 2, 3, 4]] * 2


def test_a_text_shorter_than_one_window_says_by_how_much() -> None:
    """The message has the source, the tokens found and the tokens needed."""
    with pytest.raises(ConfigError, match=r"notes\.txt has 5 tokens.*sequence_length=8"):
        token_windows(FakeTokenizer(), ["short"], sequence_length=8, name="notes.txt")
