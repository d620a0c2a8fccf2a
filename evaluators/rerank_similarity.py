"""Scores of pairs of query and passage against the original's, as WhoWhatBench compares rerankers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation import (
    Encoder,
    Measurement,
    Metric,
    Reference,
    TextEvaluator,
    describe_source,
    fingerprint,
)
from evaluators._passages import PassageOptions, Passages, read_passages
from evaluators._statistics import mean

__all__ = ["Options", "RerankSimilarity"]

_VERSION = 1  # increased when the same options give other scores

METRICS: Mapping[str, Metric] = {
    "rerank_similarity": Metric("maximize", "", "mean over queries of 1 / (1 + L2 norm of score differences)", 1.0),
    "rerank_error": Metric("minimize", "", "mean over queries of the squared score differences of a pair", 0.0),
}

# The format in which Qwen3 rerankers were trained, as their model card gives it.
BEFORE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
)
AFTER = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class Options(PassageOptions):
    """The options of `rerank_similarity` in model.yaml."""


class RerankSimilarity(TextEvaluator[Options]):
    """Compares the score of each pair with the original's.

    A score is the sigmoid of the logit, or of the second one of two. Causal models are words for yes or no, and the
    score is the share of yes. All as in WhoWhatBench. Standard errors are over queries. `rerank_error` adds up over
    weights, which the similarity does not; byte budgets use it.
    """

    Options = Options
    metrics = METRICS
    tasks = ("text-reranking",)

    @cached_property
    def _queries(self) -> list[Passages]:
        read = read_passages(self.options, self.stop)
        start = self.select(np.arange(len(read)), "queries")
        queries = [read[index] for index in start.tolist()]
        if not all(query.query for query in queries):
            raise ConfigError(
                f"{describe_source(self.options)} has texts without a query, and a reranker scores pairs: give a jsonl "
                'file with rows such as {"query": "...", "passages": ["...", "..."]}, or such a dataset.',
                key="evaluators.rerank_similarity",
            )
        return queries

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the passages as tokens; see `autotune.evaluation.HeldOut`."""
        return [list(tokenizer(text)["input_ids"]) for query in self._queries for text in query.passages]

    def fingerprint(self) -> str:
        """Return a fingerprint of the queries, their passages, and the length at which pairs are cut off."""
        pairs = [[query.query, *query.passages] for query in self._queries]
        return fingerprint(_VERSION, self.options.max_length, *pairs)

    def reference(self, original: Encoder) -> Reference:
        """Compute the original's scores, float64 [n]; ``tokens`` are all that were run."""
        tokens, types = self._pairs(original)
        return {
            "scores": self._scores(original, tokens, types),
            "passages": np.array([len(query.passages) for query in self._queries], np.int64),
            "tokens": np.concatenate([np.array(pair, np.int64) for pair in tokens]),
        }

    def evaluate(self, candidate: Encoder, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on all pairs; see `Evaluator.evaluate`."""
        differences = self._scores(candidate, *self._pairs(candidate)) - reference["scores"]
        parts = np.split(np.square(differences), np.cumsum(reference["passages"])[:-1])
        similarities = [1 / (1 + float(np.sqrt(part.sum()))) for part in parts]
        return {
            "rerank_similarity": mean(similarities, 1.0),
            "rerank_error": mean([float(part.mean()) for part in parts]),
        }

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return a similarity of 1 and no error."""
        count = len(reference["passages"])
        similarity, error = mean(np.ones(count), 1.0), mean(np.zeros(count))
        return {"rerank_similarity": replace(similarity, stderr=0.0), "rerank_error": replace(error, stderr=0.0)}

    def scored(self, reference: Reference) -> str:
        """Return the number of pairs and tokens; see `autotune.evaluation.Describing`."""
        return f"{len(reference['scores'])} pairs of {len(self._queries)} queries, {reference['tokens'].size:,} tokens"

    def _pairs(self, model: Encoder) -> tuple[list[list[int]], list[list[int]] | None]:
        """Tokenize all pairs; also return their token types, if the tokenizer has types."""
        limit, tokenizer = self.options.max_length or model.usage.get("max_length", 200), model.tokenizer
        pairs = [(query.query, text) for query in self._queries for text in query.passages]
        if model.usage.get("answers"):
            before, after = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (BEFORE, AFTER))
            room = max(1, limit - len(before) - len(after))
            texts = [f"<Instruct>: {INSTRUCTION}\n<Query>: {query}\n<Document>: {text}" for query, text in pairs]
            inner = [tokenizer(text, add_special_tokens=False)["input_ids"][:room] for text in texts]
            return [[*before, *tokens, *after] for tokens in inner], None
        encoded = [tokenizer(query, text, truncation=True, max_length=limit) for query, text in pairs]
        types = [list(pair["token_type_ids"]) for pair in encoded if "token_type_ids" in pair]
        return [list(pair["input_ids"]) for pair in encoded], types or None

    def _scores(
        self, model: Encoder, tokens: Sequence[Sequence[int]], types: Sequence[Sequence[int]] | None
    ) -> npt.NDArray[np.float64]:
        scores = np.zeros(len(tokens), np.float64)
        words = ("no", "yes") if model.usage.get("answers") else ()
        answers = [model.tokenizer.convert_tokens_to_ids(word) for word in words]
        if None in answers or (answers and model.tokenizer.unk_token_id in answers):
            raise EvaluationError(
                "the model's tokenizer has no tokens `yes` and `no`, by which causal rerankers answer; choose a "
                "reranker that has them, or a sequence classifier."
            )
        for index, found in model.run(tokens, types):
            logits = found.astype(np.float64)
            scores[index] = logits[-1, answers] @ (-1, 1) if answers else logits[-1]
        return (1 + np.tanh(scores / 2)) / 2  # the sigmoid, which cannot overflow in this form
