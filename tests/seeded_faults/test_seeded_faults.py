"""The seeded faults fit the sources, so that the set can be run at any time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_every_fault_can_be_seeded() -> None:
    """Each snippet occurs once in its file, and each test that must find a fault exists."""
    command = [sys.executable, str(Path(__file__).with_name("run.py")), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
