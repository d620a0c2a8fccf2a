"""Evaluators that decide nothing, or only by a cheap part: the rest is measured on the final front alone."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.evaluation.stores import ScoreStore
from autotune.study.trials.racing import Race
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


OBJECTIVES: dict[str, Any] = {"answer_kl_divergence": "minimize", "footprint": "minimize"}


def open_scorer(folder: Path, objectives: dict[str, Any] = OBJECTIVES, **options: Any) -> Scorer:
    """A scorer of this evaluator alone."""
    evaluator = Similarity(prompts=PROMPTS, max_new_tokens=12, **options)
    reference = {"similarity": evaluator.reference(FakeLanguageModel())}
    return Scorer(
        evaluators={"similarity": evaluator},
        required=frozenset(objectives),
        references=lambda: reference,
        compiled=nullcontext,
        stage=lambda text: None,
        store=ScoreStore(folder),
        key=lambda name, plan: name,
    )


def disturbed() -> tuple[Any, FakeLanguageModel]:
    """A candidate, and its model, whose answers differ from the original's."""
    model = FakeLanguageModel(noise=0.5)
    return SimpleNamespace(plan=None, model=model, digest=None, tokens={}), model


def contest(objectives: dict[str, Any] = OBJECTIVES, **options: Any) -> Race:
    return Race(objectives, [], {"footprint": 1.0}, **options)


def test_a_race_measures_what_decides_and_the_rest_follows_on_the_front(tmp_path: Path) -> None:
    """Nothing is decoded in a race; the metrics left out, and only those, come from the same pass when wanted."""
    scorer, (candidate, model) = open_scorer(tmp_path), disturbed()
    raced = scorer.candidate(candidate, contest())
    assert set(raced) == set(ANSWER_METRICS)
    assert (model.calls["scan"], model.calls["greedy_batch"]) == (1, 0)
    assert scorer.deferred == ("similarity",)
    rest = scorer.rest(candidate)
    assert set(rest) == set(METRICS)
    assert {name: rest[name] for name in raced} == raced
    calls = dict(model.calls)
    assert scorer.candidate(candidate) == scorer.rest(candidate) == rest
    assert model.calls == calls
    assert open_scorer(tmp_path / "other").candidate(disturbed()[0], contest(every_metric=True)) == rest


def test_an_evaluator_that_decides_nothing_waits_for_the_front(tmp_path: Path) -> None:
    """Its model is not even built."""
    objectives = {"footprint": "minimize"}
    scorer, (candidate, model) = open_scorer(tmp_path, objectives), disturbed()
    assert scorer.candidate(candidate, contest(objectives)) == {}
    assert not any(model.calls.values())
    assert set(scorer.rest(candidate)) == set(METRICS)


def test_what_decides_is_always_measured(tmp_path: Path) -> None:
    """If similarity is an objective, or the option says so, every model is decoded."""
    objectives = {"similarity": "maximize", "footprint": "minimize"}
    scorer = open_scorer(tmp_path, objectives)
    assert scorer.deferred == ()
    assert set(scorer.candidate(disturbed()[0], contest(objectives))) == set(METRICS)
    scorer = open_scorer(tmp_path / "always", decode="always")
    assert set(scorer.candidate(disturbed()[0], contest())) == set(METRICS)
