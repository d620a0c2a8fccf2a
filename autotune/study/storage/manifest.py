"""Manifest of a study: versions, machine, hashes, seeds. No environment variables, no paths, no secrets."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

from autotune.common.machine import machine
from autotune.common.version import __version__

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
    found = {"python": platform.python_version(), "autotune": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


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
