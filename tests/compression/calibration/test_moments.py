from __future__ import annotations

import numpy as np
import pytest

from autotune.compression.calibration.calibrate import BLOCK, Depth, join_tiles, stored_elements, tiles


@pytest.mark.parametrize("width", [1, 255, 256, 257, 512, 576, 1408, 5632])
def test_tiles_cover_one_half_of_the_matrix(width: int) -> None:
    """Every pair of channels is in some tile; little is there twice; blocks are tiles of the full depth too."""
    covered = np.zeros((width, width), bool)
    for tile in tiles(width, "full"):
        assert tile.shape == (tile.bottom - tile.top, tile.right - tile.left)
        assert not covered[tile.top : tile.bottom, tile.left : tile.right].any()
        covered[tile.top : tile.bottom, tile.left : tile.right] = True
    assert (covered | covered.T).all()
    assert stored_elements(width, "full") <= width * (width + 256) / 2 + 256 * 256
    assert set(tiles(width, "blocks")) <= set(tiles(width, "full"))


@pytest.mark.parametrize("depth", ["full", "blocks"])
@pytest.mark.parametrize("width", [3, 300, 1030])
def test_assembling_undoes_cutting(width: int, depth: Depth) -> None:
    """A symmetric matrix comes back from its tiles; at the shallow depth what is in no block is zero."""
    x = np.random.default_rng(0).normal(size=(4, width)).astype(np.float32)
    matrix = x.T @ x
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    stored = np.concatenate([matrix[t.top : t.bottom, t.left : t.right].ravel() for t in tiles(width, depth)])
    assert stored.size == stored_elements(width, depth)
    if depth == "blocks":
        block = np.arange(width) // BLOCK
        matrix = np.where(block[:, None] == block, matrix, 0)
    assert np.array_equal(join_tiles(stored, width, depth), matrix)
