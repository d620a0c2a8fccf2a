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
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import psutil
from chaos_lab import CONFIG, SUPPORT, Injection, Journal, Lab, finish, is_whole, start, trials_of
from common import DEMO

SIZES = ((5000, 50), (400, 40), (8, 4), (200, 30), (40, 16))
"""Full and least sizes: trials of a large study, trials and processes on PostgreSQL, trials of one worker, trials of
each of two searches on one cache."""


def load(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield each measurement once; their sizes are the share `--scale` of the full ones."""
    scale = lab.options.scale
    many, shared, workers, one, few = (max(least, round(full * scale)) for full, least in SIZES)
    restarts = f"{shared} trials by {workers} processes on PostgreSQL; server restarted, one process stopped"
    kinds: dict[str, Callable[[], str]] = {
        restarts: lambda: on_postgres(lab, shared, workers),
        f"{one} trials of one worker": lambda: one_worker(lab, one),
        f"a search of {many} trials": lambda: measured("search", lab, many),
        f"the report of {many} trials": lambda: measured("report", lab, many),
        f"two searches of {few} trials, reports, exports and `cache clear` on one cache": lambda: one_cache(
            lab, few, limit=None
        ),
        f"two searches of {few} trials on a bank of 3 MB": lambda: one_cache(lab, few, limit="3MB"),
        "four processes on a bank of 200 MB": lambda: full_bank(lab, 4, 10 * one),
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
    """Search on in a small and in a large study; compare the processor time of a trial."""
    from large_study import write_large_study
    from search_fakes import FakeSession, Recorder, StudyOptions, score_texts, search

    times: list[float] = []

    class Clock(Recorder):
        def trial_started(self, *_: object) -> None:
            times.append(time.process_time())

    figures = []
    for size in (100, trials):
        config = write_large_study(folder / f"of-{size}", size)
        finished, more = search(replace(config, study=StudyOptions(trials=1))).finished, 12
        times.clear()
        config = replace(config, study=StudyOptions(trials=finished + more))
        outcome = search(config, FakeSession(scorer=score_texts), listener=Clock())
        assert outcome.ran == more, outcome.message
        figures.append(f"{1e3 * float(np.median(np.diff(times))):.0f} ms of processor time a trial after {size} trials")
    return ", ".join(figures)


def large_report(folder: Path, trials: int) -> str:
    """Write the report of a large study."""
    from large_study import write_large_study

    from autotune.reporting.folder import rebuild_report

    output = write_large_study(folder, trials).output
    started = time.process_time()
    rebuild_report(output)
    size = (output / "report.html").stat().st_size / 1e6
    return f"report in {time.process_time() - started:.1f} s of processor time, page of {size:.1f} MB"


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
    """Follow the memory of the worker process of a real search."""
    folder = small_search(lab, "worker", trials)
    process, used = start(folder, "search", "model.yaml", cache=lab.folder / "load-cache"), dict[int, list[float]]()
    parent = psutil.Process(process.pid)
    while process.poll() is None:
        time.sleep(0.5)
        with suppress(psutil.Error):
            for child in parent.children():
                if any((folder / "study").glob("plans/*")):
                    used.setdefault(child.pid, []).append(child.memory_full_info().uss / 1e6)
    finish(process)
    # A worker is replaced after 50 trials, because OpenVINO keeps some memory of each compiled model.
    peaks = [max(samples) for samples in used.values() if len(samples) > trials / 20]
    text = ", ".join(f"{peak:.0f}" for peak in peaks)
    assert max(peaks) < 1.05 * peaks[0], f"the peaks of the workers, one after the other, grow: {text} MB"
    return f"peaks of the {len(peaks)} workers, one after the other: {text} MB"


def small_search(lab: Lab, name: str, trials: int, more: str = "") -> Path:
    """Write the model.yaml of a search of the demo model whose trials take little time: a score of 256 tokens."""
    folder = lab.folder / f"load-{name}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    text = CONFIG.format(demo=DEMO, trials=trials, workers=1).replace("samples: 32", "samples: 4")
    text = text.replace("ratio: [0.6, 0.8, 1.0]", "ratio: {low: 0.5, high: 1.0, step: 0.01}")
    (folder / "model.yaml").write_text(text + more, encoding="utf-8")
    return folder


def one_cache(lab: Lab, trials: int, *, limit: str | None) -> str:
    """Search twice at once on one cache, while it is cleared, reports and exports are written; or while it evicts."""
    cache, counts = lab.folder / "load-cache", Counter[str]()
    more = "" if limit is None else f"cache: {{limit: {limit}}}\n"
    folders = [small_search(lab, name, trials, more) for name in "ab"]
    if (cache / "bank").exists():
        shutil.rmtree(cache / "bank")
    processes = [start(folder, "search", "model.yaml", cache=cache) for folder in folders]
    largest = 0
    while any(process.poll() is None for process in processes):
        if limit is not None:
            largest = max(largest, size_of(cache / "bank"))
            continue
        message = command(folders[0], cache, "cache", "clear")
        assert not message or "is in use" in message, message
        counts["refused to clear" if message else "cleared"] += 1
        if any((folders[0] / "study").glob("plans/*")):
            # Before the first trial is finished there is nothing to report, and nothing to export.
            counts["reports"] += not command(folders[0], cache, "report", "study")
            exported = lab.folder / "load-exported"
            shutil.rmtree(exported, ignore_errors=True)
            counts["exports"] += not command(folders[1], cache, "export", "study", str(exported), "--knee")
    for process in processes:
        finish(process)
    first, second = (trials_of(folder) for folder in folders)
    for history in (first, second):
        states = Counter(trial.state.name for trial in history.trials)
        assert states["FAIL"] == 0, f"{states['FAIL']} trials failed or were repeated"
    assert [t.user_attrs["plan"] for t in first.begun] == [t.user_attrs["plan"] for t in second.begun], "other plans"
    assert [t.values for t in first.begun] == [t.values for t in second.begun], "other scores"
    damaged = [path.name for path in cache.rglob("*.safetensors") if not is_whole(path)]
    assert not damaged, damaged
    if limit is None:
        return ", ".join(f"{count} {what}" for what, count in counts.items())
    most = int(float(re.sub("MB", "", limit)) * 1e6)
    computed = sum(t.user_attrs["variants_computed"] for t in first.finished + second.finished)
    assert largest <= most, f"the bank had {largest} bytes, more than {limit}"
    return f"at most {largest / 1e6:.2f} MB in the bank of {limit}; {computed} weights compressed"


def command(folder: Path, cache: Path, *words: str) -> str:
    """Run a command of autotune; return its error message, which is one paragraph; empty if it succeeded."""
    process = start(folder, *words, cache=cache)
    message = process.communicate()[1].decode()
    assert process.returncode in (0, 1, 2), message
    assert "Traceback" not in message, message
    return message if process.returncode else ""


def size_of(folder: Path) -> int:
    """Measure the bytes of the files in a folder, unfinished ones included."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.suffix in (".safetensors", ".tmp") else 0
    return total


BANK_LIMIT = 200_000_000
KEYS = 400
LARGEST = 2_000_000


def full_bank(lab: Lab, processes: int, entries: int) -> str:
    """Let processes fill one bank far beyond its limit, and read from it, at the same time."""
    folder = lab.folder / "load-bank"
    shutil.rmtree(folder, ignore_errors=True)
    words = [sys.executable, __file__, "bank", str(folder), str(entries)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen([*words, str(seed)], text=True, **pipes) for seed in range(processes)]  # type: ignore[call-overload]
    largest = 0
    while any(each.poll() is None for each in running):
        largest = max(largest, size_of(folder))
        time.sleep(0.02)
    ended = [each.communicate() for each in running]
    assert all(not each.returncode for each in running), ended[0][1][-600:]
    figures = [tuple(map(int, out.split())) for out, _ in ended]
    written, reused = (sum(column) for column in zip(*figures, strict=True))
    shutil.rmtree(folder)
    assert largest <= BANK_LIMIT + processes * LARGEST, f"the bank had {largest} bytes"
    return (
        f"{written / 1e6:.0f} MB written, {reused} of {processes * entries} entries read again, at most "
        f"{largest / 1e6:.0f} MB in the bank of {BANK_LIMIT / 1e6:.0f} MB"
    )


def fill_bank(folder: Path, entries: int, seed: int) -> str:
    """Ask a bank for entries of up to 2 MB, some of them often; check the bytes of each."""
    from autotune.compression.bank import Bank

    bank, dice, written = Bank(folder, limit=BANK_LIMIT, memory_limit=0), random.Random(seed), 0
    for _ in range(entries):
        number = int(KEYS * dice.random() ** 2)
        data = np.random.default_rng(number)
        right = data.integers(0, 256, int(data.integers(100_000, LARGEST)), dtype=np.uint8)
        before = bank.counters["computed"]
        found = bank.get_or_compute(f"{number:032x}"[::-1], lambda right=right: {"weight": right})
        written += right.nbytes if bank.counters["computed"] > before else 0
        assert np.array_equal(found["weight"], right), f"entry {number} has other bytes"
    return f"{written} {bank.counters['reused']}"


def main() -> None:
    sys.path.insert(0, str(SUPPORT))
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    what, folder, count, *more = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:]
    if what == "bank":
        print(fill_bank(folder, count, int(more[0])))
        return
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    started = time.monotonic()
    figures = {"search": large_search, "report": large_report}[what](folder, count)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"{figures}, {time.monotonic() - started:.0f} s in all, peak memory {peak:.0f} MB")


if __name__ == "__main__":
    main()
