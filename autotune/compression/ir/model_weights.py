"""The content of a model's weights: their rows as float32, and what identifies them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.common.threads import in_parallel
from autotune.compression.formats.encoding import Array
from autotune.compression.ir.constants import all_finite, raw_bytes, type_name, widen_bf16, widen_f16
from autotune.compression.ir.sizes import Beside, Sizes
from autotune.compression.ir.weights import Weight, find_weights, rows_view
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

BLOCK_ELEMENTS = 1 << 19
"""Elements of a block of rows: few enough for the caches, enough to amortise the cost of a call."""


class ModelWeights:
    """The weights of one model and their content; the model itself is never changed.

    Attributes:
        model: the model.
        weights: all its weights by name, in topological order of their first use.
        constants: all its Constants by friendly name.
        sizes: exact sizes.
    """

    def __init__(
        self,
        model: ov.Model,
        *,
        version: int = 0,
        block_elements: int = BLOCK_ELEMENTS,
        beside: Beside | None = None,
    ) -> None:
        """Find the weights of a model.

        Args:
            model: the model.
            version: part of every content key.
            block_elements: elements of the blocks in which rows are read.
            beside: sizes of further IRs.
        """
        self.model = model
        self.weights = {weight.name: weight for weight in find_weights(model)}
        self.constants = {n.get_friendly_name(): n for n in model.get_ordered_ops() if n.get_type_name() == "Constant"}
        self.sizes = Sizes(model, beside)
        self._version = version
        self._block_elements = block_elements
        self._magnitudes: dict[str, float] = {}

    def rows(self, weight: Weight) -> Rows:
        """Return the rows of a weight."""
        return rows_of_constant(self.constants[weight.name], weight, self._block_elements)

    def content_key(self, weight: Weight) -> list[Any]:
        """Return plain data that identifies the content of a weight, for the keys of the bank."""
        digest = self.sizes.digests[weight.name]
        return [self._version, digest, weight.element_type, weight.shape, weight.reduction_axes]

    def largest_magnitude(self, weight: Weight) -> float:
        """Return the largest magnitude in a weight; computed once."""
        digest = self.sizes.digests[weight.name]
        if digest not in self._magnitudes:
            self._magnitudes[digest] = self.rows(weight).largest_magnitude()
        return self._magnitudes[digest]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one weight as float32, read block by block.

    Attributes:
        weight: the weight.
        read: returns the rows from one index to another, float32 [n, K].
        block_elements: elements of a block. Blocks depend on nothing else, so results do not depend on threads.
    """

    weight: Weight
    read: Callable[[int, int], Array]
    block_elements: int = BLOCK_ELEMENTS

    @classmethod
    def of(cls, weight: Weight, values: Array) -> Rows:
        """Wrap rows that are in memory, float32 [R, K]."""
        return cls(weight, lambda start, stop: values[start:stop])

    @property
    def starts(self) -> range:
        """The first row of each block."""
        return range(0, self.weight.rows, max(1, self.block_elements // self.weight.columns))

    def block(self, start: int) -> Array:
        """Read the block that begins at row `start`, float32 [n, K]."""
        return self.read(start, min(start + self.starts.step, self.weight.rows))

    def whole(self) -> Array:
        """Read all rows, float32 [R, K]."""
        return self.read(0, self.weight.rows)

    def scaled(self, columns: Array | None, rows: Array | None) -> Rows:
        """Multiply the columns by one scale [K] and divide the rows by another [R]; None leaves them."""
        if columns is None and rows is None:
            return self

        def read(start: int, stop: int) -> Array:
            values = self.read(start, stop)
            if columns is not None:
                values = values * columns
            return values if rows is None else values / rows[start:stop, None]

        return Rows(self.weight, read, self.block_elements)

    def largest_magnitude(self) -> float:
        """Return the largest magnitude of all elements."""
        return max(in_parallel(lambda start: float(np.abs(self.block(start)).max()), self.starts))


def rows_of_constant(node: ov.Node, weight: Weight, block_elements: int = BLOCK_ELEMENTS) -> Rows:
    """Return the rows of a weight's Constant, converted block by block.

    Reading raises CompressionError if a block holds NaN or infinity.
    """
    kind = type_name(node)
    values = raw_bytes(node).view(np.uint16) if kind == "bf16" else node.data
    rows = rows_view(values.reshape(weight.shape), weight)
    widen = _WIDEN.get(kind, _converted)

    def read(start: int, stop: int) -> Array:
        block = rows[start:stop]
        if not all_finite(block, kind):
            raise CompressionError(
                f"{weight.name}: contains NaN or infinite values; export or download the model again"
            )
        return widen(block)

    return Rows(weight, read, block_elements)


def _converted(values: npt.NDArray[Any]) -> Array:
    return values.astype(np.float32)


_WIDEN: Mapping[str, Callable[[npt.NDArray[Any]], Array]] = {"bf16": widen_bf16, "f16": widen_f16}
