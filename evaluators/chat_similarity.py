"""Similarity of greedy answers in conversations of several turns, as WhoWhatBench defines it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, StrictBool, ValidationInfo, field_validator, model_validator

from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation import (
    Example,
    LanguageModel,
    Measurement,
    Metric,
    Reference,
    complete_answers,
    fingerprint,
    read_conversations,
)
from evaluators import _answers, _teacher_forcing
from evaluators._embedder import embedder_fingerprint
from evaluators._statistics import mean, ratio

__all__ = ["ChatSimilarity", "Options", "conversation_sets"]

_VERSION = 1  # increased when the same options give other scores
_SETS = Path(__file__).parent / "conversations"
_NO_TEMPLATE = (
    "chats need a chat template, and the model's tokenizer has none. Use the evaluator similarity instead, or add "
    "chat_template.jinja to the model's folder"
)
_SWITCHES = ("enable_thinking", "thinking")  # variables of chat templates that turn reasoning on and off

Decode = Callable[[Sequence[int], Sequence[Sequence[int]]], list[list[int]]]

PREVIEWED: Mapping[str, Metric] = {
    "chat_kl_divergence": Metric(
        "minimize", "nats/token", "KL(original || compressed) along the original's conversations", perfect=0.0
    ),
    "chat_top1_agreement": Metric(
        "maximize", "", "share of the tokens of the original's conversations that are preferred too", perfect=1.0
    ),
}
"""Metrics of one pass along the original's conversations."""

METRICS: Mapping[str, Metric] = {
    "chat_similarity": Metric(
        "maximize", "", "cosine of the answers' embeddings, mean over the turns of a conversation", perfect=1.0
    ),
    "chat_fdt": Metric("maximize", "tokens", "position of the first divergent token in the last answer"),
    "chat_fdt_norm": Metric("maximize", "", "chat_fdt as a share of the original's last answer", perfect=1.0),
    "chat_sdt": Metric("minimize", "tokens", "divergent tokens of the last answer", perfect=0.0),
    "chat_sdt_norm": Metric("minimize", "", "chat_sdt as a share of each last answer's length", perfect=0.0),
    **PREVIEWED,
}


def conversation_sets() -> dict[str, Path]:
    """Return the files of the built-in sets of conversations, by name."""
    return {path.stem: path for path in sorted(_SETS.iterdir())}


class Options(_answers.AnswerOptions):
    """The options of `chat_similarity` in model.yaml."""

    conversations: Literal["default", "report"] | Path | tuple[tuple[str, ...], ...] = Field(
        "default",
        description="`default`, `report` (others of the same kinds), a file (jsonl or yaml, each conversation a list "
        "of user turns), or a list of such lists.",
    )
    thinking: Literal["auto"] | StrictBool = Field(
        "auto", description="Turn thinking of the chat template on or off; `auto`: the template's default."
    )

    @model_validator(mode="after")
    def _has_template(self, info: ValidationInfo) -> Options:
        if info.context and info.context.get("chat_template") is False:
            raise ValueError(_NO_TEMPLATE)
        return self

    @field_validator("conversations", mode="before")
    @classmethod
    def _well_formed(cls, value: object) -> object:
        if isinstance(value, (list, tuple)):
            turns = [turn for each in value for turn in (each if isinstance(each, (list, tuple)) and each else [None])]
            if not turns or not all(isinstance(turn, str) and turn.strip() for turn in turns):
                raise ValueError("needs at least one conversation, each a list of user turns that are not blank")
        elif not isinstance(value, (str, Path)) or not str(value):
            raise ValueError(f"must be a set of conversations, a file or a list of conversations, got {value!r}")
        elif not Path(value).suffix and not Path(value).is_absolute() and str(value) not in conversation_sets():
            sets = ", ".join(conversation_sets())
            raise ValueError(f"unknown set of conversations {str(value)!r}; use one of {sets}, or a file")
        return value


class ChatSimilarity:
    """Compares greedy answers in conversations, where each model's own answers are the history of its next turn.

    One pass along the original's conversations gives the divergence at each position, and the candidate's answers up
    to the first one that differs. From there the candidate decodes, turn by turn, all conversations together, with
    the original's answer as draft. Standard errors are over conversations.

    Attributes:
        previewed: the metrics that `preview` measures, without any decoding.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS
    previewed = frozenset(PREVIEWED)
    repeatable = True

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; nothing is read or loaded yet."""
        self.options = Options(**options)
        self._last_pass = _teacher_forcing.LastPass()

    @cached_property
    def _conversations(self) -> list[tuple[str, ...]]:
        given = self.options.conversations
        if isinstance(given, tuple):
            return list(given)
        return read_conversations(conversation_sets().get(str(given), Path(given)))

    @cached_property
    def _starts(self) -> list[int]:
        """Index of the first turn of each conversation among all turns, and the number of turns, [n + 1]."""
        return list(accumulate(map(len, self._conversations), initial=0))

    def check(self, tokenizer: Any) -> None:
        """Refuse a tokenizer without chat template, and `thinking` that its template has no switch for.

        Raises:
            ConfigError: with the remedy.
        """
        if not getattr(tokenizer, "chat_template", None):
            raise ConfigError(_NO_TEMPLATE, key="evaluators.chat_similarity")
        if self.options.thinking != "auto":
            message = [{"role": "user", "content": self._conversations[0][0]}]
            on, off = (_answers.chat_tokens(tokenizer, message, **dict.fromkeys(_SWITCHES, to)) for to in (True, False))
            if on == off:
                raise ConfigError(
                    f"the model's chat template has no switch for thinking ({' or '.join(_SWITCHES)}). Set it to auto",
                    key="evaluators.chat_similarity.thinking",
                )

    def held_out(self) -> ChatSimilarity | None:
        """Return the evaluator on the conversations `report` instead of `default`; None for any others."""
        if self.options.conversations != "default":
            return None
        return ChatSimilarity(**{**self.options.model_dump(), "conversations": "report"})

    def passages(self, tokenizer: Any) -> list[list[int]]:
        """Return the user turns as tokens; see `autotune.evaluation.HeldOut`."""
        return [_answers.tokens(tokenizer, turn) for turns in self._conversations for turn in turns]

    def fingerprint(self) -> str:
        """Return a fingerprint of the conversations' texts, the embedder and the other options."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        options = self.options
        return fingerprint(
            _VERSION,
            self._conversations,
            options.max_new_tokens,
            embedder_fingerprint(options.embedder),
            options.thinking,
        )

    def reference(self, original: LanguageModel) -> Reference:
        """Compute answers int64 [all tokens], their lengths [turns], embeddings float32 [turns, D], distributions.

        Turns are in the order of the conversations. `text_lengths`, int64 [n], has the numbers of tokens of the last
        answers' texts tokenized again.
        """
        self.check(original.tokenizer)
        limit = self.options.max_new_tokens
        prompts, answers, texts = self._converse(
            original.tokenizer, lambda _, prompts: original.greedy_batch(prompts, [limit] * len(prompts))
        )
        if not any(text.strip() for text in texts):
            raise EvaluationError(
                f"the original model's answers in all {len(self._conversations)} conversations are empty. Use other "
                "conversations (evaluators.chat_similarity.conversations), or the evaluator similarity."
            )
        last = [len(_answers.tokens(original.tokenizer, text)) for text in self._last(texts)]
        return {
            "answers": np.array([token for answer in answers for token in answer], np.int64),
            "lengths": np.array([len(answer) for answer in answers], np.int64),
            "text_lengths": np.array(last, np.int64),
            "embeddings": _answers.embed(self.options.embedder, texts),
            **_teacher_forcing.reference_arrays(original, _teacher_forcing.lay_out(prompts, answers, limit)),
        }

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate`'s conversations against those of the reference; see `Evaluator.evaluate`."""
        verified, measured = self._verify(candidate, reference)
        tokenizer, drafts = candidate.tokenizer, _answers.split(reference)
        diverged: set[int] = set()  # conversations whose history is no longer that of the original

        def decode(turns: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[list[int]]:
            owners = np.searchsorted(self._starts, turns, side="right").tolist()
            begun = [
                ([], False) if owner in diverged else verified[turn] for owner, turn in zip(owners, turns, strict=True)
            ]
            expected = [drafts[turn] for turn in turns]
            found = complete_answers(candidate, prompts, begun, expected, [self.options.max_new_tokens] * len(turns))
            diverged.update(owner for owner, a, b in zip(owners, found, expected, strict=True) if a != b)
            return found

        originals, texts = _answers.texts(tokenizer, drafts), self._converse(tokenizer, decode)[2]
        cosines = _answers.cosines(self.options.embedder, texts, originals, reference["embeddings"])
        scores = np.add.reduceat(cosines, self._starts[:-1]) / np.diff(self._starts)
        tokens = [[_answers.tokens(tokenizer, text) for text in self._last(side)] for side in (originals, texts)]
        examples = tuple(map(Example, *map(self._joined, (self._turns, originals, texts)), scores.tolist()))
        return {
            "chat_similarity": replace(mean(scores, 1.0), examples=examples),
            **{f"chat_{name}": value for name, value in _answers.token_metrics(*tokens).items()},
            **measured,
        }

    def preview(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Measure the metrics `previewed`; see `autotune.evaluation.Previewing`."""
        return self._verify(candidate, reference)[1]

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return perfect values; `chat_fdt` is the mean length of the original's last answers."""
        lengths = np.asarray(reference["text_lengths"], np.float64)
        perfect = {name: metric.perfect for name, metric in METRICS.items() if metric.perfect is not None}
        stated = {name: mean(np.full(len(lengths), value), value) for name, value in perfect.items()}
        return {name: mean(lengths, lengths) if name == "chat_fdt" else stated[name] for name in METRICS}

    def scored(self, reference: Reference) -> str:
        """Return the number of conversations, turns and answer tokens; see `autotune.evaluation.Describing`."""
        tokens = int(reference["lengths"].sum())
        return f"{len(self._conversations)} conversations of {self._starts[-1]} turns, {tokens:,} tokens of answers"

    def shrunk(self, original: LanguageModel) -> tuple[ChatSimilarity, float]:
        """Return the evaluator on every second conversation, and the ratio of all turns to these, that of the times."""
        few = tuple(self._conversations[::2])
        small = ChatSimilarity(**{**self.options.model_dump(), "conversations": few})
        return small, self._starts[-1] / small._starts[-1]

    @cached_property
    def _turns(self) -> list[str]:
        return [turn for turns in self._conversations for turn in turns]

    def _joined(self, texts: Sequence[str]) -> list[str]:
        """Join the texts of all turns of each conversation."""
        return ["\n\n".join(texts[start:end]) for start, end in pairwise(self._starts)]

    def _last(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that belong to the last turn of each conversation."""
        return [texts[end - 1] for end in self._starts[1:]]

    def _converse(self, tokenizer: Any, decode: Decode) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Lead all conversations, turn by turn; return prompts, answers and texts of the answers of all turns.

        Args:
            tokenizer: with a chat template.
            decode: called with the turns that come next, one of each conversation, and their prompts; returns answers.
        """
        prompts: list[list[int]] = [[] for _ in self._turns]
        answers, texts = [*prompts], [""] * len(prompts)
        messages: list[list[dict[str, str]]] = [[] for _ in self._conversations]
        thinking = self.options.thinking
        switches = {} if thinking == "auto" else dict.fromkeys(_SWITCHES, thinking)
        for depth in range(max(map(len, self._conversations))):
            going = [index for index, turns in enumerate(self._conversations) if depth < len(turns)]
            turns = [self._starts[index] + depth for index in going]
            for index, turn in zip(going, turns, strict=True):
                messages[index].append({"role": "user", "content": self._turns[turn]})
                prompts[turn] = _answers.chat_tokens(tokenizer, messages[index], **switches)
            found = decode(turns, [prompts[turn] for turn in turns])
            for index, turn, answer in zip(going, turns, found, strict=True):
                answers[turn], texts[turn] = answer, _answers.texts(tokenizer, [answer])[0]
                messages[index].append({"role": "assistant", "content": texts[turn]})
        return prompts, answers, texts

    def _verify(self, candidate: LanguageModel, reference: Reference) -> _teacher_forcing.Verified:
        """Run the pass along the original's conversations; the metrics are those of `PREVIEWED`."""
        if (kept := self._last_pass.get(candidate, reference)) is not None:
            return kept
        answers = _answers.split(reference)
        prompts, _, _ = self._converse(candidate.tokenizer, lambda turns, _: [answers[turn] for turn in turns])
        path = _teacher_forcing.lay_out(prompts, answers, self.options.max_new_tokens)
        begun, measured = _teacher_forcing.verify(candidate, reference, path, answers)
        counts = np.diff(path.starts).astype(np.float64)
        found = {
            name: self._by_conversation(measured[f"answer_{name.removeprefix('chat_')}"], counts) for name in PREVIEWED
        }
        return self._last_pass.put(candidate, reference, (begun, found))

    def _by_conversation(self, measured: Measurement, counts: npt.NDArray[np.float64]) -> Measurement:
        """Return a mean over tokens, whose values are of turns, with conversations as clusters of its error."""
        sums, totals = (
            np.add.reduceat(values, self._starts[:-1]) for values in (np.asarray(measured.values) * counts, counts)
        )
        return ratio(sums, totals, measured.noise)
