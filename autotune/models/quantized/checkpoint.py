"""Files of a quantized checkpoint: its layers, and a float copy for the exporter.

optimum-intel exports the float copy (`write_float_copy`). Then `keep.keep_codes` replaces the exported constants by the
checkpoint's codes, scales and zero points.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.errors import PrerequisiteError
from autotune.models.checkpoint import CONFIG
from autotune.models.quantized.layer import Layer
from autotune.models.quantized.methods import packing_of
from autotune.models.quantized.packings import Packing

if TYPE_CHECKING:
    import torch

_QUANTIZATION = ("quantization_config", "quantization", "compression_config")
_UNUSED = ("k_scale", "v_scale", "q_scale")
"""Scales of a quantized KV cache, which a float model does not have."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json and safetensors files of a quantized model.

    Attributes:
        folder: the folder.
        config: content of config.json.
        packing: how its layers are stored.
    """

    folder: Path
    config: Mapping[str, Any]
    packing: Packing
    _files: Mapping[str, Path] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint | None:
        """Open a folder; None if transformers loads it as a float model.

        Raises:
            PrerequisiteError: its codes cannot be kept, or its weights are not in safetensors files.
        """
        from safetensors import safe_open

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        packing = packing_of(config, folder / CONFIG)
        if packing is None:
            return None
        files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(  # type: ignore[no-untyped-call]
                file, framework="pt"
            ) as tensors:
                files |= dict.fromkeys(tensors.keys(), file)
        if not any(name.endswith(f".{packing.marker}") for name in files):
            method = (config.get(_QUANTIZATION[0]) or {}).get("quant_method")
            raise PrerequisiteError(
                f"{folder}: {CONFIG} says {method}, but no safetensors file holds a {packing.marker}; save the "
                "checkpoint again with save_pretrained, which writes safetensors"
            )
        return cls(folder, config, packing, files)

    @property
    def float_config(self) -> dict[str, Any]:
        """Content of config.json without the quantization."""
        return {key: value for key, value in self.config.items() if key not in _QUANTIZATION}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the quantized layers."""
        marker = f".{self.packing.marker}"
        return tuple(name.removesuffix(marker) for name in self._files if name.endswith(marker))

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor as it is stored."""
        from safetensors import safe_open

        with safe_open(  # type: ignore[no-untyped-call]
            self._files[name], framework="pt"
        ) as tensors:
            found: torch.Tensor = tensors.get_tensor(name)
        return found

    def layer(self, name: str) -> Layer:
        """Read one quantized layer.

        Raises:
            PrerequisiteError: a tensor is missing, or its shapes or numbers are not those of the packing.
        """

        def read(part: str) -> npt.NDArray[Any] | None:
            return _as_numpy(self.tensor(f"{name}.{part}")) if f"{name}.{part}" in self._files else None

        try:
            return self.packing.read(read, self.config[_QUANTIZATION[0]])
        except (ValueError, KeyError, IndexError) as error:
            raise PrerequisiteError(
                f"{self.folder}: the layer {name} is not stored as {CONFIG} says ({error}): download the checkpoint "
                "again, or name the original model instead"
            ) from error

    def stored_in(self) -> dict[Path, list[str]]:
        """Return the names of the tensors in each file."""
        names: dict[Path, list[str]] = {}
        for name, file in self._files.items():
            names.setdefault(file, []).append(name)
        return names


def _as_numpy(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """Convert a tensor; floats become float32, E4M3 numbers their bits."""
    import torch

    if tensor.dtype == torch.float8_e4m3fn:
        return np.asarray(tensor.view(torch.uint8).numpy())
    return np.asarray((tensor.float() if tensor.is_floating_point() else tensor).numpy())


def write_float_copy(checkpoint: Checkpoint, out: Path) -> None:
    """Write the checkpoint as a model with float weights, in the type that its configuration names.

    Args:
        checkpoint: the model.
        out: an empty folder.
    """
    import torch
    from safetensors.torch import save_file

    for file in checkpoint.folder.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin", ".pt") and ".index." not in file.name:
            shutil.copyfile(file, out / file.name)
    config = checkpoint.float_config
    (out / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    declared = str(config.get("dtype") or config.get("torch_dtype") or "float16").removeprefix("torch.")
    kind = getattr(torch, declared)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(checkpoint.stored_in().values()):
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in _float_names(checkpoint, names):
            values = None if layer is None else torch.from_numpy(checkpoint.layer(layer).values)
            tensors[name] = checkpoint.tensor(name) if values is None else values.to(kind).contiguous()
        file_name = f"part-{number:05d}.safetensors"
        save_file(tensors, out / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file_name)
    index = {"metadata": {}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def _float_names(checkpoint: Checkpoint, names: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield the tensors of the float model for these of the checkpoint, each with the layer it is computed from."""
    layers, packing = set(checkpoint.layers), checkpoint.packing
    marker = f".{packing.marker}"
    parts = {f"{layer}.{part}" for layer in layers for part in packing.parts}
    for name in names:
        layer = name.removesuffix(marker)
        if name.endswith(marker) and layer in layers:
            yield f"{layer}.weight", layer
        elif name not in parts and name.rpartition(".")[2] not in _UNUSED:
            yield name, None
