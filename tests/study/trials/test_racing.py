"""Racing: who is stopped, who never is, and that the front is the same."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import FakeConfig, FakeSession, Recorder, StudyOptions, score_texts, search
from stored import trials_of

from autotune.common.units import Constraint, parse_precision
from autotune.errors import StudyError
from autotune.evaluation import Direction, Measurement
from autotune.evaluation.sequential import FEWEST
from autotune.study.storage.history import History
from autotune.study.storage.rows import front_trials
from autotune.study.trials.racing import Dominated, Race, Rival, rivals_of

OBJECTIVES: dict[str, Direction] = {"kl_divergence": "minimize", "footprint": "minimize"}


def measurement(values: np.ndarray) -> Measurement:
    """The mean of some sequences."""
    return Measurement(float(np.mean(values)), float(values.std(ddof=1)) / len(values) ** 0.5, tuple(values.tolist()))


def race(rival: np.ndarray, footprint: float = 100, own: float = 100) -> Race:
    """A race against one rival; `own` is the footprint of the trial."""
    values = {"kl_divergence": float(rival.mean()), "footprint": footprint}
    return Race(OBJECTIVES, [Rival(3, values, {"kl_divergence": rival.tolist()})], {"footprint": own})


TEXTS = np.random.default_rng(1).lognormal(0, 0.5, 64)


def test_a_clearly_worse_model_is_stopped_on_the_first_texts() -> None:
    """A tenth worse on every text: the mean's own error would hide it, the paired differences do not."""
    with pytest.raises(Dominated) as caught:
        race(TEXTS).check({"kl_divergence": measurement(1.1 * TEXTS[:8] + np.linspace(0, 0.01, 8))})
    assert (caught.value.cause, caught.value.sequences) == (3, 8)


@pytest.mark.parametrize(
    ("ours", "footprint", "own"),
    [
        (2 * TEXTS[: FEWEST - 1], 100, 100),  # too few to tell
        (2 * TEXTS[:8], 101, 100),  # the trial's model is smaller
        (0.9 * TEXTS[:8], 100, 100),  # it is better
        (TEXTS[:8], 100, 100),  # it is the same
        (2 * TEXTS, 100, 100),  # nothing is left to save
    ],
)
def test_no_other_model_is_stopped(ours: np.ndarray, footprint: float, own: float) -> None:
    """Smaller, better, equal, hardly measured or completely measured ones go on."""
    race(TEXTS, footprint, own).check({"kl_divergence": measurement(ours)})


def test_a_score_to_maximise_is_raced_the_other_way() -> None:
    """Of a similarity, less is worse."""
    rival = Rival(3, {"similarity": 0.9, "footprint": 100}, {"similarity": (0.9 + 0.01 * TEXTS).tolist()})
    against = Race({"similarity": "maximize", "footprint": "minimize"}, [rival], {"footprint": 100})
    against.check({"similarity": measurement(0.95 + 0.01 * TEXTS[:8])})
    with pytest.raises(Dominated):
        against.check({"similarity": measurement(0.85 + 0.01 * TEXTS[:8])})


def test_a_score_that_is_no_mean_of_its_texts_is_not_raced() -> None:
    """Differences of single texts would not decide."""
    values = (2 * TEXTS[:8]).tolist()
    race(TEXTS).check({"kl_divergence": Measurement(float(np.exp(np.mean(values))), None, tuple(values))})


@pytest.mark.parametrize("better", [False, True])
def test_evidence_is_shared_by_all_that_could_stop_a_trial(better: bool) -> None:
    """Of several rivals only the best can decide; a limit that is kept takes half of the evidence and no more."""
    far, near = np.full(64, 0.5) * TEXTS, (1.2 if better else 0.9) * TEXTS
    rivals = [
        Rival(number, {"kl_divergence": float(values.mean()), "footprint": 100}, {"kl_divergence": values.tolist()})
        for number, values in enumerate((near, far, 2 * TEXTS))
    ]
    limits = {"kl_divergence": Constraint("<=", 5.0, "<= 5")}
    with pytest.raises(Dominated) as caught:
        Race(OBJECTIVES, rivals, {"footprint": 100}, limits).check({"kl_divergence": measurement(TEXTS[:16])})
    assert caught.value.cause == 1


def test_a_trial_beyond_a_limit_is_stopped() -> None:
    """A perplexity is tested by its logarithm, and an increase in percent by that of its ratio."""
    ratios = np.random.default_rng(3).normal(0.1, 0.02, 16)
    increase = Measurement(100 * float(np.expm1(ratios.mean())), None, tuple(100 * np.expm1(ratios)))
    partial = {"kl_divergence": measurement(0.5 * TEXTS[:16]), "perplexity_increase": increase}
    limits = {"perplexity_increase": Constraint("<=", 5.0, "<= 5%")}
    sequences = {"kl_divergence": TEXTS.tolist(), "perplexity_increase": [1.0] * 64}
    rival = [Rival(3, {"kl_divergence": float(TEXTS.mean()), "footprint": 100}, sequences)]
    with pytest.raises(Dominated) as caught:
        Race(OBJECTIVES, rival, {"footprint": 100}, limits).check(partial)
    assert caught.value.cause == "perplexity_increase"
    assert caught.value.estimate["kl_divergence"] == partial["kl_divergence"].value
    Race(OBJECTIVES, rival, {"footprint": 100}, {"perplexity_increase": Constraint("<=", 15.0, "")}).check(partial)
    no_mean = replace(increase, value=increase.values[0])
    for undecided in (no_mean, replace(increase, values=4 * increase.values)):  # and with all windows, nothing is saved
        Race(OBJECTIVES, rival, {"footprint": 100}, limits).check({**partial, "perplexity_increase": undecided})


@given(st.integers(0, 2**32 - 1))
def test_the_estimate_of_a_dominated_trial_is_dominated(seed: int) -> None:
    """However easy its windows are, the estimate is the rival's score changed by the difference on common windows."""
    texts = np.sort(np.random.default_rng(seed).lognormal(0, 0.5, 64))
    with pytest.raises(Dominated) as caught:
        race(texts).check({"kl_divergence": measurement(1.3 * texts[:32] + 0.01)})
    assert caught.value.estimate["kl_divergence"] > texts.mean()
    assert caught.value.estimate["footprint"] == 100


def precise(ours: np.ndarray, rival: np.ndarray, precision: str, **options: Any) -> Race:
    """A race of a model that is as large as its rival, with a precision."""
    return replace(race(rival, **options), precision=parse_precision(precision))


def test_a_model_on_the_front_is_scored_until_it_is_precise() -> None:
    """Without a precision to the end; else until the error is small, and the best rival that could dominate it is."""
    better = measurement(0.7 * TEXTS[:32] + np.linspace(0, 0.01, 32))
    assert not race(TEXTS).is_settled({"kl_divergence": better})
    assert precise(TEXTS, TEXTS, "20%").is_settled({"kl_divergence": better})
    assert precise(TEXTS, TEXTS, "0.5").is_settled({"kl_divergence": better})
    assert not precise(TEXTS, TEXTS, "2%").is_settled({"kl_divergence": better})
    tied = measurement(TEXTS[:32] * np.random.default_rng(0).normal(1, 0.3, 32))
    assert not precise(TEXTS, TEXTS, "20%").is_settled({"kl_divergence": tied})
    assert precise(TEXTS, TEXTS, "20%", footprint=101).is_settled({"kl_divergence": tied})
    assert precise(TEXTS, TEXTS[:32], "20%").is_settled({"kl_divergence": tied})  # no more common windows
    assert not Race(OBJECTIVES, [], {"footprint": 100}, {}, parse_precision("10%")).is_settled({"kl_divergence": tied})


def test_scores_on_fewer_windows_are_estimated_for_all() -> None:
    """The estimate knows which windows are hard from the anchor; its error is far below that of the windows alone."""
    draw, errors, plain, within = np.random.default_rng(0), [], [], 0
    for _ in range(200):
        texts = draw.lognormal(0, 0.5, 256)
        own = 0.5 * texts * draw.normal(1, 0.1, 256)
        anchor = Rival(0, {"kl_divergence": 1.0, "footprint": 1}, {"kl_divergence": texts.tolist()}, on_front=False)
        contest = Race(OBJECTIVES, [anchor], {"footprint": 100}, {}, parse_precision("3%"))
        measured = contest.comparable({"kl_divergence": measurement(own[:32])})["kl_divergence"]
        assert measured.stderr is not None
        assert len(measured.values) == 32
        errors.append(measured.value - own.mean())
        plain.append(own[:32].mean() - own.mean())
        within += abs(errors[-1]) < 2 * measured.stderr
    assert np.std(errors) < 0.4 * np.std(plain)
    assert within >= 180
    complete = {"kl_divergence": measurement(own)}
    assert contest.comparable(complete) == complete
    few = {"kl_divergence": measurement(own[:16])}  # an error of 12% by itself, of 4% for all windows
    assert replace(contest, precision=parse_precision("6%")).is_settled(few)
    assert not replace(contest, precision=parse_precision("2%")).is_settled(few)


def test_the_error_of_an_estimate_is_that_of_a_predicted_mean() -> None:
    """By least squares in matrix form, on the longest anchor; its first windows are easy, far from the mean."""
    draw, count = np.random.default_rng(0), 12
    texts = np.sort(draw.lognormal(0, 0.5, 64))
    own = 0.5 * texts[:count] + draw.normal(0, 0.05, count)
    anchor = Rival(0, {"kl_divergence": 1.0, "footprint": 1}, {"kl_divergence": texts.tolist()}, on_front=False)
    short = replace(anchor, sequences={"kl_divergence": texts[:16].tolist()})
    contest = Race(OBJECTIVES, [short, anchor], {"footprint": 100}, {}, parse_precision("3%"))
    found = contest.comparable({"kl_divergence": measurement(own)})["kl_divergence"]
    design, point = np.column_stack([np.ones(count), texts[:count]]), np.array([1.0, texts.mean()])
    line, (squares,), *_ = np.linalg.lstsq(design, own, rcond=None)
    variance = squares / (count - 2) * (point @ np.linalg.inv(design.T @ design) @ point)
    assert found.value == pytest.approx(point @ line)
    assert found.stderr == pytest.approx((variance + line[1] ** 2 * texts.var(ddof=1) / 64) ** 0.5)


def test_the_trial_with_most_windows_is_an_anchor_and_no_rival() -> None:
    """The first of those that are complete; one of the front is a rival already."""

    def trial(number: int, windows: int, name: str = "COMPLETE") -> Any:
        attributes = {"windows": windows, "sequences": {"kl_divergence": [1.0] * windows}}
        state = SimpleNamespace(name=name)
        return SimpleNamespace(number=number, values=[1.0, 2.0], user_attrs=attributes, state=state)

    names, front = list(OBJECTIVES), [trial(1, 8)]
    others = [trial(2, 32), trial(3, 32), trial(4, 64, "PRUNED")]
    found = [(rival.number, rival.on_front) for rival in rivals_of(front, names, [*front, *others])]
    assert found == [(1, True), (2, False)]
    assert [rival.number for rival in rivals_of(front, names, front)] == [1]
    assert rivals_of([], names, others[2:]) == []


def test_a_study_with_a_precision_scores_fewer_texts(tmp_path: Path) -> None:
    """Trials on the front end early, their number of texts is kept, and a resumed study is the same, trial by trial."""

    def config(name: str, trials: int) -> FakeConfig:
        return FakeConfig(tmp_path / name, study=StudyOptions(trials=trials, precision="20%"))

    for name, steps in (("whole", (24,)), ("resumed", (9, 24))):
        for trials in steps:
            search(config(name, trials), FakeSession(scorer=score_texts))
    whole, resumed = trials_of(tmp_path / "whole"), trials_of(tmp_path / "resumed")
    assert [(t.values, t.user_attrs.get("windows")) for t in whole] == [
        (t.values, t.user_attrs.get("windows")) for t in resumed
    ]
    assert {t.user_attrs["windows"] for t in whole if t.state.name == "COMPLETE"} >= {8, 32}
    with pytest.raises(StudyError, match=r"the precision of the scores changed .*--set .study\.precision=\"20%\""):
        search(replace(config("whole", 25), study=StudyOptions(trials=25, precision="10%")))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_raced_study_finds_the_front_of_its_trials(tmp_path: Path, seed: int) -> None:
    """Trials are stopped, their scores so far are kept, and none of them would have been on the front."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=40, seed=seed))
    listener = Recorder()
    search(config, FakeSession(scorer=score_texts), listener=listener)
    trials = trials_of(config.output)
    stopped = [trial for trial in trials if "beaten_by" in trial.user_attrs and "duplicate_of" not in trial.user_attrs]
    assert len(stopped) >= 5
    front = front_trials(History(trials), ["minimize", "minimize"])
    for trial in stopped:
        assert trial.state.name == "PRUNED"
        assert trial.user_attrs["estimate"][1] == trial.user_attrs["footprint"]
        rival = trials[trial.user_attrs["beaten_by"]]
        assert rival.values[1] <= trial.user_attrs["footprint"]
        assert f"dominated by trial {rival.number}" in next(r.reason for r in listener.rows if r.number == trial.number)
    from autotune.compression.settings import Settings

    wrong = 0
    for trial in stopped:
        own = score_texts(Settings(**{**trial.user_attrs["settings"], "ignored_scope": ()}))["kl_divergence"].value
        wrong += not any(f.values[0] <= own and f.values[1] <= trial.user_attrs["footprint"] for f in front)
    assert wrong == 0


def test_without_racing_every_trial_is_scored_in_full(tmp_path: Path) -> None:
    """`study.racing: false` stops no trial."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=25, racing=False))
    search(config, FakeSession(scorer=score_texts))
    assert all(trial.state.name == "COMPLETE" for trial in trials_of(config.output))
