"""Commands that rebuild a trial's model: with autotune, and with optimum-cli or NNCF if they have an equivalent."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.common.formatting import without_password
from autotune.compression.settings import ALGORITHMS, INT8_MODES, MIXED, OUTPUT_ERROR, SETTINGS, Settings
from autotune.reporting.text.places import relative_path
from autotune.results.records import StudyResults

TOGGLES = ("all_layers", *ALGORITHMS)


def compress_command(results: StudyResults, number: int) -> str:
    """Return `autotune compress ...` with the settings of a trial, to run in the study's folder; it reads no study.

    It is `export_command` if `compress` cannot build the model: with a budget, which needs the study's measurements,
    with calibration texts that are no file, and with files whose paths would reveal the author's folders.
    """
    settings = results.records[number].settings
    model = relative_path(str(results.config.get("model", "MODEL")), results.folder)
    if settings.get("allocation", "ratio") != "ratio" or model is None:
        return export_command(results, number)
    words = ["autotune", "compress", model, f"models/trial-{number}"]
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
    if _needs_calibration(settings):
        calibration = results.config.get("calibration") or {}
        seed = (results.config.get("study") or {}).get("seed", 0)
        text = "synthetic" if calibration.get("synthetic") and seed == 0 else calibration.get("path")
        text = text and relative_path(str(text), results.folder)
        if not text:
            return export_command(results, number)
        words += ["--calibration", text]
        for name in ("samples", "sequence_length"):
            if calibration.get(name) is not None:
                words += [f"--{name.replace('_', '-')}", str(calibration[name])]
    return shlex.join(words)


def export_command(results: StudyResults, number: int, *, here: Path | None = None) -> str:
    """Return `autotune export DIR OUT --trial N`, which uses the study's own texts and statistics.

    Args:
        results: the study.
        number: of the trial.
        here: the current folder of the shell that the command is printed in: paths inside it are relative to it. None
            is a file of the study, whose commands run in the study's folder and name no other folder.
    """
    study = "." if here is None else _relative(_study_folder(results), here)
    out = str(Path(study) / "models" / f"trial-{number}")
    return shlex.join(["autotune", "export", study, out, "--trial", str(number)]) + _storage_option(results, here)


def _storage_option(results: StudyResults, here: Path | None) -> str:
    """Return ``--storage URL`` for a study that is not in its folder; a password is not repeated."""
    if results.storage is None:
        return ""
    url = without_password(results.storage)
    note = "  # replace PASSWORD" if url != results.storage else ""
    scheme, file = url.partition("///")[::2]
    if here is None and scheme == "sqlite:" and Path(file).is_absolute():
        path = relative_path(file, results.folder)
        url = f"sqlite:///{path or Path('FOLDER', Path(file).name)}"
        note = "" if path else "  # replace FOLDER"
    return f" --storage {shlex.quote(url)}{note}"


def _needs_calibration(settings: Mapping[str, Any]) -> bool:
    """Return True if the model depends on the calibration texts."""
    return Settings.from_dict(settings).resolved(calibrated=True).needs_calibration


def _study_folder(results: StudyResults) -> str:
    return str(results.config.get("output", "DIR") if results.folder is None else results.folder)


def _relative(path: str, here: Path) -> str:
    inside = Path(path).is_absolute() and Path(path).is_relative_to(here)
    return Path(path).relative_to(here).as_posix() if inside else path


WEIGHT_FORMATS = {
    "int8_asym": ("int8", False),
    "int8_sym": ("int8", True),
    "int4_asym": ("int4", False),
    "int4_sym": ("int4", True),
    "nf4": ("nf4", False),
}
"""Mode -> (optimum-cli's --weight-format, whether with --sym)."""


@dataclass(frozen=True, slots=True)
class Equivalent:
    """A call with what differs as `note`; or None with the reason as `note`."""

    call: str | None
    note: str = ""


def _no_equivalent(settings: Mapping[str, Any]) -> str | None:
    """Return why neither tool has such settings; None if they have."""
    if settings.get("distillation"):
        return "neither tool trains a model's scales after the compression"
    mode = settings.get("mode")
    if settings.get("allocation") == "candidate":
        return "the model comes from another tool, and its settings are unknown"
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
    """Return ``optimum-cli export openvino ...``.

    Args:
        model: hub id or folder.
        settings: as `compression.settings.Settings.as_dict` returns them, defaults resolved.
        out: folder of the model.
    """
    why = _no_equivalent(settings)
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
        words += [f"--{name.replace('_', '-')}" for name in TOGGLES if settings.get(name)]
    note = ""
    if _needs_calibration(settings):
        words += ["--dataset", "wikitext2"]
        note = "optimum-cli takes named datasets only, so its calibration text is another one"
    return Equivalent(shlex.join([*words, out]), note)


def nncf_call(settings: Mapping[str, Any]) -> Equivalent:
    """Return ``nncf.compress_weights(...)`` on a ``model`` and, if it is needed, a ``dataset``."""
    why = _no_equivalent(settings)
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
