"""Check that a Hugging Face folder can be exported and that its tensors fill the model, without reading weights."""

from __future__ import annotations

import logging
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from autotune.errors import ConfigError, reason
from autotune.models.checkpoint import CONFIG, StoredTensor, quantization, some
from autotune.models.tasks.task import Task

_log = logging.getLogger(__name__)

_QUANTIZED_TYPES = {"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64", "F4", "F8_E4M3", "F8_E5M2", "F8_E8M0"}
_SCALES = ("qweight", "weight_scale", "weight_packed", "weight_scale_inv", "absmax", "quant_map", "scales")
_CLASSIFIERS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice")
_dropping = threading.Lock()
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def first_lines(error: Exception) -> str:
    """Return the reason of an error; the line after it, too, if it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{lines[0]} {lines[1]}"[:300] if len(lines) > 1 and lines[0].endswith(":") else reason(error)


def check_tensors(
    folder: Path, config: Any, tensors: Mapping[str, StoredTensor], task: Task, *, trust_remote_code: bool
) -> None:
    """Compare the tensors of a checkpoint with those of its model class, as transformers matches them.

    transformers fills what is missing with random numbers; such a model would be exported without an error.

    Args:
        folder: the Hugging Face folder.
        config: its configuration.
        tensors: its tensors by name; empty if they are not in safetensors files.
        task: chooses the class.
        trust_remote_code: whether code that comes with the model may run.

    Raises:
        ConfigError: tensors are missing, have another shape, or belong to no part of the model.
    """
    raw = config.to_dict()
    if quantization(raw) is not None:
        return  # the names are those of the quantizer, which replaces parts of the model
    quantized = [key for key, tensor in tensors.items() if _is_quantized(key, tensor)]
    if quantized:
        kinds = ", ".join(sorted({tensors[key].dtype for key in quantized}))
        verb = "is" if len(quantized) == 1 else "are"
        raise ConfigError(
            f"{folder}: {some(quantized)} {verb} stored as {kinds}, as in a quantized checkpoint, and "
            f"{CONFIG} has no quantization_config, without which their values have no scale. Take "
            f"{CONFIG} of the quantized model, or name the original model.",
            key="model",
        )
    info = _loading_info(folder, config, tensors, task, trust_remote_code=trust_remote_code)
    if info is None:
        return
    missing = sorted(key for key in info["missing_keys"] if not key.startswith(task.unused))
    unexpected = sorted(
        key
        for key in info["unexpected_keys"]
        if not _is_harmless(key, tensors.get(key)) and not key.startswith(task.unused)
    )
    mismatched = sorted(
        (f"{key} ({list(stored)} in the file, {list(expected)} in the model)")
        for key, stored, expected in info["mismatched_keys"]
    )
    counted = ((missing, "missing from the checkpoint"), (mismatched, "of another shape"), (unexpected, "not used"))
    found = [
        f"{len(keys)} {'tensor is' if len(keys) == 1 else 'tensors are'} {what}: {some(keys)}"
        for keys, what in counted
        if keys
    ]
    if not found:
        return
    looks = _diagnose(raw, missing, unexpected, mismatched=bool(mismatched))
    raise ConfigError(
        f"{folder}: the weights do not fit the {config.model_type} model that {CONFIG} describes, so that the "
        f"exported model would not be the original. {'; '.join(found)}. {looks}",
        key="model",
    )


def _loading_info(
    folder: Path, config: Any, tensors: Mapping[str, StoredTensor], task: Task, *, trust_remote_code: bool
) -> Any:
    """Return which keys transformers misses and does not use; None if code of the model cannot be loaded so."""
    from optimum.exporters.tasks import TasksManager

    try:
        with quiet():
            make = TasksManager.get_model_class_for_task(
                task.export_task, model_type=config.model_type, library="transformers"
            )
            return make.from_pretrained(
                folder,
                device_map="meta",
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                trust_remote_code=trust_remote_code,
            )[1]
    except Exception as error:
        if trust_remote_code:  # such code may not support a model without weights
            _log.warning(
                "%s: its tensors cannot be compared with its model class (%s); check the scores of the original",
                folder,
                reason(error),
            )
            return None
        raise _cannot_build(folder, tensors, error) from error


def _cannot_build(folder: Path, tensors: Mapping[str, StoredTensor], error: Exception) -> ConfigError:
    """Explain why transformers could not build the model: damaged or missing tensors, or a wrong configuration."""
    if type(error).__name__ == "UnpicklingError":
        return ConfigError(
            f"{folder}: the checkpoint holds other Python objects than tensors, which may run code when they are "
            "loaded, or it is damaged. Use the model's safetensors files, or download it from a source that you trust.",
            key="model",
        )
    if odd := _odd_shapes(tensors):
        return ConfigError(
            f"{folder}: the checkpoint is damaged: {some(odd)}, other than most tensors of this name in other "
            "layers or experts. Download it again.",
            key="model",
        )
    if absent := _absent(tensors):
        verb = "is" if len(absent) == 1 else "are"
        return ConfigError(
            f"{folder}: the checkpoint is incomplete: {some(absent)} {verb} missing, "
            "and the same tensors of other layers or experts are there. Download it again.",
            key="model",
        )
    return ConfigError(
        f"transformers cannot build the model that this file describes ({first_lines(error)}). Download it "
        "again, or correct it if you edited it.",
        file=folder / CONFIG,
    )


def _odd_shapes(tensors: Mapping[str, StoredTensor]) -> list[str]:
    """Describe tensors whose shape is not the most frequent one of the same name in other layers and experts."""
    shapes: dict[str, Counter[tuple[int, ...]]] = {}
    for name, tensor in tensors.items():
        shapes.setdefault(_NUMBER.sub("{}", name), Counter())[tensor.shape] += 1
    usual = {pattern: counts.most_common(1)[0][0] for pattern, counts in shapes.items()}
    return [
        f"{name} has the shape {list(tensor.shape)}"
        for name, tensor in sorted(tensors.items())
        if tensor.shape != usual[_NUMBER.sub("{}", name)]
    ]


def _absent(names: Iterable[str]) -> list[str]:
    """Return names that are missing in a checkpoint where each layer has the same number of experts."""
    places: dict[str, set[tuple[str, ...]]] = {}
    for name in names:
        places.setdefault(_NUMBER.sub("{}", name), set()).add(tuple(_NUMBER.findall(name)))
    absent = [
        pattern.format(*place)
        for pattern, found in places.items()
        if len(next(iter(found))) == 2  # layer and expert
        for place in sorted(set(product(*map(set, zip(*found, strict=True)))) - found)
    ]
    return sorted(absent)


def _is_quantized(key: str, tensor: StoredTensor) -> bool:
    """Return True for a matrix in a type that no float model is stored in."""
    return tensor.dtype in _QUANTIZED_TYPES and len(tensor.shape) > 1 and not _is_harmless(key, tensor)


def _is_harmless(key: str, tensor: StoredTensor | None) -> bool:
    """Return True for buffers that older versions of transformers saved and newer ones compute."""
    if key.endswith(("rotary_emb.inv_freq", "masked_bias", "position_ids")):
        return True
    # A causal mask; the bias of a layer has one dimension.
    return key.endswith(("attn.bias", "attention.bias")) and tensor is not None and len(tensor.shape) == 4


def _diagnose(
    config: Mapping[str, Any],
    missing: Sequence[str],
    unexpected: Sequence[str],
    *,
    mismatched: bool,
) -> str:
    """Say what such a checkpoint looks like, and what to do."""
    if scales := [key for key in unexpected if key.endswith(_SCALES)]:
        return (
            f"It looks like a quantized checkpoint ({some(scales, 1)}) whose {CONFIG} has no quantization_config: "
            f"take {CONFIG} of the quantized model, or name the original model."
        )
    kind = next((str(name) for name in config.get("architectures") or () if str(name).endswith(_CLASSIFIERS)), None)
    if kind is not None:
        return f"It is a {kind}, which has no language model head: name the causal language model it was made from."
    renamed = _renamed(missing, unexpected)
    if renamed is not None:
        return (
            "It looks like a checkpoint of another class or of a training wrapper, whose names have another prefix: "
            f"{renamed[0]} should be {renamed[1]}. Save the inner model with `save_pretrained`, or rename the tensors."
        )
    if mismatched and not (missing and unexpected):
        return f"It looks like {CONFIG} of another size of the model: take the file that belongs to the weights."
    if missing and not unexpected:
        return "It looks like an incomplete download or a partial save: download or save the whole model again."
    if unexpected and not missing:
        return (
            f"It looks like {CONFIG} of another model (too few layers, or another class), or a checkpoint with extra "
            "parts: take the file that belongs to the weights, or save the model again with `save_pretrained`."
        )
    return f"It looks like {CONFIG} of another architecture: take the file that belongs to the weights."


def _renamed(missing: Sequence[str], unexpected: Sequence[str]) -> tuple[str, str] | None:
    """Find (their name, the expected name) of a tensor if most missing tensors are there under another prefix."""
    for ours in missing[:3] if unexpected else ():
        foreign = max(unexpected, key=lambda key: len(_common_end(key, ours)))
        end = len(_common_end(foreign, ours))
        before, prefix = foreign[: len(foreign) - end], ours[: len(ours) - end]
        renamed = {prefix + key[len(before) :] for key in unexpected if key.startswith(before)}
        if 2 * len(renamed & set(missing)) > len(missing):
            return foreign, ours
    return None


def _common_end(one: str, two: str) -> str:
    length = 0
    while length < min(len(one), len(two)) and one[-1 - length] == two[-1 - length]:
        length += 1
    return one[len(one) - length :]


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and progress bars of transformers and optimum-intel, which do not concern users of autotune."""
    import warnings

    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("optimum").setLevel(logging.ERROR)
    # OpenVINO logs an error where it traces a model in another way than the first it tries.
    logging.getLogger("openvino.frontend.pytorch.utils").setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _library_output_dropped():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


@contextmanager
def _library_output_dropped() -> Iterator[None]:
    """Drop what libraries write to the process's stdout, where results go.

    The package tokenizers prints the holes of a vocabulary there: one number for each missing token.
    """
    if not _dropping.acquire(blocking=False):  # already dropped, by a caller or another thread, which restores it
        yield
        return
    sys.stdout.flush()
    saved, null = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 1)
        yield
    finally:
        sys.stdout.flush()
        os.dup2(saved, 1)
        os.close(saved)
        os.close(null)
        _dropping.release()
