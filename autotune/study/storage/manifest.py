"""Manifest of a study: versions, machine, hashes, seeds. No environment variables, no paths, no secrets."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import autotune

__all__ = ["machine", "manifest", "versions"]

PACKAGES = (
    "openvino",
    "openvino-genai",
    "openvino-tokenizers",
    "optimum",
    "optimum-intel",
    "transformers",
    "tokenizers",
    "torch",
    "sentence-transformers",
    "datasets",
    "numpy",
    "safetensors",
    "optuna",
)


def versions() -> dict[str, str]:
    """Read the versions of Python, autotune and the installed packages that can change a score."""
    found = {"python": platform.python_version(), "autotune": autotune.__version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


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


def manifest(
    *, hashes: Mapping[str, Any], seeds: Mapping[str, int], runtime_properties: Mapping[str, str]
) -> dict[str, Any]:
    """Make the JSON object of `manifest.json`.

    Args:
        hashes: fingerprints of model, tokenizer, texts and statistics (None where one was not needed).
        seeds: name -> seed.
        runtime_properties: the properties in force when models were scored, as the runtime reports them.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": machine(),
        "hashes": dict(hashes),
        "seeds": dict(seeds),
        "runtime_properties": dict(runtime_properties),
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
