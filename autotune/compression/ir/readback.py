"""Read the compressed weights of an IR back: storage, zero points and groups, whichever tool wrote them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from autotune.compression.formats.encoding import packed_bytes
from autotune.compression.formats.table import BITS, FORMATS
from autotune.compression.ir.constants import type_name

if TYPE_CHECKING:
    import openvino as ov

TABLE = "table"
"""Storage of the scales of a weight that has a table of levels in their place."""

LOW_BITS = frozenset(storage for storage, bits in BITS.items() if bits <= 8 and storage != "f8e8m0")


@dataclass(frozen=True, slots=True)
class StoredWeight:
    """A compressed weight of an IR.

    Attributes:
        name: friendly name of the constant.
        storage: OpenVINO's element type.
        shape: of the constant; a grouped one has the axes (groups, group size).
        group_size: input channels that share a scale; -1 is one group a row.
        has_zero_points: whether each group has a zero point; one constant offset for all is none.
        scale_storage: element type of the scales.
        nbytes: bytes of the packed constant with scales and zero points.
    """

    name: str
    storage: str
    shape: tuple[int, ...]
    group_size: int
    has_zero_points: bool
    scale_storage: str
    nbytes: int

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return BITS[self.storage]

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def mode(self) -> str:
        """Name of the format; the storage in words if no format of the table is stored so.

        An unsigned 4-bit or 8-bit integer without zero points has one offset for all groups.
        """
        if self.scale_storage == TABLE:
            return "codebook"
        scale = "f16" if self.scale_storage in ("f32", "bf16") else self.scale_storage
        for fmt in FORMATS.values():
            same = (self.storage, self.has_zero_points, scale)
            if not fmt.table_storage and same == (fmt.storage, fmt.has_zero_point, fmt.scale_storage):
                return fmt.name
        return f"{self.storage} with one offset" if self.storage.startswith("u") else self.storage

    def describe(self) -> str:
        """Name format and groups: ``int4_sym, group size 128``."""
        return self.mode if self.group_size == -1 else f"{self.mode}, group size {self.group_size}"


def read_weights(model: ov.Model) -> list[StoredWeight]:
    """List the compressed weights of a model, in topological order.

    A compressed weight is a constant of at most 8 bits, which a Convert, an optional Subtract of zero points and a
    Multiply by scales decompress; or one that is looked up in a table.
    """
    constants = [node for node in model.get_ordered_ops() if node.get_type_name() == "Constant"]
    found = [parts for node in constants if type_name(node) in LOW_BITS and (parts := _read(node)) is not None]
    # The scales of nvfp4 have a scale of their own, as a weight has.
    scales = {scale.get_friendly_name() for _, scale, *_ in found if scale is not None}
    return [_stored(*parts) for parts in found if parts[0].get_friendly_name() not in scales]


Parts = tuple["ov.Node", "ov.Node | None", "ov.Node | None", int]
"""Constant, scale, zero point, group size."""


def _read(constant: ov.Node) -> Parts | None:
    for convert, port in [*_consumers(constant)]:
        if convert.get_type_name() == "Gather" and port == 1:
            return constant, None, None, -1
        for step, entry in _consumers(convert) if convert.get_type_name() == "Convert" else ():
            if step.get_type_name() == "Gather" and entry == 1:
                return constant, None, None, -1
            zero, product = None, step
            if step.get_type_name() == "Subtract" and entry == 0:
                zero = _constant_of(step.input_value(1))
                product = next((node for node, place in _consumers(step) if place == 0), step)
            if product.get_type_name() != "Multiply" or (product is step and entry != 0):
                continue
            scale = _constant_of(product.input_value(1))
            if scale is not None:
                shapes = zip(_shape(constant)[::-1], _shape(scale)[::-1], strict=False)
                group_size = math.prod(size for size, scales in shapes if scales == 1)
                return constant, scale, zero, group_size if _is_reshaped(product) else -1
    return None


def _stored(constant: ov.Node, scale: ov.Node | None, zero: ov.Node | None, group_size: int) -> StoredWeight:
    parts = [part for part in (constant, scale, zero) if part is not None]
    several = zero is not None and (math.prod(_shape(zero)) > 1 or (scale and _shape(zero) == _shape(scale)))
    return StoredWeight(
        name=constant.get_friendly_name(),
        storage=type_name(constant),
        shape=_shape(constant),
        group_size=group_size,
        has_zero_points=bool(several),
        scale_storage=TABLE if scale is None else type_name(scale),
        nbytes=sum(packed_bytes(math.prod(_shape(part)), part.get_element_type().bitwidth) for part in parts),
    )


def _shape(node: ov.Node) -> tuple[int, ...]:
    return tuple(node.get_output_shape(0))


def _consumers(node: ov.Node) -> Iterator[tuple[ov.Node, int]]:
    for port in node.output(0).get_target_inputs():
        yield port.get_node(), port.get_index()


def _is_reshaped(node: ov.Node) -> bool:
    """Test if the groups of a weight are merged into rows after this operation."""
    return any(
        consumer.get_type_name() == "Reshape" or (consumer.get_type_name() == "Convert" and _is_reshaped(consumer))
        for consumer, _ in _consumers(node)
    )


def _constant_of(output: ov.Output) -> ov.Node | None:
    node = output.get_node()
    while node.get_type_name() in ("Convert", "Multiply"):  # nvfp4 has a scale of the scales
        node = node.input_value(0).get_node()
    return node if node.get_type_name() == "Constant" else None
