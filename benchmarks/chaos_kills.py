"""Groups `kills` and `signals` of `chaos.py`."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from chaos_lab import Injection, Journal, Lab, MadeUp, finish, start, trials_of
from common import DEMO

COMMANDS = {
    "export": ("export", "study", "OUT", "--knee"),
    "compress": ("compress", str(DEMO / "model"), "OUT", "--mode", "int4_asym", "--group-size", "32"),
    "report": ("report", "study"),
    "distillation": (
        *("compress", str(DEMO / "model"), "OUT", "--mode", "int4_asym", "--group-size", "32", "--distillation"),
        *("--calibration", str(DEMO / "calibration.txt"), "--samples", "32", "--sequence-length", "64"),
    ),
}


def kills(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield injections in rounds: studies, whose workers are killed too, and each of the commands once."""
    goal = lab.count(100)
    made_up = MadeUp(lab.folder, lab.options)
    while sum(each.fault.startswith("SIGKILL: ") for each in journal.all) < goal:
        seed = journal.count("SIGKILL: export")
        for _ in range(2):
            dice = random.Random(f"made-up {len(journal.all)}")
            yield lambda dice=dice, seed=seed: killed_study(journal, made_up, dice, seed)
        if lab.options.made_up:
            continue
        yield lambda seed=seed: killed_study(journal, lab, random.Random(f"study {seed}"), seed)
        for command in COMMANDS:
            if command != "distillation" or seed % 2 == 0:
                dice = random.Random(f"{command} {seed}")
                yield lambda command=command, dice=dice, seed=seed: killed_command(journal, lab, command, dice, seed)


def killed_study(journal: Journal, lab: Lab, dice: random.Random, seed: int) -> None:
    """Kill a search, or one of its workers, at random moments until it finishes, at most ten times."""
    workers = dice.choice((0, 2, 2))
    folder, seconds_whole = lab.prepare(f"killed-{os.getpid()}", workers=workers, warm=seed % 4 > 0), lab.seconds
    kinds, started = [], time.monotonic()
    while True:
        process, again, spared = lab.search(folder), time.monotonic(), workers == 0
        while len(kinds) < 10 and process.poll() is None:
            if dice.random() < 0.8:  # most of the time of a short study passes before its first trial
                wait_for_trials(lab, folder, process, dice.randint(0, 5))
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0, seconds_whole / 10))
            if process.poll() is not None:
                break
            children = psutil.Process(process.pid).children(recursive=True)
            if spared or not children or dice.random() < 0.5:
                kinds.append("search")
                process.send_signal(signal.SIGKILL)
                process.wait()
                psutil.wait_procs(children, timeout=10)
            else:  # once only: a trial that is killed twice fails, as it should
                kinds.append("worker")
                spared = True
                with contextlib.suppress(psutil.NoSuchProcess):
                    dice.choice(children).kill()
        stderr = process.communicate()[1].decode()
        if process.returncode == 0 or (process.returncode != -signal.SIGKILL and "worker process died" not in stderr):
            break
    lost, repeated = lab.difference(folder) if process.returncode == 0 else (stderr[-300:], 0)
    lost = lost or (f"{repeated} trials repeated by {len(kinds)} kills" if repeated > 2 * len(kinds) else "")
    alive = [p.pid for p in psutil.process_iter(["cmdline"]) if str(folder) in " ".join(p.info["cmdline"] or ())]
    lost = lost or (f"processes are left: {alive}" if alive else "")
    for position, kind in enumerate(kinds):
        last = position == len(kinds) - 1
        seconds = time.monotonic() - again if last else None
        fault = f"SIGKILL: {kind}{lab.suffix}"
        journal.add(Injection(fault, journal.count(fault), lost, seconds, repeated if last else 0))
    print(
        f"study{lab.suffix} killed {len(kinds)} times: {time.monotonic() - started:.0f} s, {repeated} repeated",
        flush=True,
    )
    shutil.rmtree(folder)


def wait_for_trials(lab: Lab, folder: Path, process: subprocess.Popen[bytes], count: int) -> None:
    """Wait until a search has more trials by this number than now, or has ended."""
    goal, until = lab.progress(folder) + count, time.monotonic() + 600
    while lab.progress(folder) < goal and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)


def outputs(folder: Path, command: str, out: str) -> dict[str, bytes]:
    """The files that a command writes, but those with a date in them."""
    root = folder / ("study" if command == "report" else out)
    kinds = (".bin", ".csv", ".md", ".html", ".png", ".json")
    names = [path for path in root.rglob("*") if path.is_file() and path.suffix in kinds]
    dated = ("manifest.json", "report.html", "README.md", "report.md", "autotune.json")
    return {str(path.relative_to(root)): path.read_bytes() for path in names if path.name not in dated}


def killed_command(journal: Journal, lab: Lab, command: str, dice: random.Random, seed: int) -> None:
    """Kill a command once: its output is whole or not there, and the same command then succeeds."""
    folder, whole = lab.whole, lab.folder / f"{command}-seconds"
    words = [f"{command}-out" if word == "OUT" else word for word in COMMANDS[command]]
    out = folder / f"{command}-out"
    cache = folder / f"{command}-cache"
    shutil.rmtree(out, ignore_errors=True)
    if not cache.exists():
        shutil.copytree(folder / "cache" / "models", cache / "models")
    if not whole.exists():
        shutil.rmtree(folder / f"{command}-whole", ignore_errors=True)
        started = time.monotonic()
        finish(start(folder, *words, cache=cache))
        whole.write_text(str(time.monotonic() - started))
        if command != "report":
            out.rename(folder / f"{command}-whole")
    expected = outputs(folder, command, f"{command}-whole")
    while True:
        for room in ("bank", "distillation", "statistics"):
            shutil.rmtree(cache / room, ignore_errors=True)
        process = start(folder, *words, cache=cache)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.2, float(whole.read_text())))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode == -signal.SIGKILL:
            break  # otherwise it had ended before: nothing was injected
        shutil.rmtree(out, ignore_errors=True)
    lost, started = "", time.monotonic()
    found = outputs(folder, command, out.name)
    if command == "report":  # it replaces files one by one; each is whole
        found = {**expected, **found}
    if (out.exists() or command == "report") and found != expected:
        lost = f"a part of {out.name} is left"
    shutil.rmtree(out, ignore_errors=True)
    try:
        finish(start(folder, *words, cache=cache))
    except RuntimeError as error:
        lost = str(error)
    found = outputs(folder, command, out.name)
    others = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    lost = lost or (f"other files than undisturbed: {', '.join(others)}" if others else "")
    left = [path.name for path in folder.glob(f".{out.name}*")]
    lost = lost or (f"left: {', '.join(left)}" if left else "")
    journal.add(Injection(f"SIGKILL: {command}", seed, lost, time.monotonic() - started))
    shutil.rmtree(out, ignore_errors=True)


SIGNALS = {
    "SIGTERM": ([signal.SIGTERM], 128 + signal.SIGTERM),
    "SIGHUP": ([signal.SIGHUP], 128 + signal.SIGHUP),
    "Ctrl-C": ([signal.SIGINT], 130),
    "two Ctrl-C": ([signal.SIGINT, signal.SIGINT], 130),
    "SIGSTOP of a worker for 15 s": ([signal.SIGSTOP], 0),
    "SIGSTOP of the search and its workers for 15 s": ([signal.SIGSTOP], 0),
}


def signals(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield each kind of signal in turn."""
    made_up = MadeUp(lab.folder, lab.options)
    for seed in range(lab.count(10)):
        for name in SIGNALS:
            place = lab if seed % 5 == 0 and not lab.options.made_up else made_up
            if not journal.has(f"{name}{place.suffix}", seed):
                dice = random.Random(f"{name} {seed}")
                yield lambda name=name, place=place, dice=dice, seed=seed: signalled(journal, place, name, dice, seed)


def signalled(journal: Journal, lab: Lab, name: str, dice: random.Random, seed: int) -> None:
    """Send signals in the middle of a study; it ends in time with its report, and the same command continues it."""
    sent, code = SIGNALS[name]
    workers = 2 if "worker" in name else dice.choice((0, 2))
    folder, seconds_whole = lab.prepare(f"signalled-{os.getpid()}", workers=workers, warm=True), lab.seconds
    process = lab.search(folder)
    wait_for_trials(lab, folder, process, 1)  # before, a signal ends the preparation at once
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(dice.uniform(0, seconds_whole / 2))
    lost, repeated, seconds = "", 0, None
    try:
        if process.poll() is not None:
            finish(process)
            return  # the study had ended before: nothing was injected
        if sent == [signal.SIGSTOP]:
            family = psutil.Process(process.pid).children()
            stopped = [dice.choice(family)] if "search" not in name else [psutil.Process(process.pid), *family]
            for each in stopped:
                each.suspend()
            time.sleep(15)
            for each in stopped:
                each.resume()
            started = time.monotonic()
            finish(process)
            seconds = time.monotonic() - started
        else:
            for each in sent:
                process.send_signal(each)
                latest = time.monotonic()
                time.sleep(0.3 if len(sent) > 1 else 0)
            # The script of made-up models has no handler of its own for the exception of a second signal.
            finish(process, 0, *([code, -signal.SIGINT] if len(sent) > 1 and lab.suffix else [code]))
            if process.returncode == 0:
                assert len(trials_of(folder).finished) == lab.options.trials
                return  # it was done when the signal came
            seconds = time.monotonic() - latest
            if len(sent) > 1 and seconds > 2:
                lost = f"ended after {seconds:.1f} s"
            if len(sent) == 1 and not lab.suffix and not (folder / "study" / "report.html").exists():
                lost = "no report"
            finish(lab.search(folder))
        problem, repeated = lab.difference(folder)
        lost = lost or problem
    except RuntimeError as error:
        lost = str(error)
    journal.add(Injection(f"{name}{lab.suffix}", seed, lost, seconds, repeated))
    shutil.rmtree(folder)
