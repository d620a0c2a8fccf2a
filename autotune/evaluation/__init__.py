"""The public protocol of evaluators, and what runs them: the registry, stored references and scores, texts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.evaluation.protocol import (
    SCORING_CONFIG,
    Direction,
    Evaluator,
    Example,
    HeldOut,
    LanguageModel,
    Measurement,
    Metric,
    Previewing,
    Reference,
    StagedEvaluator,
    follow_draft,
)

if TYPE_CHECKING:
    from autotune.evaluation.protocol import Choose as Choose
    from autotune.evaluation.protocol import FloatArray as FloatArray
    from autotune.evaluation.protocol import IntArray as IntArray

__all__ = [
    "SCORING_CONFIG",
    "Direction",
    "Evaluator",
    "Example",
    "HeldOut",
    "LanguageModel",
    "Measurement",
    "Metric",
    "Previewing",
    "Reference",
    "StagedEvaluator",
    "follow_draft",
]
