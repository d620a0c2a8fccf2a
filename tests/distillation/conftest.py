"""A tiny Llama, compressed to 4 bits, and windows of tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

from autotune.compression.engine import Engine
from autotune.compression.settings import Settings
from autotune.compression.variants import CompressedWeight

if TYPE_CHECKING:
    import openvino as ov


@pytest.fixture(scope="session")
def tokens() -> npt.NDArray[np.int64]:
    return np.random.default_rng(5).integers(0, 320, (20, 64), dtype=np.int64)


@pytest.fixture
def compressed(llama: ov.Model) -> Callable[..., tuple[ov.Model, dict[str, CompressedWeight]]]:
    """Settings -> a compressed model, and its compressed weights by name."""

    def compress(**settings: object) -> tuple[ov.Model, dict[str, CompressedWeight]]:
        engine = Engine(llama)
        plan = engine.plan(Settings(**settings))  # type: ignore[arg-type]
        return engine.apply(plan), engine.compressed_weights(plan)

    return compress
