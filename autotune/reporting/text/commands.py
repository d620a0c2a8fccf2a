"""The command lines that make a trial's model again.

The same settings as a call of optimum-cli or of NNCF, where they have one.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.compression.settings import ALGORITHMS, INT8_MODES, MIXED, OUTPUT_ERROR, SETTINGS, Settings
from autotune.results.types import StudyResults

__all__ = [
    "Equivalent",
    "base_folder",
    "compress_command",
    "export_command",
    "nncf_call",
    "optimum_command",
    "portable",
    "short_path",
    "where_to_run",
]

TOGGLES = ("all_layers", *ALGORITHMS)


def base_folder(results: StudyResults) -> Path | None:
    """The folder that holds study, model and calibration text, if one below the root does; None where there is none.

    A page that names paths from there on tells nothing of its author's disk, and reads well.
    """
    calibration = results.config.get("calibration") or {}
    named = [results.config.get("output"), results.config.get("model"), calibration.get("path")]
    local = [str(path) for path in named if path and Path(str(path)).is_absolute()]
    if len(local) < 2:
        return None
    base = Path(os.path.commonpath(local))
    return base if len(base.parts) > 2 else None


def short_path(results: StudyResults, path: str) -> str:
    """A path from `base_folder` on; anything else stays as it is."""
    base = base_folder(results)
    inside = base is not None and Path(path).is_absolute() and Path(path).is_relative_to(base)
    return Path(path).relative_to(base).as_posix() if base is not None and inside else path


def where_to_run(results: StudyResults) -> str:
    """A sentence about the folder that the commands' paths start from; empty where they say it themselves."""
    return "" if base_folder(results) is None else "Paths start from the folder that holds both model and study."


def portable(results: StudyResults, value: Any) -> Any:
    """Plain data with every path in it as `short_path` writes it."""
    if isinstance(value, Mapping):
        return {key: portable(results, item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(results, item) for item in value]
    return short_path(results, value) if isinstance(value, str) else value


def out_folder(results: StudyResults, number: int) -> str:
    """Where a trial's model goes unless the reader says otherwise."""
    return f"{short_path(results, str(results.config.get('output', 'reports/study')))}/models/trial-{number}"


def compress_command(results: StudyResults, number: int) -> str:
    """`autotune compress ...` with the settings that a trial had.

    A note is appended where `compress`, which calibrates on a file, cannot be given the study's texts; `export` can.
    """
    settings = results.records[number].settings
    if settings.get("allocation") == "budget":
        return export_command(results, number)  # its plan is of measured errors, which the study has
    model = short_path(results, str(results.config.get("model", "MODEL")))
    words = ["autotune", "compress", model, out_folder(results, number)]
    for name, info in SETTINGS.items():
        value, option = settings.get(name), f"--{name.replace('_', '-')}"
        implied = not info.search_order and value == info.default
        if value is None or implied or (info.requires is not None and not settings.get(info.requires)):
            continue
        if name == "codebook" and value:
            words.append(f"{option}={','.join(f'{level:.8g}' for level in value)}")
        elif info.kind == "list":
            words += [word for each in value for word in (option, str(each))]
        elif info.kind == "switch":
            changed = [option if value else f"--no-{option[2:]}"]
            words += changed if value != info.default else []
        else:
            words += [option, f"{value:g}" if isinstance(value, float) else str(value)]
    if results.config.get("trust_remote_code"):
        words.append("--trust-remote-code")
    note = ""
    if _needs_calibration(settings):
        calibration = results.config.get("calibration") or {}
        seed = (results.config.get("study") or {}).get("seed", 0)
        text = "synthetic" if calibration.get("synthetic") and seed == 0 else calibration.get("path")
        if text:
            words += ["--calibration", short_path(results, str(text))]
            for name in ("samples", "sequence_length"):
                if calibration.get(name) is not None:
                    words += [f"--{name.replace('_', '-')}", str(calibration[name])]
        else:
            note = "  # plus --calibration FILE with the study's calibration texts; `autotune export` finds them itself"
    return shlex.join(words) + note


def _needs_calibration(settings: Mapping[str, Any]) -> bool:
    return Settings.from_dict(settings).resolved(calibrated=True).needs_calibration


def export_command(results: StudyResults, number: int) -> str:
    """`autotune export DIR OUT --trial N`, which also brings the study's own texts and statistics."""
    folder = short_path(results, str(results.config.get("output", "DIR")))
    return shlex.join(["autotune", "export", folder, out_folder(results, number), "--trial", str(number)])


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
        for name in TOGGLES:
            words += [f"--{name.replace('_', '-')}"] if settings.get(name) else []
    note = ""
    if _needs_calibration(settings):
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
        arguments += [f"{name}=True" for name in TOGGLES if settings.get(name)]
        arguments.append(f"advanced_parameters=nncf.AdvancedCompressionParameters({_advanced(settings)})")
    if settings.get("ignored_scope"):
        patterns = ", ".join(repr(str(pattern)) for pattern in settings["ignored_scope"])
        arguments.append(f"ignored_scope=nncf.IgnoredScope(patterns=[{patterns}])")
        note = "NNCF's patterns match names of operations only, not of weights"
    if _needs_calibration(settings):
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
