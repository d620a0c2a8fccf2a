"""Word perplexity of whole documents, as the task wikitext of lm-eval defines it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from autotune.errors import EvaluationError
from autotune.evaluation import (
    LanguageModel,
    Measurement,
    Metric,
    Reference,
    TextEvaluator,
    TextOptions,
    describe_source,
    fingerprint,
    read_texts,
)
from evaluators._likelihood import encode, log_likelihoods, prefix_token, rolling_requests
from evaluators._statistics import ratio

__all__ = ["Options", "WordPerplexity", "detokenize", "documents"]

_VERSION = 1  # increased when the same options give other scores

METRICS: Mapping[str, Metric] = {
    "word_perplexity": Metric("minimize", "", "exp of the negative log-likelihood a word, over whole documents"),
    "word_perplexity_increase": Metric("minimize", "%", "word perplexity above the original's", perfect=0.0),
}


class Options(TextOptions):
    """The options of `word_perplexity` in model.yaml."""

    path: Path | None = None
    """A UTF-8 text file; lines such as ` = Title = ` begin a document."""
    dataset: str | None = None
    """A Hugging Face dataset with one document a row."""
    max_length: int = Field(2048, ge=2, strict=True)
    """Tokens of a window: the model's context length."""
    detokenize: bool = Field(True, strict=True)
    """Undo the spaces that wikitext puts around punctuation."""


class WordPerplexity(TextEvaluator[Options]):
    """Scores every token of each document given the tokens before it that fit into the window.

    Words are separated by white space in the document as it is stored. Standard errors are over documents, paired with
    the original's.
    """

    Options = Options
    metrics = METRICS

    @cached_property
    def _documents(self) -> list[str]:
        texts = read_texts(self.options)
        return self.select(texts if self.options.path is None else documents(texts[0]), "documents")

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the documents as tokens; see `autotune.evaluation.HeldOut`."""
        return [self._encode(tokenizer, page) for page in self._documents]

    def _encode(self, tokenizer: Any, page: str) -> list[int]:
        return encode(tokenizer, detokenize(page) if self.options.detokenize else page)

    def fingerprint(self) -> str:
        """Return a fingerprint of the documents and of the options that change their tokens."""
        return fingerprint(_VERSION, self.options.max_length, self.options.detokenize, *self._documents)

    def reference(self, original: LanguageModel) -> Reference:
        """Compute the negative log-likelihoods of the documents, float64 [n]."""
        return {"likelihoods": self._likelihoods(original)}

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on all documents; see `Evaluator.evaluate`."""
        likelihoods = self._likelihoods(candidate)
        words = np.array([len(re.split(r"\s+", page)) for page in self._documents], np.float64)
        originals = np.asarray(reference["likelihoods"])
        growth = ratio(likelihoods - originals, words)  # of the log of perplexity
        value, increase = math.exp(likelihoods.sum() / words.sum()), math.exp(growth.value)
        error = growth.stderr
        return {
            "word_perplexity": Measurement(
                value, None if error is None else value * error, tuple(np.exp(likelihoods / words).tolist())
            ),
            "word_perplexity_increase": Measurement(
                100.0 * (increase - 1.0),
                None if error is None else 100.0 * increase * error,
                tuple((100.0 * np.expm1(np.array(growth.values))).tolist()),
            ),
        }

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's word perplexity, and no increase."""
        words = sum(len(re.split(r"\s+", page)) for page in self._documents)
        value = math.exp(float(reference["likelihoods"].sum()) / words)
        return {"word_perplexity": Measurement(value, 0.0), "word_perplexity_increase": Measurement(0.0, 0.0)}

    def _likelihoods(self, model: LanguageModel) -> np.ndarray[Any, np.dtype[np.float64]]:
        prefix = prefix_token(model.tokenizer)
        requests, owners = [], []
        for index, page in enumerate(self._documents):
            tokens = self._encode(model.tokenizer, page)
            if not tokens:
                raise EvaluationError(
                    f"document {index} of {describe_source(self.options)} has no tokens; leave it out."
                )
            rolled = list(rolling_requests(tokens, prefix, self.options.max_length))
            requests += rolled
            owners += [index] * len(rolled)
        found, _ = log_likelihoods(model, requests)
        return -np.bincount(owners, found, minlength=len(self._documents)).astype(np.float64)


def documents(text: str) -> list[str]:
    """Split a text in wikitext's form into documents; without a first-level heading the text is one document."""
    starts = [match.start() for match in re.finditer(r"^ = [^=\n](?:.*[^=\n])? = *\n", text, re.MULTILINE)]
    edges = [0, *(start for start in starts if text[:start].strip()), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


# Reversal of wikitext's tokenization, in this order: (pattern, replacement). The second pattern is a mistake of
# lm-eval, which matches slashes; it is kept so that scores are equal.
_UNDO = [
    (r"s '", "s'"),
    (r"/' [0-9]/", "/'[0-9]/"),
    *((rf" @{mark}@ ", mark) for mark in ("-", ",", r"\.")),
    *((rf" {mark} ", f"{mark} ") for mark in (":", ";", r"\.", "!", r"\?", ",")),
    (r"\(\s*([^\)]*?)\s*\)", r"(\1)"),
    (r"\[\s*([^\]]*?)\s*\]", r"[\1]"),
    (r"{\s*([^}]*?)\s*}", r"{\1}"),
    (r"\"\s*([^\"]*?)\s*\"", r'"\1"'),
    (r"'\s*([^']*?)\s*'", r"'\1'"),
    *((" ".join("=" * level), "=" * level) for level in (4, 3, 2)),
    (" ° ", "°"),
    (r" \n", "\n"),
    (r"\n ", "\n"),
    (r" N ", " 1 "),
    (r" 's", "'s"),
]


def detokenize(page: str) -> str:
    """Undo wikitext's tokenization of a document, by lm-eval's rules."""
    for pattern, replacement in _UNDO:
        page = re.sub(pattern, replacement.replace("\\.", ".").replace("\\?", "?"), page)
    return page
