"""Assembly of the compressed `ov.Model`; the source is not changed, and unchanged constants are shared.

The decompression patterns are the ones that OpenVINO's plugins fuse into their kernels, with NNCF's names:

    packed -> Convert(f16) -> [Subtract(Convert(f16)(zero point))] -> Multiply(scale) -> [Reshape] -> [Convert]

with Gather(Convert(f16)(codebook), indices) in place of the first step where there is a codebook. Scales of eight bits
are converted to float16 before the product, those of NVFP4 after a product with the second-order scale in float32.
With scales in float32, all steps are in float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.compression.formats.encoding import Array
from autotune.compression.ir.constants import constant, narrow, read_f32, type_name
from autotune.compression.ir.layout import Packed, Variant, layout
from autotune.compression.ir.weights import Use, Weight

if TYPE_CHECKING:
    import openvino as ov


def assemble(
    model: ov.Model,
    compressed: Iterable[tuple[Weight, Variant, Packed]],
    divided: Mapping[str, Array],
    inserted: Iterable[tuple[Sequence[Use], Array]],
    record: Mapping[str, Any],
) -> ov.Model:
    """Build the compressed model.

    Args:
        model: the original.
        compressed: weights with their variants and bytes.
        divided: constants (a norm's gain) with the float32 divisor of each element.
        inserted: MatMuls of one input, which is divided for them by a float32 [K] scale.
        record: plain data that describes the plan, written to the model's rt_info under ``autotune``.
    """
    copy = model.clone()
    constants = {n.get_friendly_name(): n for n in copy.get_ordered_ops() if n.get_type_name() == "Constant"}
    operations = {n.get_friendly_name(): n for n in copy.get_ordered_ops() if n.get_type_name() == "MatMul"}
    reshapes = {n.get_friendly_name(): n for n in copy.get_ordered_ops() if n.get_type_name() == "Reshape"}
    reshaped = False
    for uses, scale in inserted:
        _insert([operations[use.node].input(1 - use.port) for use in uses], scale)
    for weight, variant, packed in compressed:
        _replace(constants[weight.name], weight, variant, packed)
        for reshape in weight.reshapes:
            _bypass(reshapes[reshape])
            reshaped = True
        if variant.lora_rank:
            _add_adapters(operations[weight.uses[0].node], weight, variant, packed)
    for name, scale in divided.items():
        _divide(constants[name], scale)
    if reshaped:  # Otherwise no shape or type behind a replaced constant changes: there is nothing to infer.
        copy.validate_nodes_and_infer_types()
    for key, value in record.items():
        copy.set_rt_info(value if isinstance(value, str) else json.dumps(value, sort_keys=True), ["autotune", key])
    return copy


def _named(node: ov.Node, name: str) -> ov.Node:
    node.set_friendly_name(name)
    return node


def _decompression(weight: Weight, variant: Variant, packed: Packed) -> ov.Node:
    """Build the subgraph whose output is the weight in float16, or in float32 if its scales are."""
    from openvino import opset15 as ops

    parts = layout(weight, variant)
    constants = {
        name: constant(
            packed[name] if part.content is None else np.frombuffer(part.content, np.uint8),
            part.shape,
            part.element_type,
        )
        for name, part in parts.items()
    }
    name, port = weight.name, weight.uses[0].port
    kind = "f32" if parts["scale"].element_type == "f32" else "f16"
    # The new Constant takes the old one's name, which leaves the model with it.
    if "codebook" in parts:
        table = _convert(_named(constants["codebook"], name), kind)
        indices = _named(constants["weight"], f"{name}_nncf_codebook_idxs")
        if parts["weight"].element_type == "u4":
            indices = ops.convert(indices, np.uint8)
        node = _named(ops.gather(table, indices, constants["codebook_axis"]), f"{name}_nncf_codebook")
    else:
        node = _convert(_named(constants["weight"], name), kind)
    if "zero_point" in parts:
        zero = _named(constants["zero_point"], f"{name}/zero_point")
        node = _named(ops.subtract(node, _convert(zero, kind)), f"{name}/zero_point/subtract")
    scale = _named(constants["scale"], f"{name}/scale")
    if "second_order_scale" in parts:
        unit = _named(constants["second_order_scale"], f"{name}/second_order_scale")
        scale = _named(ops.multiply(ops.convert(scale, np.float32), unit), f"{name}/dequantized_scale_{port}")
    node = _named(ops.multiply(node, _convert(scale, kind)), f"{name}/fq_weights_{port}")
    if "shape" in parts:
        node = _named(ops.reshape(node, constants["shape"], special_zero=False), f"{name}/fq_weights_{port}/reshape")
    return node


def _convert(node: ov.Node, kind: str) -> ov.Node:
    from openvino import opset15 as ops

    return node if type_name(node) == kind else ops.convert(node, kind)


def _replace(old: ov.Node, weight: Weight, variant: Variant, packed: Packed) -> None:
    from openvino import opset15 as ops

    # The old name must be free before the new Constant takes it.
    old.set_friendly_name(f"{weight.name}/original")
    restored = _decompression(weight, variant, packed)
    converted = None
    for target in old.output(0).get_target_inputs():
        if type_name(old) == type_name(restored) or target.get_node().get_type_name() == "Convert":
            target.replace_source_output(restored.output(0))
            continue
        if converted is None:
            name = f"{weight.name}/fq_weights_{weight.uses[0].port}/convert"
            converted = _named(ops.convert(restored, old.get_element_type()), name)
        target.replace_source_output(converted.output(0))


def _bypass(node: ov.Node) -> None:
    """Connect the readers of a node's output to its first input."""
    for target in node.output(0).get_target_inputs():
        target.replace_source_output(node.input_value(0))


def _add_adapters(product: ov.Node, weight: Weight, variant: Variant, packed: Packed) -> None:
    """Replace y = x Wᵀ by y + (x Aᵀ) Bᵀ."""
    from openvino import opset15 as ops

    name = product.get_friendly_name()
    targets = list(product.output(0).get_target_inputs())
    parts = layout(weight, variant)
    output = product.input_value(1 - weight.uses[0].port)
    for adapter, label in (("lora_a", "lora_A"), ("lora_b", "lora_B")):
        codes, zero, scale = (
            constant(packed[part], parts[part].shape, parts[part].element_type)
            for part in (adapter, f"{adapter}_zero_point", f"{adapter}_scale")
        )
        _named(codes, f"{name}_{label}")
        _named(scale, f"{name}_{label}/scale")
        _named(zero, f"{name}_{label}/zero_point")
        levels = ops.subtract(ops.convert(codes, np.float16), ops.convert(zero, np.float16))
        restored = _named(ops.multiply(levels, scale), f"{name}_{label}/fq_weights_1")
        if output.get_element_type() != restored.get_output_element_type(0):
            restored = ops.convert(restored, output.get_element_type())
        output = _named(ops.matmul(output, restored, False, True), f"{name}/{label}").output(0)
    total = _named(ops.add(product, output), f"{name}/lora")
    for target in targets:
        target.replace_source_output(total.output(0))


def _insert(targets: Sequence[ov.Input], scale: Array) -> None:
    """Insert a Multiply by the inverse of a scale, in float16, before inputs that have one source."""
    from openvino import opset15 as ops

    source = targets[0].get_source_output()
    name = f"{source.get_node().get_friendly_name()}:{source.get_index()}/awq_mul"
    inverse = _named(ops.constant((1 / scale).astype(np.float16)), f"{name}/scale")
    if source.get_element_type() != inverse.get_output_element_type(0):
        inverse = ops.convert(inverse, source.get_element_type())
    product = _named(ops.multiply(source, inverse), name)
    for target in targets:
        target.replace_source_output(product.output(0))


def _divide(old: ov.Node, scale: Array) -> None:
    """Replace a constant by itself over a scale, in its own type and shape."""
    values = read_f32(old) / scale
    name, kind = old.get_friendly_name(), type_name(old)
    new = constant(narrow(values, kind), values.shape, kind)
    old.set_friendly_name(f"{name}/original")
    new.set_friendly_name(name)
    for target in old.output(0).get_target_inputs():
        target.replace_source_output(new.output(0))
