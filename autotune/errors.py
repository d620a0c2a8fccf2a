"""Exception hierarchy, with the exit code of the command line.

    AutotuneError                 exit code 1
    ├── UsageError                exit code 2: a wrong command line
    ├── ConfigError               exit code 2: a wrong model.yaml, space or text file
    ├── PrerequisiteError         exit code 2: a package, model or dataset is missing
    ├── CompressionError          a weight could not be compressed
    │   └── PlanError             exit code 2: settings that are invalid for this model
    ├── EvaluationError           a model could not be scored
    └── StudyError                a study could not be read, continued or reported

A message is one paragraph: where (file and key, or weight), what is wrong, and what to do.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

__all__ = [
    "AutotuneError",
    "CompressionError",
    "ConfigError",
    "EvaluationError",
    "PlanError",
    "PrerequisiteError",
    "StudyError",
    "UsageError",
    "reason",
]


class AutotuneError(Exception):
    """Base of every error that autotune raises on purpose; the command line prints it as one paragraph."""

    exit_code = 1


class UsageError(AutotuneError):
    """Wrong arguments of a command or an API function."""

    exit_code = 2


class ConfigError(AutotuneError):
    """A file that the user wrote is wrong.

    Attributes:
        file: the file, or None where the value came from the command line.
        line: 1-based line of the key, where known.
        key: dotted path of the key, e.g. ``study.trials``.
    """

    exit_code = 2

    def __init__(
        self, problem: str, *, file: str | Path | None = None, line: int | None = None, key: str | None = None
    ) -> None:
        self.problem = problem
        self.file = None if file is None else Path(file)
        self.line = line
        self.key = key
        where = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        message = f"{where}{f'{key}: ' if key else ''}{problem}"
        super().__init__(message.replace("\n", "\\n"))  # of a path or a name: the message stays one paragraph

    def __reduce__(self) -> tuple[Any, ...]:
        """Support pickling: worker processes send their errors to the search."""
        return partial(ConfigError, file=self.file, line=self.line, key=self.key), (self.problem,)


class PrerequisiteError(AutotuneError):
    """A package, model or dataset that the work needs is missing."""

    exit_code = 2


class CompressionError(AutotuneError):
    """A weight could not be compressed, or a compressed model could not be assembled."""


class PlanError(CompressionError):
    """Settings are invalid, or invalid for this model."""

    exit_code = 2


class EvaluationError(AutotuneError):
    """A model could not be scored: NaN logits, an empty text, a tokenizer that does not match."""


class StudyError(AutotuneError):
    """A study's folder or storage cannot be read, continued or reported."""


_NO_NETWORK = {"ConnectError", "ConnectTimeout", "ConnectionError", "ReadTimeout", "gaierror", "OfflineModeIsEnabled"}


def reason(error: BaseException) -> str:
    """Return the reason of a third-party error in one line.

    This is the first line of its message. If the cause is a missing network, it is a fixed text, since each library
    words that differently.
    """
    link: BaseException | None = error
    while link is not None:
        # After a lost connection and its retries, the hub's client reports that it has been closed.
        if type(link).__name__ in _NO_NETWORK or "client has been closed" in str(link):
            return "the hub could not be reached"
        link = link.__cause__ or link.__context__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__
