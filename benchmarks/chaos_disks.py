"""Groups `disks` and `clocks` of `chaos.py`: file systems and clocks that fail for a while.

Small file systems in memory (tmpfs) fill up; mounting them needs root. The other faults come from
`tests/support/failing_disk.c`, a library that is loaded before the C library; it needs a C compiler.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator

from chaos_lab import Injection, Journal, Lab, MadeUp, finish, start
from failing_disk import failing

PARTS = ("study", "cache", "temporary folder")
STATES = ("full", "read-only", "over quota", "failing (EIO)", "slow (50 ms)")
SHIMMED = {"read-only": "erofs", "over quota": "edquot", "failing (EIO)": "eio", "slow (50 ms)": "slow"}
JUMPS = (-86400, -3600, 7200, 30 * 86400)
"""Seconds that the wall clock jumps by."""


def disks(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield each fault under each folder in turn, and a full disk under stdout."""
    made_up = MadeUp(lab.folder, lab.options)
    for seed in range(lab.count(5)):
        for state in STATES:
            for place, part in ((made_up, "study"), *((lab, part) for part in PARTS if not lab.options.made_up)):
                if not journal.has(f"disk {state} under the {part}{place.suffix}", seed):
                    yield lambda place=place, part=part, state=state, seed=seed: interrupted(
                        journal, place, part, state, seed
                    )
        if not lab.options.made_up and not journal.has("disk full under stdout", seed):
            yield lambda seed=seed: full_stdout(journal, lab, seed)


def clocks(journal: Journal, lab: Lab) -> Iterator[Callable[[], None]]:
    """Yield clocks that jump during a search."""
    made_up = MadeUp(lab.folder, lab.options)
    for place in (made_up,) if lab.options.made_up else (made_up, lab):
        for seed in range(lab.count(5)):
            if not journal.has(f"the wall clock jumps{place.suffix}", seed):
                yield lambda place=place, seed=seed: jumping(journal, place, seed)


def interrupted(journal: Journal, lab: Lab, part: str, state: str, seed: int) -> None:
    """Let a disk fail from a random moment of a search on; then let it recover, and continue."""
    seconds_whole = lab.seconds
    fault, dice = f"disk {state} under the {part}{lab.suffix}", random.Random(f"{part} {state} {seed}")
    folder = lab.prepare(f"disk-{os.getpid()}", workers=dice.choice((0, 2)), warm=part != "cache")
    place = folder / ("tmp" if part == "temporary folder" else part)
    place.mkdir(exist_ok=True)
    switch, lost, repeated, seconds, mounted = folder / "switch", "", 0, None, state == "full"
    variables = {"TMPDIR": str(place)} if part == "temporary folder" else {}
    if not mounted:
        variables |= failing(lab.folder, SHIMMED[state], below=place, switch=switch)
    kilobytes = {"cache": dice.randint(200, 12_000), "study": dice.randint(60, 900)}.get(part, 4)
    if mounted:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "chaos", str(place)], check=True)
    try:
        process = lab.search(folder, **variables)
        if state != "full":
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(dice.uniform(0, seconds_whole / 2))
            if process.poll() is not None:
                finish(process)
                return  # the study had ended before: nothing was injected
            switch.touch()
        stderr = process.communicate()[1].decode()
        if not lab.is_clear(process, stderr):
            lost = f"exit code {process.returncode}: {stderr[-300:]}"
        if state.startswith("slow") and process.returncode:
            lost = f"a slow disk ended the search: {stderr[-300:]}"
        note = "ended with an error" if process.returncode else "ended as if undisturbed"
        switch.unlink(missing_ok=True)
        if mounted:
            subprocess.run(["mount", "-o", "remount,rw,size=200m", str(place)], check=True)
        started = time.monotonic()
        finish(lab.search(folder, **variables))
        seconds = time.monotonic() - started
        problem, repeated = lab.difference(folder)
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
    if process.returncode != 1 or not lab.is_clear(process, stderr) or "stdout" not in stderr:
        lost = f"{' '.join(words)}: exit code {process.returncode}: {stderr[-200:]}"
    journal.add(Injection("disk full under stdout", seed, lost, time.monotonic() - started))


def jumping(journal: Journal, lab: Lab, seed: int) -> None:
    """Let the wall clock jump back and forth during a search."""
    dice = random.Random(f"clock {seed}")
    folder, lost = lab.prepare(f"clock-{os.getpid()}", workers=dice.choice((0, 2)), warm=True), ""
    switch = folder / "switch"
    variables = failing(lab.folder, "clock", below=folder, switch=switch)
    process = lab.search(folder, **variables)
    while process.poll() is None:
        switch.write_text(str(dice.choice(JUMPS)))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.2, 3))
        switch.unlink()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(dice.uniform(0.2, 3))
    try:
        finish(process)
        lost = lab.difference(folder)[0]
    except RuntimeError as error:
        lost = str(error)
    journal.add(Injection(f"the wall clock jumps{lab.suffix}", seed, lost))
    shutil.rmtree(folder)
