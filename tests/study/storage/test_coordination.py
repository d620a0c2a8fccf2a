"""One study, many processes: a real PostgreSQL server, workers killed in the middle, stale trials done again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.request import urlopen
from wsgiref.simple_server import make_server

import psutil
import pytest
from postgres import server
from search_fakes import FakeConfig, FakeSession, Recorder, StudyOptions, search, space
from stored import trials_of

from autotune.errors import StudyError
from autotune.study.run import run_worker
from autotune.study.storage.coordination import Alone, identity, is_alive, machine
from autotune.study.storage.database import close, connect
from autotune.study.storage.history import History, is_interrupted

SCRIPT = str(Path(__file__).parents[2] / "support" / "search_fakes.py")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A database on a server of its own."""
    with server() as address:
        yield address


def start(folder: Path, role: str, url: str, *, trials: int = 16, workers: int = 1) -> subprocess.Popen[bytes]:
    """A search, or a worker that joins it, in a process of its own."""
    log = folder.parent / "log.txt"
    command = [sys.executable, SCRIPT, str(folder), str(log), str(trials), "0.25", str(workers), role, url]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def scored(folder: Path) -> list[str]:
    """Keys of the plans that were scored, in order."""
    log = folder / "log.txt"
    return log.read_text().split() if log.exists() else []


def wait_until(condition: Any, seconds: float = 120) -> None:
    """Wait for something that other processes bring about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def stored(url: str) -> list[Any]:
    """All trials of the study at a URL."""
    import optuna

    storage = connect(url)
    try:
        return optuna.load_study(study_name="autotune", storage=storage).get_trials(deepcopy=False)
    finally:
        close(storage)


def test_three_processes_one_of_them_killed_do_every_trial_once(tmp_path: Path, url: str) -> None:
    """Each on a machine of its own, as far as they know: heartbeats tell that one is gone, and its trial is retried."""
    first = start(tmp_path / "study", "search", url)
    wait_until(lambda: scored(tmp_path))
    second, victim = (start(tmp_path / f"helper-{n}", "join", url) for n in (1, 2))

    def at_work() -> bool:
        running = (t for t in stored(url) if t.state.name == "RUNNING" and "process" in t.user_attrs)
        return any(t.user_attrs["process"]["pid"] == victim.pid for t in running)

    wait_until(at_work)
    family = psutil.Process(victim.pid).children()
    victim.send_signal(signal.SIGKILL)
    for process in (first, second):
        assert process.wait(180) == 0, process.stderr and process.stderr.read().decode()
    psutil.wait_procs(family, timeout=10)
    trials = stored(url)
    history = History(trials)
    assert len(history.finished) == 16
    assert not history.running
    assert {trial.state.name for trial in history.finished} == {"COMPLETE"}
    lost = [trial for trial in trials if is_interrupted(trial)]
    assert len(lost) == 1
    assert lost[0].user_attrs["process"]["pid"] == victim.pid
    again = [trial for trial in trials if trial.user_attrs.get("retry_of") == lost[0].number]
    assert [trial.params for trial in again] == [lost[0].params]
    assert len({trial.user_attrs["process"]["pid"] for trial in trials}) == 3
    times = Counter(scored(tmp_path))
    plans = [trial.user_attrs["plan"] for trial in history.finished]
    assert len(set(plans)) == len(plans)
    assert set(plans) <= set(times)
    # The one that was killed may have scored its plan without coming to tell of it.
    assert all(count == 1 for plan, count in times.items() if plan != lost[0].user_attrs.get("plan"))
    for process in (first, second, victim):
        assert process.stderr is not None
        process.stderr.close()
        process.wait()


def test_a_worker_needs_a_study_to_join(tmp_path: Path) -> None:
    """Without one it says what to start first."""
    config = FakeConfig(tmp_path / "study")
    with pytest.raises(StudyError, match="autotune search"):
        run_worker(config, f"sqlite:///{tmp_path / 'empty.db'}", listener=Recorder())  # type: ignore[arg-type]


def test_a_worker_with_another_configuration_is_refused(tmp_path: Path) -> None:
    """Trials that would not compare are not mixed, and the study's own attributes stay."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    search(FakeConfig(tmp_path / "study"), storage=url, trials=2)
    other = FakeConfig(tmp_path / "other", space=space(mode=["nf4"]))
    session = FakeSession()
    with pytest.raises(StudyError, match="search space"):
        run_worker(other, url, listener=Recorder(), open_session=lambda config, stage: session)  # type: ignore[arg-type]


def test_a_worker_goes_on_where_a_search_stopped(tmp_path: Path) -> None:
    """Alone at the storage, it brings the study to its trials."""
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=9))
    search(config, storage=url, trials=4)
    session = FakeSession()
    outcome = run_worker(config, url, listener=Recorder(), open_session=lambda config, stage: session)  # type: ignore[arg-type]
    assert (outcome.ran, outcome.finished, outcome.reason) == (5, 9, "trials")
    assert not (tmp_path / "study" / "study.db").exists()


def test_a_process_of_this_machine_is_known_to_be_gone() -> None:
    """Alive while it runs, gone afterwards, unknown when it is of another machine."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    identity_now = identity(process.pid)
    assert is_alive(identity_now) is True
    assert (
        is_alive({**identity_now, "started": identity_now["started"] - 1}) is False
    )  # another process had this id before
    process.communicate(b"\n")
    assert is_alive(identity_now) is False
    assert is_alive({**identity_now, "machine": "elsewhere"}) is None
    assert is_alive(None) is None
    if sys.platform == "linux":  # the boot and the container count
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        assert machine().split()[1:] == [boot, os.readlink("/proc/self/ns/pid")]


def test_optuna_dashboard_opens_the_storage(tmp_path: Path) -> None:
    """The real dashboard serves the study of a folder: names, directions, trials."""
    dashboard = pytest.importorskip("optuna_dashboard", reason="needs the extra dashboard")
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=5))
    search(config)
    storage = connect(f"sqlite:///{config.output / 'study.db'}")
    httpd = make_server("127.0.0.1", 0, dashboard.wsgi(storage))
    thread = threading.Thread(target=httpd.serve_forever, daemon=True)
    thread.start()
    try:
        base = f"http://127.0.0.1:{httpd.server_port}/api/studies"
        with urlopen(base) as answer:
            summary = json.load(answer)["study_summaries"][0]
        assert summary["study_name"] == "autotune"
        with urlopen(f"{base}/{summary['study_id']}") as answer:
            detail = json.load(answer)
        assert len(detail["trials"]) == 5
        assert detail["directions"] == ["minimize", "minimize"]
        assert {trial["state"] for trial in detail["trials"]} == {"Complete"}
    finally:
        httpd.shutdown()
        httpd.server_close()
        thread.join()
        close(storage)
    assert len(trials_of(config.output)) == 5


def test_a_process_alone_loses_what_it_did_not_begin() -> None:
    """Trials that run and are not its own, or not any more; there are no others."""
    trials: list[Any] = [SimpleNamespace(number=number) for number in range(3)]
    history: Any = SimpleNamespace(running=trials)
    alone = Alone()
    for trial in trials[:2]:
        alone.begun(trial)
    alone.ended(trials[0])
    assert (alone.lost(history), alone.others(history)) == ([trials[0], trials[2]], 0)
