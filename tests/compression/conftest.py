"""Makes `builders` importable for the tests beside it, and gives them a Llama with norm gains and its statistics."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest

if TYPE_CHECKING:
    import openvino as ov

    from autotune.compression.calibration.statistics import Statistics


@pytest.fixture(scope="session")
def tokens() -> npt.NDArray[np.int64]:
    """Six windows of 32 tokens."""
    return np.random.default_rng(5).integers(0, 320, (6, 32), dtype=np.int64)


@pytest.fixture(scope="session")
def statistics(
    llama: ov.Model, tokens: npt.NDArray[np.int64], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Statistics]:
    """The statistics of `llama` on `tokens`, collected once for all tests."""
    from autotune.compression.calibration.statistics import StatisticsCache
    from autotune.compression.engine import Engine

    cache = StatisticsCache(tmp_path_factory.mktemp("statistics"))
    activations = Engine(llama).activations
    return lambda: cache.get_or_collect(llama, activations, tokens, model_fingerprint="llama", precision="f32")
