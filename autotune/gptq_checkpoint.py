"""GPTQ checkpoints of Hugging Face, read from their safetensors files.

A quantized layer X of such a checkpoint has, in the place of X.weight [N, K] and for b bits:

    X.qweight  int32 [K b / 32, N]   the codes, packed along K, first one lowest
    X.qzeros   int32 [G, N b / 32]   the zero points, packed along N; less one, unless checkpoint_format is gptq_v2
    X.scales   float [G, N]
    X.g_idx    int32 [K]             the group of each input channel; absent where groups are consecutive channels

and stands for W[n, k] = scales[g, n] (code[k, n] - zero[g, n]) with g = g_idx[k].

`gptq_export` brings such a model into OpenVINO's form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats import FORMATS, Array, Codes, pack
from autotune.compression.variants import Packed, Variant
from autotune.compression.weights import Weight, rows_to_shape
from autotune.errors import PrerequisiteError
from autotune.hub import hub_advice

if TYPE_CHECKING:
    import torch

__all__ = ["PARTS", "Checkpoint", "Layer", "find_checkpoint"]

CONFIG = "config.json"
QUANTIZATION = "quantization_config"
BITS = (4, 8)
PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class Layer:
    """One quantized layer.

    Attributes:
        codes: uint8 [N, K], channels of one group side by side.
        scales: float32 [N, G].
        zeros: uint8 [N, G].
        order: int64 [K], the channel that stands at each place; None where they stand as they are.
        bits: 4 or 8.
    """

    codes: Codes
    scales: Array
    zeros: Codes
    order: npt.NDArray[np.int64] | None
    bits: int

    @property
    def values(self) -> Array:
        """The weight, float32 [N, K], channels as they are."""
        rows, groups = self.scales.shape
        levels = self.codes.reshape(rows, groups, -1).astype(np.float32) - self.zeros[..., None]
        values = (levels * self.scales[..., None]).reshape(rows, -1)
        return values if self.order is None else values[:, np.argsort(self.order)]

    @property
    def variant(self) -> Variant:
        """The variant that it is in: symmetric where every zero point is the middle code."""
        groups = self.scales.shape[1]
        symmetric = bool((self.zeros == 1 << (self.bits - 1)).all())
        group_size = -1 if groups == 1 else self.codes.shape[1] // groups
        return Variant(f"int{self.bits}_{'sym' if symmetric else 'asym'}", group_size)

    def packed(self, weight: Weight) -> Packed:
        """The constants of `weight` in `variant`."""
        rows, groups = self.scales.shape
        asymmetric = FORMATS[self.variant.mode].has_zero_point
        # A code less the middle one is, in two's complement, the code with its highest bit turned.
        codes = self.codes if asymmetric else self.codes ^ np.uint8(1 << (self.bits - 1))
        scales = self.scales.astype(np.float16).reshape(rows, groups, 1)
        parts = {
            "weight": pack(rows_to_shape(codes.reshape(rows, groups, -1), weight)[0], self.bits),
            "scale": np.ascontiguousarray(rows_to_shape(scales, weight)[0]).reshape(-1).view(np.uint8),
        }
        if asymmetric:
            parts["zero_point"] = pack(rows_to_shape(self.zeros[..., None], weight)[0], self.bits)
        return parts


@dataclass(frozen=True)
class Checkpoint:
    """A folder with config.json and safetensors files of a GPTQ model.

    Attributes:
        folder: where they are.
        config: its config.json.
    """

    folder: Path
    config: Mapping[str, Any]
    _files: Mapping[str, Path] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint | None:
        """Look at a folder; None where it is not a GPTQ checkpoint.

        Raises:
            PrerequisiteError: its bits are not supported, or its weights are not in safetensors files.
        """
        from safetensors import safe_open

        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if not _is_gptq(config):
            return None
        bits = config[QUANTIZATION].get("bits")
        if bits not in BITS:
            raise PrerequisiteError(
                f"{folder / CONFIG}: a GPTQ checkpoint of {bits} bits; only 4 and 8 bits can be kept as they are: name "
                "the original model instead"
            )
        files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(  # type: ignore[no-untyped-call]
                file, framework="pt"
            ) as tensors:
                files |= dict.fromkeys(tensors.keys(), file)
        if not any(name.endswith(".qweight") for name in files):
            raise PrerequisiteError(
                f"{folder}: config.json says GPTQ, but no safetensors file holds a qweight; save the checkpoint anew "
                "with save_pretrained, which writes safetensors"
            )
        return cls(folder, config, files)

    @property
    def float_config(self) -> dict[str, Any]:
        """Its config.json without the quantization."""
        return {key: value for key, value in self.config.items() if key != QUANTIZATION}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the quantized layers."""
        return tuple(name.removesuffix(".qweight") for name in self._files if name.endswith(".qweight"))

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor as it is stored.

        Raises:
            PrerequisiteError: there is none of this name.
        """
        from safetensors import safe_open

        if name not in self._files:
            raise PrerequisiteError(f"{self.folder}: the tensor {name} is missing; download the checkpoint again")
        with safe_open(  # type: ignore[no-untyped-call]
            self._files[name], framework="pt"
        ) as tensors:
            found: torch.Tensor = tensors.get_tensor(name)
        return found

    def layer(self, name: str) -> Layer:
        """Read one quantized layer.

        Raises:
            PrerequisiteError: its tensors do not fit each other, or its groups are of different sizes.
        """
        bits = int(self.config[QUANTIZATION]["bits"])
        codes = _unpack(self.tensor(f"{name}.qweight").numpy().T, bits)  # [N, K]
        scales = self.tensor(f"{name}.scales").float().numpy().T  # [N, G]
        zeros = _unpack(self.tensor(f"{name}.qzeros").numpy(), bits).T  # [N, G]
        rows, columns, groups = *codes.shape, scales.shape[1]
        if self.config[QUANTIZATION].get("checkpoint_format", "gptq") != "gptq_v2":
            # Zero points are stored less one, and a zero wraps around.
            zeros = (zeros + np.uint8(1)) & np.uint8((1 << bits) - 1)
        of_channel = np.arange(columns) * groups // columns
        if f"{name}.g_idx" in self._files:
            of_channel = self.tensor(f"{name}.g_idx").numpy().astype(np.int64)
        equal = (
            len(of_channel) == columns
            and np.bincount(of_channel, minlength=groups).tolist() == [columns // groups] * groups
        )
        if not equal or zeros.shape != scales.shape or len(scales) != rows:
            raise PrerequisiteError(
                f"{self.folder}: the tensors of {name} are not those of {bits}-bit GPTQ with groups of equal size "
                f"(qweight {rows} x {columns}, scales {scales.shape[0]} x {groups}); name the original model instead"
            )
        order = np.argsort(of_channel, kind="stable")
        in_order = bool((order == np.arange(columns)).all())
        return Layer(
            codes=codes if in_order else codes[:, order],
            scales=np.ascontiguousarray(scales),
            zeros=np.ascontiguousarray(zeros),
            order=None if in_order else order,
            bits=bits,
        )

    def stored_in(self) -> dict[Path, list[str]]:
        """The tensors of each file."""
        names: dict[Path, list[str]] = {}
        for name, file in self._files.items():
            names.setdefault(file, []).append(name)
        return names


def _is_gptq(config: Mapping[str, Any]) -> bool:
    return (config.get(QUANTIZATION) or {}).get("quant_method") == "gptq"


def find_checkpoint(model: str) -> Checkpoint | None:
    """The GPTQ checkpoint that a folder or a hub id names; None for everything else.

    Raises:
        PrerequisiteError: it is one that cannot be kept as it is, or it cannot be downloaded.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return Checkpoint.open(folder)
    from huggingface_hub import hf_hub_download, snapshot_download

    try:
        config = json.loads(Path(hf_hub_download(model, CONFIG)).read_text(encoding="utf-8"))
    except Exception:
        return None  # the export will say what is wrong with it
    if not _is_gptq(config):
        return None
    try:
        folder = Path(snapshot_download(model, ignore_patterns=["*.bin", "*.pt", "*.pth", "*.gguf"]))
    except Exception as error:
        raise PrerequisiteError(f"the model {model} {hub_advice(model, error)}") from error
    return Checkpoint.open(folder)


def _unpack(words: npt.NDArray[np.int32], bits: int) -> Codes:
    """The codes in each row of 32-bit words, the first in the lowest bits: uint8 [n, m * 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = (unsigned[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)
