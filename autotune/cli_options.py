"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from autotune.search.progress import Listener

__all__ = ["ConfigFile", "Json", "Set", "Storage", "StudyFolder", "listening"]

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="MODEL.YAML", help="The study's configuration.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Overrides a key of the file; repeatable.")
]
Storage = Annotated[str | None, typer.Option(help="An Optuna storage URL instead of the folder's study.db.")]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")]


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener for progress on stderr, closed at the end."""
    from autotune.search.progress import make_listener

    listener = make_listener()
    try:
        yield listener
    finally:
        listener.close()
