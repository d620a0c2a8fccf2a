"""Shared code of the benchmarks. Each script imports it before autotune, because it changes the import path."""

from __future__ import annotations

import sys
from pathlib import Path

# A script's own folder comes first on the import path, where evaluators.py would hide the package of that name.
_FOLDER = Path(__file__).resolve().parent
sys.path[:] = [
    *(entry for entry in sys.path if Path(entry).resolve() != _FOLDER),
    *(entry for entry in sys.path if Path(entry).resolve() == _FOLDER),
]

from autotune.compression.settings import Settings  # noqa: E402

__all__ = ["DEMO", "label"]

DEMO = Path(__file__).parents[1] / "examples" / "demo"
"""The model in the repository, with its texts."""


def label(s: Settings) -> str:
    parts = [s.mode, "" if s.group_size is None else f"g{s.group_size}", "" if s.ratio == 1 else f"ratio {s.ratio}"]
    parts += [s.sensitivity_metric or "", "all_layers" if s.all_layers else "", "AWQ" if s.awq else ""]
    parts += ["SE" if s.scale_estimation else "", "GPTQ" if s.gptq else "", "LoRA" if s.lora_correction else ""]
    parts += [f"rank {s.lora_rank}" if s.lora_rank != 8 else "", "" if s.gptq_act_order else "columns in order"]
    parts += [f"backup {s.backup_mode}" if s.backup_mode == "none" else "", *(f"without {p}" for p in s.ignored_scope)]
    return " ".join(part for part in parts if part)
