"""The small public protocol of evaluators: everything an evaluator needs of autotune is in this file.

An evaluator is a class that takes its options as keyword arguments and has the attributes and methods of
`Evaluator`. It is registered under its name by an entry point of the group ``autotune.evaluators`` or named as
``module:attribute`` in model.yaml. The built-in ones in `evaluators/` are registered in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]

__all__ = [
    "SCORING_CONFIG",
    "Direction",
    "Evaluator",
    "LanguageModel",
    "Measurement",
    "Metric",
    "Reference",
    "Verification",
]

SCORING_CONFIG: Mapping[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""Runtime properties under which scores tell the error of the weights and of nothing else.

The defaults would not do: a CPU may compute in bf16, compressed models get int8 activations and an 8-bit KV cache,
and an uncompressed IR may carry its own KV_CACHE_PRECISION, each an error as large as that of 4-bit weights.
"""

Direction = Literal["minimize", "maximize"]

Reference = Mapping[str, "npt.NDArray[Any]"]
"""What an evaluator keeps of the original model: named arrays; autotune stores and fingerprints them."""


@dataclass(frozen=True, slots=True)
class Metric:
    """What one number of an evaluator means.

    Attributes:
        direction: which way is better.
        unit: e.g. ``"nats/token"``; empty for a plain number.
        description: one line for tables and `autotune evaluators`.
        perfect: the value of a model that answers exactly like the original, where that is known beforehand
            (1.0 for a similarity, 0.0 for a divergence); None where the original's own value is measured.
    """

    direction: Direction
    unit: str = ""
    description: str = ""
    perfect: float | None = None


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured number with its standard error.

    Attributes:
        value: the number; must be finite.
        stderr: standard error from paired per-sequence differences to the original, in the unit of `value`;
            None where it cannot be said (a single sequence).
        values: the per-sequence values behind `value`, in the order of the sequences; may be empty.
    """

    value: float
    stderr: float | None = None
    values: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measurement must be finite, got {self.value}")


@dataclass(frozen=True, slots=True)
class Verification:
    """What one pass over a prompt and a draft answer tells.

    Attributes:
        logits: float32 [len(draft) + 1, V]; row i predicts ``draft[i]`` after the prompt and ``draft[:i]``, the last
            row what follows the draft.
        answer: the model's own greedy answer as far as this pass shows it: the draft up to the first disagreement,
            then the token that the model prefers there; without an end-of-text token.
        finished: True where `answer` is complete (end of text, or all the tokens asked for); otherwise the model has
            to go on from prompt + `answer`.
    """

    logits: FloatArray
    answer: tuple[int, ...]
    finished: bool


class LanguageModel(Protocol):
    """A causal language model, compiled and ready: what an evaluator scores.

    Every method raises EvaluationError where a token id is outside the vocabulary or a logit is NaN or infinite.
    """

    @property
    def tokenizer(self) -> Any:
        """The `transformers` tokenizer of the original model."""

    @property
    def vocabulary_size(self) -> int:
        """Width of the logits, V."""

    def logits(self, tokens: IntArray) -> FloatArray:
        """Logits of whole sequences from an empty cache.

        Args:
            tokens: int64 [B, T], no padding.

        Returns:
            float32 [B, T, V]; position t predicts token t + 1. The array is the caller's own.
        """

    def verify(self, prompt: Sequence[int], draft: Sequence[int], max_new_tokens: int) -> Verification:
        """Check a likely answer against the model's own greedy answer, in one pass from an empty cache.

        Args:
            prompt: token ids, at least one.
            draft: the likely answer, without an end-of-text token; at most `max_new_tokens` long.
            max_new_tokens: the answer's longest length.
        """

    def greedy(self, prompt: Sequence[int], max_new_tokens: int, draft: Sequence[int] = ()) -> list[int]:
        """Greedy continuation of one prompt, ended by (and without) an end-of-text token.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: at most so many new tokens.
            draft: a likely answer. It is verified in one prefill and followed up to the first disagreement, so it
                changes the cost and (up to ties within float32 rounding) not the result.
        """

    def greedy_batch(self, prompts: Sequence[Sequence[int]], max_new_tokens: Sequence[int]) -> list[list[int]]:
        """Greedy continuations of many prompts, decoded together where the model allows it.

        Args:
            prompts: token ids, at least one each.
            max_new_tokens: one limit for each prompt.

        Returns:
            for each prompt what `greedy` gives, up to ties within float32 rounding.
        """


@runtime_checkable
class Evaluator(Protocol):
    """How a compressed model is scored against the original.

    `metrics` maps each metric's name to its meaning. `reference` runs once for each (original model, options);
    its arrays come back to every `evaluate`.
    """

    metrics: Mapping[str, Metric]

    def fingerprint(self) -> str:
        """Changes whenever the options or the texts change in a way that changes scores."""

    def reference(self, original: LanguageModel) -> Reference:
        """What is needed of the original model, as named arrays of any dtype that safetensors can hold."""

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score one model: exactly one measurement for each of `metrics`.

        Raises:
            EvaluationError: the model gives NaN or infinite logits, or does not fit the texts.
        """

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """The scores of the original itself (perfect ones where the metric says so), for the table's first row."""
