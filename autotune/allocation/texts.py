"""What divergences are measured on: windows of a text, with the original's distributions there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.allocation.allocator import Texts

if TYPE_CHECKING:
    from autotune.common.cache import Cache
    from autotune.compression.engine import Engine
    from autotune.evaluation import Reference
    from autotune.models.source import SourceModel

__all__ = ["FULL", "SHORT", "texts_from", "texts_of"]

SHORT = {"sequence_length": 256, "samples": 4}
"""Windows on which single weights are measured."""

FULL = {"sequence_length": 512, "samples": 16}
"""Windows on which plans are measured."""


def texts_of(text: Path, source: SourceModel, engine: Engine, cache: Cache, **windows: int) -> Texts:
    """Windows of a text file; see `texts_from`."""
    return texts_from({"path": text, **windows}, source, engine, cache)


def texts_from(
    options: Mapping[str, Any],
    source: SourceModel,
    engine: Engine,
    cache: Cache,
    *,
    device: str = "CPU",
    ov_config: Mapping[str, Any] | None = None,
) -> Texts:
    """Windows of any text that the evaluator `perplexity` knows.

    Args:
        options: those of the evaluator.
        source, engine: the original model.
        cache: where the original's distributions are kept.
        device, ov_config: as for `OpenVINOLanguageModel`.
    """
    from autotune.evaluation import SCORING_CONFIG
    from autotune.evaluation.registry import create_evaluator
    from autotune.evaluation.stores import ReferenceStore, reference_key
    from autotune.models.runtime.language_model import OpenVINOLanguageModel

    store = ReferenceStore(cache.references)
    evaluator = create_evaluator("perplexity", dict(options))
    properties = {**SCORING_CONFIG, **(ov_config or {})}
    key = reference_key(
        "perplexity",
        evaluator,
        model_fingerprint=source.fingerprint,
        tokenizer_fingerprint=source.tokenizer_fingerprint,
        ov_config={"device": device, **properties},
    )

    def create() -> Reference:
        with OpenVINOLanguageModel(engine.model, source.tokenizer(), device=device, ov_config=ov_config) as original:
            return evaluator.reference(original)

    return Texts(evaluator, lambda: store.get_or_create(key, create)[0], key)
