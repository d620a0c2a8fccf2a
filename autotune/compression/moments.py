"""Second moments in tiles: half of a symmetric matrix, as it is computed, stored and put together again.

A matrix [K, K] is cut into panels of rows. Each panel starts at its diagonal, so that nearly half of the products are
never computed. What lies in the diagonal block of a panel is a tile of its own: the shallow depth has only these, and
a pass of full depth computes them by the same operations on the same shapes, hence with the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np

from autotune.compression.formats import Array

__all__ = ["BLOCK", "Depth", "Tile", "assemble", "stored_elements", "tiles"]

Depth = Literal["blocks", "full"]
"""How much of the second moments is known: diagonal blocks alone, or all."""

BLOCK = 512
"""Channels of a diagonal block. Scales are searched on blocks of groups, whose sizes divide it."""

PANEL = 256


class Tile(NamedTuple):
    """Rows from `top` to `bottom`, columns from `left` to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


def tiles(width: int, depth: Depth) -> Iterator[Tile]:
    """The tiles of a [width, width] matrix, in the order in which they are stored."""
    for top in range(0, width, PANEL):
        bottom = min(top + PANEL, width)
        edge = min((top // BLOCK + 1) * BLOCK, width)
        yield Tile(top, bottom, top, edge)
        if depth == "full" and edge < width:
            yield Tile(top, bottom, edge, width)


def stored_elements(width: int, depth: Depth) -> int:
    """Numbers in all tiles together."""
    return sum(rows * columns for rows, columns in (tile.shape for tile in tiles(width, depth)))


def assemble(stored: Array, width: int, depth: Depth) -> Array:
    """The symmetric matrix, float32 [width, width], from its tiles, flat one after the other; zeros where unknown."""
    matrix = np.zeros((width, width), np.float32)
    position = 0
    for tile in tiles(width, depth):
        rows, columns = tile.shape
        values = stored[position : position + rows * columns].reshape(rows, columns)
        matrix[tile.top : tile.bottom, tile.left : tile.right] = values
        matrix[tile.left : tile.right, tile.top : tile.bottom] = values.T
        position += rows * columns
    return matrix
