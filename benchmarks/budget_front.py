"""Budgets against ratios: two studies with the same wall time, one after the other or side by side, and their fronts.

    python benchmarks/budget_front.py --work DIR                                        # the demo model, 4 minutes each
    python benchmarks/budget_front.py --work DIR --model DIR --calibration FILE --text FILE --seconds 480 --together

One study has the preset `budget`, the other the preset `full`, each with an empty cache (but for the exported model),
the same texts, sampler and seed. Fronts are compared by the hypervolume below one reference: the divergence of
optimum-intel's 4-bit default, and the bytes of int8_asym, both as measured by the study of `full`; once with the
divergence as it is, and once with its logarithm, from the least divergence that either front has.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import common  # noqa: F401  the import path
import numpy as np

from autotune.common.cache import Cache
from autotune.models.source import resolve_model
from autotune.results.front.pareto import hypervolume

DEMO = Path(__file__).parents[1] / "examples" / "demo"
CONFIG = """\
model: {model}
output: {output}
calibration: {{path: {calibration}, samples: 128, sequence_length: 256}}
space: {space}
evaluators:
  perplexity: {{path: {text}, sequence_length: 512, samples: 32}}
objectives: {{kl_divergence: minimize, footprint: minimize}}
study: {{trials: 1000, timeout: {seconds}s, seed: 0}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO / "model"))
    parser.add_argument("--calibration", type=Path, default=DEMO / "calibration.txt")
    parser.add_argument("--text", type=Path, default=DEMO / "search.txt")
    parser.add_argument("--seconds", type=int, default=240)
    parser.add_argument("--together", action="store_true", help="both at once, each with what the other leaves")
    parser.add_argument("--table", action="store_true", help="of the studies that are there already")
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    if options.table:
        print_table({space: trials(options.work / space / "study") for space in ("budget", "full")})
        return
    source = resolve_model(options.model, cache=Cache.resolve(options.work / "export"))
    running = []
    for space in ("budget", "full"):
        shutil.rmtree(options.work / space, ignore_errors=True)
        (options.work / space).mkdir()
        config = CONFIG.format(
            model=source.path,
            output=options.work.absolute() / space / "study",
            calibration=options.calibration.absolute(),
            space=space,
            text=options.text.absolute(),
            seconds=options.seconds,
        )
        file = options.work / space / "model.yaml"
        file.write_text(config, encoding="utf-8")
        log = (options.work / space / "log.txt").open("w", encoding="utf-8")
        environment = {**os.environ, "AUTOTUNE_CACHE": str(options.work.absolute() / space / "cache")}
        command = [sys.executable, "-m", "autotune", "search", str(file)]
        running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
        if not options.together:
            running[-1].wait()
    for process in running:
        if process.wait() != 0:
            raise SystemExit(f"a search ended with {process.returncode}; see {options.work}/*/log.txt")
    print_table({space: trials(options.work / space / "study") for space in ("budget", "full")})


def trials(folder: Path) -> list[dict[str, str]]:
    with (folder / "trials.csv").open(encoding="utf-8", newline="") as stream:
        return [row for row in csv.DictReader(stream) if row["state"] == "COMPLETE" and not row["duplicate_of"]]


def print_table(found: dict[str, list[dict[str, str]]]) -> None:
    def common_settings(mode: str, group_size: str) -> dict[str, str]:
        plain = [row for row in found["full"] if row["mode"] == mode and group_size in (row["group_size"], "")]
        return next(row for row in plain if row["origin"].startswith("enqueued"))

    default, eight = common_settings("int4_asym", "128"), common_settings("int8_asym", "")
    reference = np.array([float(default["kl_divergence"]), float(eight["footprint"])])
    points = {
        space: np.array([[float(row["kl_divergence"]), float(row["footprint"])] for row in rows])
        for space, rows in found.items()
    }
    # A model that is left as it is has no divergence, and no logarithm of it.
    points = {space: rows[(rows < reference).all(axis=1) & (rows[:, 0] > 0)] for space, rows in points.items()}
    least = min(rows[:, 0].min() for rows in points.values())
    print(f"reference: KL divergence {reference[0]:.6f}, {reference[1]:,.0f} bytes")
    print("| preset | models below it | hypervolume | by the logarithm |\n|---|---:|---:|---:|")
    volumes = {}
    for space, rows in points.items():
        plain = hypervolume(rows / reference, np.ones(2))
        span = np.log(reference[0] / least)
        scaled = np.stack([np.log(rows[:, 0] / least) / span, rows[:, 1] / reference[1]], axis=1)
        volumes[space] = plain, hypervolume(scaled, np.ones(2))
        print(f"| {space} | {len(rows)} | {volumes[space][0]:.4f} | {volumes[space][1]:.4f} |")
    times = [ours / full for ours, full in zip(volumes["budget"], volumes["full"], strict=True)]
    print(f"budget over full: {times[0]:.2f} times, {times[1]:.2f} times by the logarithm")


if __name__ == "__main__":
    main()
