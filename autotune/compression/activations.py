"""Where in a model a calibration looks for the vectors that a weight is multiplied with."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["activation_of"]

_ARRANGING = frozenset({"Reshape", "Unsqueeze", "Squeeze"})
_REPEATING = frozenset({"Tile", "Broadcast"})


def _channels(output: ov.Output) -> int | None:
    """The length of the last axis, where it is known."""
    shape = output.get_partial_shape()
    return shape[-1].get_length() if shape.rank.is_static and len(shape) and shape[-1].is_static else None


def _before(output: ov.Output, kinds: frozenset[str]) -> ov.Output:
    """The output before those of these operations that leave every vector of channels whole."""
    while output.get_node().get_type_name() in kinds:
        source = output.get_node().input_value(0)
        if _channels(source) is None or _channels(source) != _channels(output):
            break
        output = source
    return output


def activation_of(output: ov.Output, shape: tuple[int, ...]) -> str | None:
    """Where a calibration looks for what a MatMul multiplies with a weight of this shape.

    Args:
        output: the other input of the MatMul, its channels last.
        shape: of the weight.

    Returns:
        ``name:port``, see `weights.Use`; None where it cannot be looked at.
    """
    rank = output.get_partial_shape().rank
    if _channels(output) is None or not 2 <= rank.get_length() <= 4:
        return None
    source = _before(output, _ARRANGING)
    if len(shape) == 3:
        if source.get_node().get_type_name() in _REPEATING:
            source = _before(source, _ARRANGING | _REPEATING)
        else:
            source = output
            if rank.get_length() != 3 or output.get_partial_shape()[0] != shape[0]:
                return None
    elif len(shape) != 2:
        return None
    return f"{source.get_node().get_friendly_name()}:{source.get_index()}"
