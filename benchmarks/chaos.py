"""Faults injected on purpose: is anything lost, is anything wrong accepted?

    python benchmarks/chaos.py                                  # every fault, full counts
    python benchmarks/chaos.py inputs files --share 0.1         # two groups, a tenth of their counts
    python benchmarks/chaos.py kills --seconds 300              # go on for five minutes; run again to continue
    python benchmarks/chaos.py --share 0 --json docs/data/chaos.json    # only the table of what was injected so far

Groups:

    inputs    generated model.yaml, texts, spaces and codebooks: a right result or one paragraph with file and line
    files     a flipped bit, or a truncation, in every kind of file that autotune reads back: detected, never used
    kills     SIGKILL at random moments of searches, their workers, exports, compressions, distillations and reports
    signals   SIGTERM, SIGHUP, one and two Ctrl-C, SIGSTOP of a worker and of a whole search
    disks     full, read-only, over quota, failing or slow under study, cache, temporary folder and stdout (needs root)
    clocks    a wall clock that jumps during a search
    load      large studies, several searches on one cache and on one PostgreSQL server, memory over many trials

Each injection has a seed and is recorded in ``STATE/injections.jsonl``, so that a run continues the last one. The table
counts all of them. Exit code 1 if one was not survived: mend the cause, remove its line, and run the group again.
"""

from __future__ import annotations

import argparse
import json
import logging
import platform
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import common  # noqa: F401  the import path
import optuna

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import broken_inputs
from broken_files import PROBES, Unnoticed, make_study, try_file
from chaos_disks import clocks, disks
from chaos_kills import kills, signals
from chaos_lab import Injection, Journal, Lab
from chaos_load import load

from autotune.common.machine import machine


def inputs(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    for kind, about in broken_inputs.KINDS.items():
        fault = f"input: {kind}"
        for seed in range(round(about.count * lab.options.share)):
            if journal.has(fault, seed):
                continue

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
            for seed in range(round(count * lab.options.share / len(PROBES) + 0.5)):
                if journal.has(fault, seed):
                    continue

                def attempt(kind: str = kind, how: str = how, fault: str = fault, seed: int = seed) -> None:
                    lost, started = "", time.monotonic()
                    try:
                        try_file(kind, folder, how, random.Random(f"{fault} {seed}"))
                    except Unnoticed as error:
                        lost = str(error)
                    journal.add(Injection(fault, seed, lost, time.monotonic() - started))

                yield attempt


GROUPS = {
    "files": files,
    "inputs": inputs,
    "signals": signals,
    "clocks": clocks,
    "disks": disks,
    "load": load,
    "kills": kills,
}


def results(journal: Journal, options: argparse.Namespace) -> dict[str, Any]:
    """Return the table's rows with the machine and the versions, for docs/data; rows of other runs are kept."""
    names, rows = ("openvino", "numpy", "optuna"), journal.summary()
    before = json.loads(options.json.read_text(encoding="utf-8"))["rows"] if options.json.exists() else []
    faults = {row["fault"] for row in rows}
    return {
        "model": "the demo model (2 million parameters)",
        "measured": f"studies of {options.trials} trials, disturbed and continued, compared with an undisturbed one",
        "command": "python benchmarks/chaos.py",
        "date": date.today().isoformat(),
        "machine": machine(),
        "versions": {name: version(name) for name in names} | {"python": platform.python_version()},
        "rows": rows + [row for row in before if row["fault"] not in faults],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--state", type=Path, default=Path("chaos-state"), help="folder of the journal and the studies")
    parser.add_argument("--share", type=float, default=1.0, help="share of the full counts")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no injection after this time")
    parser.add_argument("--trials", type=int, default=30, help="trials of the studies that are disturbed")
    parser.add_argument("--made-up", action="store_true", help="disturb studies of made-up models alone, in less time")
    parser.add_argument("--scale", type=float, default=0.1, help="share of the full sizes of the group load")
    parser.add_argument("--json", type=Path, help="write the table's rows to this file")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    journal, started = Journal(options.state), time.monotonic()
    lab = Lab(options.state.absolute(), options)
    for group in (options.groups or GROUPS) if options.share else ():
        for attempt in GROUPS[group](journal, lab):
            if time.monotonic() - started > options.seconds:
                break
            attempt()
    if options.json is not None:
        options.json.write_text(json.dumps(results(journal, options), indent=1) + "\n", encoding="utf-8")
    print(journal.table())
    print(f"\n{len(journal.all)} injections; this run took {time.monotonic() - started:.0f} s")
    sys.exit(any(each.lost for each in journal.all))


if __name__ == "__main__":
    main()
