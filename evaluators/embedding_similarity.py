"""Cosines of the vectors of texts with those of the original, as WhoWhatBench compares embedding models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from autotune.errors import EvaluationError
from autotune.evaluation import Encoder, Measurement, Metric, Reference, TextEvaluator, fingerprint
from evaluators._passages import PassageOptions, Passages, read_passages
from evaluators._statistics import mean

__all__ = ["EmbeddingSimilarity", "Options", "pool"]

_VERSION = 1  # increased when the same options give other scores

METRICS: Mapping[str, Metric] = {
    "embedding_similarity": Metric("maximize", "", "mean cosine of a text's vector with the original's", perfect=1.0),
}


class Options(PassageOptions):
    """The options of `embedding_similarity` in model.yaml."""

    pooling: Literal["cls", "mean", "last_token"] | None = None
    """The vector of a text: of its first token, the mean over its tokens, or of the last one; by default what the
    model's own files say, else cls."""


class EmbeddingSimilarity(TextEvaluator[Options]):
    """Compares the vector of each passage with the original's.

    The score is the mean over the passages of a query, then over queries, as in WhoWhatBench. Texts without a query
    count as one query each. Vectors need no normalization: a cosine does not depend on lengths. Standard errors are
    over queries.
    """

    Options = Options
    metrics = METRICS
    tasks = ("text-embedding",)

    @cached_property
    def _queries(self) -> list[Passages]:
        read = read_passages(self.options, self.stop)
        start = self.select(np.arange(len(read)), "queries")
        return [read[index] for index in start.tolist()]

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the passages as tokens; see `autotune.evaluation.HeldOut`."""
        return [list(tokenizer(text)["input_ids"]) for text in self._texts]

    @property
    def _texts(self) -> list[str]:
        return [text for query in self._queries for text in query.passages]

    def fingerprint(self) -> str:
        """Return a fingerprint of the passages, their queries, and the options that change vectors."""
        options = self.options
        return fingerprint(_VERSION, options.pooling, options.max_length, *(list(q.passages) for q in self._queries))

    def reference(self, original: Encoder) -> Reference:
        """Compute the original's vectors, float32 [n, D], of length 1; ``tokens`` are all that were run."""
        tokens = self._tokens(original)
        counts = np.array([len(query.passages) for query in self._queries], np.int64)
        return {
            "vectors": self._vectors(original, tokens),
            "passages": counts,
            "tokens": np.concatenate([np.array(text, np.int64) for text in tokens]),
        }

    def evaluate(self, candidate: Encoder, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on all passages; see `Evaluator.evaluate`."""
        vectors = self._vectors(candidate, self._tokens(candidate))
        cosines = np.sum(vectors.astype(np.float64) * reference["vectors"], axis=1)
        ends = np.cumsum(reference["passages"])[:-1]
        values = np.array([part.mean() for part in np.split(np.clip(cosines, -1.0, 1.0), ends)])
        return {"embedding_similarity": mean(values, 1.0)}

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return a similarity of 1."""
        return {"embedding_similarity": replace(mean(np.ones(len(reference["passages"])), 1.0), stderr=0.0)}

    def scored(self, reference: Reference) -> str:
        """Return the number of passages and tokens; see `autotune.evaluation.Describing`."""
        return f"{len(reference['vectors'])} passages, {reference['tokens'].size:,} tokens"

    def _tokens(self, model: Encoder) -> list[list[int]]:
        limit = self.options.max_length or model.usage.get("max_length")
        found = [
            [int(token) for token in model.tokenizer(text, truncation=True, max_length=limit)["input_ids"]]
            for text in self._texts
        ]
        if not all(found):
            raise EvaluationError("a passage has no tokens with this model's tokenizer; leave it out.")
        return found

    def _vectors(self, model: Encoder, tokens: Sequence[Sequence[int]]) -> npt.NDArray[np.float32]:
        pooling = self.options.pooling or model.usage.get("pooling", "cls")
        vectors: dict[int, npt.NDArray[np.float64]] = {}
        for index, states in model.run(tokens):
            vector = pool(states, pooling)
            vectors[index] = vector / max(float(np.linalg.norm(vector)), 1e-12)
        return np.array([vectors[index] for index in range(len(tokens))], np.float32)


def pool(states: npt.NDArray[np.float32], pooling: str) -> npt.NDArray[np.float64]:
    """Return the vector of a text, float64 [D], from those of its tokens without padding, [T, D]."""
    exact = states.astype(np.float64)
    pooled: npt.NDArray[np.float64] = {"mean": exact.mean(axis=0), "cls": exact[0], "last_token": exact[-1]}[pooling]
    return pooled
