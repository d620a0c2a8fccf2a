"""Protocol of evaluators: the classes that autotune expects of an evaluator, and those that it gives to one."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray = npt.NDArray[np.float32]
    IntArray = npt.NDArray[np.int64]
    Choose = Callable[[IntArray, int, FloatArray], IntArray]
    Visit = Callable[[int, int, FloatArray], None]

__all__ = [
    "SCORING_CONFIG",
    "Bounding",
    "Checking",
    "Direction",
    "Encoder",
    "Evaluator",
    "Example",
    "HeldOut",
    "LanguageModel",
    "Measurement",
    "Metric",
    "PartedEvaluator",
    "Previewing",
    "Reference",
    "StagedEvaluator",
]

SCORING_CONFIG: Mapping[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
}
"""Runtime properties that make scores depend on the error of the weights alone.

With OpenVINO's defaults a CPU may compute in bf16, compressed models get int8 activations and an 8-bit KV cache, and an
uncompressed IR may set its own KV_CACHE_PRECISION. Each of these errors is as large as that of 4-bit weights.
"""

Direction = Literal["minimize", "maximize"]

Reference = Mapping[str, "npt.NDArray[Any]"]
"""Results of the original model that an evaluator compares with: named arrays, which autotune stores on disk."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Meaning of one number of an evaluator.

    Attributes:
        direction: whether smaller or larger values are better.
        unit: e.g. ``"nats/token"``; empty for a plain number.
        description: one line for tables and `autotune evaluators`.
        perfect: value of a model that answers exactly like the original (1.0 for a similarity, 0.0 for a divergence);
            None if the original has a measured value of its own.
    """

    direction: Direction
    unit: str = ""
    description: str = ""
    perfect: float | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """The answers of both models to one prompt, and their similarity (1 for equal answers)."""

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
            None if there is a single sequence.
        values: one value for each sequence, in the order of the sequences; may be empty.
        noise: change of `value` by rounding alone (threads, shape of a batch), measured on the original; values
            closer than that are ties.
        examples: answers behind `value`; a report shows those that differ most.
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
    """A compiled causal language model, which an evaluator scores.

    Every method raises EvaluationError if a token id is outside the vocabulary or a logit is NaN or infinite. Batches
    and their shapes are a function of the arguments and the model's architecture alone.
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
        """The `openvino.Model`, or the path of the .xml file, that was compiled; for running it in another way."""

    @property
    def takes_images(self) -> bool:
        """True if `prompt` lays out prompts; those of other models are tokenized."""

    def prompt(self, text: str, image: Path | None) -> list[int]:
        """Lay out a prompt with the model's processor, as ids for the methods below: some are an image's features.

        Raises:
            EvaluationError: the model takes no images, or the image cannot be read.
        """

    def logits(self, tokens: IntArray) -> FloatArray:
        """Compute the logits of whole sequences from an empty cache.

        Args:
            tokens: int64 [B, T], no padding.

        Returns:
            float32 [B, T, V]; position t predicts token t + 1. No later call changes the array.
        """

    def scan(self, sequences: Sequence[Sequence[int]], first: Sequence[int]) -> Iterator[tuple[int, int, FloatArray]]:
        """Compute logits along many sequences of any length, each from an empty cache, in bounded memory.

        Args:
            sequences: token ids.
            first: for each sequence the first position that is needed.

        Yields:
            (i, t, logits): float32 [n, V], whose row j predicts the token after ``sequences[i][: t + j + 1]``. The
            pieces of one sequence come in order and without gaps from ``first[i]`` on; those of different sequences
            may alternate. A piece is a view that is valid until the next one is requested.
        """

    def greedy(self, prompt: Sequence[int], max_new_tokens: int) -> list[int]:
        """Return the greedy continuation of one prompt, up to but without an end-of-text token.

        Args:
            prompt: token ids, at least one.
            max_new_tokens: largest number of new tokens.
        """

    def greedy_batch(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: Sequence[int],
        drafts: Sequence[Sequence[int]] | None = None,
        visit: Visit | None = None,
    ) -> list[list[int]]:
        """Return the greedy continuations of many prompts, decoded together if the model allows it.

        Args:
            prompts: token ids, at least one each.
            max_new_tokens: one limit for each prompt.
            drafts: for each prompt a text that may share passages with the answer. Drafts change only the cost.
            visit: run along each prompt and its draft (without the last token of a draft as long as the limit) first,
                and go on from where the answer leaves the draft. It is called with what `scan` yields for these
                sequences from the last token of each prompt on.

        Returns:
            The result of `greedy` for each prompt, up to ties within float32 rounding.
        """

    def sample_batch(self, prompts: IntArray, length: int, choose: Choose) -> list[list[int]]:
        """Continue prompts together; the caller chooses each token.

        Args:
            prompts: token ids, int64 [B, P].
            length: largest length of a text, its prompt included.
            choose: called as ``choose(indices [b], position, logits float32 [b, V])`` for the texts that have not
                ended; returns their tokens at `position`, int64 [b]. The logits are valid until the next call.

        Returns:
            The texts with their prompts, each of `length` tokens or ended by (and with) an end-of-text token.
        """


class Encoder(Protocol):
    """A compiled model without a cache, such as an encoder or a classifier, which an evaluator scores.

    Attributes:
        tokenizer: the `transformers` tokenizer of the original model.
        source: the `openvino.Model`, or the path of the .xml file, that was compiled.
        usage: how texts are put into the model, as its files say: ``pooling``, ``normalize`` and ``max_length`` of
            text-embedding, ``max_length`` and ``template`` of text-reranking.
    """

    tokenizer: Any
    source: Any
    usage: Mapping[str, Any]

    def run(
        self, sequences: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None = None
    ) -> Iterator[tuple[int, FloatArray]]:
        """Run each text in one pass; padding does not show.

        Args:
            sequences: token ids, at least one each.
            types: token types, as many; zeros if None. Models without such an input ignore them.

        Yields:
            (i, output) in any order, float32: [T, D] for each token, or [C] for the text, as the task's model has it.

        Raises:
            EvaluationError: a number is NaN or infinite.
        """


@runtime_checkable
class Evaluator(Protocol):
    """Scoring of a compressed model against the original.

    A class of evaluators takes its options as keyword arguments. A class attribute `Options`, a pydantic model, makes
    autotune check them when it reads model.yaml. The class is registered under a name by an entry point of the group
    ``autotune.evaluators``, or used as ``module:attribute`` in model.yaml.

    `metrics` maps the name of each metric to its meaning. `reference` runs once for each (original model, options),
    and its arrays are passed to every `evaluate`. An attribute ``repeatable = True`` declares that scores are a
    function of the models and of `fingerprint`: they are no times, and a change of the code changes the fingerprint.
    Scores of such an evaluator are stored, and a model that any study has scored is not scored again. An attribute
    ``tasks`` names the tasks whose models it scores; without it, those for ``text-generation``. An attribute
    ``as_deployed = True`` declares that models run in a process of their own, with properties of its own, whatever the
    properties of the `candidate`.
    """

    metrics: Mapping[str, Metric]

    def fingerprint(self) -> str:
        """Return a string that changes with every option and text that changes scores; see `fingerprint`."""

    def reference(self, original: LanguageModel) -> Reference:
        """Compute the original model's results, as named arrays of any dtype that safetensors supports.

        Raises:
            EvaluationError: the original gives NaN or infinite logits, or the texts cannot be used with it.
        """

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score one model: exactly one measurement for each of `metrics`.

        Args:
            candidate: the compressed model.
            reference: the arrays that `reference` returned, memory-mapped and read-only.

        Raises:
            EvaluationError: the model gives NaN or infinite logits, or is not a version of the original.
        """

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the scores of the original, for the first row of tables; perfect values if the metric has one."""


@runtime_checkable
class Checking(Protocol):
    """An evaluator that cannot score every model, and says so before any work."""

    def check(self, tokenizer: Any) -> None:
        """Refuse a model by its `transformers` tokenizer.

        Raises:
            ConfigError: the evaluator cannot score the model; with the key and a remedy.
        """


@runtime_checkable
class Describing(Protocol):
    """An evaluator that says how much it scored, for `autotune evaluate`."""

    def scored(self, reference: Reference) -> str:
        """Return the number of texts and tokens behind the scores, as a phrase."""


@runtime_checkable
class Previewing(Protocol):
    """An evaluator with cheap metrics for every model, and others that are measured for the final front only.

    `previewed` names the cheap metrics; it may name all of `metrics`.
    """

    previewed: Collection[str]

    def preview(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure exactly the metrics `previewed`, with the same values as `evaluate`."""


@runtime_checkable
class Bounding(Protocol):
    """An evaluator with metrics that the size of a model bounds, so that a model over a limit need not be built."""

    def bounds(self, footprint: int, reference: Reference) -> Mapping[str, float]:
        """Return the best values that a model of `footprint` bytes can have, for some of `metrics`."""


@runtime_checkable
class HeldOut(Protocol):
    """An evaluator that can also score a front on held-out texts of the same kind.

    The best of many trials scores better on the texts of the search than on others, because it was selected by them.
    Held-out texts measure that selection bias. `passages` lets autotune check that they are disjoint.
    """

    def held_out(self) -> Evaluator | None:
        """Return the same evaluator on other texts; None if the options leave no texts."""

    def passages(self, tokenizer: Any) -> Sequence[Sequence[int]]:
        """Return the texts that are scored, as token ids; empty for texts that the model generates."""


@runtime_checkable
class StagedEvaluator(Evaluator, Protocol):
    """An evaluator that scores a model on more and more of its texts, so that a dominated model can be stopped early.

    The texts come in a random order that does not depend on the model (see `scoring_order`), in the blocks of `looks`.
    Metrics that are means over sequences should have `Measurement.values`, in the order of scoring, because models are
    compared sequence by sequence.
    """

    def stages(self, candidate: LanguageModel, reference: Reference) -> Iterator[Mapping[str, Measurement]]:
        """Yield the scores on the first few sequences, then on more; the last ones are those of `evaluate`."""


@runtime_checkable
class PartedEvaluator(Evaluator, Protocol):
    """An evaluator whose reference has parts that are computed when a score first needs them.

    `reference` returns the arrays of `outline`, and those of each part under the names ``"<part>/<name>"``.
    """

    def outline(self, original: LanguageModel) -> Reference:
        """Return what every part needs, such as the tokens; cheap."""

    def part_key(self, outline: Reference, part: int) -> str:
        """Return a fingerprint of the texts and options behind a part; equal parts are stored once."""

    def part(self, original: LanguageModel, outline: Reference, part: int) -> Reference:
        """Compute the original model's results on one part of the texts."""

    def original_on(self, reference: Reference, parts: int) -> Mapping[str, Measurement]:
        """As `original`, on the texts of the first `parts` parts alone; a reference may have fewer."""
