"""Base of tasks whose graphs run whole texts in one pass, with the special tokens that a tokenizer puts around them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autotune.errors import ConfigError
from autotune.models.tasks.task import Task

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import IntArray
    from autotune.evaluation.texts.sources import TextSource
    from autotune.models.runtime.encoder import OpenVINOEncoder

INPUTS = {"input_ids", "attention_mask", "token_type_ids", "position_ids"}
MAX_LENGTH = 200
"""Tokens of a text without a limit of its own, as in WhoWhatBench."""


class EncoderTask(Task):
    """A task of graphs that run whole texts in one pass; see `Task`.

    Attributes:
        outputs: names of the output that is read, the first that the graph has.
        window: name of the content of a calibration window, in messages.
    """

    outputs: ClassVar[tuple[str, ...]]
    window: ClassVar[str]

    @abstractmethod
    def usage_of(self, folder: Path | None) -> Mapping[str, Any]:
        """Return how a model is used, as `OpenVINOEncoder` takes it.

        Args:
            folder: the original's folder; None for a model in memory.
        """

    @abstractmethod
    def special(self, tokenizer: Any) -> Sequence[Sequence[int]]:
        """Return the tokens that a tokenizer puts before, between and after the parts of a window."""

    def cuts(self, inner: int) -> list[int]:
        """Return where `inner` tokens of a text are cut into the parts of a window; by default there is one."""
        return []

    def compiled(
        self,
        model: ov.Model | Path,
        tokenizer: Any,
        *,
        folder: Path | None = None,
        device: str = "CPU",
        ov_config: Mapping[str, Any] | None = None,
        constants: Mapping[str, ov.Tensor] | None = None,
        columns: int = 0,
    ) -> OpenVINOEncoder:
        """See `Task`."""
        from autotune.models.runtime.encoder import OpenVINOEncoder

        return OpenVINOEncoder(
            model,
            tokenizer,
            self.outputs,
            usage=self.usage_of(folder),
            device=device,
            ov_config=ov_config,
            constants=constants,
        )

    def windows(
        self,
        source: TextSource,
        tokenizer: Any,
        texts: Sequence[str],
        *,
        length: int,
        samples: int,
        name: str,
        embeddings: Any = None,
    ) -> IntArray:
        """See `Task`; each window has the special tokens of a text, or of a pair, of its own."""
        if source.tokens is not None:
            return super().windows(source, tokenizer, texts, length=length, samples=samples, name=name)
        special = self.special(tokenizer)
        inner = length - sum(map(len, special))
        if inner < len(special) - 1:
            raise ConfigError(
                f"is {length}, and the model puts {length - inner} special tokens into each {self.window}; set it to "
                "16 or more",
                key="calibration.sequence_length",
            )

        def plain(text: str, **options: Any) -> Any:
            return tokenizer(text, add_special_tokens=False, **options)

        found = super().windows(source, plain, texts, length=inner, samples=samples, name=name)
        around = [np.tile(np.array(part, np.int64), (len(found), 1)) for part in special]
        inside = np.split(found, self.cuts(inner), axis=1)
        pieces = [piece for pair in zip(around, inside, strict=False) for piece in pair]
        return np.concatenate([*pieces, around[-1]], axis=1)


def why_no_encoder(
    inputs: Iterable[Any], results: Collection[str], expected: Sequence[str], task: Task, fed: Collection[str]
) -> str | None:
    """Return why a graph cannot be run in one pass over whole texts, and what to do; None if it can.

    Args:
        inputs: its ports.
        results: names of its outputs.
        expected: outputs of which it needs one.
        task: whose class exports such graphs.
        fed: further inputs that the caller feeds.
    """
    ports = {port.get_any_name(): port for port in inputs}
    export = f"optimum-cli export openvino --task {task.export_task}"
    unknown = [name for name, port in ports.items() if not port.get_names() & (INPUTS | {"beam_idx"} | set(fed))]
    named = {name for port in ports.values() for name in port.get_names()}
    if unknown or "input_ids" not in named or not set(expected) & set(results):
        return (
            f"is not a {task.kind}: its inputs are {', '.join(sorted(ports))} and its outputs "
            f"{', '.join(sorted(results))}, but only {', '.join(sorted(INPUTS))} and {expected[0]} are known. Export "
            f"it again with optimum-intel's {task.export_class}: {export}"
        )
    shape = next(port.get_partial_shape() for port in ports.values() if "input_ids" in port.get_names())
    if shape.rank.is_static and any(size.is_static for size in shape):
        return (
            f"has an input_ids of the fixed shape {shape}. Search, evaluation and calibration need a dynamic batch and "
            f"length ([?,?]); compression without texts works. Export it again without a call of `reshape`: {export}"
        )
    return None
