"""Checks of a finished study.

    python benchmarks/study_checks.py front DIR        # every front model, exported and scored alone: same numbers?
    python benchmarks/study_checks.py warm COLD WARM   # the same study with a warm cache: compression times

`autotune search model.yaml --output COLD` with an empty cache and then `--output WARM` make the two folders of `warm`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import pandas as pd

METRICS = ("kl_divergence", "perplexity", "similarity")


def autotune(*arguments: str) -> str:
    done = subprocess.run([sys.executable, "-m", "autotune", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def front(folder: Path) -> None:
    table = pd.read_csv(folder / "front.csv")
    worst = dict.fromkeys(METRICS, 0.0)
    with tempfile.TemporaryDirectory() as scratch:
        for trial in table.itertuples():
            out = Path(scratch) / str(trial.trial)
            autotune("export", str(folder), str(out), "--trial", str(trial.trial))
            text = autotune("evaluate", str(out), "--config", str(folder / "model.yaml"), "--json")
            scored = json.loads(text)
            same_size = (out / "openvino_model.bin").stat().st_size == trial.footprint
            parts = []
            for metric in METRICS:
                if metric not in scored:
                    continue
                reported, measured = getattr(trial, metric), scored[metric]["value"]
                worst[metric] = max(worst[metric], abs(measured - reported) / max(abs(reported), 1e-12))
                parts.append(f"{metric} {reported:.8g} again {measured:.8g}")
            print(
                f"trial {trial.trial}: {'size as reported' if same_size else 'SIZE DIFFERS'}, {', '.join(parts)}",
                flush=True,
            )
    print("largest relative difference: " + ", ".join(f"{name} {value:.1e}" for name, value in worst.items()))


def warm(cold: Path, again: Path) -> None:
    tables = [pd.read_csv(folder / "trials.csv") for folder in (cold, again)]
    done = [t[(t.state == "COMPLETE") & t.duplicate_of.isna()].set_index("plan") for t in tables]
    both = pd.merge(*done, left_index=True, right_index=True, suffixes=("_cold", "_warm"))
    print(
        f"{len(both)} of {len(done[0])} plans in both; variants computed again: {both.variants_computed_warm.sum():.0f}"
    )
    shares = []
    for row in both.itertuples():
        share = row.seconds_compress_warm / row.seconds_compress_cold
        whole = row.variants_reused_cold == 0
        shares.append(share)
        print(
            f"trial {row.trial_cold}: {row.mode_cold}, cold {row.seconds_compress_cold:.3f} s "
            f"({row.variants_computed_cold:.0f} variants computed), warm {row.seconds_compress_warm:.3f} s, "
            f"{100 * share:.1f}%{'' if whole else ' (the cold trial found some variants ready)'}"
        )
    computed = both.seconds_compress_cold.sum(), both.seconds_compress_warm.sum()
    print(f"median share {100 * statistics.median(shares):.1f}%; all trials {100 * computed[1] / computed[0]:.1f}%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("front").add_argument("folder", type=Path)
    pair = commands.add_parser("warm")
    pair.add_argument("cold", type=Path)
    pair.add_argument("warm", type=Path)
    options = parser.parse_args()
    if options.command == "front":
        front(options.folder)
    else:
        warm(options.cold, options.warm)


if __name__ == "__main__":
    main()
