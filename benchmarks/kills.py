"""A hundred SIGKILLs at random moments: is every study the undisturbed one, and every file whole?

    python benchmarks/kills.py --kills 100 --trials 30

Studies of the demo model, each with an empty cache, are killed again and again until they finish. Each is compared with
one that was left alone: trials, values, plans and front. Then every file of the cache is read with its checksum.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import optuna
from common import DEMO

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


def begin(folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "AUTOTUNE_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "autotune", "search", "model.yaml"]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def prepare(folder: Path, options: argparse.Namespace) -> Path:
    folder.mkdir()
    text = CONFIG.format(demo=DEMO, trials=options.trials, workers=options.workers)
    (folder / "model.yaml").write_text(text, encoding="utf-8")
    return folder


def trials_of(folder: Path) -> History:
    storage = connect(database_url(folder / "study" / DATABASE))
    try:
        return History(optuna.load_study(study_name=STUDY_NAME, storage=storage).get_trials(deepcopy=False))
    finally:
        close(storage)


def essence(history: History) -> list[tuple]:
    return [(t.params, t.values, t.state.name, t.user_attrs.get("plan")) for t in history.begun]


def damaged_files(folder: Path) -> list[Path]:
    found = []
    for path in (folder / "cache").rglob("*.safetensors"):
        try:
            read_tensors(path, mapped=False)
        except DAMAGE:
            found.append(path)
    return found


def killed_study(folder: Path, seconds: float, kills: int, dice: random.Random) -> int:
    """Run a study to its end, killing it at random moments at most so often; how often it was."""
    count = 0
    while True:
        process = begin(folder)
        assert process.stderr is not None
        if count < kills:
            try:
                process.wait(dice.uniform(0.2, seconds))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                count += 1
        stderr = process.communicate()[1].decode()
        if process.returncode == 0:
            return count
        if process.returncode != -signal.SIGKILL:
            sys.exit(f"a study ended with {process.returncode}: {stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    dice = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        whole = prepare(Path(scratch) / "whole", options)
        started = time.monotonic()
        process = begin(whole)
        process.communicate()
        seconds = time.monotonic() - started
        expected, kills, studies, lost, different, damaged = trials_of(whole), 0, 0, 0, 0, 0
        while kills < options.kills:
            folder = prepare(Path(scratch) / f"study-{studies}", options)
            kills += killed_study(folder, seconds / 2, options.kills - kills, dice)
            studies += 1
            history = trials_of(folder)
            lost += sum(is_interrupted(trial) for trial in history.trials)
            damaged += len(damaged_files(folder))
            same = essence(history) == essence(expected)
            fronts = [[t.values for t in front_trials(h, ["minimize"] * 2)] for h in (history, expected)]
            different += not (same and fronts[0] == fronts[1])
            print(f"study {studies}: {kills} kills so far, {lost} trials done again", flush=True)
    print(
        f"{kills} SIGKILLs over {studies} studies of {options.trials} trials ({seconds:.0f} s alone): {different} "
        f"studies other than the undisturbed one, {damaged} damaged files, {lost} trials done again"
    )


if __name__ == "__main__":
    main()
