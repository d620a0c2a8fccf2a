"""Calibration and evaluation texts: files and Hugging Face datasets, cut into windows of tokens.

Whether texts that should be others than each other are: how much of one stands in another, token by token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from autotune.errors import ConfigError, PrerequisiteError, reason

if TYPE_CHECKING:
    from autotune.evaluation.protocol import IntArray

__all__ = ["BLOCK", "TextSource", "describe_source", "read_texts", "shared_parts", "shared_share", "token_windows"]

_SEPARATOR = "\n\n"  # between the rows of a dataset, as is usual for perplexity on wikitext
_PREFIX_CHARACTERS = 32  # per token wanted: far more than any tokenizer averages over a text
_PREFIX_MARGIN = 256  # tokens beyond those wanted, so that the cut end of a prefix is never used
_FILE_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}


class TextSource(Protocol):
    """Where texts come from: either `path`, or `dataset` with what selects a part of it."""

    @property
    def path(self) -> str | Path | None:
        """A UTF-8 text file: one text."""

    @property
    def dataset(self) -> str | None:
        """A dataset of the Hugging Face hub, or a local dataset folder or file: one text a row."""

    @property
    def name(self) -> str | None:
        """The dataset's configuration."""

    @property
    def split(self) -> str | None:
        """The dataset's split."""

    @property
    def column(self) -> str | None:
        """The column that holds the text; by default ``text``, or the only column of strings."""


def describe_source(source: TextSource) -> str:
    """A source in a few words, for messages: ``test.txt`` or ``dataset Salesforce/wikitext (test)``."""
    if getattr(source, "synthetic", False):
        return "text written by the model"
    if source.path is not None:
        return str(source.path)
    part = ", ".join(part for part in (source.name, source.split) if part)
    return f"dataset {source.dataset} ({part})" if part else f"dataset {source.dataset}"


def read_texts(source: TextSource) -> list[str]:
    """The texts of a source: a file is one text, a dataset one text for each row that is not blank.

    Raises:
        ConfigError: the file is missing, not UTF-8 or blank; or the dataset has no such configuration, split or
            column, or no text in it.
        PrerequisiteError: the dataset is not here and cannot be fetched.
    """
    if (source.path is None) == (source.dataset is None):
        raise ConfigError("a text source needs either path or dataset, and not both.")
    if source.path is not None:
        return [_read_file(Path(source.path))]
    texts = _read_dataset(source)
    if not texts:
        raise ConfigError(f"{describe_source(source)} has no text: every row of the column is blank.")
    return texts


def token_windows(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    sequence_length: int,
    samples: int | None = None,
    name: str = "the text",
) -> IntArray:
    """Cut the joined texts into consecutive windows that do not overlap; the rest at the end is dropped.

    The texts are joined by a blank line and tokenised as one, with the special tokens that the tokenizer adds by
    default (one beginning-of-text token at most, not one a window).

    Args:
        tokenizer: a `transformers` tokenizer.
        texts: as `read_texts` gives them.
        sequence_length: tokens of a window, L.
        samples: at most so many windows, from the start; all by default.
        name: where the texts are from, for the message.

    Returns:
        int64 [n, L], n at least 1.

    Raises:
        ConfigError: the texts are shorter than one window.
    """
    text = _SEPARATOR.join(texts)
    wanted = None if samples is None else samples * sequence_length
    tokens: Any = None
    if wanted is not None and len(text) > (characters := (wanted + _PREFIX_MARGIN) * _PREFIX_CHARACTERS):
        # A few windows of a corpus of hundreds of megabytes: its beginning tokenises alike and in no time.
        tokens = _tokenise(tokenizer, text[:characters])
        if len(tokens) < wanted + _PREFIX_MARGIN:
            tokens = None
    if tokens is None:
        tokens = _tokenise(tokenizer, text)
    count = len(tokens) // sequence_length
    if count == 0:
        raise ConfigError(
            f"{name} has {len(tokens)} tokens, but one window needs sequence_length={sequence_length}. Use a longer "
            "text or a smaller sequence_length."
        )
    count = count if samples is None else min(count, samples)
    return np.asarray(tokens[: count * sequence_length], dtype=np.int64).reshape(count, sequence_length)


def _tokenise(tokenizer: Any, text: str) -> Any:
    # verbose=False: that the text is longer than the model's context is meant.
    return tokenizer(text, verbose=False)["input_ids"]


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("the text file does not exist.", file=path) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start}); save it as UTF-8.", file=path) from error
    except OSError as error:
        raise ConfigError(f"the text file cannot be read: {error.strerror or error}.", file=path) from error
    if not text.strip():
        raise ConfigError("the text file is empty.", file=path)
    return text


def _read_dataset(source: TextSource) -> list[str]:
    rows = _one_split(_load_dataset(source), source)
    column = _text_column(rows.features, source)
    return [text for text in rows[column] if text and text.strip()]


def _load_dataset(source: TextSource) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise PrerequisiteError(
            f"{describe_source(source)} needs the package datasets: pip install datasets. Or use path: a text file."
        ) from error
    assert source.dataset is not None
    local = Path(source.dataset)
    try:
        if local.is_file() and local.suffix.lower() in _FILE_BUILDERS:
            builder = _FILE_BUILDERS[local.suffix.lower()]
            return datasets.load_dataset(builder, source.name, data_files=str(local), split=source.split)
        return datasets.load_dataset(source.dataset, source.name, split=source.split)
    except ValueError as error:
        raise ConfigError(f"{describe_source(source)}: {reason(error)}") from error
    except (OSError, RuntimeError) as error:
        # Missing hub datasets and missing networks come as kinds of FileNotFoundError and ConnectionError.
        raise PrerequisiteError(
            f"{describe_source(source)} could not be loaded ({reason(error)}). Check the name and the network, "
            "or use path: a text file, or a local dataset folder, which needs neither."
        ) from error


def _one_split(loaded: Any, source: TextSource) -> Any:
    if not isinstance(loaded, Mapping):
        return loaded
    if len(loaded) == 1:
        return next(iter(loaded.values()))
    raise ConfigError(f"{describe_source(source)} has several splits: name one of {', '.join(loaded)} as split.")


def _text_column(features: Mapping[str, Any], source: TextSource) -> str:
    strings = [
        name for name, feature in features.items() if getattr(feature, "dtype", None) in ("string", "large_string")
    ]
    if source.column is not None:
        if source.column in strings:
            return source.column
        raise ConfigError(
            f"{describe_source(source)} has no text column {source.column!r}; its text columns are "
            f"{', '.join(strings) or 'none'}."
        )
    if "text" in strings:
        return "text"
    if len(strings) == 1:
        return strings[0]
    raise ConfigError(
        f"{describe_source(source)} has no column text; name one of {', '.join(strings) or 'none'} as column."
    )


Texts = Sequence[Sequence[int]]

BLOCK = 64
"""Tokens in a row that do not stand in two texts by chance; a text that is shorter counts as a whole."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


def shared_parts(texts: Mapping[str, Texts]) -> dict[str, float]:
    """``"a and b"`` -> the share of b's tokens that stand in a, for each pair of sets that have texts, in order."""
    used = {name: part for name, part in texts.items() if any(len(text) for text in part)}
    return {f"{a} and {b}": shared_share(used[b], used[a]) for a, b in combinations(used, 2)}


def shared_share(texts: Texts, others: Texts) -> float:
    """The share of the tokens of `texts` in blocks of `BLOCK` that stand somewhere in `others`, in [0, 1].

    Every stretch of at least 2 BLOCK - 1 tokens that both have is found.
    """
    lengths = {min(BLOCK, len(text)) for text in texts if len(text)}
    known = {length: _hashes_at_all_places(others, length) for length in lengths}
    shared = total = 0
    for text in texts:
        length = min(BLOCK, len(text))
        if not length:
            continue
        tokens = np.asarray(text, np.int64)
        starts = [*range(0, len(tokens) - length + 1, length)]
        blocks = _hashes(tokens, length)[starts]
        found = np.isin(blocks, known[length])
        shared += int(found.sum()) * length
        total += len(starts) * length
    return shared / total if total else 0.0


def _hashes_at_all_places(texts: Texts, length: int) -> npt.NDArray[np.uint64]:
    """Hashes of all `length` tokens in a row; of texts of just that length where blocks are shorter than BLOCK."""
    fitting = [text for text in texts if (len(text) >= length if length == BLOCK else len(text) == length)]
    return np.concatenate([_hashes(np.asarray(text, np.int64), length) for text in fitting] or [np.empty(0, np.uint64)])


def _hashes(tokens: npt.NDArray[np.int64], length: int) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of the `length` tokens from each place on, [n - length + 1]: a polynomial of them, modulo 2^64."""
    count = len(tokens) - length + 1
    mixed = (tokens.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    mixed ^= mixed >> np.uint64(29)
    result = np.zeros(count, np.uint64)
    for offset in range(length):
        result = result * _MULTIPLIER + mixed[offset : offset + count]
    return result
