"""Groups `disks` and `clocks` of `chaos.py`: file systems and clocks that fail for a while.

Small file systems in memory (tmpfs) fill up or become read-only; mounting them needs root. The other faults come from
`chaos_shim.c`, which a C compiler makes into a library that is loaded before the C library.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from chaos_lab import Injection, Journal, Lab, difference, finish, is_clear, start

PARTS = ("study", "cache", "temporary folder")
STATES = ("full", "read-only", "over quota", "failing (EIO)", "slow (50 ms)")
SHIMMED = {"over quota": "edquot", "failing (EIO)": "eio", "slow (50 ms)": "slow"}
JUMPS = (-86400, -3600, 7200, 30 * 86400)
"""Seconds that the wall clock jumps by."""


def disks(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield each fault under each folder in turn, and a full disk under stdout."""
    for seed in range(lab.count(5)):
        for state in STATES:
            for part in PARTS:
                if journal.count(f"disk {state} under the {part}") <= seed:
                    yield lambda part=part, state=state, seed=seed: failing(journal, lab, part, state, seed)
        if journal.count("disk full under stdout") <= seed:
            yield lambda seed=seed: full_stdout(journal, lab, seed)


def clocks(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield clocks that jump during a search."""
    for seed in range(journal.count("the wall clock jumps"), lab.count(5)):
        yield lambda seed=seed: jumping(journal, lab, seed)


def shim(lab: Lab) -> Path:
    """Compile the library."""
    library = lab.folder.absolute() / "chaos_shim.so"
    if not library.exists():
        source = Path(__file__).with_name("chaos_shim.c")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def failing(journal: Journal, lab: Lab, part: str, state: str, seed: int) -> None:
    """Let a disk fail from a random moment of a search on; then let it recover, and continue."""
    fault, dice = f"disk {state} under the {part}", random.Random(f"{part} {state} {seed}")
    folder = lab.prepare(f"disk-{os.getpid()}", workers=dice.choice((0, 2)), warm=part != "cache")
    place = folder / ("tmp" if part == "temporary folder" else part)
    place.mkdir(exist_ok=True)
    switch, lost, repeated, seconds, mounted = folder / "switch", "", 0, None, state in ("full", "read-only")
    variables = {"TMPDIR": str(place)} if part == "temporary folder" else {}
    if not mounted:
        variables |= {"LD_PRELOAD": str(shim(lab)), "CHAOS_SWITCH": str(switch), "CHAOS_FAULT": SHIMMED[state]}
        variables["CHAOS_PATH"] = str(place)
    kilobytes = {"cache": dice.randint(200, 12_000), "study": dice.randint(60, 900)}.get(part, 4)
    if mounted:
        size = f"size={kilobytes}k" if state == "full" else "size=200m"
        subprocess.run(["mount", "-t", "tmpfs", "-o", size, "chaos", str(place)], check=True)
    try:
        process = start(folder, "search", "model.yaml", **variables)
        if state != "full":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0, lab.seconds / 2))
            switch.touch()
            if mounted:
                subprocess.run(["mount", "-o", "remount,ro", str(place)], check=False, capture_output=True)
        stderr = process.communicate()[1].decode()
        if not is_clear(process, stderr):
            lost = f"exit code {process.returncode}: {stderr[-300:]}"
        if state.startswith("slow") and process.returncode:
            lost = f"a slow disk ended the search: {stderr[-300:]}"
        note = "ended with an error" if process.returncode else "ended as if undisturbed"
        switch.unlink(missing_ok=True)
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw,size=200m", str(place)], check=True)
        started = time.monotonic()
        finish(start(folder, "search", "model.yaml", **variables))
        seconds = time.monotonic() - started
        problem, repeated = difference(lab, folder)
        lost = lost or problem
    except RuntimeError as error:
        lost, note = lost or str(error), "not continued"
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
    journal.add(Injection(fault, seed, lost, seconds, repeated, note))
    shutil.rmtree(folder)


def full_stdout(journal: Journal, lab: Lab, seed: int) -> None:
    """Write the results of commands to a full disk: exit code 1 and one paragraph."""
    commands = ("report study", "spaces", "list .", "schema", "cache info", "search model.yaml")
    words, lost, started = commands[seed % len(commands)].split(), "", time.monotonic()
    process = start(lab.whole, *words, to="/dev/full")
    stderr = process.communicate()[1].decode()
    if process.returncode != 1 or not is_clear(process, stderr) or "stdout" not in stderr:
        lost = f"{' '.join(words)}: exit code {process.returncode}: {stderr[-200:]}"
    journal.add(Injection("disk full under stdout", seed, lost, time.monotonic() - started))


def jumping(journal: Journal, lab: Lab, seed: int) -> None:
    """Let the wall clock jump to and fro during a search."""
    dice = random.Random(f"clock {seed}")
    folder, lost = lab.prepare(f"clock-{os.getpid()}", workers=dice.choice((0, 2)), warm=True), ""
    switch = folder / "switch"
    variables = {"LD_PRELOAD": str(shim(lab)), "CHAOS_SWITCH": str(switch), "CHAOS_FAULT": "clock"}
    process = start(folder, "search", "model.yaml", **variables)
    while process.poll() is None:
        switch.write_text(str(dice.choice(JUMPS)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.2, 3))
        switch.unlink()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.2, 3))
    try:
        finish(process)
        lost = difference(lab, folder)[0]
    except RuntimeError as error:
        lost = str(error)
    journal.add(Injection("the wall clock jumps", seed, lost))
    shutil.rmtree(folder)
