"""Group `load` of `chaos.py`: large studies, many processes on one study, several studies on one cache."""

from __future__ import annotations

import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
from chaos_lab import CONFIG, SUPPORT, Injection, Journal, Lab, difference, finish, start
from common import DEMO

SIZES = ((5000, 50), (400, 40), (8, 4), (200, 30))
"""Full and least sizes: trials of a large study, trials and processes on PostgreSQL, trials of one worker."""


def load(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield each measurement once; their sizes are the share `--scale` of the full ones."""
    scale = lab.options.scale
    many, shared, workers, one = (max(least, round(full * scale)) for full, least in SIZES)
    restarts = f"{shared} trials by {workers} processes on PostgreSQL; server restarted, one process stopped"
    kinds: dict[str, Callable[[], str]] = {
        f"a search of {many} trials": lambda: measured("search", lab, many),
        f"the report of {many} trials": lambda: measured("report", lab, many),
        restarts: lambda: on_postgres(lab, shared, workers),
        f"{one} trials of one worker": lambda: one_worker(lab, one),
        "two searches, reports and `cache clear` on one cache": lambda: one_cache(lab, limit=None),
        "two searches on a cache that evicts": lambda: one_cache(lab, limit="3MB"),
    }
    for name, measure in kinds.items():
        fault = f"load: {name}"
        if not journal.count(fault):

            def attempt(fault: str = fault, measure: Callable[[], str] = measure) -> None:
                lost, note, started = "", "", time.monotonic()
                try:
                    note = measure()
                except (RuntimeError, AssertionError) as error:
                    lost = " ".join(str(error).split())[-600:]
                journal.add(Injection(fault, 0, lost, time.monotonic() - started, note=note))

            yield attempt


def measured(what: str, lab: Lab, trials: int) -> str:
    """Run `main` in a process of its own, whose peak memory is that of the work."""
    command = [sys.executable, __file__, what, str(lab.folder / f"load-{what}"), str(trials)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-600:])
    return done.stdout.strip().splitlines()[-1]


def large_search(folder: Path, trials: int) -> str:
    """Search with made-up models, and compare the pace of the first and the last trials."""
    from search_fakes import FakeConfig, Recorder, StudyOptions, search, space

    times = []

    class Clock(Recorder):
        def trial_started(self, *_: object) -> None:
            times.append(time.monotonic())

    large = space(
        mode=["int4_asym", "int4_sym", "nf4", "mxfp4"],
        group_size=[32, 64, 128, -1],
        ratio=(0.4, 1.0, 0.005),
        all_layers=[False, True],
        awq=[False, True],
        scale_estimation=[False, True],
    )
    outcome = search(FakeConfig(folder / "study", space=large, study=StudyOptions(trials=trials)), listener=Clock())
    assert outcome.finished == trials, outcome.message
    tenth = max(2, len(times) // 10)
    first, last = (1e3 * float(np.median(np.diff(part))) for part in (times[:tenth], times[-tenth:]))
    return f"{first:.0f} ms a trial at first, {last:.0f} ms at the end"


def large_report(folder: Path, trials: int) -> str:
    """Write the report of a made-up study."""
    from fake_study import build

    from autotune.reporting.folder import rebuild_report

    build(f"sqlite:///{folder / 'study.db'}", trials=trials)
    started = time.monotonic()
    rebuild_report(folder)
    size = (folder / "report.html").stat().st_size / 1e6
    return f"report in {time.monotonic() - started:.1f} s, page of {size:.1f} MB"


def on_postgres(lab: Lab, trials: int, workers: int) -> str:
    """Search with several processes; cut all connections, restart the server, and stop one process past its grace."""
    import psycopg
    from postgres import restartable_server

    from autotune.study.storage.database import close, connect
    from autotune.study.storage.history import History, is_interrupted

    folder = lab.folder / "load-postgres"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    log = folder / "log.txt"

    def history(url: str) -> History:
        import optuna

        storage = connect(url)
        try:
            return History(optuna.load_study(study_name="autotune", storage=storage).get_trials(deepcopy=False))
        finally:
            close(storage)

    def begin(number: int, url: str) -> subprocess.Popen[bytes]:
        script, role = str(SUPPORT / "search_fakes.py"), "join" if number else "search"
        command = [sys.executable, script, str(folder / f"part-{number}"), str(log), str(trials), "0.1", "0", role, url]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def wait_for(lines: int) -> None:
        until = time.monotonic() + 300
        while time.monotonic() < until and (not log.exists() or len(log.read_text().splitlines()) < lines):
            time.sleep(0.1)

    with restartable_server() as server:
        processes = [begin(0, server.url)]
        wait_for(1)
        processes += [begin(number, server.url) for number in range(1, workers)]
        wait_for(round(0.25 * trials))
        with psycopg.connect(server.url.replace("+psycopg", ""), autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                "AND datname IS NOT NULL"
            )
        wait_for(round(0.5 * trials))
        server.restart()
        wait_for(round(0.7 * trials))
        processes[-1].send_signal(signal.SIGSTOP)
        time.sleep(6)  # these processes count as dead after 3 seconds without a heartbeat
        processes[-1].send_signal(signal.SIGCONT)
        ended = [(process.communicate()[1].decode(), process.returncode) for process in processes]
        errors = [stderr.strip().splitlines()[-1] for stderr, code in ended if code]
        found = history(server.url)
    assert not errors, f"{len(errors)} of {workers} processes ended: {errors[0]}"
    finished, lost = len(found.finished), sum(map(is_interrupted, found.trials))
    assert (finished, len(found.running)) == (trials, 0), f"{finished} finished, {len(found.running)} running"
    plans = [trial.user_attrs["plan"] for trial in found.finished]
    assert len(set(plans)) == len(plans), "a plan was scored twice"
    return f"{lost} trials repeated"


def one_worker(lab: Lab, trials: int) -> str:
    """Follow the memory of the worker processes of a real search."""
    folder = lab.prepare("load-worker", workers=1, warm=True)
    text = CONFIG.format(demo=DEMO, trials=trials, workers=1)
    text = text.replace("ratio: [0.6, 0.8, 1.0]", "ratio: {low: 0.5, high: 1.0, step: 0.05}")
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    process, used = start(folder, "search", "model.yaml"), dict[int, list[float]]()
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(0.5)
        with suppress(psutil.Error):
            for child in parent.children():
                used.setdefault(child.pid, []).append(child.memory_full_info().uss / 1e6)
    finish(process)
    peaks = [max(values) for values in used.values() if len(values) > 4]
    assert max(peaks) < 1.25 * peaks[0] or len(peaks) == 1, f"the peak memory of the workers grows: {peaks}"
    values = next(iter(used.values()))
    half = np.array(values[len(values) // 2 :])
    slope = float(np.polyfit(np.arange(len(half)), half, 1)[0]) * len(half)
    peak = f"{min(peaks):.0f} to {max(peaks):.0f} MB"
    return f"{len(peaks)} workers, peaks of {peak}; {slope:+.0f} MB in the first one's second half"


def one_cache(lab: Lab, *, limit: str | None) -> str:
    """Search twice at once on one cache, while it is cleared and reports are written; or while it evicts."""
    cache, dice, cleared, refused = lab.folder / "load-cache", random.Random(0), 0, 0
    shutil.rmtree(cache, ignore_errors=True)
    folders = [lab.prepare(f"load-{name}", workers=1) for name in "ab"]
    for folder in folders:
        if limit is not None:
            text = (folder / "model.yaml").read_text(encoding="utf-8")
            (folder / "model.yaml").write_text(f"{text}cache: {{limit: {limit}}}\n", encoding="utf-8")
    processes = [start(folder, "search", "model.yaml", cache=cache) for folder in folders]
    largest = 0
    while any(process.poll() is None for process in processes):
        time.sleep(dice.uniform(1, lab.seconds / 4))
        bank = sum(path.stat().st_size for path in (cache / "bank").rglob("*.safetensors")) if limit else 0
        largest = max(largest, bank)
        if limit is None:
            clearing = start(folders[0], "cache", "clear", cache=cache)
            message = clearing.communicate()[1].decode()
            assert clearing.returncode == 0 or "is in use" in message, message
            refused += clearing.returncode != 0
            cleared += clearing.returncode == 0
            with suppress(RuntimeError):  # before the first trial there is nothing to report
                finish(start(folders[0], "report", "study", cache=cache))
    for process, folder in zip(processes, folders, strict=True):
        finish(process)
        problem, repeated = difference(lab, folder)
        assert not problem, problem
        assert not repeated, f"{repeated} trials repeated"
    if limit is None:
        return f"cleared {cleared} times, refused {refused} times"
    most = int(float(re.sub("MB", "", limit)) * 1e6)
    assert largest < 1.5 * most, f"the bank had {largest} bytes, more than {limit}"
    return f"at most {largest / 1e6:.1f} MB in the bank of {limit}"


def main() -> None:
    sys.path.insert(0, str(SUPPORT))
    what, folder, trials = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    figures = {"search": large_search, "report": large_report}[what](folder, trials)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{figures}, {time.monotonic() - started:.0f} s in all, peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
