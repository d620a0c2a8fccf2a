"""The small public protocol of evaluators: everything an evaluator needs of autotune is in this file.

An evaluator is a class that takes its options as keyword arguments and has the attributes and methods of
`Evaluator`. It is registered under its name by an entry point of the group ``autotune.evaluators`` or named as
``module:attribute`` in model.yaml. The built-in ones in `evaluators/` are registered in the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    Choose = Callable[[IntArray, int, FloatArray], IntArray]

__all__ = [
    "SCORING_CONFIG",
    "Direction",
    "Evaluator",
    "Example",
    "HeldOut",
    "LanguageModel",
    "Measurement",
    "Metric",
    "Previewing",
    "Reference",
    "StagedEvaluator",
    "follow_draft",
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
class Example:
    """What both models said to one prompt, and how alike it is (1 for equal answers)."""

    prompt: str
    original: str
    answer: str
    score: float


@dataclass(frozen=True, slots=True)
class Measurement:
    """One measured number with its standard error.

    Attributes:
        value: the number; must be finite.
        stderr: standard error from paired per-sequence differences to the original, in the unit of `value`;
            None where it cannot be said (a single sequence).
        values: the per-sequence values behind `value`, in the order of the sequences; may be empty.
        noise: how much of `value` the arithmetic alone may move (threads, the shape of a batch), measured on the
            original; values closer than that are ties.
        examples: texts behind `value` that a reader may want to see; a report shows those that differ most.
    """

    value: float
    stderr: float | None = None
    values: Sequence[float] = ()
    noise: float = 0.0
    examples: Sequence[Example] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise ValueError(f"a measurement must be finite, got {self.value}")


class LanguageModel(Protocol):
    """A causal language model, compiled and ready: what an evaluator scores.

    Every method raises EvaluationError where a token id is outside the vocabulary or a logit is NaN or infinite. What
    runs together, and in which shapes, follows from the arguments and the model's architecture alone.
    """

    @property
    def tokenizer(self) -> Any:
        """The `transformers` tokenizer of the original model."""

    @property
    def vocabulary_size(self) -> int:
        """Width of the logits, V."""

    @property
    def end_token_ids(self) -> frozenset[int]:
        """The tokens that end an answer."""

    @property
    def source(self) -> Any:
        """What was compiled, an `openvino.Model` or the path of an .xml file: for running it in another way."""

    def logits(self, tokens: IntArray) -> FloatArray:
        """Logits of whole sequences from an empty cache.

        Args:
            tokens: int64 [B, T], no padding.

        Returns:
            float32 [B, T, V]; position t predicts token t + 1. The array is the caller's own.
        """

    def scan(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[tuple[int, int, FloatArray]]:
        """Logits along many sequences of any length, each from an empty cache, in bounded memory.

        Args:
            sequences: token ids.
            first: for each sequence the first position of interest.

        Yields:
            (i, t, logits): float32 [n, V], whose row j predicts what follows ``sequences[i][: t + j + 1]``. The pieces
            of one sequence come in order and without gaps from ``first[i]`` on; those of different sequences may
            alternate. A piece is a view that lives until the next one is asked for.
        """

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Greedy continuation of one prompt, ended by (and without) an end-of-text token.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: at most so many new tokens.
        """

    def greedy_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        drafts: Sequence[Sequence[int]] | None = None,
    ) -> list[list[int]]:
        """Greedy continuations of many prompts, decoded together where the model allows it.

        Args:
            prompts: token ids, at least one each.
            max_new_tokens: one limit for each prompt.
            drafts: texts that the answers may fall back onto. They change the cost and not the result.

        Returns:
            for each prompt what `greedy` gives, up to ties within float32 rounding.
        """

    def sample_batch(self, prompts: IntArray, length: int, choose: Choose) -> list[list[int]]:
        """Continue prompts together, each token chosen by the caller.

        Args:
            prompts: int64 [B, P].
            length: of a text at most, its prompt included.
            choose: gives the next token of each text that is still open, int64 [b], from their indices [b], the
                position of that token, and the logits float32 [b, V], which live until the next call.

        Returns:
            The texts with their prompts, each as long as `length` or ended by (and with) an end-of-text token.
        """


@runtime_checkable
class Evaluator(Protocol):
    """How a compressed model is scored against the original.

    `metrics` maps each metric's name to its meaning. `reference` runs once for each (original model, options);
    its arrays come back to every `evaluate`. With an attribute ``repeatable = True`` the evaluator says that its scores
    follow from the models and from `fingerprint` alone (they are no times, and a change of its code changes the
    fingerprint): they are then kept, and a model that any study has scored is not scored again.
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


@runtime_checkable
class Previewing(Protocol):
    """An evaluator, part of whose scores is cheap enough for every model, and the rest only for those on a front.

    `previewed` names the metrics of the cheap part; all of `metrics` where the options ask for everything always.
    """

    previewed: Collection[str]

    def preview(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure exactly `previewed`, with the same values that `evaluate` gives."""


@runtime_checkable
class HeldOut(Protocol):
    """An evaluator that knows texts like its own, on which a front can be scored that was chosen by its scores.

    The best of many trials looks better on the texts that it was chosen by than it is. How much better, only texts tell
    that the search has not seen; and only if all of them are others than those, hence `passages`.
    """

    def held_out(self) -> Evaluator | None:
        """The same measurement on other texts of the same kind; None where the options leave none."""

    def passages(self, tokenizer: Any) -> Sequence[Sequence[int]]:
        """The texts that scores come from, as token ids; none for texts that the model writes."""


def follow_draft(
    best: Sequence[int], draft: Sequence[int], max_new_tokens: int, end_token_ids: Collection[int]
) -> tuple[list[int], bool]:
    """Read a greedy answer off the tokens that a model prefers along a draft, up to the first disagreement.

    Args:
        best: the preferred tokens, len(draft) + 1; ``best[i]`` after the prompt and ``draft[:i]``.
        draft: token ids without an end-of-text token.
        max_new_tokens: the answer's longest length, at least the draft's.
        end_token_ids: the tokens that end an answer.

    Returns:
        the answer: the draft up to the disagreement, then the token preferred there, without an end-of-text token;
        and whether it is complete, or the model has to go on from prompt + answer.
    """
    if len(draft) > max_new_tokens:
        raise ValueError(f"a draft of {len(draft)} tokens is longer than max_new_tokens={max_new_tokens}")
    answer: list[int] = []
    for row, token in enumerate(best):
        if len(answer) == max_new_tokens or token in end_token_ids:
            return answer, True
        answer.append(token)
        if row == len(draft) or token != draft[row]:
            break
    return answer, len(answer) == max_new_tokens


@runtime_checkable
class StagedEvaluator(Evaluator, Protocol):
    """An evaluator that can score a model on ever more of its texts, so that a beaten one need not be scored on all.

    The texts' order must not depend on the model, and metrics that are means over sequences should carry their
    `Measurement.values`: a model is compared with others sequence by sequence.
    """

    def stages(self, candidate: LanguageModel, reference: Reference) -> Iterator[Mapping[str, Measurement]]:
        """What `evaluate` would return for the first few sequences, then for more, at last for all of them."""
