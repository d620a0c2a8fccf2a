"""Faults injected on purpose: is anything lost, is anything wrong accepted?

    python benchmarks/chaos.py                                  # every fault, full counts
    python benchmarks/chaos.py inputs files --share 0.1         # two groups, a tenth of their counts
    python benchmarks/chaos.py kills --seconds 300              # go on for five minutes; run again to continue

Groups:

    inputs    generated model.yaml, texts, spaces and codebooks: a right result or one paragraph with file and line
    files     a flipped bit, or a truncation, in every kind of file that autotune reads back: detected, never used
    kills     SIGKILL at random moments of searches, their workers, exports, compressions and reports
    signals   SIGTERM, SIGHUP, one and two Ctrl-C, and SIGSTOP of a worker
    disks     a file system under the study or the cache that is full or read-only, then not any more (needs root)

Each injection has a seed and is recorded in ``STATE/injections.jsonl``, so that a run continues the last one. The table
counts all of them. Exit code 1 if one was not survived.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
import psutil
from common import DEMO

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import broken_inputs
from broken_files import PROBES, Unnoticed, make_study, try_file

from autotune.common.files import DAMAGE, read_tensors
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
from autotune.study.storage.history import History, is_interrupted
from autotune.study.storage.rows import front_trials

CONFIG = """\
model: {demo}/model
output: study
calibration: {{path: {demo}/calibration.txt, samples: 8, sequence_length: 64}}
space: {{mode: [int8_asym, int4_asym, int4_sym, nf4], group_size: [32, 64, 128], ratio: [0.6, 0.8, 1.0],
  sensitivity_metric: [output_error, weight_quantization_error], all_layers: [false, true], awq: [false, true],
  scale_estimation: [false, true], gptq: [false, true]}}
evaluators: {{perplexity: {{path: {demo}/search.txt, sequence_length: 64, samples: 32}}}}
study: {{trials: {trials}, workers: {workers}}}
"""


@dataclass(frozen=True)
class Injection:
    """One injected fault and its outcome; `lost` says what was not survived, and is empty otherwise."""

    fault: str
    seed: int
    lost: str = ""
    seconds: float | None = None
    repeated: int = 0


class Journal:
    """Injections of all runs, one JSON line each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "injections.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.all = [Injection(**json.loads(line)) for line in lines]

    def count(self, fault: str) -> int:
        """Return the number of injections of a fault so far."""
        return sum(each.fault == fault for each in self.all)

    def add(self, injection: Injection) -> None:
        """Record an injection, and print it if it was not survived."""
        self.all.append(injection)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(injection)) + "\n")
        if injection.lost:
            print(f"LOST {injection.fault}, seed {injection.seed}: {injection.lost}", flush=True)

    def table(self) -> str:
        """Return one row a fault, in Markdown."""
        lines = ["| fault | injected | survived | lost | trials repeated | median seconds to recover |"]
        lines.append("|---|---:|---:|---|---:|---:|")
        for fault in dict.fromkeys(each.fault for each in self.all):
            found = [each for each in self.all if each.fault == fault]
            lost = sorted({each.lost[:80] for each in found if each.lost})
            times = sorted(each.seconds for each in found if each.seconds is not None)
            middle = f"{times[len(times) // 2]:.2g}" if times else "–"
            survived = sum(not each.lost for each in found)
            repeated = sum(each.repeated for each in found)
            lines.append(
                f"| {fault} | {len(found)} | {survived} | {'; '.join(lost) or 'nothing'} | {repeated} | {middle} |"
            )
        return "\n".join(lines)


class Lab:
    """The undisturbed study and models that disturbed ones are compared with; made when they are first needed."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options

    def prepare(self, name: str, *, workers: int) -> Path:
        """Write model.yaml into a new folder."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        text = CONFIG.format(demo=DEMO, trials=self.options.trials, workers=workers)
        (folder / "model.yaml").write_text(text, encoding="utf-8")
        return folder

    @cached_property
    def whole(self) -> Path:
        """A study that nothing disturbed, with its cache."""
        folder = self.folder / "whole"
        if not (folder / "seconds").exists():
            folder, started = self.prepare("whole", workers=2), time.monotonic()
            finish(start(folder, "search", "model.yaml"))
            (folder / "seconds").write_text(str(time.monotonic() - started))
        return folder

    @property
    def seconds(self) -> float:
        """Seconds that the undisturbed study took."""
        return float((self.whole / "seconds").read_text())

    @cached_property
    def expected(self) -> History:
        """The trials of the undisturbed study."""
        return trials_of(self.whole)


def start(folder: Path, *arguments: str, cache: Path | None = None) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "AUTOTUNE_CACHE": str(cache or folder / "cache")}
    command = [sys.executable, "-m", "autotune", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes], *, code: int = 0) -> str:
    """Wait for the end of a command; raise if it has another exit code."""
    stderr = process.communicate()[1].decode()
    if process.returncode != code:
        raise RuntimeError(f"exit code {process.returncode} instead of {code}: {stderr[-600:]}")
    return stderr


def trials_of(folder: Path) -> History:
    storage = connect(database_url(folder / "study" / DATABASE))
    try:
        return History(optuna.load_study(study_name=STUDY_NAME, storage=storage).get_trials(deepcopy=False))
    finally:
        close(storage)


def difference(lab: Lab, folder: Path) -> tuple[str, int]:
    """Compare a disturbed study with the undisturbed one; return problems, and the number of repeated trials."""

    def essence(history: History) -> list[Any]:
        trials = [(t.params, t.values, t.state.name, t.user_attrs.get("plan")) for t in history.begun]
        return [trials, sorted(t.values for t in front_trials(history, ["minimize"] * 2))]

    history = trials_of(folder)
    damaged = [path.name for path in (folder / "cache").rglob("*.safetensors") if not is_whole(path)]
    left = [path.name for path in (folder / "study").rglob("*.tmp")]
    problems = ["other trials or front"] if essence(history) != essence(lab.expected) else []
    problems += [f"damaged: {', '.join(damaged)}"] if damaged else []
    problems += [f"left: {', '.join(left)}"] if left else []
    return "; ".join(problems), sum(is_interrupted(trial) for trial in history.trials)


def is_whole(path: Path) -> bool:
    try:
        read_tensors(path, mapped=False)
    except DAMAGE:
        return False
    return True


def inputs(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    for kind, about in broken_inputs.KINDS.items():
        fault = f"input: {kind}"
        for seed in range(journal.count(fault), round(about.count * lab.options.share)):

            def attempt(kind: str = kind, fault: str = fault, seed: int = seed) -> None:
                lost = ""
                with tempfile.TemporaryDirectory() as folder:
                    try:
                        broken_inputs.try_input(kind, Path(folder), seed)
                    except broken_inputs.Fault as error:
                        lost = " ".join(str(error).split())[:300]
                journal.add(Injection(fault, seed, lost))

            yield attempt


def files(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    folder = lab.folder / "files"
    if not (folder / "complete").exists():
        make_study(folder)
    for how, count in (("flipped bit", 500), ("truncation", 200)):
        for kind in PROBES:
            fault = f"{how}: {kind}"
            for seed in range(journal.count(fault), round(count * lab.options.share / len(PROBES) + 0.5)):

                def attempt(kind: str = kind, how: str = how, fault: str = fault, seed: int = seed) -> None:
                    lost, started = "", time.monotonic()
                    try:
                        try_file(kind, folder, how, random.Random(f"{fault} {seed}"))
                    except Unnoticed as error:
                        lost = str(error)
                    journal.add(Injection(fault, seed, lost, time.monotonic() - started))

                yield attempt


def kills(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield injections in rounds of one study, one export, one compression and one report."""
    goal = round(100 * lab.options.share)
    while sum(each.fault.startswith("SIGKILL: ") for each in journal.all) < goal:
        seed = journal.count("SIGKILL: search")
        yield lambda seed=seed: killed_study(journal, lab, random.Random(seed), seed)
        for command in ("export", "compress", "report"):
            yield lambda command=command, seed=seed: killed_command(journal, lab, command, random.Random(seed), seed)


def killed_study(journal: Journal, lab: Lab, dice: random.Random, seed: int) -> None:
    """Kill a search, or one of its workers, at random moments until it finishes, at most five times."""
    folder = lab.prepare(f"killed-{os.getpid()}", workers=dice.choice((0, 2)))
    seconds, kinds, started = lab.seconds, [], time.monotonic()
    while True:
        process, again = start(folder, "search", "model.yaml"), time.monotonic()
        if len(kinds) < 5:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0.2, seconds / 2))
            children = [] if process.poll() is not None else psutil.Process(process.pid).children(recursive=True)
            if process.poll() is None:
                kinds.append("search")
                process.send_signal(signal.SIGKILL)
                psutil.wait_procs(children, timeout=10)
        stderr = process.communicate()[1].decode()
        if process.returncode != -signal.SIGKILL:
            break
    lost, repeated = difference(lab, folder) if process.returncode == 0 else (stderr[-300:], 0)
    lost = lost or (f"{repeated} trials repeated after {len(kinds)} kills" if repeated > 2 * len(kinds) else "")
    for position in range(max(len(kinds), 1)):
        last = position == max(len(kinds), 1) - 1
        seconds_left = time.monotonic() - again if last else None
        journal.add(Injection("SIGKILL: search", seed + position, lost, seconds_left, repeated if last else 0))
    print(
        f"study killed {len(kinds)} times: {time.monotonic() - started:.0f} s, {repeated} trials repeated", flush=True
    )
    shutil.rmtree(folder)


COMMANDS = {
    "export": ("export", "study", "OUT", "--knee"),
    "compress": ("compress", str(DEMO / "model"), "OUT", "--mode", "int4_asym", "--group-size", "32"),
    "report": ("report", "study"),
}


def outputs(folder: Path, command: str, out: str) -> dict[str, bytes]:
    """The files that a command writes, but those with a date in them."""
    root = folder / ("study" if command == "report" else out)
    names = [
        path for path in root.rglob("*") if path.is_file() and path.suffix in (".bin", ".csv", ".md", ".html", ".png")
    ]
    return {str(path.relative_to(root)): path.read_bytes() for path in names}


def killed_command(journal: Journal, lab: Lab, command: str, dice: random.Random, seed: int) -> None:
    """Kill a command once: its output is whole or not there, and the same command then succeeds."""
    folder, whole = lab.whole, lab.folder / f"{command}-seconds"
    words = [f"{command}-out" if word == "OUT" else word for word in COMMANDS[command]]
    out = folder / f"{command}-out"
    if not whole.exists():
        shutil.rmtree(out, ignore_errors=True)
        started = time.monotonic()
        finish(start(folder, *words))
        whole.write_text(str(time.monotonic() - started))
        if command != "report":
            out.rename(folder / f"{command}-whole")
    expected = outputs(folder, command, f"{command}-whole")
    process = start(folder, *words)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(dice.uniform(0.2, float(whole.read_text())))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    lost, started = "", time.monotonic()
    if command != "report" and out.exists() and outputs(folder, command, out.name) != expected:
        lost = f"a part of {out.name} is left"
    shutil.rmtree(out, ignore_errors=True)
    try:
        finish(start(folder, *words))
    except RuntimeError as error:
        lost = str(error)
    lost = lost or ("" if outputs(folder, command, out.name) == expected else "other files than undisturbed")
    journal.add(Injection(f"SIGKILL: {command}", seed, lost, time.monotonic() - started))
    shutil.rmtree(out, ignore_errors=True)


SIGNALS = {
    "SIGTERM": ([signal.SIGTERM], 128 + signal.SIGTERM),
    "SIGHUP": ([signal.SIGHUP], 128 + signal.SIGHUP),
    "Ctrl-C": ([signal.SIGINT], 130),
    "two Ctrl-C": ([signal.SIGINT, signal.SIGINT], 130),
    "SIGSTOP of a worker": ([signal.SIGSTOP], 0),
}


def signals(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    for name in SIGNALS:
        for seed in range(journal.count(name), round(10 * lab.options.share + 0.5)):
            yield lambda name=name, seed=seed: signalled(journal, lab, name, random.Random(f"{name} {seed}"), seed)


def signalled(journal: Journal, lab: Lab, name: str, dice: random.Random, seed: int) -> None:
    """Send signals in the middle of a study; it ends in time with its report, and the same command continues it."""
    sent, code = SIGNALS[name]
    folder = lab.prepare(f"signalled-{os.getpid()}", workers=2)
    process = start(folder, "search", "model.yaml")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(dice.uniform(lab.seconds / 4, lab.seconds / 2))
    lost, repeated, seconds = "", 0, None
    try:
        if name.startswith("SIGSTOP"):
            worker = dice.choice(psutil.Process(process.pid).children())
            worker.suspend()
            time.sleep(15)  # heartbeats are 10 seconds apart
            worker.resume()
            finish(process)
        else:
            for each in sent:
                process.send_signal(each)
                time.sleep(0.3 if len(sent) > 1 else 0)
            started = time.monotonic()
            finish(process, code=code)
            seconds = time.monotonic() - started
            if len(sent) > 1 and seconds > 2:
                lost = f"ended after {seconds:.1f} s"
            if len(sent) == 1 and not (folder / "study" / "report.html").exists():
                lost = "no report"
            finish(start(folder, "search", "model.yaml"))
        problem, repeated = difference(lab, folder)
        lost = lost or problem
    except RuntimeError as error:
        lost = str(error)
    journal.add(Injection(name, seed, lost, seconds, repeated))
    shutil.rmtree(folder)


def disks(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    for part in ("study", "cache"):
        for state in ("full", "read-only"):
            fault = f"disk {state} under the {part}"
            for seed in range(journal.count(fault), round(5 * lab.options.share + 0.5)):
                yield lambda part=part, state=state, seed=seed: unwritable(journal, lab, part, state, seed)


def unwritable(journal: Journal, lab: Lab, part: str, state: str, seed: int) -> None:
    """Let a small file system fill up, or become read-only, during a search; then give it room and continue.

    It needs the right to mount.
    """
    fault, dice = f"disk {state} under the {part}", random.Random(f"{part} {state} {seed}")
    folder = lab.prepare(f"disk-{os.getpid()}", workers=dice.choice((0, 2)))
    place, lost, repeated = folder / part, "", 0
    place.mkdir()
    kilobytes = dice.randint(200, 3000) if part == "cache" else dice.randint(300, 900)
    size = f"size={kilobytes}k" if state == "full" else "size=200m"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", str(place)], check=True)
    try:
        process = start(folder, "search", "model.yaml")
        if state == "read-only":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(lab.seconds / 4, lab.seconds / 2))
            subprocess.run(["mount", "-o", "remount,ro", str(place)], check=False, capture_output=True)
        stderr = process.communicate()[1].decode()
        if process.returncode not in (0, 1) or "Traceback" in stderr or "is a defect" in stderr:
            lost = f"exit code {process.returncode}: {stderr[-300:]}"
        subprocess.run(["mount", "-o", "remount,rw,size=200m", str(place)], check=True)
        started = time.monotonic()
        finish(start(folder, "search", "model.yaml"))
        seconds = time.monotonic() - started
        problem, repeated = difference(lab, folder)
        lost = lost or problem
    except RuntimeError as error:
        lost, seconds = lost or str(error), None
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
    journal.add(Injection(fault, seed, lost, seconds, repeated))
    shutil.rmtree(folder)


GROUPS = {"disks": disks, "inputs": inputs, "files": files, "kills": kills, "signals": signals}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--state", type=Path, default=Path("chaos-state"), help="folder of the journal and the studies")
    parser.add_argument("--share", type=float, default=1.0, help="share of the full counts")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no injection after this time")
    parser.add_argument("--trials", type=int, default=30, help="trials of the studies that are killed")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal, started = Journal(options.state), time.monotonic()
    lab = Lab(options.state.absolute(), options)
    for group in options.groups or GROUPS:
        for attempt in GROUPS[group](journal, lab):
            if time.monotonic() - started > options.seconds:
                break
            attempt()
    print(journal.table())
    print(f"\n{len(journal.all)} injections; this run took {time.monotonic() - started:.0f} s")
    sys.exit(any(each.lost for each in journal.all))


if __name__ == "__main__":
    main()
