"""Trials per minute of one and two workers with a warm cache, and a check that their scores are equal.

    python benchmarks/workers.py model.yaml --trials 24

The study is run once to fill the cache, then in turn with one worker on one core, with one worker on all cores, and
with one worker a core. What is compared is the time between the first and the last trial.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from datetime import datetime
from pathlib import Path

import common  # noqa: F401  the import path
import optuna

from autotune.common.cache import Cache
from autotune.common.threads import usable_cores
from autotune.study.storage.database import DATABASE, STUDY_NAME, close, connect, database_url
from autotune.study.storage.history import History


def run(file: Path, folder: Path, trials: int, workers: int, cores: int) -> tuple[float, dict[str, tuple]]:
    """(trials a minute, plan -> values)."""
    available = sorted(os.sched_getaffinity(0))[:cores]
    settings = (f"study.trials={trials}", f"study.workers={workers}", "study.sampler=random", "study.racing=false")
    options = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "autotune", "search", str(file), "--output", str(folder), *options]
    shutil.rmtree(Cache.resolve().references / "scores", ignore_errors=True)  # all but the scores is to be warm
    subprocess.run(command, check=True, capture_output=True, preexec_fn=lambda: os.sched_setaffinity(0, available))
    storage = connect(database_url(folder / DATABASE))
    done = History(optuna.load_study(study_name=STUDY_NAME, storage=storage).get_trials(deepcopy=False)).finished
    close(storage)
    ends: list[datetime] = sorted(trial.datetime_complete for trial in done)
    # The first trial of each worker also loads the model.
    span = (ends[-1] - ends[workers - 1]).total_seconds()
    return 60 * (len(ends) - workers) / span, {t.user_attrs["plan"]: tuple(t.values) for t in done if t.values}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    cores = usable_cores()
    ways = {"1 worker, 1 thread": (1, 1), f"1 worker, {cores} threads": (1, cores), f"{cores} workers": (cores, cores)}
    best = dict.fromkeys(ways, 0.0)
    scores: list[dict[str, tuple]] = []
    with tempfile.TemporaryDirectory() as scratch:
        run(options.file, Path(scratch) / "cold", options.trials, 1, cores)
        for repeat in range(options.repeats):
            for name, (workers, used) in ways.items():
                folder = Path(scratch) / f"{repeat}-{workers}-{used}"
                speed, values = run(options.file, folder, options.trials, workers, used)
                best[name] = max(best[name], speed)
                scores.append(values)
                print(f"{name}: {speed:.1f} trials a minute", flush=True)
    shared = set.intersection(*map(set, scores))
    same = all(len({values[plan] for values in scores}) == 1 for plan in shared)
    first = best["1 worker, 1 thread"]
    print("; ".join(f"{name} {speed:.1f} a minute ({speed / first:.2f}x)" for name, speed in best.items()))
    print(f"{len(shared)} plans in every run, scores {'the same to the last digit' if same else 'DIFFER'}")


if __name__ == "__main__":
    main()
