"""Similarity of vectors and of rerankers' scores: WhoWhatBench's formulas, worked by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.errors import ConfigError
from autotune.evaluation import Evaluator
from autotune.testing import EvaluatorConformance, FakeEncoder
from evaluators.embedding_similarity import EmbeddingSimilarity
from evaluators.rerank_similarity import AFTER, BEFORE, RerankSimilarity

ROWS: list[dict[str, Any]] = [
    {"query": "what do hens eat?", "passages": ["They eat grain.", "The mill stands by the river.", "Eggs."]},
    {"query": "when is bread baked?", "passages": ["In the morning, before the market opens."]},
    {"query": "who rows?", "passages": {"passage_text": ["Her brother rows.", "Nobody."], "is_selected": [1, 0]}},
    {"query": "how high is it?", "passages": ["Two feet.", "Nine eggs and bread."]},
]


@pytest.fixture
def queries(tmp_path: Path) -> Path:
    file = tmp_path / "queries.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


class TestEmbeddings(EvaluatorConformance):
    """`embedding_similarity` does what every evaluator must."""

    @pytest.fixture(autouse=True)
    def _queries(self, queries: Path) -> None:
        self.queries = queries

    def make(self) -> Evaluator:
        evaluator: Any = EmbeddingSimilarity(path=self.queries, samples=2)
        return evaluator  # type: ignore[no-any-return]

    def model(self, **options: Any) -> FakeEncoder:
        return FakeEncoder(**options, pooling="mean")


class TestReranking(EvaluatorConformance):
    """`rerank_similarity` does what every evaluator must."""

    @pytest.fixture(autouse=True)
    def _queries(self, queries: Path) -> None:
        self.queries = queries

    def make(self) -> Evaluator:
        evaluator: Any = RerankSimilarity(path=self.queries, samples=2)
        return evaluator  # type: ignore[no-any-return]

    def model(self, **options: Any) -> FakeEncoder:
        return FakeEncoder(**options, logits=1)


def texts_of(row: dict[str, Any]) -> list[str]:
    found = row["passages"]
    return list(found["passage_text"] if isinstance(found, dict) else found)


@pytest.mark.parametrize("pooling", ["cls", "mean", "last_token"])
def test_cosines_are_averaged_in_a_query_and_then_over_queries(queries: Path, pooling: str) -> None:
    """Vectors are cut off at the model's length and pooled as the model says, or as the option does."""
    original, candidate = FakeEncoder(pooling=pooling, max_length=20), FakeEncoder(noise=0.5)

    def vector(model: FakeEncoder, text: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        ((_, states),) = model.run([model.tokenizer(text)["input_ids"][:20]])
        pooled = {"cls": states[0], "mean": states.mean(axis=0), "last_token": states[-1]}[pooling].astype(np.float64)
        return pooled / np.linalg.norm(pooled)

    expected = [np.mean([vector(original, text) @ vector(candidate, text) for text in texts_of(row)]) for row in ROWS]
    reference = EmbeddingSimilarity(path=queries).reference(original)
    found = EmbeddingSimilarity(path=queries, pooling=pooling, max_length=20).evaluate(candidate, reference)
    similarity = found["embedding_similarity"]
    assert similarity.value == pytest.approx(np.mean(expected), abs=1e-6)
    assert similarity.stderr == pytest.approx(np.std(expected, ddof=1) / 2, rel=1e-4)
    assert similarity.values == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("logits", [1, 2])
def test_scores_of_rerankers_are_sigmoids_of_the_last_logit(queries: Path, logits: int) -> None:
    """The similarity of a query is 1 / (1 + L2 norm of its differences), for heads of one logit and of two."""
    original, candidate = FakeEncoder(logits=logits), FakeEncoder(logits=logits, noise=0.5)

    def scores(model: FakeEncoder, row: dict[str, Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
        pairs = [model.tokenizer(row["query"], text)["input_ids"] for text in texts_of(row)]
        found = dict(model.run(pairs))
        return 1 / (1 + np.exp(-np.array([found[index][-1] for index in range(len(pairs))], np.float64)))

    differences = [scores(original, row) - scores(candidate, row) for row in ROWS]
    evaluator = RerankSimilarity(path=queries)
    found = evaluator.evaluate(candidate, evaluator.reference(original))
    expected = np.mean([1 / (1 + np.linalg.norm(each)) for each in differences])
    assert found["rerank_similarity"].value == pytest.approx(expected, abs=1e-6)
    assert found["rerank_error"].value == pytest.approx(np.mean([np.mean(each**2) for each in differences]), abs=1e-7)


def test_causal_rerankers_answer_yes_or_no(queries: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pair is put into the template, cut off before its end, and the score is softmax of the last logits."""
    model = FakeEncoder(answers=True, max_length=500)
    ids = {"no": 5, "yes": 9}
    monkeypatch.setattr(model.tokenizer, "convert_tokens_to_ids", ids.get, raising=False)
    monkeypatch.setattr(model.tokenizer, "unk_token_id", 1, raising=False)
    reference = RerankSimilarity(path=queries, samples=1).reference(model)
    start, end = (model.tokenizer(text)["input_ids"] for text in (BEFORE, AFTER))
    tokens = reference["tokens"].tolist()
    assert tokens[: len(start)] == start
    assert tokens[-len(end) :] == end
    assert len(tokens) <= 3 * 500
    first = tokens[: next(at for at in range(len(tokens)) if tokens[at : at + len(end)] == end) + len(end)]
    ((_, states),) = model.run([first])
    no, yes = np.exp(states[-1, [5, 9]].astype(np.float64))
    assert reference["scores"][0] == pytest.approx(yes / (no + yes), abs=1e-6)


def test_texts_alone_have_vectors_and_no_pairs(tmp_path: Path) -> None:
    """One text a line is one query each; a reranker needs queries, and says in which form."""
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(text for row in ROWS for text in texts_of(row)))
    reference = EmbeddingSimilarity(path=file).reference(FakeEncoder())
    assert reference["passages"].tolist() == [1] * 8
    with pytest.raises(ConfigError, match="texts without a query"):
        RerankSimilarity(path=file).reference(FakeEncoder(logits=1))
    (tmp_path / "rows.jsonl").write_text('{"query": "a", "passages": ["b"]}\n{"query": "c"}\n')
    with pytest.raises(ConfigError, match="row 2 has no passages"):
        EmbeddingSimilarity(path=tmp_path / "rows.jsonl").reference(FakeEncoder())
