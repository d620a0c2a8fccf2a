"""Descriptions of settings in a few words, for tables, plots and progress lines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.common.formatting import DASH, is_missing, size
from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import MOST_BITS

SHORT_NAMES = {
    "awq": "AWQ",
    "scale_estimation": "SE",
    "gptq": "GPTQ",
    "lora_correction": "LoRA",
    "distillation": "distillation",
}
"""Usual abbreviations of the algorithms, in the order in which they are applied."""


def describe_settings(settings: Mapping[str, Any], *, short: bool = False) -> str:
    """Name the settings that are not defaults on one line.

    Args:
        settings: as `Settings.as_dict` or a row of the trials' table returns them; keys and values may be missing.
        short: ``int4_asym g64 r0.8 all AWQ+SE`` instead of
            ``int4_asym, group size 64, ratio 0.8, all layers, AWQ + SE``.
    """
    given = {key: value for key, value in settings.items() if not is_missing(value)}
    if "mode" not in given:
        return DASH
    mode = str(given["mode"])
    if given.get("allocation") == "budget" and "budget" in given:
        text = describe_budget(float(given["budget"]))
        if given.get("distillation"):
            mode += " distillation" if short else " with distillation"
        return f"{mode} {text.replace(' bits a weight', 'b').replace(' ', '')}" if short else f"{mode}, at most {text}"
    name = str(given.get("candidate") or "")
    if name and (short or given.get("allocation") == "candidate"):
        return name
    parts = [mode]
    if "group_size" in given and not (mode in FORMATS and FORMATS[mode].fixed_group_size):
        group = int(given["group_size"])
        long = "per channel" if group == -1 else f"group size {group}"
        parts.append(f"g{group}" if short else long)
    if float(given.get("ratio", 1)) < 1:
        parts.append(f"r{float(given['ratio']):.3g}" if short else f"ratio {float(given['ratio']):g}")
    if given.get("all_layers"):
        parts.append("all" if short else "all layers")
    backup = str(given.get("backup_mode", default_backup(mode)))
    if backup != default_backup(mode) and not mode.startswith("int8"):
        parts.append(f"backup {backup}")
    algorithms = describe_algorithms(given, separator="+" if short else " + ")
    text = (" " if short else ", ").join([*parts, algorithms] if algorithms else parts)
    return f"{name}: {text}" if name not in ("", text) else text


def describe_algorithms(settings: Mapping[str, Any], *, separator: str = " + ") -> str:
    """Name the algorithms that are on, e.g. ``AWQ + SE``; LoRA with its rank."""
    given = {key: value for key, value in settings.items() if not is_missing(value)}
    names = {key: name for key, name in SHORT_NAMES.items() if given.get(key)}
    if "gptq" in names and not given.get("gptq_act_order", True):
        names["gptq"] = "GPTQ in channel order"
    if "lora_correction" in names and "lora_rank" in given:
        names["lora_correction"] += f" {int(given['lora_rank'])}"
    return separator.join(names.values())


def describe_budget(budget: float) -> str:
    """Format the size limit of a plan: ``4.5 bits a weight``, or ``13.8 MB``."""
    return f"{budget:g} bits a weight" if budget <= MOST_BITS else size(budget)


def default_backup(mode: str) -> str:
    """Return the backup mode of a mode if the settings name none."""
    return FORMATS[mode].backup if mode in FORMATS else "int8_asym"
