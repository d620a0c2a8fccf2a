"""Number of threads of a process: its share, or all cores for work that the others wait for."""

from __future__ import annotations

import io

import pytest

from autotune.common.threads import ENVIRONMENT, all_cores, cores, thread_limit, usable_cores
from autotune.study.workers.child import Worker
from autotune.study.workers.messages import Clock, receive


@pytest.mark.parametrize(("value", "limit"), [("2", 2), ("", None), ("0", None), ("many", None)])
def test_the_environment_tells_the_share(monkeypatch: pytest.MonkeyPatch, value: str, limit: int | None) -> None:
    """Anything but a number of threads is no limit."""
    monkeypatch.setenv(ENVIRONMENT, value)
    assert thread_limit() == limit
    assert cores() == (limit or usable_cores())


def test_all_cores_lifts_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the outermost block is left, however it is."""
    monkeypatch.setenv(ENVIRONMENT, "1")
    with all_cores():
        with pytest.raises(RuntimeError), all_cores():
            raise RuntimeError
        assert thread_limit() is None
        assert cores() == usable_cores()
    assert thread_limit() == 1


def test_a_worker_has_all_cores_for_shared_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its trial's clock stands meanwhile."""
    monkeypatch.setenv(ENVIRONMENT, "1")
    output = io.BytesIO()
    with Worker(io.BytesIO(), output).shared():
        assert cores() == usable_cores()
    assert cores() == 1
    output.seek(0)
    assert [receive(output), receive(output)] == [Clock(running=False), Clock(running=True)]
