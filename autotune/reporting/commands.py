"""The command lines that make a trial's model again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from autotune.compression.settings import DATA_FREE_METRIC
from autotune.reporting.formatting import ALGORITHMS
from autotune.reporting.view import StudyResults

__all__ = ["compress_command", "export_command", "needs_calibration"]

TOGGLES = ("all_layers", *ALGORITHMS)


def needs_calibration(settings: Mapping[str, Any]) -> bool:
    """Whether the calibration texts decide anything about these settings."""
    if any(settings.get(name) for name in ALGORITHMS):
        return True
    ratio = settings.get("ratio")
    return ratio is not None and ratio < 1 and settings.get("sensitivity_metric") != DATA_FREE_METRIC


def out_folder(results: StudyResults, number: int) -> str:
    """Where a trial's model goes unless the reader says otherwise."""
    return f"{results.config.get('output', 'reports/study')}/models/trial-{number}"


def compress_command(results: StudyResults, number: int) -> str:
    """`autotune compress ...` with the settings that a trial had.

    A note is appended where `compress`, which calibrates on a file, cannot be given the study's texts; `export` can.
    """
    settings = results.records[number].settings
    words = ["autotune", "compress", str(results.config.get("model", "MODEL")), out_folder(results, number)]
    for name in ("mode", "group_size", "ratio", "backup_mode", "sensitivity_metric"):
        if settings.get(name) is not None:
            value = settings[name]
            words += [f"--{name.replace('_', '-')}", f"{value:g}" if isinstance(value, float) else str(value)]
    if settings.get("codebook"):
        words.append(f"--codebook={','.join(f'{level:.8g}' for level in settings['codebook'])}")
    for name in TOGGLES:
        if settings.get(name):
            words.append(f"--{name.replace('_', '-')}")
    if settings.get("gptq") and settings.get("gptq_act_order") is False:
        words.append("--no-gptq-act-order")
    if settings.get("lora_correction") and settings.get("lora_rank") is not None:
        words += ["--lora-rank", str(settings["lora_rank"])]
    for pattern in settings.get("ignored_scope") or ():
        words += ["--ignored-scope", str(pattern)]
    if settings.get("group_size_fallback") not in (None, "adjust"):
        words += ["--group-size-fallback", str(settings["group_size_fallback"])]
    if results.config.get("trust_remote_code"):
        words.append("--trust-remote-code")
    note = ""
    if needs_calibration(settings):
        calibration = results.config.get("calibration") or {}
        seed = (results.config.get("study") or {}).get("seed", 0)
        text = "synthetic" if calibration.get("synthetic") and seed == 0 else calibration.get("path")
        if text:
            words += ["--calibration", str(text)]
            for name in ("samples", "sequence_length"):
                if calibration.get(name) is not None:
                    words += [f"--{name.replace('_', '-')}", str(calibration[name])]
        else:
            note = "  # plus --calibration FILE with the study's calibration texts; `autotune export` finds them itself"
    return shlex.join(words) + note


def export_command(results: StudyResults, number: int) -> str:
    """`autotune export DIR OUT --trial N`, which also brings the study's own texts and statistics."""
    folder = str(results.config.get("output", "DIR"))
    return shlex.join(["autotune", "export", folder, out_folder(results, number), "--trial", str(number)])
