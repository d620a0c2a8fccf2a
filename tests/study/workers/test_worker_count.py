"""Default number of workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from search_fakes import FakeConfig, Recorder, RuntimeOptions, StudyOptions, open_faulty, search
from stored import trials_of

from autotune.common import machine as description
from autotune.common.machine import available_memory
from autotune.common.threads import usable_cores
from autotune.study.trials.trial import Site
from autotune.study.workers import memory
from autotune.study.workers.memory import MODELS, WORKER_BYTES, worker_count
from autotune.study.workers.process_pool import WorkerPool

ORIGINAL = 1_000_000_000
NEEDED = WORKER_BYTES + MODELS * ORIGINAL


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Says how many cores and how much memory there are."""

    def describe(cores: int, available: int) -> None:
        monkeypatch.setattr(memory, "usable_cores", lambda: cores)
        monkeypatch.setattr(memory, "available_memory", lambda: available)

    return describe


@pytest.mark.parametrize(
    ("cores", "available", "options", "device", "count"),
    [
        (2, 2 * NEEDED, {}, "CPU", 2),
        (64, 100 * NEEDED, {}, "CPU", 2),
        (1, 2 * NEEDED, {}, "CPU", 1),
        (2, 2 * NEEDED - 1, {}, "CPU", 1),
        (2, 2 * NEEDED, {}, "GPU", 1),
        (2, NEEDED, {"memory_limit": NEEDED // 2}, "CPU", 2),
        (2, 2 * NEEDED, {"memory_limit": NEEDED + 1}, "CPU", 1),
        (1, 0, {"workers": 3}, "GPU", 3),
        (2, 2 * NEEDED, {"workers": 0}, "CPU", 1),
    ],
)
def test_two_where_there_is_room(
    machine: Any, tmp_path: Path, cores: int, available: int, options: dict[str, Any], device: str, count: int
) -> None:
    """A number is what it says; `auto` is two on a CPU with two cores and memory for both, else one."""
    machine(cores, available)
    study = StudyOptions(**{"workers": "auto", **options})
    config: Any = FakeConfig(tmp_path, study=study, runtime=RuntimeOptions(device))
    assert worker_count(config, ORIGINAL) == count


@pytest.mark.parametrize(("most", "left"), [("5000\n", 3000), ("1000\n", 0), ("max\n", None)])
def test_a_container_has_no_more_than_its_own(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, most: str, left: int | None
) -> None:
    """Its limit counts where it has one."""
    monkeypatch.setattr(description, "CGROUP", tmp_path)
    assert available_memory() > 5000
    (tmp_path / "memory.max").write_text(most)
    (tmp_path / "memory.current").write_text("2000\n")
    assert available_memory() == left if left is not None else available_memory() > 5000


@pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")
def test_the_cores_are_divided_when_the_study_is_opened(machine: Any, tmp_path: Path) -> None:
    """Until then one worker prepares with all of them."""
    machine(usable_cores(), 2 * NEEDED)
    config: Any = FakeConfig(tmp_path / "study", study=StudyOptions(workers="auto"))
    pool = WorkerPool(config, open_faulty, Recorder())
    try:
        assert pool.describe().manifest["threads"] == usable_cores()
        pool.open(Site(tmp_path, {}, {}, {"footprint": ORIGINAL}), lambda number, plan: None)
        assert pool.describe().manifest["threads"] == usable_cores() // 2
        assert len(pool._places) == 2
    finally:
        pool.close()


def test_such_a_study_comes_to_its_end(machine: Any, tmp_path: Path) -> None:
    """With the values that one worker would give every plan."""
    machine(2, 2 * NEEDED)
    auto = FakeConfig(tmp_path / "auto", study=StudyOptions(trials=12, workers="auto"))
    assert search(auto, open_session=open_faulty).finished == 12
    alone = FakeConfig(tmp_path / "alone", study=StudyOptions(trials=12))
    search(alone)
    values = [{trial.user_attrs["plan"]: trial.values for trial in trials_of(c.output)} for c in (auto, alone)]
    assert all(values[0][plan] == values[1][plan] for plan in values[0].keys() & values[1].keys())
