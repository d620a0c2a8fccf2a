"""GPTQ checkpoints of Hugging Face, read and brought into OpenVINO's form without requantization.

A quantized layer X of such a checkpoint has, in place of X.weight [N, K], for b bits and G groups:

    X.qweight  int32 [K b / 32, N]   the codes, packed along K, the first in the lowest bits
    X.qzeros   int32 [G, N b / 32]   the zero points, packed along N; less one, unless checkpoint_format is gptq_v2
    X.scales   float [G, N]
    X.g_idx    int32 [K]             the group of each input channel; absent if groups are consecutive channels

The weight is W[n, k] = scales[g, n] (code[k, n] - zero[g, n]) with g = g_idx[k].

optimum-intel exports a float copy of the checkpoint (`write_float_copy`). Then `keep_integers` replaces the exported
constants by the checkpoint's codes, scales and zero points. If the channels of a group are not consecutive (desc_act),
weight and activation are permuted alike.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.compression.formats.encoding import Array, Codes, pack
from autotune.compression.formats.table import FORMATS
from autotune.compression.ir.assemble import assemble
from autotune.compression.ir.constants import read_f32
from autotune.compression.ir.layout import Packed, Variant
from autotune.compression.ir.weights import Weight, find_weights, rows_to_shape, rows_view
from autotune.errors import PrerequisiteError

if TYPE_CHECKING:
    import openvino as ov
    import torch

_log = logging.getLogger(__name__)

_CONFIG = "config.json"
_QUANTIZATION = "quantization_config"
_BITS = (4, 8)
_PARTS = ("qweight", "qzeros", "scales", "g_idx")


@dataclass(frozen=True)
class Layer:
    """One quantized layer.

    Attributes:
        codes: uint8 [N, K], channels of one group side by side.
        scales: float32 [N, G].
        zeros: uint8 [N, G].
        order: int64 [K], the channel at each position of `codes`; None if channels keep their positions.
        bits: 4 or 8.
    """

    codes: Codes
    scales: Array
    zeros: Codes
    order: npt.NDArray[np.int64] | None
    bits: int

    @property
    def values(self) -> Array:
        """The dequantized weight, float32 [N, K], in the original order of channels."""
        rows, groups = self.scales.shape
        levels = self.codes.reshape(rows, groups, -1).astype(np.float32) - self.zeros[..., None]
        values = (levels * self.scales[..., None]).reshape(rows, -1)
        return values if self.order is None else values[:, np.argsort(self.order)]

    @property
    def variant(self) -> Variant:
        """The equivalent variant: symmetric if every zero point is the middle code."""
        groups = self.scales.shape[1]
        symmetric = bool((self.zeros == 1 << (self.bits - 1)).all())
        group_size = -1 if groups == 1 else self.codes.shape[1] // groups
        return Variant(f"int{self.bits}_{'sym' if symmetric else 'asym'}", group_size)

    def packed(self, weight: Weight) -> Packed:
        """Return the constants of `weight` in `variant`."""
        rows, groups = self.scales.shape
        asymmetric = FORMATS[self.variant.mode].has_zero_point
        # Subtracting the middle code flips, in two's complement, the highest bit.
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
        folder: the folder.
        config: content of config.json.
    """

    folder: Path
    config: Mapping[str, Any]
    _files: Mapping[str, Path] = field(repr=False)

    @classmethod
    def open(cls, folder: Path) -> Checkpoint | None:
        """Open a folder; None if it is not a GPTQ checkpoint.

        Raises:
            PrerequisiteError: its bits are not supported, or its weights are not in safetensors files.
        """
        from safetensors import safe_open

        config = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        if not _is_gptq(config):
            return None
        bits = config[_QUANTIZATION].get("bits")
        if bits not in _BITS:
            raise PrerequisiteError(
                f"{folder / _CONFIG}: a GPTQ checkpoint of {bits} bits; only 4 and 8 bits can be kept as they are: "
                "name the original model instead"
            )
        files: dict[str, Path] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(  # type: ignore[no-untyped-call]
                file, framework="pt"
            ) as tensors:
                files |= dict.fromkeys(tensors.keys(), file)
        if not any(name.endswith(".qweight") for name in files):
            raise PrerequisiteError(
                f"{folder}: config.json says GPTQ, but no safetensors file holds a qweight; save the checkpoint again "
                "with save_pretrained, which writes safetensors"
            )
        return cls(folder, config, files)

    @property
    def float_config(self) -> dict[str, Any]:
        """Content of config.json without the quantization."""
        return {key: value for key, value in self.config.items() if key != _QUANTIZATION}

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of the quantized layers."""
        return tuple(name.removesuffix(".qweight") for name in self._files if name.endswith(".qweight"))

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor as it is stored.

        Raises:
            PrerequisiteError: there is no tensor of this name.
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
            PrerequisiteError: the shapes of its tensors do not match, or its groups differ in size.
        """
        bits = int(self.config[_QUANTIZATION]["bits"])
        codes = _unpack(self.tensor(f"{name}.qweight").numpy().T, bits)  # [N, K]
        scales = self.tensor(f"{name}.scales").float().numpy().T  # [N, G]
        zeros = _unpack(self.tensor(f"{name}.qzeros").numpy(), bits).T  # [N, G]
        rows, columns, groups = *codes.shape, scales.shape[1]
        if self.config[_QUANTIZATION].get("checkpoint_format", "gptq") != "gptq_v2":
            # Zero points are stored less one; 0 is stored as the largest code.
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
        """Return the names of the tensors in each file."""
        names: dict[Path, list[str]] = {}
        for name, file in self._files.items():
            names.setdefault(file, []).append(name)
        return names


def _is_gptq(config: Mapping[str, Any]) -> bool:
    return (config.get(_QUANTIZATION) or {}).get("quant_method") == "gptq"


def _unpack(words: npt.NDArray[np.int32], bits: int) -> Codes:
    """Unpack the codes in each row of 32-bit words, the first in the lowest bits: uint8 [n, m * 32 / bits]."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    unsigned = np.ascontiguousarray(words).view(np.uint32)
    codes = (unsigned[..., None] >> shifts) & np.uint32((1 << bits) - 1)
    return codes.astype(np.uint8).reshape(len(words), -1)


def write_float_copy(checkpoint: Checkpoint, out: Path) -> None:
    """Write the checkpoint as a model with float weights, in the type of its scales.

    Args:
        checkpoint: the model.
        out: an empty folder.
    """
    import torch
    from safetensors.torch import save_file

    for file in checkpoint.folder.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin", ".pt") and ".index." not in file.name:
            shutil.copyfile(file, out / file.name)
    (out / _CONFIG).write_text(json.dumps(checkpoint.float_config, indent=2), encoding="utf-8")
    layers = set(checkpoint.layers)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(checkpoint.stored_in().values()):
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            layer, _, part = name.rpartition(".")
            if layer not in layers or part not in _PARTS:
                tensors[name] = checkpoint.tensor(name)
            elif part == "qweight":
                kind = checkpoint.tensor(f"{layer}.scales").dtype
                tensors[f"{layer}.weight"] = torch.from_numpy(checkpoint.layer(layer).values).to(kind).contiguous()
        file_name = f"part-{number:05d}.safetensors"
        save_file(tensors, out / file_name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file_name)
    index = {"metadata": {}, "weight_map": weight_map}
    (out / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


def keep_integers(model: ov.Model, checkpoint: Checkpoint) -> ov.Model:
    """Return a copy of the exported float model whose weights are the checkpoint's integers.

    Raises:
        PrerequisiteError: a layer of the checkpoint is not one weight of the exported model.
    """
    weights = find_weights(model)
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"}
    compressed: list[tuple[Weight, Variant, Packed]] = []
    permuted: list[tuple[Weight, npt.NDArray[np.int64]]] = []
    rounded: list[str] = []
    for name in checkpoint.layers:
        layer = checkpoint.layer(name)
        # optimum-intel names the constant X.weight, or X._openvino_orig_weight if the model is in 16 bits.
        weight = next((w for w in weights if f".{w.name.rpartition('.')[0]}".endswith(f".{name}")), None)
        if weight is None or len(weight.uses) != 1 or not _equals(nodes[weight.name], weight, layer):
            raise PrerequisiteError(
                f"{checkpoint.folder}: the exported model does not hold the layer {name} as one weight, so that its "
                "integers cannot be kept; name the original model instead"
            )
        if not np.array_equal(layer.scales.astype(np.float16).astype(np.float32), layer.scales):
            rounded.append(name)
        compressed.append((weight, layer.variant, layer.packed(weight)))
        if layer.order is not None:
            permuted.append((weight, layer.order))
    if rounded:
        _log.warning(
            "%d layers have scales that float16 does not hold exactly and are rounded to it: %s ...",
            len(rounded),
            rounded[0],
        )
    kept = assemble(
        model, compressed, {}, {}, {"gptq_checkpoint": f"integers, scales and zero points of {len(compressed)}"}
    )
    _permute_activations(kept, permuted)
    return kept


def _equals(node: ov.Node, weight: Weight, layer: Layer) -> bool:
    """Return True if an exported constant has the values of a layer, up to the rounding of the float copy."""
    values = layer.values
    if (weight.rows, weight.columns) != values.shape:
        return False
    return bool(np.allclose(rows_view(read_f32(node), weight), values, rtol=1e-2, atol=1e-6 * np.abs(values).max()))


def _permute_activations(model: ov.Model, permuted: list[tuple[Weight, npt.NDArray[np.int64]]]) -> None:
    """Permute the activations of these weights; weights with the same input and order share one Gather."""
    from openvino import opset15 as ops

    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    gathered: dict[tuple[str, int, bytes], ov.Node] = {}
    for weight, order in permuted:
        use = weight.uses[0]
        target = nodes[use.node].input(1 - use.port)
        source = target.get_source_output()
        key = (source.get_node().get_friendly_name(), source.get_index(), order.tobytes())
        if key not in gathered:
            gathered[key] = ops.gather(source, ops.constant(order.astype(np.int32)), ops.constant(np.int64(-1)))
            gathered[key].set_friendly_name(f"{use.node}/g_idx")
        target.replace_source_output(gathered[key].output(0))
    model.validate_nodes_and_infer_types()
