"""Scores as deployed: the front's models with the arithmetic that users run them with.

A search scores in f32, so that a score is the error of the weights alone. OpenVINO's defaults add two errors:
activations are rounded (dynamic quantization to 8 bits, inference precision), and the KV cache is stored in fewer bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from autotune.evaluation import SCORING_CONFIG
from autotune.study.trials.trial import Candidate, as_data, describe

if TYPE_CHECKING:
    from autotune.evaluation import Evaluator, Measurement, Reference

PARTS: Mapping[str, tuple[str, ...]] = {
    "deployed": tuple(SCORING_CONFIG),
    "activations": ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "INFERENCE_PRECISION_HINT"),
    "kv_cache": ("KV_CACHE_PRECISION",),
}
"""What is measured -> the properties that have their deployed values there; the others are those of the search."""

COLUMNS = 32
"""Positions of a forward pass: only the positions of earlier passes are read from the KV cache."""


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
                config = {**self.search, **dict.fromkeys(names)}
                with self.compiled(model, config, COLUMNS) as compiled:
                    if part == "deployed":
                        found["properties"] = dict(compiled.properties)
                    measured: dict[str, Measurement] = {}
                    for name, evaluator in self.evaluators.items():
                        measured.update(evaluator.evaluate(compiled, self.references()[name]))
                found[part] = as_data(measured)
        except Exception as error:  # as in a trial: an error costs this model's scores, not the study
            return {"error": describe(error)}
        return found
