"""Tasks of EleutherAI's lm-evaluation-harness, run on the OpenVINO model; needs the extra ``lm-eval``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from autotune.errors import EvaluationError, PrerequisiteError
from autotune.evaluation import LanguageModel, Measurement, Metric, Reference, fingerprint, fingerprint_file
from evaluators._likelihood import encode, log_likelihoods, prefix_token, rolling_requests
from evaluators._statistics import standard_error

__all__ = ["LmEval", "Options"]

_VERSION = 1  # increased when the same options give other scores

METRICS: Mapping[str, Metric] = {
    "task_score": Metric("maximize", "", "mean over lm-eval tasks of the metric of each (accuracy, exact match, ...)"),
    "task_score_change": Metric("maximize", "%", "change of task_score from the original's, in points", perfect=0.0),
}


class Options(BaseModel):
    """The options of `lm_eval` in model.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[str, ...] = Field(min_length=1, description="Names of tasks, as `lm-eval ls tasks` prints them.")
    metric: str | None = Field(None, description="The per-document metric; by default the first that each task has.")
    limit: int | None = Field(None, ge=1, strict=True, description="At most so many documents a task.")
    num_fewshot: int | None = Field(None, ge=0, strict=True, description="Examples before the question.")
    include_path: Path | None = Field(None, description="A folder with task files of your own.")
    max_length: int = Field(2048, ge=2, strict=True, description="Tokens of a window: the model's context length.")


class LmEval:
    """Scores tasks whose documents have a number each (accuracy, exact match, ...), the higher the better.

    The score is the mean over tasks of the mean over documents. Its standard error comes from the differences to the
    original document by document, which are far less uncertain than two scores on their own.
    """

    Options = Options
    metrics: Mapping[str, Metric] = METRICS

    def __init__(self, **options: Any) -> None:
        """Take the options of `Options`; lm_eval is imported when something is scored."""
        self.options = Options(**options)

    @cached_property
    def _fingerprint(self) -> str:
        folder = self.options.include_path
        files = sorted(folder.rglob("*.yaml")) if folder is not None else []
        options = self.options.model_dump(mode="json", exclude={"include_path"})
        return fingerprint(_VERSION, options, *map(fingerprint_file, files))

    def fingerprint(self) -> str:
        """Return a fingerprint of the options and the user's task files, but not of versions of datasets."""
        return self._fingerprint

    def reference(self, original: LanguageModel) -> Reference:
        """Compute the score of each document, float64 [n], under the task's name."""
        return self._scores(original)

    def evaluate(self, candidate: LanguageModel, reference: Reference) -> Mapping[str, Measurement]:
        """Score `candidate` on all tasks; see `Evaluator.evaluate`."""
        return _measurements(self._scores(candidate), reference)

    def original(self, reference: Reference) -> Mapping[str, Measurement]:
        """Return the original's scores."""
        return _measurements(reference, reference)

    def _scores(self, model: LanguageModel) -> dict[str, np.ndarray[Any, np.dtype[np.float64]]]:
        try:
            import lm_eval
            from lm_eval.api.model import TemplateLM
        except ImportError as error:
            raise PrerequisiteError(
                "the evaluator lm_eval needs the package lm_eval: pip install 'ov-autotune[lm-eval]'"
            ) from error

        class HarnessModel(_Requests, TemplateLM):  # type: ignore[misc]  # lm_eval has no types
            """The requests answered as a subclass of lm_eval's model, which exists only if lm_eval is installed."""

        options = self.options
        folder = None if options.include_path is None else str(options.include_path)
        try:
            results = lm_eval.simple_evaluate(
                model=HarnessModel(model, options.max_length),
                tasks=list(options.tasks),
                num_fewshot=options.num_fewshot,
                limit=options.limit,
                bootstrap_iters=0,
                task_manager=_task_manager(folder),
            )
        except KeyError as error:
            raise EvaluationError(f"lm_eval has no task {error}; use a task that `lm-eval ls tasks` lists.") from error
        return {task: self._per_document(task, samples) for task, samples in results["samples"].items()}

    def _per_document(self, task: str, samples: Sequence[Mapping[str, Any]]) -> np.ndarray[Any, np.dtype[np.float64]]:
        there = [name for name in samples[0]["metrics"] if isinstance(samples[0][name], (bool, int, float))]
        name = self.options.metric or (there[0] if there else "")
        if name not in there:
            raise EvaluationError(
                f"the task {task} has no number {name} for each document; it has {', '.join(there) or 'none'}. Set "
                "evaluators.lm_eval.metric to one of them, or leave the task out."
            )
        # A task may filter its answers in several ways: take the first one.
        filtered = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        in_order = sorted(filtered, key=lambda sample: sample["doc_id"])
        return np.array([float(sample[name]) for sample in in_order], np.float64)


@cache
def _task_manager(folder: str | None) -> Any:
    """Index lm_eval's tasks and those of `folder`, once in a process: reading lm_eval's own takes 7 s."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder)


def _measurements(scores: Reference, originals: Reference) -> dict[str, Measurement]:
    tasks = sorted(scores)
    value = float(np.mean([scores[task].mean() for task in tasks]))
    change = value - float(np.mean([originals[task].mean() for task in tasks]))
    errors = [standard_error(scores[task] - originals[task]) for task in tasks]
    squares = [error**2 for error in errors if error is not None]
    error = None if len(squares) < len(tasks) else float(np.sqrt(sum(squares)) / len(tasks))
    values = tuple(float(scores[task].mean()) for task in tasks)
    return {
        "task_score": Measurement(value, error, values),
        "task_score_change": Measurement(100.0 * change, None if error is None else 100.0 * error),
    }


class _Requests:
    """Answers lm_eval's three kinds of requests with a `LanguageModel`; to be mixed into lm_eval's `TemplateLM`."""

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
        """The token before a text without context."""
        return prefix_token(self.tokenizer)

    @property
    def tokenizer_name(self) -> str:
        """Key for lm_eval's cache of requests."""
        return str(getattr(self.tokenizer, "name_or_path", "")).replace("/", "__")

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Tokenize a text; a beginning-of-text token that it contains is not added again."""
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
        """Compute the log-likelihoods of whole documents."""
        totals = []
        for request in requests:
            (text,) = request.args
            windows = list(rolling_requests(self.tok_encode(text), self.prefix_token_id, self.max_length))
            totals.append(float(log_likelihoods(self.model, windows)[0].sum()))
        return totals

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate greedy answers, cut at the first stop sequence.

        Raises:
            EvaluationError: the task requires sampling, which gives another score each time.
        """
        from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs

        prompts, limits, stops = [], [], []
        for request in requests:
            context, arguments = request.args
            options = normalize_gen_kwargs(dict(arguments), 256)
            if options["do_sample"]:
                raise EvaluationError(
                    "a task of lm_eval samples its answers, and only greedy decoding is supported; remove it."
                )
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
