"""Scores as deployed: columns, and what is said of the CPU."""

from __future__ import annotations

import pandas as pd
import pytest

from autotune.evaluation import Measurement
from autotune.reporting.text.deployed import cpu_sentence
from autotune.results.frame import add_deployed
from autotune.results.records import DeployedScores


def test_parts_are_differences_from_the_score_of_the_search() -> None:
    """A trial that was not scored as deployed has no numbers; the others add up."""
    parts = {
        "deployed": {"kl": Measurement(0.7, 0.1)},
        "activations": {"kl": Measurement(0.5)},
        "kv_cache": {"kl": Measurement(0.4)},
    }
    frame = pd.DataFrame({"trial": [3, 4], "kl": [0.25, 0.5]})
    add_deployed(frame, DeployedScores({3: parts}, {}, None))
    row = frame.iloc[0]
    assert row["deployed_kl"] == 0.7
    assert row["deployed_kl_stderr"] == 0.1
    assert row["deployed_kl_activations"] == 0.25
    assert row["deployed_kl_kv_cache"] == pytest.approx(0.15)
    assert frame.iloc[1, 2:].isna().all()


@pytest.mark.parametrize(
    ("cpu", "text"),
    [(None, "unknown"), (("avx512_bf16",), "has no effect"), (("avx_vnni",), "computed by avx_vnni")],
)
def test_the_cpu_is_described(cpu: tuple[str, ...] | None, text: str) -> None:
    """Without VNNI or AMX dynamic quantization has no effect."""
    assert text in cpu_sentence(cpu)
