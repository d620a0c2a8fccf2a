"""Perplexity a word of whole documents, as the task wikitext of lm-eval defines it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from autotune.common.files import fingerprint
from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference
from autotune.evaluation.texts.sources import describe_source, read_texts
from evaluators._likelihood import encode, log_likelihoods, prefix_token, rolling_requests
from evaluators._statistics import ratio

__all__ = ["Options", "WordPerplexity", "detokenise", "documents"]

_VERSION = 1  # of the numbers: raised when the same options would give other scores

METRICS: Mapping[str, Metric] = {
    "word_perplexity": Metric("minimize", "", "exp of the negative log-likelihood a word, over whole documents"),
    "word_perplexity_increase": Metric("minimize", "%", "word perplexity above the original's", perfect=0.0),
}


class Options(BaseModel):
    """The options of `word_perplexity` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: Path | None = Field(None, description="A UTF-8 text file; lines such as ` = Title = ` begin a document.")
    dataset: str | None = Field(None, description="A Hugging Face dataset with one document a row.")
    name: str | None = Field(None, description="The dataset's configuration.")
    split: str | None = Field(None, description="The dataset's split.")
    column: str | None = Field(None, description="The dataset's text column; `text` by default.")
    samples: int | None = Field(None, ge=1, strict=True, description="At most so many documents; all by default.")
    skip: int = Field(0, ge=0, strict=True, description="Documents at the beginning that are left out.")
    max_length: int = Field(2048, ge=2, strict=True, description="Tokens of a window: the model's context length.")
    detokenize: bool = Field(True, description="Undo the spaces that wikitext puts around punctuation.")

    @model_validator(mode="after")
    def _one_source(self) -> Options:
        if (self.path is None) == (self.dataset is None):
            raise ValueError("give either path or dataset, and not both")
        return self


class WordPerplexity:
    """Scores every token of each document after as much of the document as a window holds, a word being what stands
    between spaces in the document as it is written. Standard errors are over documents, paired with the original's.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    repeatable = True

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read yet."""
        self.options = Options(**options)

    @cached_property
    def _documents(self) -> list[str]:
        texts = read_texts(self.options)
        pages = documents(texts[0]) if self.options.path is not None else texts
        if len(pages) <= self.options.skip:
            raise ConfigError(
                f"{describe_source(self.options)} has {len(pages)} documents, so none is left after the first "
                f"{self.options.skip}."
            )
        return pages[self.options.skip :][: self.options.samples]

    def held_out(self) -> WordPerplexity | None:
        """The documents after those that are scored; None where all are (the option `samples` leaves some)."""
        if self.options.samples is None:
            return None
        return WordPerplexity(**{**self.options.model_dump(), "skip": self.options.skip + self.options.samples})

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """The documents; see `autotune.evaluation.HeldOut`."""
        return [self._encode(tokenizer, page) for page in self._documents]

    def _encode(self, tokenizer: Any, page: str) -> list[int]:
        return encode(tokenizer, detokenise(page) if self.options.detokenize else page)

    def fingerprint(self) -> str:
        """Changes with the documents and how they are cut."""
        return fingerprint(_VERSION, self.options.max_length, self.options.detokenize, *self._documents)

    def reference(self, original: LanguageModel) -> Reference:
        """Negative log-likelihoods float64 [n] of the documents."""
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
        """The original's word perplexity, and no increase."""
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
    """The documents of a text in wikitext's form; the whole text where no line is a heading of the first level."""
    starts = [match.start() for match in re.finditer(r"^ = [^=\n](?:.*[^=\n])? = *\n", text, re.MULTILINE)]
    edges = [0, *(start for start in starts if text[:start].strip()), len(text)]
    return [text[begin:end] for begin, end in pairwise(edges)]


# What wikitext's tokenisation did to a text, undone in this order: (pattern, replacement). The second is lm-eval's own
# slip, a pattern that never means what it says; it is kept, as the numbers are to be the same.
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


def detokenise(page: str) -> str:
    """A wikitext document as it was written before it was tokenised, by lm-eval's rules."""
    for pattern, replacement in _UNDO:
        page = re.sub(pattern, replacement.replace("\\.", ".").replace("\\?", "?"), page)
    return page
