"""Word perplexity: rolling windows, documents, detokenisation; the same number as lm-eval's."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import EvaluationError
from autotune.evaluation import Evaluator
from autotune.testing import EvaluatorConformance, FakeLanguageModel, FakeTokenizer
from evaluators._likelihood import encode_pair, rolling_requests
from evaluators.word_perplexity import WordPerplexity, detokenize, documents

PAGES = [
    " = The Mill = \n \n Mira 's mill , built in 1750 , grinds 2 @,@ 500 kg ( or 3 @.@ 1 tons ) a day . \n \""
    + "x " * 90
    + "\n",
    ' = Hens = \n \n = = Eggs = = \n \n She counts : " two , five " ; then nine @-@ odd eggs at 10 ° C . Is it so ? \n',
    " = Bread = \n \n Loaves , loaves ! Her brothers ' oars [ both ] and the boat 's bread . \n",
]
TEXT = " \n" + "".join(PAGES)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "wiki.txt"
    file.write_text(TEXT, encoding="utf-8")
    return file


class TestConformance(EvaluatorConformance):
    """Word perplexity does what every evaluator must."""

    @pytest.fixture(autouse=True)
    def _text(self, text: Path) -> None:
        self.text = text

    def make(self) -> Evaluator:
        return WordPerplexity(path=self.text, max_length=40)


@given(count=st.integers(1, 60), length=st.integers(1, 20))
def test_windows_cover_every_token_once_with_all_the_context_there_is(count: int, length: int) -> None:
    """The continuations are the document; a window is never longer than allowed, and full wherever it can be."""
    tokens = list(range(1, count + 1))
    requests = list(rolling_requests(tokens, 0, length))
    assert [token for _, continuation in requests for token in continuation] == tokens
    padded = [0, *tokens]
    for context, continuation in requests:
        start = continuation[0]
        assert list(context) == padded[start - len(context) : start]
        assert context
        used = len(context) + len(continuation) - 1
        assert used == min(length, count)


def test_documents_begin_at_headings_of_the_first_level() -> None:
    """Blank lines before the first heading belong to its document, deeper headings to theirs."""
    assert documents(TEXT) == [" \n" + PAGES[0], *PAGES[1:]]
    assert documents("plain text\nof two lines") == ["plain text\nof two lines"]


def test_detokenising_equals_lm_evals() -> None:
    """Every page comes out as lm-eval's own rules have it."""
    peer = pytest.importorskip("lm_eval.tasks.wikitext.preprocess_wikitext")
    for page in [*PAGES, " N 's ' a b ' {  c } /' [0-9]/ = = = = x = = = \n "]:
        assert detokenize(page) == peer.wikitext_detokenizer({"page": page})


def test_the_score_is_the_definition(text: Path) -> None:
    """exp of the documents' negative log-likelihood over their words as written, the tokens scored window by window."""
    model = FakeLanguageModel()
    evaluator = WordPerplexity(path=text, max_length=40)
    total, words = 0.0, 0
    for page in documents(TEXT):
        tokens = FakeTokenizer()(detokenize(page))["input_ids"]
        for start in range(0, len(tokens), 40):
            # The fake model looks at two tokens only, so that one pass has the same context as many windows.
            before = [0, *tokens][: start + 1][-2:]
            if start == 0:
                before = [0]
            sequence = np.array([[*before, *tokens[start : start + 40]]])
            logits = model.logits(sequence)[0, len(before) - 1 : -1].astype(np.float64)
            logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= logp[np.arange(len(logp)), sequence[0, len(before) :]].sum()
        words += len(page.split()) + (page[:1].isspace()) + (page[-1:].isspace())
    stated = evaluator.original(evaluator.reference(model))["word_perplexity"].value
    assert math.log(stated) == pytest.approx(total / words, rel=0.02)


def test_a_context_ends_where_its_own_tokens_do() -> None:
    """Spaces go to the continuation; without a context the prefix token stands before it."""
    tokenizer = FakeTokenizer()
    tokens = tokenizer("go on")["input_ids"]
    assert encode_pair(tokenizer, "go", " on") == (tokens[:2], tokens[2:])
    assert encode_pair(tokenizer, "go ", "on") == (tokens[:2], tokens[2:])
    assert encode_pair(tokenizer, "", "go on") == ([0], tokens)


def test_a_tokenizer_without_a_first_token_is_an_error(text: Path) -> None:
    """Without a token to put before a document, the message names the key to set."""

    class Bare(FakeTokenizer):
        eos_token_id = None  # type: ignore[assignment]

    model = FakeLanguageModel()
    model._tokenizer = Bare()
    with pytest.raises(EvaluationError, match="Set bos_token"):
        WordPerplexity(path=text).reference(model)


def test_the_increase_is_paired(text: Path) -> None:
    """The same model has no increase and no error of it, although documents differ widely."""
    evaluator = WordPerplexity(path=text, max_length=40)
    reference = evaluator.reference(FakeLanguageModel())
    same = evaluator.evaluate(FakeLanguageModel(), reference)
    assert same["word_perplexity_increase"].value == 0.0
    assert same["word_perplexity"].stderr == 0.0
    worse = evaluator.evaluate(FakeLanguageModel(noise=1.0), reference)["word_perplexity_increase"]
    assert worse.value > 0.0
    assert worse.stderr
    assert len(worse.values) == 3
