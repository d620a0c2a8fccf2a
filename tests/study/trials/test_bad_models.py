"""Models that cannot be scored: one clear error, of the set-up before any trial, or of one failed trial."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_fakes import FakeEngine

from autotune.compression.settings import Settings
from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation.registry import create_evaluator
from autotune.study.trials.trial import Site, TrialResult, Workplace, run_trial
from autotune.testing import FakeLanguageModel


def trial(text: Path, candidate: Any) -> TrialResult:
    """A trial whose model `candidate` is scored by perplexity."""
    evaluator = create_evaluator("perplexity", {"path": text, "sequence_length": 32})
    reference = evaluator.reference(FakeLanguageModel())
    engine: Any = FakeEngine()
    place = Workplace(
        site=Site(text.parent, {"kl_divergence": "minimize"}, {}, {}),
        plan=engine.plan,
        bounds=lambda plan: {},
        engine=engine,
        score=lambda model, race: evaluator.evaluate(candidate, reference),
        status=lambda plan: None,
        stage=lambda text: None,
    )
    return run_trial(Settings(mode="int8_asym"), place)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text("The hens are in the yard, and the eggs are in the hay.\n" * 4)
    return file


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (FakeLanguageModel(broken=True), "NaN or infinite"),
        (FakeLanguageModel(vocabulary_size=99), "not versions of one model"),
    ],
)
def test_a_model_that_cannot_be_scored_is_a_failed_trial(text: Path, candidate: Any, message: str) -> None:
    """With the reason among its attributes; the study goes on."""
    result = trial(text, candidate)
    assert result.state == "fail"
    assert result.attrs["error"]["type"] == EvaluationError.__name__
    assert message in result.attrs["error"]["message"]


def test_a_set_up_that_cannot_work_is_told_before_any_trial(text: Path) -> None:
    """No prompts, and a text shorter than one window: the study's own error, with what to do."""
    with pytest.raises(ConfigError, match=r"evaluators\.similarity\.prompts"):
        create_evaluator("similarity", {"prompts": []})
    short = create_evaluator("perplexity", {"path": text, "sequence_length": 4096})
    with pytest.raises(ConfigError, match="Use a longer text or a smaller sequence_length"):
        short.reference(FakeLanguageModel())
