"""Shared parts of the groups of `chaos.py`: the journal, the undisturbed study, commands in own processes."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from common import DEMO

from autotune.common.files import DAMAGE, read_tensors
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
from autotune.study.storage.history import History, is_interrupted
from autotune.study.storage.rows import front_trials

SUPPORT = Path(__file__).parents[1] / "tests" / "support"
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
    """One injected fault and its outcome.

    Attributes:
        fault: its kind, a row of the table.
        seed: number within the kind.
        lost: what was not survived; empty otherwise.
        seconds: time until the work was complete, or until the fault was noticed.
        repeated: number of trials that ran a second time.
        note: measured figures.
    """

    fault: str
    seed: int
    lost: str = ""
    seconds: float | None = None
    repeated: int = 0
    note: str = ""


class Journal:
    """Injections of all runs, one JSON line each."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "injections.jsonl"
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.all = [Injection(**json.loads(line)) for line in lines]
        self._done = {(each.fault, each.seed) for each in self.all}

    def count(self, fault: str) -> int:
        """Return the number of injections of a fault so far."""
        return sum(each.fault == fault for each in self.all)

    def has(self, fault: str, seed: int) -> bool:
        """Test if a fault was injected with this seed."""
        return (fault, seed) in self._done

    def add(self, injection: Injection) -> None:
        """Record an injection, and print it if it was not survived."""
        self.all.append(injection)
        self._done.add((injection.fault, injection.seed))
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(injection)) + "\n")
        if injection.lost:
            print(f"LOST {injection.fault}, seed {injection.seed}: {injection.lost}", flush=True)

    def summary(self) -> list[dict[str, Any]]:
        """Return one row a fault: its name, counts, what was lost, the median of the seconds, the latest note."""
        rows = []
        for fault in dict.fromkeys(each.fault for each in self.all):
            found = [each for each in self.all if each.fault == fault]
            times = sorted(each.seconds for each in found if each.seconds is not None)
            rows.append(
                {
                    "fault": fault,
                    "injected": len(found),
                    "survived": sum(not each.lost for each in found),
                    "lost": sorted({each.lost[:80] for each in found if each.lost}),
                    "repeated": sum(each.repeated for each in found),
                    "seconds": float(f"{times[len(times) // 2]:.2g}") if times else None,
                    "note": found[-1].note,
                }
            )
        return rows

    def table(self) -> str:
        """Return the summary in Markdown."""
        lines = ["| fault | injected | survived | lost | trials repeated | median seconds | figures |"]
        lines.append("|---|---:|---:|---|---:|---:|---|")
        for row in self.summary():
            lost = "; ".join(row["lost"]) or "nothing"
            seconds = "–" if row["seconds"] is None else f"{row['seconds']:g}"
            cells = (row["fault"], row["injected"], row["survived"], lost, row["repeated"], seconds, row["note"])
            lines.append(f"| {' | '.join(map(str, cells))} |")
        return "\n".join(lines)


class Lab:
    """The undisturbed study that disturbed ones are compared with; made when it is first needed."""

    @property
    def suffix(self) -> str:
        """Part of the faults' names."""
        return ""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options

    def prepare(self, name: str, *, workers: int, warm: bool = False) -> Path:
        """Write model.yaml into a new folder; `warm`: with the exported model in its cache."""
        folder = self.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        text = CONFIG.format(demo=DEMO, trials=self.options.trials, workers=workers)
        (folder / "model.yaml").write_text(text, encoding="utf-8")
        if warm:
            shutil.copytree(self.whole / "cache" / "models", folder / "cache" / "models")
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

    def search(self, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start, or continue, the search of a folder."""
        return start(folder, "search", "model.yaml", **variables)

    def progress(self, folder: Path) -> int:
        """Count the plans of the study so far."""
        return len([*folder.glob("study/plans/*")])

    def is_clear(self, process: subprocess.Popen[bytes], stderr: str) -> bool:
        """Test if a command ended well, or with an error that is one paragraph."""
        return process.returncode in (0, 1, 2) and "Traceback" not in stderr and "is a defect" not in stderr

    def difference(self, folder: Path) -> tuple[str, int]:
        """Compare a disturbed study with the undisturbed one; return problems, and the number of repeated trials."""
        return difference(self, folder)

    def count(self, full: int) -> int:
        """Return this run's share of a full count, at least one."""
        return max(1, round(full * self.options.share))


class MadeUp(Lab):
    """Studies of made-up models: real searches, storages and workers, whose trials take no time."""

    @property
    def suffix(self) -> str:
        """Part of the faults' names."""
        return f", made-up models, {self.options.trials} trials"

    def prepare(self, name: str, *, workers: int, warm: bool = False) -> Path:
        """Make a folder."""
        folder = self.folder / f"made-up-{name}"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "cache").mkdir(parents=True)
        (folder / "workers").write_text(str(workers))
        return folder

    @cached_property
    def whole(self) -> Path:
        """A study that nothing disturbed."""
        folder = self.folder / "made-up-whole"
        if not (folder / "seconds").exists():
            folder, started = self.prepare("whole", workers=2), time.monotonic()
            finish(self.search(folder))
            (folder / "seconds").write_text(str(time.monotonic() - started))
        return folder

    def search(self, folder: Path, **variables: str) -> subprocess.Popen[bytes]:
        """Start, or continue, the search of a folder."""
        workers = (folder / "workers").read_text()
        words = [str(folder / "study"), str(folder / "log.txt"), str(self.options.trials), "0.03", workers]
        command = [sys.executable, str(SUPPORT / "search_fakes.py"), *words]
        environment = {**os.environ, **variables}
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def is_clear(self, process: subprocess.Popen[bytes], stderr: str) -> bool:
        """Test if a search ended well, or with one of autotune's own errors."""
        last = (stderr.strip().splitlines() or [""])[-1]
        return process.returncode == 0 or (process.returncode == 1 and last.startswith("autotune.errors.StudyError"))

    def progress(self, folder: Path) -> int:
        """Count the trials that were scored so far."""
        log = folder / "log.txt"
        return len(log.read_text().splitlines()) if log.exists() else 0


def start(
    folder: Path, *arguments: str, cache: Path | None = None, to: str = os.devnull, **variables: str
) -> subprocess.Popen[bytes]:
    """Start a command of autotune in a folder, with its cache and further environment variables; stdout goes `to`."""
    environment = {**os.environ, "AUTOTUNE_CACHE": str(cache or folder / "cache"), **variables}
    command = [sys.executable, "-m", "autotune", *arguments]
    with Path(to).open("wb") as stdout:
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=stdout, stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes], *codes: int) -> str:
    """Wait for the end of a command; raise if it has another exit code than one of these, by default 0."""
    stderr = process.communicate()[1].decode()
    if process.returncode not in (codes or (0,)):
        raise RuntimeError(f"exit code {process.returncode} instead of {codes or 0}: {stderr[-600:]}")
    return stderr


def trials_of(folder: Path) -> History:
    """Read the trials of the study in a folder."""
    storage = connect(database_url(folder / "study" / DATABASE))
    try:
        return History(optuna.load_study(study_name=STUDY_NAME, storage=storage).get_trials(deepcopy=False))
    finally:
        close(storage)


def difference(lab: Lab, folder: Path) -> tuple[str, int]:
    """Compare a disturbed study with the undisturbed one; return problems, and the number of repeated trials."""

    def essence(history: History) -> list[Any]:
        return [(t.params, t.values, t.state.name, t.user_attrs.get("plan")) for t in history.begun]

    history = trials_of(folder)
    found, expected = essence(history), essence(lab.expected)
    differs = [n for n, (one, other) in enumerate(zip(found, expected, strict=False)) if one != other]
    fronts = [sorted(t.values for t in front_trials(each, ["minimize"] * 2)) for each in (history, lab.expected)]
    damaged = [path.name for path in (folder / "cache").rglob("*.safetensors") if not is_whole(path)]
    left = [path.name for path in (folder / "study").rglob("*.tmp")]
    problems = [f"{len(found)} trials instead of {len(expected)}"] if len(found) != len(expected) else []
    problems += [f"other trials from {differs[0]}: {found[differs[0]]}, {expected[differs[0]]}"] if differs else []
    problems += ["another front"] if fronts[0] != fronts[1] else []
    problems += [f"damaged: {', '.join(damaged)}"] if damaged else []
    problems += [f"left: {', '.join(left)}"] if left else []
    return "; ".join(problems), sum(is_interrupted(trial) for trial in history.trials)


def is_whole(path: Path) -> bool:
    """Test if a file of the cache is complete: one of ours has the right checksum."""
    if "models" in path.parts:
        return True
    try:
        read_tensors(path, mapped=False)
    except DAMAGE:
        return False
    return True
