"""NaN and infinite values in the weights of an original model, found before they are blamed on compression."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.errors import ConfigError
from autotune.models.checkpoint import StoredTensor, some
from autotune.models.companions import main_file, part_files

if TYPE_CHECKING:
    import openvino as ov

_EXPONENTS: Mapping[str, tuple[type[np.unsignedinteger[Any]], int]] = {
    "f16": (np.uint16, 0x7C00),
    "bf16": (np.uint16, 0x7F80),
    "f32": (np.uint32, 0x7F800000),
    "f64": (np.uint64, 0x7FF0000000000000),
    "f8e4m3": (np.uint8, 0x7F),
    "f8e5m2": (np.uint8, 0x7C),
    "f8e8m0": (np.uint8, 0xFF),
}
"""Unsigned type of the same width, and the bits that are all set in a NaN or an infinity, and in no other number."""

_SAFETENSORS = {"F16": "f16", "BF16": "bf16", "F32": "f32", "F64": "f64", "F8_E4M3": "f8e4m3", "F8_E5M2": "f8e5m2"}
_CHUNK = 1 << 24


def count_not_finite(values: npt.NDArray[np.uint8], kind: str) -> int:
    """Count NaN and infinite numbers, in chunks that need little memory.

    Args:
        values: the bytes of the numbers.
        kind: their type in OpenVINO's short form; 0 is returned for types without such numbers.
    """
    if kind not in _EXPONENTS:
        return 0
    unsigned, mask = _EXPONENTS[kind]
    bits, exponent = values.view(unsigned), unsigned(mask)
    return sum(
        int(np.count_nonzero((bits[start : start + _CHUNK] & exponent) == exponent))
        for start in range(0, bits.size, _CHUNK)
    )


def check_stored(tensors: Mapping[str, StoredTensor], name: str) -> None:
    """Refuse a checkpoint in safetensors with NaN or infinite values; its files are memory-mapped.

    Raises:
        ConfigError: it has them.
    """
    mapped: dict[Path, npt.NDArray[np.uint8]] = {}
    found: list[tuple[str, int, int]] = []
    for key, tensor in tensors.items():
        kind = _SAFETENSORS.get(tensor.dtype)
        if kind is None or not tensor.size:
            continue
        if tensor.file not in mapped:
            mapped[tensor.file] = np.memmap(tensor.file, np.uint8, "r")
        values = mapped[tensor.file][tensor.offset : tensor.offset + tensor.size]
        count = count_not_finite(values, kind)
        if count:
            found.append((key, count, values.size // np.dtype(_EXPONENTS[kind][0]).itemsize))
    _refuse(name, found)


def check_model(model: ov.Model, name: str) -> None:
    """Refuse an OpenVINO model with NaN or infinite values in its constants.

    Raises:
        ConfigError: it has them.
    """
    from autotune.compression.ir.constants import raw_bytes, type_name

    found: list[tuple[str, int, int]] = []
    for node in _constants(model):
        kind = type_name(node)
        if kind not in _EXPONENTS:
            continue
        values = raw_bytes(node)
        count = count_not_finite(values, kind)
        if count and not _is_mask(values, kind):
            found.append((node.get_friendly_name(), count, values.size // np.dtype(_EXPONENTS[kind][0]).itemsize))
    _refuse(name, found)


def check_irs(folder: Path, name: str) -> None:
    """Check all IRs of an OpenVINO folder as `check_model` does.

    Raises:
        ConfigError: as `check_model`.
    """
    import openvino as ov

    for xml in (main_file(folder), *part_files(folder)):
        check_model(ov.Core().read_model(xml), name)


def _constants(model: ov.Model) -> Iterator[ov.Node]:
    for node in model.get_ordered_ops():
        if node.get_type_name() == "Constant":
            yield node
        for body in ("get_then_body", "get_else_body", "get_function"):  # of If, Loop and TensorIterator
            if hasattr(node, body):
                yield from _constants(getattr(node, body)())


def _is_mask(values: npt.NDArray[np.uint8], kind: str) -> bool:
    """Return True for an additive attention mask or its fill value: one infinity, and nothing else but zeros."""
    unsigned, exponent = _EXPONENTS[kind]
    sign = 1 << (8 * np.dtype(unsigned).itemsize - 1)
    found = {int(value) for value in np.unique(values.view(unsigned))}
    return not kind.startswith("f8") and (found <= {0, sign | exponent} or found <= {0, exponent})


def _refuse(name: str, found: list[tuple[str, int, int]]) -> None:
    if not found:
        return
    tensors = some(f"{tensor} ({count} of {size:,} values)" for tensor, count, size in found)
    number = "one tensor" if len(found) == 1 else f"{len(found)} tensors"
    raise ConfigError(
        f"{name}: the model has NaN or infinite values in {number}: {tensors}. No score can be compared with "
        "such a model: download it again, or take a checkpoint from before training diverged.",
        key="model",
    )
