"""Description of the machine: CPU, cores, memory, platform."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Describe the machine: CPU model, logical cores, cores this process may use, memory in bytes, platform."""
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS and Windows
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "usable_cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory": memory(),
        "platform": platform.platform(),
    }


def cpu_model() -> str:
    """Read the CPU's name from the system."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def memory() -> int | None:
    """Read the physical memory in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
