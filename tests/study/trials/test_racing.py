"""Racing: who is stopped, who never is, and that the front is the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from search_fakes import FakeConfig, FakeSession, Recorder, StudyOptions, score_texts, search
from stored import trials_of

from autotune.evaluation import Direction, Measurement
from autotune.study.storage.history import History
from autotune.study.storage.rows import front_trials
from autotune.study.trials.racing import FEWEST, Dominated, Race, Rival

OBJECTIVES: dict[str, Direction] = {"kl_divergence": "minimize", "footprint": "minimize"}


def measurement(values: np.ndarray) -> Measurement:
    """The mean of some sequences."""
    return Measurement(float(np.mean(values)), None, tuple(values.tolist()))


def race(rival: np.ndarray, footprint: float = 100, own: float = 100) -> Race:
    """A race against one rival; `own` is the footprint of the trial."""
    values = {"kl_divergence": float(rival.mean()), "footprint": footprint}
    return Race(OBJECTIVES, [Rival(3, values, {"kl_divergence": rival.tolist()})], {"footprint": own})


TEXTS = np.random.default_rng(1).lognormal(0, 0.5, 64)


def test_a_clearly_worse_model_is_stopped_on_the_first_texts() -> None:
    """A tenth worse on every text: the mean's own error would hide it, the paired differences do not."""
    with pytest.raises(Dominated) as caught:
        race(TEXTS).check({"kl_divergence": measurement(1.1 * TEXTS[:8] + np.linspace(0, 0.01, 8))})
    assert (caught.value.rival, caught.value.sequences) == (3, 8)


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


@given(st.integers(0, 2**32 - 1))
def test_models_that_are_as_good_are_hardly_ever_stopped(seed: int) -> None:
    """Of models that differ from the rival by noise alone, fewer than 2% are stopped on any of three looks."""
    random = np.random.default_rng(seed)
    stopped = 0
    for _ in range(200):
        ours = TEXTS * random.normal(1, 0.1, 64)
        for count in (16, 32, 48):
            try:
                race(TEXTS).check({"kl_divergence": measurement(ours[:count])})
            except Dominated:
                stopped += 1
                break
    assert stopped <= 8  # of 200: the expected number is below 2


def test_a_beaten_model_is_known_by_its_final_scores() -> None:
    """Dominated: nowhere better and somewhere worse than one rival."""
    final = measurement(TEXTS)
    assert race(TEXTS * 0.9).is_dominated({"kl_divergence": final})
    assert race(TEXTS, footprint=99).is_dominated({"kl_divergence": final})
    assert not race(TEXTS).is_dominated({"kl_divergence": final})
    assert not race(TEXTS * 0.9, footprint=101).is_dominated({"kl_divergence": final})
    assert not race(TEXTS * 0.9).is_dominated({})


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
