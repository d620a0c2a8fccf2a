"""Description of the machine: CPU, cores, memory, platform."""

from __future__ import annotations

import os
import platform
from contextlib import suppress
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError

CGROUP = Path("/sys/fs/cgroup")
"""Files with a container's limits; the system's own numbers are those of the whole machine."""


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


FAST_ARITHMETIC = ("avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16", "amx_bf16", "amx_fp16", "avx512_fp16")
"""Instruction sets, as Linux names them, that OpenVINO computes 8-bit and 16-bit numbers with."""


def fast_arithmetic() -> tuple[str, ...] | None:
    """List the instruction sets of `FAST_ARITHMETIC` that the CPU has; None if the system does not report them."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), None)
    return None if flags is None else tuple(name for name in FAST_ARITHMETIC if name in flags)


def memory() -> int | None:
    """Read the physical memory in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def available_memory(limit: int | None = None) -> int:
    """Measure the memory in bytes that is free without swapping, within a container's limit and at most `limit`."""
    import psutil

    limits = [int(psutil.virtual_memory().available), *([] if limit is None else [limit])]
    with suppress(OSError, ValueError):  # no container, or one without a limit
        most, used = ((CGROUP / name).read_text() for name in ("memory.max", "memory.current"))
        limits.append(int(most) - int(used))
    return max(0, min(limits))


def own_memory(pid: int | None = None) -> int:
    """Measure a process's private memory in bytes, without mapped files; 0 if the process is dead."""
    import psutil

    try:
        info = psutil.Process(pid).memory_info()
    except psutil.Error:
        return 0
    return int(info.rss - getattr(info, "shared", 0))


def check_memory(limit: int | None, least: int) -> None:
    """Refuse a `study.memory_limit` in bytes that is smaller than the original model of `least` bytes.

    Raises:
        ConfigError: it is. `autotune plan` shows what a worker needs in all.
    """
    if limit is not None and limit < least:
        raise ConfigError(
            f"is {limit / 1e9:.2f} GB, less than the original model of {least / 1e9:.2f} GB, which every worker "
            "holds in memory. Raise the limit; `autotune plan` forecasts the memory of a worker",
            key="study.memory_limit",
        )
