"""Interface of a task: how its models are found, exported, checked, fed, run, scored and published."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from autotune.evaluation import Measurement
from autotune.evaluation.texts.sources import TextSource, read_windows

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import IntArray

PASSAGE = 128
"""Tokens of a passage, about; evaluators of encoders count passages instead of windows."""

WIKITEXT = {"dataset": "Salesforce/wikitext", "name": "wikitext-2-raw-v1"}


@dataclass(frozen=True, slots=True)
class Loss:
    """The metric that a search minimizes for a task, and that byte budgets add up over weights.

    Attributes:
        evaluator, metric: its names.
        label, unit: name of the loss in sentences, and what follows the number.
        short, full: options of the evaluator that select the texts for single weights, and for whole plans.
        similarity: the metric is 1 for equal models; the loss is 1 minus the score.
    """

    evaluator: str
    metric: str
    label: str
    unit: str
    short: Mapping[str, int]
    full: Mapping[str, int]
    similarity: bool = False

    def of(self, scores: Mapping[str, Measurement]) -> Measurement:
        """Read the loss from the scores of its evaluator."""
        score = scores[self.metric]
        if not self.similarity:
            return score
        return Measurement(1 - score.value, score.stderr, tuple(1 - value for value in score.values), score.noise)

    def score(self, loss: float) -> float:
        """Return the metric of a loss."""
        return 1 - loss if self.similarity else loss

    def parts(self, text: Mapping[str, Any]) -> tuple[Mapping[str, int], Mapping[str, int]]:
        """Return `short` and `full` for a study whose evaluator has the options `text`: no more texts than it has."""
        most = text.get("samples")
        short, full = (
            {name: value if most is None else min(value, int(most)) for name, value in part.items()}
            for part in (self.short, self.full)
        )
        return short, full

    def tokens(self, part: Mapping[str, int]) -> int:
        """Estimate the tokens of the texts that `short`, `full` or one of `parts` selects."""
        return part.get("sequence_length", PASSAGE) * part["samples"]


class Task(ABC):
    """Purpose of a model, with all that differs from one task to the next.

    A task is a module of `autotune.models.tasks` with an instance named ``TASK``, or any other module with one, which
    model.yaml names as ``module:TASK``. Only methods of running may import OpenVINO.

    Attributes:
        name: as in `task` of model.yaml, and on the hub (``pipeline_tag``) if that has no other name for it.
        label: name in sentences and tables.
        kind: a model of this task, in a sentence.
        export_class, export_task: class of optimum-intel that exports and loads such models, and the exporter's task.
        export_options: further arguments of its `from_pretrained`.
        unused: prefixes of tensors that a checkpoint of another class has more or less, without effect on the outputs.
        examples: some architectures, for messages.
        evaluators: the default evaluators, with their options.
        loss: see `Loss`.
        pipeline_tag: of the model card.
        distillable: whether `distillation` can train such models.
        generates: whether such models can write synthetic texts.
        in_parts: whether further IRs are beside the one that is compressed.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    kind: ClassVar[str]
    export_class: ClassVar[str]
    export_task: ClassVar[str]
    export_options: ClassVar[Mapping[str, Any]] = {}
    unused: ClassVar[tuple[str, ...]] = ()
    examples: ClassVar[tuple[str, ...]]
    evaluators: ClassVar[Mapping[str, Mapping[str, Any]]]
    loss: ClassVar[Loss]
    pipeline_tag: ClassVar[str]
    distillable: ClassVar[bool] = False
    generates: ClassVar[bool] = False
    in_parts: ClassVar[bool] = False

    @property
    def spec(self) -> str:
        """The name by which `registry.task_named` finds it."""
        module = type(self).__module__
        return self.name if module.startswith(__package__ + ".") else f"{module}:TASK"

    @abstractmethod
    def matches(self, config: Mapping[str, Any], files: Collection[str]) -> bool:
        """Return True if a model's config.json and the names of the files beside it say that it does this task."""

    def for_model(self, config: Mapping[str, Any]) -> Task:
        """Return this task, or the variant of it for a model with this config.json, such as one of another class."""
        return self

    def why_not_served(self, config: Mapping[str, Any]) -> str | None:
        """Return why a model with this config.json cannot be tuned although it does this task, and what to do."""
        return None

    @abstractmethod
    def snippets(self, folder: Path | None) -> Sequence[str]:
        """Return Python code for the model card that loads and runs the model in the current folder, on ``"CPU"``.

        Args:
            folder: the original's folder, with its configuration; None for a model in memory.
        """

    @abstractmethod
    def why_not_scorable(
        self, inputs: Iterable[Any], outputs: Iterable[Any], *, states: int | None = None, fed: Collection[str] = ()
    ) -> str | None:
        """Return why a graph cannot be run for this task, and what to do; None if it can.

        Args:
            inputs, outputs: ports of an `ov.Model` or a compiled one.
            states: number of its state variables; None if that is not known.
            fed: further inputs that the caller feeds.
        """

    @abstractmethod
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
    ) -> Any:
        """Compile a model as this task's evaluators score it; a context manager that frees it, with ``properties``.

        Args:
            model: the model or its folder.
            tokenizer: the `transformers` tokenizer.
            folder: a folder with the original's configuration and, for an `ov.Model` in parts, the other IRs; None for
                a model in memory.
            device, ov_config: as for `OpenVINOLanguageModel`.
            constants: further inputs of the model and their values; the mapping is read at every inference.
            columns: largest number of positions of a forward pass of a language model; 0 is as many as fit.
        """

    def embeddings(self, folder: Path | None, device: str, ov_config: Mapping[str, Any] | None) -> Any:
        """Return what computes the ``inputs_embeds`` of a graph that takes no tokens; None for one that takes them.

        Args:
            folder: of the IRs beside the graph; None for a model in memory.
            device, ov_config: as for `OpenVINOLanguageModel`.
        """
        return None

    def inputs(self, tokens: IntArray, tokenizer: Any, embeddings: Any = None) -> Mapping[str, Any]:
        """Return the inputs of the graph for calibration windows, int64 [B, T], by name; more than it has is fine.

        By default they are those of language models and encoders, with the embeddings that `embeddings` returned. The
        tokenizer is None for a model without one.
        """
        from autotune.compression.calibration.segments import text_inputs

        inputs = text_inputs(tokens)
        return inputs if embeddings is None else {**inputs, **embeddings.inputs(tokens)}

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
        """Cut calibration texts into windows of tokens, int64 [n, T]; see `read_windows` and `embeddings`."""
        return read_windows(source, tokenizer, texts, sequence_length=length, samples=samples, name=name)
