"""What the benchmarks of the engine share."""

from __future__ import annotations

from pathlib import Path

from autotune.compression.settings import Settings

__all__ = ["DEMO", "label"]

DEMO = Path(__file__).parents[1] / "examples" / "demo"
"""The model in the repository, with its texts."""


def label(s: Settings) -> str:
    parts = [s.mode, "" if s.group_size is None else f"g{s.group_size}", "" if s.ratio == 1 else f"ratio {s.ratio}"]
    parts += [s.sensitivity_metric or "", "all_layers" if s.all_layers else "", "AWQ" if s.awq else ""]
    parts += ["SE" if s.scale_estimation else "", "GPTQ" if s.gptq else "", "LoRA" if s.lora_correction else ""]
    parts += [f"rank {s.lora_rank}" if s.lora_rank != 8 else "", "" if s.gptq_act_order else "columns as they stand"]
    parts += [f"backup {s.backup_mode}" if s.backup_mode == "none" else "", *(f"without {p}" for p in s.ignored_scope)]
    return " ".join(part for part in parts if part)
