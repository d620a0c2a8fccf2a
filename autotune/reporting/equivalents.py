"""The same settings as a call of optimum-cli or of NNCF, where they have one."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.compression.settings import INT8_MODES, MIXED, OUTPUT_ERROR
from autotune.reporting.commands import needs_calibration

__all__ = ["Equivalent", "nncf_call", "optimum_command"]

WEIGHT_FORMATS = {
    "int8_asym": ("int8", False),
    "int8_sym": ("int8", True),
    "int4_asym": ("int4", False),
    "int4_sym": ("int4", True),
    "nf4": ("nf4", False),
}
"""Mode -> optimum-cli's --weight-format, and whether --sym."""


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A call, or None and why there is none; `note` also says what differs where there is one."""

    call: str | None
    note: str = ""


def _without(settings: Mapping[str, Any]) -> str | None:
    """Why neither peer has such settings; None where they have."""
    mode = settings.get("mode")
    if mode not in WEIGHT_FORMATS:
        if mode in (None, MIXED):
            return "its weights were chosen one by one, which no setting of NNCF's describes"
        return f"no call is known that stores {mode} with this backup in the same way"
    ratio = settings.get("ratio")
    if ratio == 0:
        return "NNCF reads ratio 0 as 1"
    if ratio is not None and ratio < 1 and settings.get("sensitivity_metric") in (None, OUTPUT_ERROR):
        return "NNCF has no sensitivity metric output_error, which decided which layers got 8 bits"
    return None


def optimum_command(model: str, settings: Mapping[str, Any], *, out: str = "OUT") -> Equivalent:
    """``optimum-cli export openvino ...``.

    Args:
        model: hub id or folder.
        settings: as `compression.settings.Settings.as_dict` gives them, defaults resolved.
    """
    why = _without(settings)
    if why is None and settings.get("ignored_scope"):
        why = "optimum-cli has no option for ignored layers"
    if why is None and settings.get("lora_correction") and settings.get("lora_rank") not in (None, 8):
        why = "optimum-cli has no option for the rank of the adapters"
    if why is not None:
        return Equivalent(None, why)
    mode = str(settings["mode"])
    weight_format, symmetric = WEIGHT_FORMATS[mode]
    words = ["optimum-cli", "export", "openvino", "--model", model, "--weight-format", weight_format]
    words += ["--sym"] if symmetric else []
    if mode not in INT8_MODES:
        words += ["--group-size", str(settings.get("group_size") or 128), "--ratio", f"{settings.get('ratio', 1.0):g}"]
        words += ["--group-size-fallback", str(settings.get("group_size_fallback") or "adjust")]
        words += ["--backup-precision", str(settings.get("backup_mode") or "int8_asym")]
        if settings.get("ratio", 1.0) < 1:
            words += ["--sensitivity-metric", str(settings["sensitivity_metric"])]
        for name in ("all_layers", "awq", "scale_estimation", "gptq", "lora_correction"):
            words += [f"--{name.replace('_', '-')}"] if settings.get(name) else []
    note = ""
    if needs_calibration(settings):
        words += ["--dataset", "wikitext2"]
        note = "optimum-cli takes named datasets only, so its calibration text is another one"
    return Equivalent(shlex.join([*words, out]), note)


def nncf_call(settings: Mapping[str, Any]) -> Equivalent:
    """``nncf.compress_weights(...)`` on a model and, where one is needed, a dataset of the reader's."""
    why = _without(settings)
    if why is not None:
        return Equivalent(None, why)
    mode = str(settings["mode"])
    arguments = ["model", f"mode=nncf.CompressWeightsMode.{mode.upper()}"]
    note = ""
    if mode not in INT8_MODES:
        arguments += [f"group_size={settings.get('group_size') or 128}", f"ratio={settings.get('ratio', 1.0):g}"]
        if settings.get("ratio", 1.0) < 1:
            arguments.append(f"sensitivity_metric=nncf.SensitivityMetric.{str(settings['sensitivity_metric']).upper()}")
        arguments.append(f"backup_mode=nncf.BackupMode.{str(settings.get('backup_mode') or 'int8_asym').upper()}")
        toggles = ("all_layers", "awq", "scale_estimation", "gptq", "lora_correction")
        arguments += [f"{name}=True" for name in toggles if settings.get(name)]
        arguments.append(f"advanced_parameters=nncf.AdvancedCompressionParameters({_advanced(settings)})")
    if settings.get("ignored_scope"):
        patterns = ", ".join(repr(str(pattern)) for pattern in settings["ignored_scope"])
        arguments.append(f"ignored_scope=nncf.IgnoredScope(patterns=[{patterns}])")
        note = "NNCF's patterns match names of operations only, not of weights"
    if needs_calibration(settings):
        arguments.append("dataset=dataset")
    return Equivalent("nncf.compress_weights(\n" + "".join(f"    {part},\n" for part in arguments) + ")", note)


def _advanced(settings: Mapping[str, Any]) -> str:
    fallback = str(settings.get("group_size_fallback") or "adjust").upper()
    parts = [f"group_size_fallback_mode=nncf.GroupSizeFallbackMode.{fallback}"]
    if settings.get("lora_correction"):
        rank = settings.get("lora_rank") or 8
        parts.append(
            f"lora_correction_params=nncf.quantization.advanced_parameters.AdvancedLoraCorrectionParameters(adapter_rank={rank})"
        )
    return ", ".join(parts)
