"""The view of the other trials that a proposal may use: it does not depend on which of them are finished."""

from __future__ import annotations

import random
from typing import Any

import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from autotune.evaluation import Direction
from autotune.study.storage.history import INTERRUPTED, History, Settled, result_of
from autotune.study.storage.rows import best_of, front_trials


def study(*trials: tuple[str, int | None]) -> History:
    """Trials (state, number of the one that is done again); ``lost`` are interrupted ones."""
    made = []
    for number, (state, again) in enumerate(trials):
        attrs: dict[str, Any] = {"settings": {"number": number}, "plan": f"p{number}"}
        attrs |= {"error": {"type": INTERRUPTED}} if state == "lost" else {}
        attrs |= {} if again is None else {"retry_of": again}
        kind = TrialState.FAIL if state == "lost" else TrialState[state.upper()]
        trial = create_trial(state=kind, values=[1.0] if state == "complete" else None, user_attrs=attrs)
        trial.number = number
        made.append(trial)
    return History(made)


def numbers(trials: list[FrozenTrial]) -> list[int]:
    """Their numbers."""
    return [trial.number for trial in trials]


def test_what_is_done_again_stands_in_its_old_place() -> None:
    """Also the second time; and what waits to be done again comes in that order."""
    history = study(
        ("complete", None), ("lost", None), ("complete", None), ("lost", 1), ("complete", 3), ("lost", None)
    )
    assert numbers(history.begun) == [0, 4, 2]
    assert history.turn == history.position == 3
    twice = study(("lost", None), ("lost", None), ("complete", None), ("lost", 0))
    assert numbers(twice.to_retry) == [3, 1]
    assert (twice.position, twice.turn) == (1, 0)


def test_the_last_ones_are_as_if_at_work() -> None:
    """Their points are known and nothing else, whether they are finished or not; without a lag all is known."""
    for state in ("complete", "running", "pruned"):
        whole = study(("complete", None), ("complete", None), (state, None), ("complete", None))
        visible = whole.before_next(3)
        assert [trial.state.name for trial in visible.trials] == ["COMPLETE", "COMPLETE", "RUNNING", "RUNNING"]
        assert [trial.values for trial in visible.trials] == [[1.0], [1.0], None, None]
        assert visible.trials[3].user_attrs == {"settings": {"number": 3}}
        assert visible.position == 4
        assert (whole.trials[3].state.name, whole.trials[3].values) == ("COMPLETE", [1.0])
    history = study(("complete", None), ("running", None))
    assert history.before_next(None) is history
    assert history.trials[0].values == [1.0]


def test_a_trial_begins_when_what_it_may_know_is_there() -> None:
    """With a lag of 3, two before it may be at work."""
    assert study(("running", None), ("running", None)).may_begin(3)
    assert not study(("running", None), ("complete", None), ("running", None)).may_begin(3)
    assert study(("complete", None), ("running", None), ("running", None)).may_begin(3)
    assert not study(("complete", None), ("running", None)).may_begin(1)
    assert study(("running", None), ("running", None), ("running", None)).may_begin(None)


def test_a_plan_is_looked_up_among_running_and_finished_trials() -> None:
    """Its twin is the running trial; its result that of the finished one, but not of one that was interrupted."""
    history = study(("complete", None), ("running", None), ("lost", None))
    assert history.running_plan("p1") == 1
    assert [history.running_plan(plan) for plan in ("p0", "p2", "p3")] == [None, None, None]
    found = history.earlier("p0")
    assert found is not None
    assert (found[0], found[1].values) == (0, (1.0,))
    assert [history.earlier(plan) for plan in ("p1", "p2", "p3")] == [None, None, None]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_read_once_gives_the_same_views(seed: int) -> None:
    """A study grows, trials are interrupted and repeated: the histories equal those that read every trial again."""
    dice, settled, trials = random.Random(seed), Settled(), list[Any]()
    earlier: list[tuple[History, History]] = []
    for number in range(60):
        for place, trial in enumerate(trials):
            if trial.state.name == "RUNNING" and dice.random() < 0.5:
                error = {"error": {"type": INTERRUPTED}} if dice.random() < 0.2 else {}
                again = {"duplicate_of": 0} if dice.random() < 0.1 else {}
                done = create_trial(
                    values=[dice.randint(0, 9), dice.randint(0, 9)] if not error else None,
                    state=TrialState.FAIL if error else TrialState.COMPLETE,
                    user_attrs={**trial.user_attrs, **error, **again},
                )
                done.number = trial.number
                trials[place] = done
        attrs: dict[str, Any] = {"settings": {"number": number}, "plan": f"p{number}"}
        attrs |= {"origin": "candidate: x"} if dice.random() < 0.1 else {}
        lost = History(trials).to_retry
        attrs |= {"retry_of": lost[0].number} if lost and dice.random() < 0.5 else {}
        state = TrialState.WAITING if dice.random() < 0.05 else TrialState.RUNNING
        begun = create_trial(state=state, user_attrs=attrs)
        begun.number = number
        trials.append(begun)
        earlier.append((History(trials, settled), History(trials)))
        pairs = [*earlier[-2:], (earlier[-1][0].before_next(3), earlier[-1][1].before_next(3))]
        for once, fresh in pairs:
            for view in (
                "current",
                "finished",
                "waiting",
                "running",
                "points",
                "begun",
                "to_retry",
                "turn",
                "position",
            ):
                assert getattr(once, view) == getattr(fresh, view), view
            ways: list[Direction] = ["minimize", "maximize"]
            assert numbers(front_trials(once, ways)) == numbers(best_of(fresh.finished, ways))


def test_a_repeat_takes_the_result_and_no_times() -> None:
    """Of the trial with the same plan: its sizes and scores; its times and counts are its own."""
    result = {"plan": "p", "footprint": 5, "metrics": {"kl_divergence": {"value": 1.0, "stderr": None}}}
    attrs = {**result, "seconds_compress": 2.0, "variants_computed": 3, "settings": {"mode": "nf4"}}
    for state, values in ((TrialState.COMPLETE, [1.0]), (TrialState.PRUNED, None), (TrialState.FAIL, None)):
        found = result_of(create_trial(state=state, values=values, user_attrs=attrs))
        assert (found.state.upper(), found.attrs) == (state.name, result)
        assert found.values == (None if values is None else (1.0,))
