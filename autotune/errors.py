"""What can go wrong, as a tree.

    AutotuneError                 exit code 1
    ├── UsageError                exit code 2: a wrong command line
    ├── ConfigError               exit code 2: a wrong model.yaml, space or text file
    ├── PrerequisiteError         exit code 2: a package, model or dataset that is not here
    ├── CompressionError          a weight could not be compressed
    │   └── PlanError             exit code 2: settings that cannot be planned for this model
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
    """The command line asks for something that does not exist or does not fit together."""

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
        super().__init__(f"{where}{f'{key}: ' if key else ''}{problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        """How an error of a worker process travels to the search."""
        return partial(ConfigError, file=self.file, line=self.line, key=self.key), (self.problem,)


class PrerequisiteError(AutotuneError):
    """Something that must be there before work starts is missing: a package, a model, a dataset."""

    exit_code = 2


class CompressionError(AutotuneError):
    """A weight could not be compressed, or a compressed model could not be assembled."""


class PlanError(CompressionError):
    """Settings that cannot be turned into a plan for this model."""

    exit_code = 2


class EvaluationError(AutotuneError):
    """A model could not be scored: NaN logits, an empty text, a tokenizer that does not match."""


class StudyError(AutotuneError):
    """A study's folder or storage cannot be read, continued or reported."""


_NO_NETWORK = {"ConnectError", "ConnectTimeout", "ConnectionError", "ReadTimeout", "gaierror", "OfflineModeIsEnabled"}


def reason(error: BaseException) -> str:
    """Why something outside of autotune failed, in one line.

    The first line of the error's message; where a missing network is at the bottom of it, just that, since libraries
    word it in many ways that do not help.
    """
    link: BaseException | None = error
    while link is not None:
        # What is left of a lost connection after the hub's client retried is a client that is closed.
        if type(link).__name__ in _NO_NETWORK or "client has been closed" in str(link):
            return "the hub could not be reached"
        link = link.__cause__ or link.__context__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".")[:300] if lines else type(error).__name__
