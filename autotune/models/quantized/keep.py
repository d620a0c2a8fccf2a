"""Replace the weights of an exported float model by the codes of the checkpoint that it was made of."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from autotune.compression.ir.assemble import assemble
from autotune.compression.ir.constants import read_f32
from autotune.compression.ir.layout import Packed, Variant
from autotune.compression.ir.weights import Weight, find_weights, rows_view
from autotune.models.checkpoint import some
from autotune.models.quantized.checkpoint import Checkpoint
from autotune.models.quantized.layer import Layer

if TYPE_CHECKING:
    import openvino as ov

_log = logging.getLogger(__name__)


def keep_codes(model: ov.Model, checkpoint: Checkpoint) -> ov.Model:
    """Return a copy of the exported float model whose weights are the checkpoint's codes.

    Scales are stored in float16 if that holds them exactly, else in float32. If the channels of a group are not
    consecutive (GPTQ with desc_act), weight and activation are permuted alike. A layer that is not one weight of the
    exported model, such as an expert of a fused mixture, keeps its dequantized values in float.
    """
    weights = find_weights(model)
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"}
    compressed: list[tuple[Weight, Variant, Packed]] = []
    permuted: list[tuple[Weight, npt.NDArray[np.int64]]] = []
    floats: list[str] = []
    for name in checkpoint.layers:
        layer = checkpoint.layer(name)
        # optimum-intel names the constant X.weight, or X._openvino_orig_weight if the model is in 16 bits.
        weight = next((w for w in weights if f".{w.name.rpartition('.')[0]}".endswith(f".{name}")), None)
        if weight is None or len(weight.uses) != 1 or not _equals(nodes[weight.name], weight, layer):
            floats.append(name)
            continue
        compressed.append((weight, layer.variant, layer.packed(weight)))
        if layer.order is not None:
            permuted.append((weight, layer.order))
    if floats:
        _log.warning(
            "%s: %d of %d quantized layers are not single weights of the exported model, and stay in float with their "
            "dequantized values: %s",
            checkpoint.folder,
            len(floats),
            len(checkpoint.layers),
            some(floats),
        )
    record = {"kept_codes": f"codes, scales and zero points of {len(compressed)} layers of the checkpoint"}
    kept = assemble(model, compressed, {}, {}, record)
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
