"""Text reranking: classifiers of pairs of query and passage, and causal models that answer yes or no."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autotune.models.tasks.encoder import MAX_LENGTH, EncoderTask, why_no_encoder
from autotune.models.tasks.task import Loss, Task

if TYPE_CHECKING:
    from autotune.evaluation import IntArray
    from autotune.evaluation.texts.sources import TextSource

QUERY = 16
"""Tokens of the query in a calibration window, at most."""

OPTIMUM = """\
from optimum.intel import OVModelForSequenceClassification
from transformers import AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = OVModelForSequenceClassification.from_pretrained(folder)
query, passages = "what do hens eat?", ["They eat grain.", "The mill stands by the river."]
inputs = tokenizer([query] * 2, passages, padding=True, truncation=True, return_tensors="pt")
print(model(**inputs).logits[:, -1].sigmoid())
"""
CAUSAL = """\
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = OVModelForCausalLM.from_pretrained(folder, use_cache=False)
# Put query and passage into the template of the original's model card; the score is the share of "yes" against "no".
"""
GENAI = """\
import openvino_genai

pipeline = openvino_genai.TextRerankPipeline(".", "CPU")  # this folder; download it first where it is on the hub
print(pipeline.rerank("what do hens eat?", ["They eat grain.", "The mill stands by the river."]))
"""


class TextReranking(EncoderTask):
    """See `Task`; the scores of a pair are one logit or two."""

    name = "text-reranking"
    label = "Text reranking"
    kind = "sequence classifier"
    export_class = "OVModelForSequenceClassification"
    export_task = "text-classification"
    examples: ClassVar[tuple[str, ...]] = ("bert", "xlm-roberta", "qwen3")
    evaluators: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "rerank_similarity": {"dataset": "microsoft/ms_marco", "name": "v2.1", "split": "test", "samples": 24}
    }
    loss = Loss(
        "rerank_similarity",
        "rerank_error",
        label="rerank error",
        unit="",
        short={"samples": 16},
        full={"samples": 64},
    )
    pipeline_tag = "text-ranking"
    outputs = ("logits",)
    window = "pair"
    usage: ClassVar[Mapping[str, Any]] = {"max_length": MAX_LENGTH, "answers": False}

    def matches(self, config: Mapping[str, Any], files: Collection[str]) -> bool:
        """See `Task`: sequence classifiers with one label or two."""
        labels = config.get("num_labels") or len(config.get("id2label") or (0, 1))
        names = [str(name) for name in config.get("architectures") or ()]
        return labels <= 2 and any(name.endswith("ForSequenceClassification") for name in names)

    def for_model(self, config: Mapping[str, Any]) -> Task:
        """See `Task`; causal language models answer yes or no."""
        names = [str(name) for name in config.get("architectures") or ()]
        return CAUSAL_TASK if any(name.endswith("ForCausalLM") for name in names) else self

    def snippets(self, folder: Path | None) -> Sequence[str]:
        """See `Task`."""
        return OPTIMUM, GENAI

    def why_not_scorable(
        self, inputs: Iterable[Any], outputs: Iterable[Any], *, states: int | None = None, fed: Collection[str] = ()
    ) -> str | None:
        """See `Task`."""
        shapes = {name: port.get_partial_shape() for port in outputs for name in port.get_names()}
        problem = why_no_encoder(inputs, shapes, self.outputs, self, fed)
        if problem is not None or self.fits(shapes["logits"]):
            return problem
        return (
            f"has logits of the shape {shapes['logits']}, and a reranker has one logit or two for a pair of query and "
            "passage. Choose a reranker, or set `task` if the model does something else"
        )

    def fits(self, shape: Any) -> bool:
        """Return True if the logits are scores of this task."""
        return len(shape) == 2 and (shape[1].is_dynamic or shape[1].get_length() <= 2)

    def usage_of(self, folder: Path | None) -> Mapping[str, Any]:
        """See `EncoderTask`."""
        return self.usage

    def special(self, tokenizer: Any) -> Sequence[Sequence[int]]:
        """See `EncoderTask`; a window is a pair of consecutive parts of a text."""
        return pair_tokens(tokenizer)[:3]

    def cuts(self, inner: int) -> list[int]:
        """See `EncoderTask`: behind the query."""
        return [query_length(inner)]

    def inputs(self, tokens: IntArray, tokenizer: Any, embeddings: Any = None) -> Mapping[str, Any]:
        """See `Task`; with the token types of the pairs that `windows` makes."""
        if tokenizer is None:
            return super().inputs(tokens, tokenizer)
        before, between, after, second = pair_tokens(tokenizer)
        inner = tokens.shape[1] - len(before) - len(between) - len(after)
        types = np.zeros_like(tokens)
        types[:, len(before) + query_length(inner) + len(between) :] = second
        return {**super().inputs(tokens, tokenizer, embeddings), "token_type_ids": types}


def query_length(inner: int) -> int:
    """Return the tokens of the query among `inner` tokens of a pair."""
    return min(QUERY, inner // 2)


def pair_tokens(tokenizer: Any) -> tuple[list[int], list[int], list[int], int]:
    """Return the tokens that a tokenizer puts before, between and after a pair, and the type of the second text."""
    first, second = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in ("a", "b"))
    encoded = tokenizer("a", "b")
    whole = list(encoded["input_ids"])
    start = next(at for at in range(len(whole)) if whole[at : at + len(first)] == first)
    middle = start + len(first)
    other = next(at for at in range(middle, len(whole)) if whole[at : at + len(second)] == second)
    types = encoded.get("token_type_ids") or [0] * len(whole)
    return whole[:start], whole[middle:other], whole[other + len(second) :], int(types[other])


class CausalReranking(TextReranking):
    """Causal language models as rerankers: the logits after a pair, of the answers yes and no."""

    kind = "causal language model"
    export_class = "OVModelForCausalLM"
    export_task = "text-generation"
    export_options: ClassVar[Mapping[str, Any]] = {"use_cache": False}
    examples: ClassVar[tuple[str, ...]] = ("qwen3",)
    usage: ClassVar[Mapping[str, Any]] = {"max_length": MAX_LENGTH, "answers": True}

    def snippets(self, folder: Path | None) -> Sequence[str]:
        """See `Task`."""
        return CAUSAL, GENAI

    def fits(self, shape: Any) -> bool:
        """See `TextReranking`."""
        return len(shape) == 3

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
        """See `Task`."""
        return Task.windows(self, source, tokenizer, texts, length=length, samples=samples, name=name)

    def inputs(self, tokens: IntArray, tokenizer: Any, embeddings: Any = None) -> Mapping[str, Any]:
        """See `Task`."""
        return Task.inputs(self, tokens, tokenizer)


TASK = TextReranking()
CAUSAL_TASK = CausalReranking()
