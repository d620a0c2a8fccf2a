"""Laws of every pool: in the search's own process, and in worker processes."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from search_fakes import FakeConfig, FakePlan, FakeSession, Recorder, StudyOptions, open_faulty, score

from autotune.compression.settings import Settings
from autotune.study.trials.trial import Site, TrialResult, Twin
from autotune.study.workers.pool import Finished, InProcessPool, Pool, Stopped
from autotune.study.workers.process_pool import WorkerPool

SETTINGS = [Settings(mode="int4_asym", group_size=64), Settings(mode="nf4", ratio=0.5), Settings(mode="int8_asym")]


def in_process(config: FakeConfig, listener: Recorder) -> Pool:
    return InProcessPool(open_faulty(config, listener.stage), listener)  # type: ignore[arg-type]


def in_workers(config: FakeConfig, listener: Recorder) -> Pool:
    return WorkerPool(config, open_faulty, listener)  # type: ignore[arg-type]


@pytest.fixture(params=[in_process, in_workers])
def pool(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pool]:
    """An open pool of one place, whose trials of mode fp4 fail; every plan is new."""
    make: Callable[..., Pool] = request.param
    config = FakeConfig(tmp_path, study=StudyOptions(workers=1), faults={"fp4": "raise", "reporting": {}})
    made = make(config, Recorder())
    made.describe()
    made.open(Site(tmp_path, dict(config.objectives), {}, {"footprint": 16e6}), lambda number, plan: None)
    yield made
    made.close()


def done(pool: Pool) -> Finished:
    """The next finished trial."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        finished = pool.wait(1.0)
        if finished is not None:
            return finished
    pytest.fail("no trial finished")


def finished(pool: Pool, number: int, settings: Settings) -> TrialResult:
    """The result of one trial."""
    pool.start(number, settings, ())
    found = done(pool)
    assert found.number == number
    return found.result


def test_every_pool_gives_the_same_results(pool: Pool) -> None:
    """Values, size and digest are those of the settings; a failure is a result; counts and reports are whole."""
    for number, settings in enumerate(SETTINGS):
        result = finished(pool, number, settings)
        assert result.state == "complete"
        assert result.values == (score(settings)["kl_divergence"].value, FakePlan(settings).footprint)
        assert result.attrs["plan"] == FakePlan(settings).key
        assert result.attrs["digest"] == FakeSession().engine.digest(settings)  # type: ignore[arg-type]
    failed = finished(pool, 7, Settings(mode="fp4"))
    assert (failed.state, failed.attrs["error"]["message"]) == ("fail", "a kernel failed")
    assert pool.counts()["variants"] == (4, 0)
    assert pool.manifest()["hashes"]["model"] == "m"
    scores = dict(pool.front_scores(SETTINGS))
    assert [scores[i] for i in range(3)] == [FakeSession().front_scores(settings) for settings in SETTINGS]


def test_every_pool_asks_for_the_plan_before_any_work(pool: Pool, tmp_path: Path) -> None:
    """With the trial's number and the plan's key; a known plan or a twin is not compressed again."""
    requests = []
    earlier = TrialResult("complete", (0.25, 5.0), {"plan": "p", "seconds_compress": 9.0})
    answers = iter([None, (0, earlier), Twin(1)])

    def status(number: int, plan: str) -> object:
        requests.append((number, plan))
        return next(answers)

    pool.open(Site(tmp_path, {"kl_divergence": "minimize", "footprint": "minimize"}, {}, {"footprint": 16e6}), status)  # type: ignore[arg-type]
    new, again, twin = (finished(pool, number, settings) for number, settings in enumerate(SETTINGS))
    assert requests == [(number, FakePlan(settings).key) for number, settings in enumerate(SETTINGS)]
    assert new.values is not None
    assert (again.values, again.attrs["duplicate_of"]) == (earlier.values, 0)
    assert (twin.state, twin.attrs["duplicate_of"]) == ("twin", 1)
    assert pool.counts()["variants"] == (1, 0)


def test_every_pool_is_free_until_a_trial_begins_and_after_it_ends(pool: Pool) -> None:
    """And an idle one waits no longer than requested."""
    assert pool.free
    begun = time.monotonic()
    assert pool.wait(0.05) is None
    assert 0.04 < time.monotonic() - begun < 10
    pool.start(0, SETTINGS[0], ())
    assert not pool.free
    done(pool)
    assert pool.free


def test_every_pool_can_be_stopped_and_closed_twice(pool: Pool) -> None:
    """A stop signal comes out as `Stopped` with its number, at once or where the pool is waited for."""

    def stop_and_wait() -> None:
        pool.stop(signal.SIGTERM)
        pool.wait(60)

    with pytest.raises(Stopped) as caught:
        stop_and_wait()
    assert caught.value.signal == signal.SIGTERM
    pool.close()
    pool.close()
