"""Measured and stored scores of a trial."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from search_fakes import FakeEngine, FakePlan

from autotune.compression.settings import Settings
from autotune.evaluation import Measurement, Metric
from autotune.evaluation.stores import ScoreStore
from autotune.study.trials.racing import Dominated, Race, Rival
from autotune.study.trials.scoring import Scorer
from autotune.study.trials.trial import Candidate

PLAN = FakePlan(Settings(mode="nf4"))


@dataclass
class Staged:
    """Sixteen texts, in stages of 8 and 16; `ran` counts the stages that were measured."""

    repeatable: bool = True
    metrics: Mapping[str, Metric] = field(default_factory=lambda: {"kl_divergence": Metric("minimize")})
    ran: int = 0

    def fingerprint(self) -> str:
        return "f"

    def reference(self, original: Any) -> dict[str, Any]:
        return {}

    def original(self, reference: Any) -> dict[str, Measurement]:
        return {}

    def evaluate(self, candidate: Any, reference: Any) -> Mapping[str, Measurement]:
        *_, last = self.stages(candidate, reference)
        return last

    def stages(self, candidate: Any, reference: Any) -> Iterator[Mapping[str, Measurement]]:
        for count in (8, 16):
            self.ran += 1
            values = tuple(1.0 + 0.01 * index for index in range(count))
            yield {"kl_divergence": Measurement(sum(values) / count, None, values)}


def scored(evaluator: Staged, folder: Path, race: Race | None = None) -> tuple[dict[str, Measurement], Candidate]:
    """The scores of the plan, and its candidate."""
    scorer = Scorer(
        {"it": evaluator},
        {"kl_divergence", "footprint"},
        lambda: {"it": {}},
        nullcontext,
        lambda text: None,
        ScoreStore(folder),
        lambda name, plan: f"{name}{plan.key}",
    )
    candidate = Candidate(FakeEngine(), PLAN, lambda text: None)
    return scorer.candidate(candidate, race), candidate


def rival(value: float) -> Race:
    """A race against one model of the same size with this score on every text."""
    against = Rival(7, {"kl_divergence": value, "footprint": 1.0}, {"kl_divergence": (value,) * 16})
    return Race({"kl_divergence": "minimize", "footprint": "minimize"}, [against], {"footprint": 1.0})


def test_a_plan_that_is_known_is_not_even_made(tmp_path: Path) -> None:
    """The second time nothing is compressed or measured; scores and digest are the same."""
    first, made = scored(Staged(), tmp_path)
    again = Staged()
    second, remembered = scored(again, tmp_path)
    assert (made.built, remembered.built, again.ran) == (True, False, 0)
    assert second == first
    assert remembered.digest == made.digest
    assert remembered.seconds == 0


def test_a_known_plan_is_raced_like_an_unknown_one(tmp_path: Path) -> None:
    """It is dominated at the same stage; and if a race ended early, what is missing is measured later."""
    with pytest.raises(Dominated) as caught:
        scored(Staged(), tmp_path, rival(0.5))
    assert caught.value.sequences == 8
    again = Staged()
    with pytest.raises(Dominated) as caught:
        scored(again, tmp_path, rival(0.5))
    assert (caught.value.sequences, again.ran) == (8, 0)
    alone, _ = scored(Staged(), tmp_path / "other")
    assert scored(Staged(), tmp_path, rival(2.0))[0] == alone
    with pytest.raises(Dominated) as caught:
        scored(again, tmp_path, rival(0.5))
    assert (caught.value.sequences, again.ran) == (8, 0)


def test_what_may_come_out_otherwise_is_measured_every_time(tmp_path: Path) -> None:
    """An evaluator that does not say that its scores are repeatable leaves nothing behind."""
    for _ in range(2):
        timed = Staged(repeatable=False)
        _, candidate = scored(timed, tmp_path)
        assert candidate.built
        assert timed.ran == 2
    assert not list(tmp_path.iterdir())
