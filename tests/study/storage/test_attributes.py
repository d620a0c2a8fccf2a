"""Changes of a configuration that make new trials incomparable with old ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from search_fakes import SMALL, FakeConfig, RuntimeOptions

from autotune.common.units import parse_constraint
from autotune.study.storage.attributes import own_fingerprints

CONFIG = FakeConfig(Path("study"), constraints={"perplexity": parse_constraint("<= 50")})


@pytest.mark.parametrize(
    ("subject", "change"),
    [
        ("space", {"space": SMALL}),
        ("objectives", {"objectives": {"kl_divergence": "maximize", "footprint": "minimize"}}),
        ("objectives", {"objectives": {"footprint": "minimize", "kl_divergence": "minimize"}}),
        ("constraints", {"constraints": {}}),
        ("constraints", {"constraints": {"perplexity": parse_constraint("<= 60")}}),
        ("constraints", {"constraints": {"perplexity": parse_constraint(">= 50")}}),
        ("runtime", {"runtime": RuntimeOptions("GPU")}),
        ("runtime", {"runtime": RuntimeOptions(ov_config={"INFERENCE_PRECISION_HINT": "bf16"})}),
    ],
)
def test_each_change_is_of_one_fingerprint(subject: str, change: dict[str, Any]) -> None:
    """The value of a limit counts, and the order of the objectives, which is that of the stored values."""
    before, after = (own_fingerprints(config) for config in (CONFIG, replace(CONFIG, **change)))  # type: ignore[arg-type]
    assert {name for name in before if before[name] != after[name]} == {subject}


def test_how_a_limit_is_written_does_not_matter() -> None:
    """Only its operator and value do."""
    other = replace(CONFIG, constraints={"perplexity": parse_constraint("<=   50.0")})
    assert own_fingerprints(other) == own_fingerprints(CONFIG)  # type: ignore[arg-type]
