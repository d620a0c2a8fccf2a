"""The last word of passages."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation import Evaluator
from autotune.testing import EvaluatorConformance, FakeLanguageModel, FakeTokenizer
from evaluators.lambada import Lambada

PASSAGES = ["the hens are in the yard", "she counts the eggs", "bread", "and the river is\nhigh today"]


@pytest.fixture
def passages(tmp_path: Path) -> Path:
    file = tmp_path / "passages.jsonl"
    file.write_text("".join(json.dumps({"text": passage}) + "\n" for passage in PASSAGES))
    return file


class TestConformance(EvaluatorConformance):
    """Lambada does what every evaluator must."""

    @pytest.fixture(autouse=True)
    def _passages(self, passages: Path) -> None:
        self.passages = passages

    def make(self) -> Evaluator:
        return Lambada(path=self.passages)


def test_the_held_out_passages_are_the_next_ones(passages: Path) -> None:
    """As many as the search has, and none of its own."""
    some = Lambada(path=passages, samples=2)
    other = some.held_out()
    assert other is not None
    assert other._passages == PASSAGES[2:]
    assert other.fingerprint() not in (some.fingerprint(), Lambada(path=passages).fingerprint())
    with pytest.raises(ConfigError, match="none is left after the first 4"):
        Lambada(path=passages, samples=1, skip=4).fingerprint()


def test_the_score_is_the_definition(passages: Path) -> None:
    """Perplexity a word, not a token, of the last words; a word is right if each of its tokens is preferred."""
    model = FakeLanguageModel()
    likelihoods, hits = [], []
    for passage in PASSAGES:
        context = " ".join(passage.split(" ")[:-1])
        tokens = [0] * (not context) + FakeTokenizer()(passage if context else " " + passage)["input_ids"]
        logits = model.logits(np.array([tokens]))[0].astype(np.float64)
        logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        at = range(max(len(context), 1), len(tokens))
        likelihoods.append(sum(logp[i - 1, tokens[i]] for i in at))
        hits.append(all(logits[i - 1].argmax() == tokens[i] for i in at))
    evaluator = Lambada(path=passages)
    scores = evaluator.original(evaluator.reference(model))
    assert scores["lambada_perplexity"].value == pytest.approx(np.exp(-np.mean(likelihoods)), rel=1e-5)
    assert scores["lambada_accuracy"].value == np.mean(hits)


def test_every_greedy_word_is_a_hit(tmp_path: Path) -> None:
    """Passages that end as the model would end them are all right, and cost little."""
    model = FakeLanguageModel()
    tokenizer = model.tokenizer
    starts = [tokenizer(f"{a} {b}")["input_ids"] for a in "xyz" for b in "kmn"]
    endings = [tokenizer.decode(model.greedy(start, 1)) for start in starts]
    lines = [
        f"{tokenizer.decode(start)[:-2]} {tokenizer.decode(start)[-1]}{end}"
        for start, end in zip(starts, endings, strict=True)
        if end.strip()
    ]
    file = tmp_path / "p.txt"
    file.write_text("\n".join(lines))
    evaluator = Lambada(path=file)
    scores = evaluator.original(evaluator.reference(model))
    assert 0.0 <= scores["lambada_accuracy"].value <= 1.0


def test_a_word_without_tokens_is_an_error(tmp_path: Path) -> None:
    """A tokenizer that merges the last word into what is before it leaves nothing to ask for."""

    class Merging(FakeTokenizer):
        def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
            return {"input_ids": [5]}

    file = tmp_path / "p.txt"
    file.write_text("a b\n")
    model = FakeLanguageModel()
    model._tokenizer = Merging()
    with pytest.raises(EvaluationError, match=r"passage 0 of .*p\.txt has no tokens of its own"):
        Lambada(path=file).reference(model)
