"""Base of evaluators whose scores come from consecutive parts of a text, of which the rest is held out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pydantic import Field

from autotune.errors import ConfigError
from autotune.evaluation.texts.sources import TextSource, describe_source

if TYPE_CHECKING:
    from typing import Self

    import numpy.typing as npt

    from autotune.evaluation.protocol import Metric


class TextOptions(TextSource):
    """Options of a `TextEvaluator`: a source of texts, and the parts of them that are scored."""

    samples: int | None = Field(None, ge=1, strict=True)
    """At most so many windows, passages or documents; all by default."""
    skip: int = Field(0, ge=0, strict=True)
    """Windows, passages or documents at the beginning that are left out."""


OptionsT = TypeVar("OptionsT", bound=TextOptions)
PartsT = TypeVar("PartsT", list[str], "npt.NDArray[Any]")


class TextEvaluator(Generic[OptionsT]):
    """Base of evaluators that score windows, passages or documents of a text.

    It reads the options and selects the parts to score. A subclass sets `Options` and `metrics` and implements the
    other methods of `Evaluator`, and `passages` of `HeldOut`.

    Attributes:
        options: the validated options.
        repeatable: see `Evaluator`; a subclass may set it to False.
    """

    Options: type[OptionsT]
    metrics: Mapping[str, Metric]
    repeatable = True

    def __init__(self, **options: Any) -> None:
        """Validate the options; no text is read yet.

        Raises:
            pydantic.ValidationError: an option is unknown or wrong.
        """
        self.options: OptionsT = self.Options(**options)

    @property
    def stop(self) -> int | None:
        """Index of the part after the last one that is scored; None if all are."""
        return None if self.options.samples is None else self.options.skip + self.options.samples

    def select(self, parts: PartsT, name: str) -> PartsT:
        """Return the parts that are scored.

        Args:
            parts: all parts of the texts, or the first `stop` of them.
            name: their plural, for the message.

        Raises:
            ConfigError: no part is left after the first `skip`.
        """
        if len(parts) <= self.options.skip:
            raise ConfigError(
                f"{describe_source(self.options)} has {len(parts)} {name}, so none is left after the first "
                f"{self.options.skip}."
            )
        return parts[self.options.skip : self.stop]

    def held_out(self) -> Self | None:
        """Return the same evaluator for as many of the next parts; None without the option `samples`."""
        if self.stop is None:
            return None
        return type(self)(**{**self.options.model_dump(), "skip": self.stop})
