"""A language model as lm_eval sees one. Importing this imports lm_eval."""

from __future__ import annotations

from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

from autotune.errors import EvaluationError
from autotune.evaluation import LanguageModel
from evaluators._likelihood import encode, log_likelihoods, prefix_token, rolling_requests

__all__ = ["HarnessModel"]


class HarnessModel(TemplateLM):  # type: ignore[misc]  # lm_eval has no types
    """Answers lm_eval's three kinds of requests by `autotune.evaluation.LanguageModel`."""

    def __init__(self, model: LanguageModel, max_length: int) -> None:
        """Wrap `model`, whose context holds `max_length` tokens."""
        super().__init__()
        self.model = model
        self.tokenizer = model.tokenizer
        self.max_length = max_length

    @property
    def eot_token_id(self) -> int:
        """The end-of-text token."""
        return int(self.tokenizer.eos_token_id)

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return prefix_token(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """For lm_eval's cache of requests."""
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; a beginning-of-text token that it spells out is not added again."""
        if add_special_tokens is None:
            begin = getattr(self.tokenizer, "bos_token", None)
            add_special_tokens = not (begin and string.startswith(begin))
        return encode(self.tokenizer, string, add_special_tokens)

    def _loglikelihood_tokens(self, requests: list[Any], **_: Any) -> list[tuple[float, bool]]:
        found, greedy = log_likelihoods(
            self.model, [(context, continuation) for _, context, continuation in requests], self.max_length
        )
        return list(zip(found.tolist(), greedy.tolist(), strict=True))

    def loglikelihood_rolling(self, requests: list[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole documents."""
        totals = []
        for request in requests:
            (text,) = request.args
            windows = list(rolling_requests(self.tok_encode(text), self.prefix_token_id, self.max_length))
            totals.append(float(log_likelihoods(self.model, windows)[0].sum()))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers, cut at the first stop sequence.

        Raises:
            EvaluationError: the task asks for sampling, which gives another score each time.
        """
        prompts, limits, stops = [], [], []
        for request in requests:
            context, asked = request.args
            options = normalize_gen_kwargs(dict(asked), 256)
            if options["do_sample"]:
                raise EvaluationError("a task of lm_eval asks for sampled answers; only greedy ones are supported.")
            limits.append(int(options["max_gen_toks"]))
            prompts.append(self.tok_encode(context)[-max(1, self.max_length - limits[-1]) :])
            stops.append(handle_stop_sequences(options["until"], self.tokenizer.eos_token))
        answers = self.model.greedy_batch(prompts, limits)
        texts = [self.tokenizer.decode(answer, skip_special_tokens=True) for answer in answers]
        return [_cut(text, stop) for text, stop in zip(texts, stops, strict=True)]


def _cut(text: str, stops: list[str]) -> str:
    for stop in stops:
        if stop:
            text = text.split(stop)[0]
    return text
