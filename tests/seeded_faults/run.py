"""Apply each seeded fault of this folder to a copy of the repository, and run the test that must find it.

    python tests/seeded_faults/run.py                   # all of them
    python tests/seeded_faults/run.py --only gptq-order # one, or several with commas between them
    python tests/seeded_faults/run.py --check           # only that each snippet occurs once in its file

A fault counts as found if its test passes without it and fails with it. Exit code 1: a fault was missed, or a snippet
or test is not there any more.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import pytest
from fault import Fault
from in_compression import COMPRESSION
from in_results import RESULTS
from in_search import SEARCH

FAULTS = (*COMPRESSION, *SEARCH, *RESULTS)
ROOT = Path(__file__).parents[2]
SLOW_IMPORTS = ("numpy", "scipy.linalg", "pandas", "openvino", "optuna", "torch")
LIMIT_SECONDS = 120
"""A test that takes more processor time with a fault does not end."""
ENDLESS = (-signal.SIGXCPU, -signal.SIGALRM)
"""Exit codes of tests that do not end."""
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "reports", "site", "*_cache", "__pycache__", "*.egg-info")


def problems(faults: Sequence[Fault]) -> list[str]:
    """Find the faults that do not fit the sources any more."""
    found = []
    for fault in faults:
        count = (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) if (ROOT / fault.file).exists() else 0
        if count != 1:
            found.append(f"{fault.name}: the old snippet occurs {count} times in {fault.file}")
        path, _, node = fault.test.partition("::")
        function = f"def {node.partition('[')[0]}("
        if not (ROOT / path).is_file() or function not in (ROOT / path).read_text(encoding="utf-8"):
            found.append(f"{fault.name}: there is no test {fault.test}")
    names = [fault.name for fault in faults]
    return found + [
        f"{name} is the name of several faults" for name in sorted({n for n in names if names.count(n) > 1})
    ]


def preload() -> None:
    """Import the slow libraries once: a forked process has them at once, instead of after 5 to 20 seconds."""
    os.environ.setdefault("OMP_NUM_THREADS", "2")  # as conftest.py has it
    for name in SLOW_IMPORTS:
        importlib.import_module(name)


def run_tests(tree: Path, tests: Sequence[str], seconds: int = 0) -> tuple[int, str]:
    """Run tests in a forked process, on the packages of a copy; return exit code and output.

    After `seconds` of processor time, or ten times as many in all, a signal of `ENDLESS` ends them; 0 is no limit.
    """
    with tempfile.TemporaryFile("w+") as output:
        child = os.fork()
        if child == 0:
            code = 99
            try:
                if seconds:
                    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 10))
                    signal.alarm(10 * seconds)
                os.dup2(output.fileno(), 1)
                os.dup2(output.fileno(), 2)
                os.chdir(tree)
                os.environ["PYTHONPATH"] = sys.path[0] = str(tree)
                code = int(pytest.main(["-x", "-q", "--no-header", "-p", "no:cacheprovider", *tests]))
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        output.seek(0)
        return code, output.read()


def replace(path: Path, text: str) -> None:
    """Write a source file; bytecode of the same second and size would hide the change."""
    path.write_text(text, encoding="utf-8")
    Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)


def is_found(tree: Path, fault: Fault) -> bool:
    """Run the test with the fault applied; one that does not end is found, too.

    Errors before the test begins, such as of imports, do not count.
    """
    path = tree / fault.file
    source = path.read_text(encoding="utf-8")
    replace(path, source.replace(fault.old, fault.new))
    try:
        code, output = run_tests(tree, [fault.test], LIMIT_SECONDS)
    finally:
        replace(path, source)
    return code in ENDLESS or (code == pytest.ExitCode.TESTS_FAILED and "\nFAILED " in output)


def main() -> int:
    """Print a table of the faults; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", metavar="NAME", help="run these faults")
    parser.add_argument("--check", action="store_true", help="run no test, only compare the snippets with the sources")
    options = parser.parse_args()
    chosen = [fault for fault in FAULTS if options.only is None or fault.name in options.only.split(",")]
    wrong = problems(chosen) if chosen else [f"there is no fault {options.only}"]
    if wrong or options.check:
        print("\n".join(wrong) or f"{len(chosen)} faults fit the sources")
        return 1 if wrong else 0
    with tempfile.TemporaryDirectory(prefix="seeded-faults-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(ROOT, tree, ignore=LEFT_OUT)
        preload()
        code, output = run_tests(tree, sorted({fault.test for fault in chosen}))
        if code:
            print(f"without any fault, the tests do not pass:\n{output}")
            return 1
        missed = 0
        for fault in chosen:
            started = time.monotonic()
            found = is_found(tree, fault)
            missed += not found
            seconds = time.monotonic() - started
            print(f"{fault.name:<28} {'found' if found else 'MISSED':<6} {seconds:6.1f} s  {fault.test}", flush=True)
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
