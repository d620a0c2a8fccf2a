"""Changes of a configuration that make new trials incomparable with old ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_fakes import SMALL, FakeConfig, RuntimeOptions

from autotune.common.units import parse_constraint
from autotune.errors import StudyError
from autotune.study.storage.attributes import own_fingerprints
from autotune.study.storage.database import check_config, check_unchanged

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


@pytest.mark.parametrize(("count", "rest"), [(4, r"\)"), (5, r"\)"), (6, r"; and 1 more\)")])
def test_five_changes_are_named_and_the_others_counted(count: int, rest: str) -> None:
    """In the order of the file; `study.trials` is not compared."""
    before, after = ({"space": {f"k{n}": v for n in range(count)}, "study": {"trials": v}} for v in (1, 2))
    named = "; ".join(f"space.k{n}: 1 -> 2" for n in range(min(count, 5)))
    with pytest.raises(StudyError, match=rf"the search space changed .* \({named}{rest}"):
        check_unchanged(Path("study"), {"space": "a"}, {"space": "b"}, (before, after))
    check_unchanged(Path("study"), {"space": "a"}, {"space": "a"}, (before, after))


def test_numbers_of_windows_and_tokens_are_compared_before_a_model_is_loaded() -> None:
    """If both configurations have them; the content of texts is compared later."""
    config = {"calibration": {"path": "a", "samples": 8}, "evaluators": {"perplexity": {"samples": 4}}}
    stored = {"fingerprints": {"model": "m", "calibration": "c", "evaluators.perplexity": "p"}, "config": config}
    study: Any = SimpleNamespace(user_attrs=stored)
    more = {"calibration": {"path": "b"}, "evaluators": {"perplexity": {"samples": 4, "sequence_length": 9}}}
    for same in (config, more, {}):
        check_config(study, Path("study"), {}, same)
    for key, change in (
        ("calibration.samples: 8 -> 9", {"calibration": {"samples": 9}}),
        ("evaluators.perplexity.samples: 4 -> 5", {"evaluators": {"perplexity": {"samples": 5}}}),
    ):
        with pytest.raises(StudyError, match=key):
            check_config(study, Path("study"), {}, {**config, **change})
    check_config(SimpleNamespace(user_attrs={}), Path("study"), {}, config)  # type: ignore[arg-type]
