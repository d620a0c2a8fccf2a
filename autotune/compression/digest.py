"""One digest for a whole model: equal exactly where two models compute the same from the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from autotune.compression.arrays import raw_bytes, type_name

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["model_digest"]


def model_digest(model: ov.Model) -> str:
    """32 hex digits over all operations in topological order: type, inputs, and every constant's bytes.

    The bytes are those of `openvino_model.bin`; nothing is written to find out. Names are left out: OpenVINO numbers
    what has none through the whole process.
    """
    import xxhash

    digest = xxhash.xxh3_128()
    position: dict[str, int] = {}
    for node in model.get_ordered_ops():
        inputs = [value.get_source_output() for value in node.inputs()]
        sources = [(position.get(source.get_node().get_name()), source.get_index()) for source in inputs]
        position[node.get_name()] = len(position)
        digest.update(repr((node.get_type_name(), sources)).encode())
        if node.get_type_name() == "Constant":
            digest.update(repr((type_name(node), tuple(node.get_output_shape(0)))).encode())
            digest.update(raw_bytes(node).data)
    return str(digest.hexdigest())
