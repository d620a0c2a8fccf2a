"""An evaluator with a cheap part: a dominated model gets only that, if the study needs no more."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.evaluation.stores import ScoreStore
from autotune.study.trials.racing import Race, Rival
from autotune.study.trials.scoring import Scorer
from autotune.testing import FakeLanguageModel
from evaluators import _answers
from evaluators.similarity import ANSWER_METRICS, METRICS, Similarity

PROMPTS = ("the hens are", "she counts", "bread and", "a river")


@pytest.fixture(autouse=True)
def _letters(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts are embedded by how often each letter is in them."""
    import numpy as np

    def embed(name: str, texts: Any) -> Any:
        found = np.array([[1.0 + text.count(chr(c)) for c in range(32, 127)] for text in texts], np.float32)
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    monkeypatch.setattr(_answers, "embed", embed)


def score(objectives: dict[str, Any], rival: float, **options: Any) -> tuple[dict[str, Any], FakeLanguageModel]:
    """Scores of a disturbed model in a race against one of the same size and the divergence `rival`; and the model."""
    evaluator, original = Similarity(prompts=PROMPTS, max_new_tokens=12, **options), FakeLanguageModel()
    model = FakeLanguageModel(noise=0.5)
    with TemporaryDirectory() as folder:
        scorer = Scorer(
            evaluators={"similarity": evaluator},
            deciding={"similarity"} if set(objectives) & set(evaluator.metrics) else set(),
            required=set(objectives),
            references=lambda: {"similarity": evaluator.reference(original)},
            compiled=nullcontext,
            stage=lambda text: None,
            store=ScoreStore(Path(folder)),
            key=lambda name, plan: name,
        )
        values = {"answer_kl_divergence": rival, "similarity": 0.0, "footprint": 1.0}
        race = Race(objectives, [Rival(0, {name: values[name] for name in objectives}, {})], {"footprint": 1.0})
        candidate: Any = SimpleNamespace(plan=None, model=model, digest=None, tokens={})
        return scorer.candidate(candidate, race), model


def test_a_beaten_model_is_not_decoded() -> None:
    """The divergence along the answers is enough to dominate a model; others are scored in full, from the same pass."""
    objectives = {"answer_kl_divergence": "minimize", "footprint": "minimize"}
    dominated, model = score(objectives, rival=0.0)
    assert set(dominated) == set(ANSWER_METRICS)
    assert model.calls["greedy_batch"] == 0
    stays, model = score(objectives, rival=1e6)
    assert set(stays) == set(METRICS)
    assert model.calls["scan"] == model.calls["greedy_batch"] == 1
    assert {name: dominated[name].value for name in dominated} == {name: stays[name].value for name in dominated}


def test_what_decides_is_always_measured() -> None:
    """If similarity is an objective, or the option says so, every model is decoded."""
    assert set(score({"similarity": "maximize", "footprint": "minimize"}, rival=0.0)[0]) == set(METRICS)
    objectives = {"answer_kl_divergence": "minimize", "footprint": "minimize"}
    assert set(score(objectives, rival=0.0, decode="always")[0]) == set(METRICS)


def test_what_a_race_left_out_is_measured_when_it_is_wanted() -> None:
    """Stored scores of a dominated model are the cheap part alone; without a race the rest follows and is stored."""
    evaluator, model = Similarity(prompts=PROMPTS, max_new_tokens=12), FakeLanguageModel(noise=0.5)
    reference = {"similarity": evaluator.reference(FakeLanguageModel())}
    objectives: Any = {"answer_kl_divergence": "minimize", "footprint": "minimize"}
    candidate: Any = SimpleNamespace(plan=None, model=model, digest=None, tokens={})
    with TemporaryDirectory() as folder:
        scorer = Scorer(
            {"similarity": evaluator},
            {"similarity"},
            set(objectives),
            lambda: reference,
            nullcontext,
            lambda text: None,
            ScoreStore(Path(folder)),
            lambda name, plan: name,
        )
        rival = Rival(0, {"answer_kl_divergence": 0.0, "footprint": 1.0}, {})
        assert set(scorer.candidate(candidate, Race(objectives, [rival], {"footprint": 1.0}))) == set(ANSWER_METRICS)
        assert set(scorer.candidate(candidate)) == set(METRICS)
        scans = model.calls["scan"]
        assert set(scorer.candidate(candidate)) == set(METRICS)
        assert model.calls["scan"] == scans
