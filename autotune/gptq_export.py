"""A GPTQ checkpoint of Hugging Face as an OpenVINO model: its integers, scales and zero points go into it as they are.

optimum-intel exports the model from a float copy of the checkpoint; then the integers take the place of the constants.
Where channels of one group are not consecutive (desc_act), weight and activation are permuted alike.
"""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autotune.compression.arrays import read_f32
from autotune.compression.graph import assemble
from autotune.compression.variants import Packed, Variant
from autotune.compression.weights import Weight, find_weights, rows_view
from autotune.errors import PrerequisiteError
from autotune.gptq_checkpoint import PARTS, Checkpoint, Layer

if TYPE_CHECKING:
    import openvino as ov
    import torch

__all__ = ["keep_integers", "write_float_copy"]

log = logging.getLogger(__name__)


def write_float_copy(checkpoint: Checkpoint, out: Path) -> None:
    """Write the model that the checkpoint stands for with float weights, in the type of its scales.

    Args:
        checkpoint: the model.
        out: an empty folder.
    """
    import torch
    from safetensors.torch import save_file

    for file in checkpoint.folder.iterdir():
        if file.is_file() and file.suffix not in (".safetensors", ".bin", ".pt") and ".index." not in file.name:
            shutil.copyfile(file, out / file.name)
    (out / "config.json").write_text(json.dumps(checkpoint.float_config, indent=2), encoding="utf-8")
    layers = set(checkpoint.layers)
    weight_map: dict[str, str] = {}
    for number, names in enumerate(checkpoint.stored_in().values()):
        tensors: dict[str, torch.Tensor] = {}
        for name in names:
            layer, _, part = name.rpartition(".")
            if layer not in layers or part not in PARTS:
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
    """A copy of the exported float model in which the checkpoint's integers are the weights.

    Raises:
        PrerequisiteError: the exported model does not have a layer of the checkpoint as a weight of its own.
    """
    weights = find_weights(model)
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"}
    compressed: list[tuple[Weight, Variant, Packed]] = []
    permuted: list[tuple[Weight, npt.NDArray[np.int64]]] = []
    rounded: list[str] = []
    for name in checkpoint.layers:
        layer = checkpoint.layer(name)
        # optimum-intel calls the constant X.weight, or X._openvino_orig_weight where the model is in 16 bits.
        weight = next((w for w in weights if f".{w.name.rpartition('.')[0]}".endswith(f".{name}")), None)
        if weight is None or len(weight.uses) != 1 or not _stands_for(nodes[weight.name], weight, layer):
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
        log.warning(
            "%d layers have scales that float16 does not hold exactly and are rounded to it: %s ...",
            len(rounded),
            rounded[0],
        )
    kept = assemble(
        model, compressed, {}, {}, {"gptq_checkpoint": f"integers, scales and zero points of {len(compressed)}"}
    )
    _permute_activations(kept, permuted)
    return kept


def _stands_for(node: ov.Node, weight: Weight, layer: Layer) -> bool:
    """Whether a constant of the exported model has a layer's values, but for the rounding of the float copy."""
    values = layer.values
    if (weight.rows, weight.columns) != values.shape:
        return False
    return bool(np.allclose(rows_view(read_f32(node), weight), values, rtol=1e-2, atol=1e-6 * np.abs(values).max()))


def _permute_activations(model: ov.Model, permuted: list[tuple[Weight, npt.NDArray[np.int64]]]) -> None:
    """Put the channels that feed these weights into their order, once for all weights with one input and one order."""
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
