"""Calibration and evaluation texts: files and Hugging Face datasets, cut into windows of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from autotune.errors import ConfigError, PrerequisiteError, UsageError, reason

if TYPE_CHECKING:
    from typing import Self

    import numpy.typing as npt

    from autotune.evaluation.protocol import IntArray

Texts: TypeAlias = "str | Path | Sequence[str] | Mapping[str, Any] | npt.NDArray[Any]"
"""Texts as the Python API takes them; see `text_source`."""

_SEPARATOR = "\n\n"  # between the rows of a dataset, as is usual for perplexity on wikitext
_PREFIX_CHARACTERS = 32  # per token: far more than any tokenizer averages over a text
_PREFIX_MARGIN = 256  # tokens that are dropped at the end of a prefix, which may be cut inside a token
_FILE_BUILDERS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".txt": "text",
}

_Name = Annotated[str, Field(min_length=1)]


class TextSource(BaseModel):
    """Source of texts: one UTF-8 file, or one column of a dataset (hub or local).

    A subclass may add options, and other sources by overriding `_one_source`. Nothing is read before `read_texts`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    path: Path | None = None
    """A UTF-8 text file."""
    dataset: _Name | None = None
    """A dataset of the Hugging Face hub, e.g. Salesforce/wikitext, or a local one."""
    name: _Name | None = None
    """The dataset's configuration, e.g. wikitext-2-raw-v1."""
    split: _Name | None = None
    """The dataset's split, e.g. train or test."""
    column: _Name | None = None
    """The dataset's column that holds the texts; by default text, or the only column of strings."""

    texts: Annotated[list[str], Field(min_length=1)] | None = None
    """The texts themselves."""
    tokens: Annotated[list[Annotated[list[int], Field(min_length=2)]], Field(min_length=1)] | None = None
    """The texts as windows of token ids, all of one length; `sequence_length` is then without effect."""

    @field_validator("tokens")
    @classmethod
    def _one_length(cls, value: list[list[int]] | None) -> list[list[int]] | None:
        if value is not None and len({len(window) for window in value}) > 1:
            raise ValueError("all windows of token ids must have one length")
        return value

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if len(self.sources) != 1:
            raise ValueError("give one of path, dataset, texts and tokens")
        return self

    @property
    def sources(self) -> list[str]:
        """Names of the fields that name a source."""
        names = ("path", "dataset", "texts", "tokens", "synthetic")
        return [name for name in names if getattr(self, name, None) not in (None, False)]


def text_source(texts: Texts, parameter: str) -> dict[str, Any]:
    """Convert texts in any form that the Python API takes to the keys of a text source in model.yaml.

    Args:
        texts: the path of a UTF-8 file, a list of strings, ``{"dataset": ..., "split": ...}``, ``"synthetic"``, or
            windows of token ids, int64 [n, T].
        parameter: name of the argument, for messages.

    Raises:
        UsageError: there is no such file, or an array of another shape or type.
    """
    import numpy as np

    if isinstance(texts, np.ndarray):
        if texts.ndim != 2 or texts.dtype.kind not in "iu":
            shape = list(texts.shape)
            raise UsageError(f"`{parameter}`: token windows must be integers [n, T], got {texts.dtype} {shape}")
        return {"tokens": texts.tolist()}
    if isinstance(texts, Mapping):
        return dict(texts)
    if texts == "synthetic":
        return {"synthetic": True}
    if not isinstance(texts, (str, Path)):
        return {"texts": [str(text) for text in texts]}
    path = Path(texts).expanduser()
    if not path.is_file():
        raise UsageError(
            f"`{parameter}`: {texts} is no text file. Give a UTF-8 text file, a list of strings, "
            "{'dataset': ..., 'split': ...}, or 'synthetic'"
        )
    return {"path": str(path)}


def describe_source(source: TextSource) -> str:
    """Describe a source in a few words, for messages: ``test.txt`` or ``dataset Salesforce/wikitext (test)``."""
    if getattr(source, "synthetic", False):
        return "text written by the model"
    if source.texts is not None:
        return f"{len(source.texts)} texts"
    if source.tokens is not None:
        return f"{len(source.tokens)} windows of token ids"
    if source.path is not None:
        return str(source.path)
    part = ", ".join(part for part in (source.name, source.split) if part)
    return f"dataset {source.dataset} ({part})" if part else f"dataset {source.dataset}"


def read_texts(source: TextSource) -> list[str]:
    """Read the texts of a source: a file is one text, a dataset one text for each row that is not blank.

    Windows of token ids are returned as decimal numbers, to distinguish sources.

    Raises:
        ConfigError: the file is missing, not UTF-8 or blank; or the dataset has no such configuration, split or
            column, or no text in it.
        PrerequisiteError: the dataset is not on this machine and cannot be downloaded.
    """
    if source.path is not None:
        return [_read_file(source.path)]
    if source.texts is not None:
        texts = [text for text in source.texts if text.strip()]
        if not texts:
            raise ConfigError("all strings in texts are blank; give texts with words.")
        return texts
    if source.tokens is not None:
        return [" ".join(map(str, window)) for window in source.tokens]
    texts = _read_dataset(source)
    if not texts:
        raise ConfigError(
            f"{describe_source(source)} has no text: all rows of the column are blank. Choose another column or split."
        )
    return texts


def read_rows(source: TextSource, count: int | None = None) -> list[dict[str, Any]]:
    """Read the first `count` rows of a dataset with all their columns; all rows by default.

    Raises:
        ConfigError, PrerequisiteError: as `read_texts`.
    """
    rows = _one_split(_load_dataset(source), source)
    return list(rows if count is None else rows.select(range(min(count, len(rows)))))


def read_windows(
    source: TextSource,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    sequence_length: int,
    samples: int | None = None,
    name: str | None = None,
) -> IntArray:
    """Cut the texts of a source into windows as `token_windows` does; windows of token ids are taken as they are.

    Args:
        source: of the texts.
        tokenizer, sequence_length, samples: as for `token_windows`.
        texts: what `read_texts` returned.
        name: description of the texts for messages; by default `describe_source`.

    Returns:
        Token ids, int64 [n, L], n at least 1.

    Raises:
        ConfigError: the texts are shorter than one window.
    """
    if source.tokens is not None:
        import numpy as np

        return np.asarray(source.tokens[:samples], np.int64)
    name = name or describe_source(source)
    return token_windows(tokenizer, texts, sequence_length=sequence_length, samples=samples, name=name)


def token_windows(
    tokenizer: Any,
    texts: Sequence[str],
    *,
    sequence_length: int,
    samples: int | None = None,
    name: str = "the text",
) -> IntArray:
    """Cut the joined texts into consecutive windows that do not overlap; an incomplete last window is dropped.

    The texts are joined by a blank line and tokenized as one, with the special tokens that the tokenizer adds by
    default (at most one beginning-of-text token for all windows).

    Args:
        tokenizer: a `transformers` tokenizer.
        texts: as `read_texts` returns them.
        sequence_length: tokens of a window, L.
        samples: largest number of windows, from the start; all by default.
        name: description of the texts, for the message.

    Returns:
        Token ids, int64 [n, L], n at least 1.

    Raises:
        ConfigError: the texts are shorter than one window.
    """
    import numpy as np

    text = _SEPARATOR.join(texts)
    tokens: Any = None
    if samples is not None:
        # For a few windows of a corpus of hundreds of megabytes, a prefix gives the same tokens much faster.
        needed = samples * sequence_length + _PREFIX_MARGIN
        characters = needed * _PREFIX_CHARACTERS
        if len(text) > characters:
            tokens = _tokenize(tokenizer, text[:characters])
    if tokens is None or len(tokens) < needed:
        tokens = _tokenize(tokenizer, text)
    count = len(tokens) // sequence_length
    if count == 0:
        raise ConfigError(
            f"{name} has {len(tokens)} tokens, but one window needs sequence_length={sequence_length}. Use a longer "
            "text or a smaller sequence_length."
        )
    count = count if samples is None else min(count, samples)
    return np.asarray(tokens[: count * sequence_length], dtype=np.int64).reshape(count, sequence_length)


def _tokenize(tokenizer: Any, text: str) -> Any:
    # verbose=False: no warning about a text longer than the model's context.
    return tokenizer(text, verbose=False)["input_ids"]


def _read_file(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("the text file does not exist. Check the path.", file=path) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"not UTF-8 text (byte {error.start}); save it as UTF-8.", file=path) from error
    except OSError as error:
        raise ConfigError(
            f"the text file cannot be read: {error.strerror or error}. Check its permissions.", file=path
        ) from error
    if not text.strip():
        raise ConfigError("the text file is empty. Give a file with text.", file=path)
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
    assert source.dataset is not None, "a source of generated text has nothing to read"
    local = Path(source.dataset)
    try:
        if local.is_file() and local.suffix.lower() in _FILE_BUILDERS:
            builder = _FILE_BUILDERS[local.suffix.lower()]
            return datasets.load_dataset(builder, source.name, data_files=str(local), split=source.split)
        return datasets.load_dataset(source.dataset, source.name, split=source.split)
    except ValueError as error:
        raise ConfigError(f"{describe_source(source)}: {reason(error)}") from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise ConfigError(
            f"{describe_source(source)} cannot be read: {reason(error.__cause__ or error)}. Correct the file, or "
            "download it again if it was cut off."
        ) from error
    except (OSError, RuntimeError) as error:
        # A missing dataset raises a FileNotFoundError, a missing network a ConnectionError; both are OSErrors.
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
        f"{describe_source(source)} has no column text; name one of {', '.join(strings)} as column."
        if strings
        else f"{describe_source(source)} has no column of text; give another file or dataset."
    )
