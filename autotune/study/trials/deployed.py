"""Scores as deployed: the front's models with the arithmetic that users run them with.

A search scores in f32, so that a score is the error of the weights alone. OpenVINO's defaults add two errors:
activations are rounded (dynamic quantization to 8 bits, inference precision), and the KV cache is stored in fewer bits.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.threads import all_cores
from autotune.evaluation import SCORING_CONFIG
from autotune.study.trials.trial import Candidate, as_data, describe

if TYPE_CHECKING:
    from autotune.evaluation import Evaluator, LanguageModel, Measurement, Reference

PARTS: Mapping[str, tuple[str, ...]] = {
    "deployed": tuple(SCORING_CONFIG),
    "activations": ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "INFERENCE_PRECISION_HINT"),
    "kv_cache": ("KV_CACHE_PRECISION",),
}
"""What is measured -> the properties that have their deployed values there; the others are those of the search."""

COLUMNS = 32
"""Positions of a forward pass: only the positions of earlier passes are read from the KV cache."""

PROMPT, NEW, ROUNDS = 256, 32, 3
"""Tokens of the prompt and of the answer whose times are measured, and how often."""


@dataclass(frozen=True)
class DeployedScorer:
    """Scores models with the properties of a deployment.

    Attributes:
        evaluators: those that measure the study's objectives and constraints.
        references: returns each evaluator's reference, which is the original in f32.
        compiled: (model, ov_config, positions of a forward pass) -> the compiled model.
        search: the properties of the search.
    """

    evaluators: Mapping[str, Evaluator]
    references: Callable[[], Mapping[str, Reference]]
    compiled: Callable[[Any, Mapping[str, Any], int], AbstractContextManager[Any]]
    search: Mapping[str, Any]

    def scores(self, candidate: Callable[[], Candidate]) -> dict[str, Any]:
        """Score one model.

        Returns:
            For each of `PARTS` its metrics as data, and ``properties``, those of the deployment as OpenVINO reports
            them; or ``error``.
        """
        try:
            model, found = candidate().model, dict[str, Any]()
            for part, names in PARTS.items():
                with self.compiled(model, {**self.search, **dict.fromkeys(names)}, COLUMNS) as compiled:
                    if part == "deployed":
                        found["properties"] = dict(compiled.properties)
                    found[part] = self._metrics(compiled)
        except Exception as error:  # as in a trial: an error costs this model's scores, not the study
            return {"error": describe(error)}
        return found

    def _metrics(self, compiled: Any) -> dict[str, Any]:
        measured: dict[str, Measurement] = {}
        for name, evaluator in self.evaluators.items():
            measured.update(evaluator.evaluate(compiled, self.references()[name]))
        return as_data(measured)

    def each(self, candidate: Callable[[], Candidate], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Score one model with each of several settings of runtime properties.

        Args:
            candidate: makes the model.
            settings: properties; those of `SCORING_CONFIG` that one leaves out have OpenVINO's default.

        Returns:
            ``settings``: for each its ``metrics`` as data, ``properties`` as OpenVINO reports them, and
            ``cache_bytes``, of the KV cache for one token; or its ``error``. Or ``error``, without a model.
        """
        try:
            model = candidate().model
        except Exception as error:  # as in `scores`
            return {"error": describe(error)}
        found: list[dict[str, Any]] = []
        for setting in settings:
            try:
                with self.compiled(model, deployment(self.search, setting), COLUMNS) as compiled:
                    properties = {name: compiled.properties.get(name) for name in SCORING_CONFIG}
                    cache_bytes = compiled.kv_cache.token_bytes(properties["KV_CACHE_PRECISION"])
                    metrics = self._metrics(compiled)
                found.append({"metrics": metrics, "properties": properties, "cache_bytes": cache_bytes})
            except Exception as error:  # for example, the CPU has no such arithmetic
                found.append({"error": describe(error)})
        return {"settings": found}

    def times(self, candidate: Callable[[], Candidate], settings: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Measure the speed of one model with each of several settings, in turn, with all cores.

        Returns:
            ``times``: for each setting ``first_token``, the seconds for a prompt of `PROMPT` tokens, and
            ``tokens_per_second`` of the `NEW` tokens after it, each the best of `ROUNDS`; None where it cannot run.
            Or ``error``, without a model.
        """
        try:
            model = candidate().model
        except Exception as error:  # as in `scores`
            return {"error": describe(error)}
        rounds: dict[int, list[tuple[float, float]]] = {index: [] for index in range(len(settings))}
        with all_cores():
            for index, setting in [*enumerate(settings)] * ROUNDS:
                with suppress(Exception), self.compiled(model, deployment(self.search, setting), 0) as compiled:
                    generation_times(compiled, 2)  # kernels are compiled in a first inference
                    rounds[index].append(generation_times(compiled, NEW))
        return {"times": [best_times(measured) for measured in rounds.values()]}


def deployment(search: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    """Return all properties of a deployment: those of the search, OpenVINO's defaults, then those of a setting."""
    return {**search, **dict.fromkeys(SCORING_CONFIG), **setting}


def generation_times(model: LanguageModel, new_tokens: int) -> tuple[float, float]:
    """Measure the seconds to the first new token, and the tokens per second after it.

    Args:
        model: a compiled model.
        new_tokens: number of tokens to generate, at least 2.
    """
    token = next(each for each in range(model.vocabulary_size) if each not in model.end_token_ids)
    prompt = np.full((1, PROMPT), token, np.int64)
    times = [time.perf_counter()]

    def choose(rows: Any, _position: int, _logits: Any) -> Any:
        times.append(time.perf_counter())
        return np.full(len(rows), token, np.int64)

    model.sample_batch(prompt, PROMPT + new_tokens, choose)
    return times[1] - times[0], (len(times) - 2) / (times[-1] - times[1])


def best_times(measured: Sequence[tuple[float, float]]) -> dict[str, float] | None:
    """Return the best of several measurements, for other load only makes them slower; None if there is none."""
    if not measured:
        return None
    return {"first_token": min(each[0] for each in measured), "tokens_per_second": max(each[1] for each in measured)}
