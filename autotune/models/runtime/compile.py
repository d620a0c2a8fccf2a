"""Compilation of a model for a device, with checks of its precision and of its logits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.threads import thread_limit
from autotune.errors import EvaluationError
from autotune.evaluation import SCORING_CONFIG
from autotune.models.companions import main_file

if TYPE_CHECKING:
    import openvino as ov

    from autotune.evaluation import FloatArray


def end_token_ids(folder: Path | None, tokenizer: Any) -> tuple[int, ...]:
    """Return the ids of the tokens that end an answer.

    They come from `generation_config.json` of the model's folder, else its `config.json`, else the tokenizer; empty if
    none of them names one.
    """
    for name in ("generation_config.json", "config.json"):
        if folder is None or not (folder / name).is_file():
            continue
        found = json.loads((folder / name).read_text(encoding="utf-8")).get("eos_token_id")
        if found is not None:
            return tuple(found) if isinstance(found, list) else (int(found),)
    found = getattr(tokenizer, "eos_token_id", None)
    return () if found is None else (int(found),)


def scoring_properties(ov_config: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return `SCORING_CONFIG` updated by `ov_config`; a value of None leaves a property to OpenVINO and the model."""
    return {key: value for key, value in {**SCORING_CONFIG, **(ov_config or {})}.items() if value is not None}


@cache
def core() -> Any:
    """Return the OpenVINO core of this process."""
    import openvino as ov

    return ov.Core()


def xml_path(path: Path) -> Path:
    """Return the .xml file of a model's folder; a path that is not a folder is returned unchanged."""
    return main_file(path) if path.is_dir() else path


def read_model(path: Path, name: str) -> ov.Model:
    """Read the model in an .xml file.

    Raises:
        EvaluationError: the file is missing or not a model.
    """
    if not path.is_file():
        raise EvaluationError(f"{name} does not exist; give the folder or the .xml file of an OpenVINO model.")
    try:
        return core().read_model(path)
    except RuntimeError as error:
        raise EvaluationError(f"{name} cannot be read as an OpenVINO model: {last_line(error)}") from error


def compile_model(model: ov.Model, name: str, device: str, config: Mapping[str, Any]) -> Any:
    """Compile a model.

    Raises:
        EvaluationError: it cannot be compiled with these properties.
    """
    try:
        return core().compile_model(model, device, dict(config))
    except RuntimeError as error:
        properties = ", ".join(f"{key}={value}" for key, value in config.items())
        raise EvaluationError(
            f"{name} cannot be compiled for device {device} with {properties}: {last_line(error)} "
            "Check runtime.device and runtime.ov_config."
        ) from error


def thread_share(device: str) -> dict[str, Any]:
    """Return the properties of a process that may use some of the cores; they change times and no bits of a score."""
    threads = thread_limit()
    if threads is None or device != "CPU":
        return {}
    # OpenVINO binds its threads to the first cores, which are the same ones in every worker.
    return {"INFERENCE_NUM_THREADS": threads, "ENABLE_CPU_PINNING": False}


def effective_properties(compiled: Any, device: str, config: Mapping[str, Any]) -> dict[str, str]:
    """Read back the properties of `config`, those of `SCORING_CONFIG` and a few more, in OpenVINO's spelling."""
    import openvino as ov

    properties = {"DEVICE": device, "OPENVINO_VERSION": ov.get_version()}
    readers = {key: partial(compiled.get_property, key) for key in (*config, *SCORING_CONFIG, "INFERENCE_NUM_THREADS")}
    readers["FULL_DEVICE_NAME"] = partial(core().get_property, device, "FULL_DEVICE_NAME")
    for key, read in readers.items():
        # A property may be write-only, or unknown to this device.
        with suppress(RuntimeError):
            properties[key] = _as_text(read())
    return properties


def check_precision(properties: Mapping[str, str], device: str, config: Mapping[str, Any]) -> None:
    """Refuse a model that runs in another precision than requested: scores would contain its rounding errors.

    Args:
        properties: as `effective_properties` returns them.
        device: for the message.
        config: the requested properties.

    Raises:
        EvaluationError: a property of `SCORING_CONFIG` differs from `config`.
    """
    for key in SCORING_CONFIG:
        requested = _as_text(config.get(key))
        if key in config and key in properties and properties[key] != requested:
            raise EvaluationError(
                f"{key}={requested} was requested, but device {device} runs the model with {properties[key]}, so its "
                f"scores would not compare. Set runtime.ov_config.{key} to {properties[key]} if that is meant."
            )


def _as_text(value: Any) -> str:
    """Return a property's value in OpenVINO's spelling: f32, 0, LATENCY."""
    name = getattr(value, "get_type_name", None)
    return str(name()) if callable(name) else str(value)


def last_line(error: Exception) -> str:
    """Return the last line of a message: OpenVINO gives the cause there, after locations in its sources."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def check_finite(outputs: FloatArray, name: str, kind: str = "logits") -> FloatArray:
    """Return the outputs of a model unchanged after checking them.

    Raises:
        EvaluationError: a number is NaN or infinite.
    """
    # NaN propagates through min and max: two reductions suffice, without a mask of the array's size.
    if not (np.isfinite(outputs.min()) and np.isfinite(outputs.max())):
        raise EvaluationError(
            f"{name} returned NaN or infinite {kind}: the quantization error of a weight is too large, or the model "
            "overflows in the precision of runtime.ov_config."
        )
    return outputs
