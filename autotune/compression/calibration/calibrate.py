"""Calibration pass: statistics of each activation, computed while the model runs over the texts.

The reductions are computed inside the OpenVINO model, so that only small tensors leave it. Batches run in parallel,
one thread each, and their sums are added in the order of the texts, so the numbers do not depend on the number of
threads. A model that is too large to be held with its second moments runs in segments, all texts through one segment
before the next.

A matrix of second moments is symmetric. It is cut into panels of rows that start at the diagonal, so that nearly half
of the products are never computed. The diagonal block of a panel is a tile of its own. The depth ``blocks`` has only
these tiles, and the depth ``full`` computes them by the same operations, hence with the same bits.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate, repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from autotune.common.files import fingerprint
from autotune.common.threads import cores
from autotune.compression.calibration.segments import cut, extract, output_of, text_inputs
from autotune.compression.formats.encoding import Array
from autotune.compression.ir.constants import widen_bf16
from autotune.compression.ir.weights import channels_of
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

Precision = Literal["f32", "bf16"]
Inputs = Callable[[npt.NDArray[np.int64]], Mapping[str, npt.NDArray[Any]]]
Progress = Callable[[int, int], None]
"""Called with (windows done, windows in all)."""

Depth = Literal["blocks", "full"]
"""The part of the second moments that is computed: diagonal blocks alone, or all."""

BLOCK = 512
"""Channels of a diagonal block. Scales are searched on blocks of groups, whose sizes divide it."""

PANEL = 256
"""Rows of a panel."""

SEGMENT_BYTES = 1 << 30
"""Limit on the weights and second moments that are in memory at once."""

BATCHES = 16
TOKENS_PER_BATCH = (1024, 2048)
"""Least and most. Adding the second moments of a batch to the sum costs memory traffic, which many tokens amortise."""

MEAN, NORM, HIGHEST, LOWEST = range(4)


def native_precision() -> Precision:
    """Return the precision in which this CPU multiplies fastest: bfloat16 if it has instructions for it."""
    import openvino as ov

    return "bf16" if "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else "f32"


def calibrate(
    model: ov.Model,
    activations: Sequence[str],
    tokens: npt.NDArray[np.int64],
    *,
    inputs: Inputs = text_inputs,
    depth: Depth = "full",
    precision: Precision = "f32",
    scratch: Path | None = None,
    progress: Progress | None = None,
    segment_bytes: int = SEGMENT_BYTES,
    tokens_per_batch: tuple[int, int] = TOKENS_PER_BATCH,
) -> Iterator[Summary]:
    """Run the model over the texts and yield the sums of one activation after the other.

    Args:
        model: a model with inputs as optimum-intel exports them.
        activations: ``name:port`` of outputs of any rank from 2 on, channels last.
        tokens: int64 [n, T].
        inputs: returns the inputs of the model, by name, for a batch of windows.
        depth: of the second moments.
        precision: in which the model runs; sums are float32 in any case.
        scratch: folder for the tensors that pass from segment to segment.
        progress: called after each batch.
        segment_bytes: limit on the weights and second moments of a segment.
        tokens_per_batch: least and most.

    Raises:
        CompressionError: an activation's number of channels is not known, or the model has an input that is not
            computed from a text.
    """
    widths = _widths(model, activations)
    # The sum, and the outputs that are added to it.
    cost = {name: 2 * 4 * stored_elements(width, depth) for name, width in widths.items()}
    segments = cut(model, cost, segment_bytes)
    windows, length = tokens.shape
    least, most = tokens_per_batch
    step = max(1, min(max(windows * length // BATCHES, least), most) // length)
    batches = [tokens[start : start + step] for start in range(0, windows, step)]
    before: list[str] = []
    with tempfile.TemporaryDirectory(dir=scratch, prefix=".segments") as folder:
        store = _Store(Path(folder))
        for number, segment in enumerate(segments):
            counts: list[int] = []

            def heads(activation: ov.Output, counts: list[int] = counts) -> list[ov.Output]:
                found = _heads(activation, depth, precision)
                counts.append(len(found))
                return found

            part = extract(model, segment, before, heads)
            summaries = [Summary(name, widths[name], depth) for name in segment.activations]
            done = number * windows
            for index, outputs in _inferences(part, batches, inputs, store, precision):
                shares = [outputs[end - count : end] for end, count in zip(accumulate(counts), counts, strict=True)]
                with ThreadPoolExecutor(cores()) as pool:
                    list(pool.map(Summary.add, summaries, shares, repeat(length)))
                for name, values in zip(segment.kept, outputs[sum(counts) :], strict=True):
                    store.save(index, name, values)
                done += len(batches[index])
                if progress is not None:
                    progress(done, windows * len(segments))
            before += segment.kept
            while summaries:  # each is freed as soon as the caller is done with it
                yield summaries.pop(0)


def _widths(model: ov.Model, activations: Sequence[str]) -> dict[str, int]:
    """Return the channels of each activation."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    widths = {}
    for activation in dict.fromkeys(activations):
        output = output_of(nodes, activation)
        shape, width = output.get_partial_shape(), channels_of(output)
        if width is None or shape.rank.is_dynamic or len(shape) < 2:
            raise CompressionError(
                f"the activation {activation} has shape {shape}; only [..., tokens, channels] with a known number of "
                "channels can be calibrated: add the weights that it feeds to ignored_scope or use data-free settings"
            )
        widths[activation] = width
    return widths


def _heads(activation: ov.Output, depth: Depth, precision: Precision) -> list[ov.Output]:
    """Add the reductions of one activation: by channel, the tiles of its second moments, and its rows if needed."""
    import openvino as ov
    from openvino import opset15 as ops

    x = ops.convert(activation, np.float32)
    width = channels_of(activation)
    assert width is not None
    flat = ops.reshape(x, np.array([-1, width]), special_zero=False)
    heads = []
    for tile in tiles(width, depth):
        left, right = (
            flat if (begin, end) == (0, width) else ops.slice(flat, [begin], [end], [1], [1])
            for begin, end in ((tile.top, tile.bottom), (tile.left, tile.right))
        )
        heads.append(ops.matmul(left, right, transpose_a=True, transpose_b=False))
    rows = []
    if len(x.get_output_partial_shape(0)) != 3:
        # The windows cannot be distinguished: all tokens of a batch are one, and their number varies (experts).
        x = ops.unsqueeze(flat, np.int64(0))
        rows = [ops.gather(ops.shape_of(x), np.int64(1), np.int64(0))]
    axis = np.int64(1)
    channels = ops.concat(
        [f(x, axis, keep_dims=True) for f in (ops.reduce_mean, ops.reduce_l2, ops.reduce_max, ops.reduce_min)], axis=1
    )
    if precision == "bf16":
        # OpenVINO computes everything between the last matrix product and a float32 result in float32.
        channels = ops.convert(channels, ov.Type.bf16)
    return [head.output(0) for head in (channels, *heads, *rows)]


class _Store:
    """Tensors that pass from one segment to the next, on disk: a file for each batch and tensor."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def _path(self, batch: int, name: str) -> Path:
        return self._folder / f"{batch}-{fingerprint(name)}.npy"

    def save(self, batch: int, name: str, values: npt.NDArray[Any]) -> None:
        self._names.add(name)
        np.save(self._path(batch, name), values)

    def load(self, batch: int, name: str) -> npt.NDArray[Any]:
        loaded: npt.NDArray[Any] = np.load(self._path(batch, name))
        return loaded


def _inferences(
    part: ov.Model, batches: Sequence[npt.NDArray[np.int64]], inputs: Inputs, store: _Store, precision: Precision
) -> Iterator[tuple[int, list[npt.NDArray[Any]]]]:
    """Yield (number of a batch, all outputs) in the order of the batches; outputs are valid until the next one."""
    import openvino as ov

    streams = min(cores(), len(batches))
    config = {
        "INFERENCE_PRECISION_HINT": precision,
        "KV_CACHE_PRECISION": precision,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,
        # One thread to a batch: how a product is divided among threads can change its last bits.
        "NUM_STREAMS": streams,
        "INFERENCE_NUM_THREADS": streams,
    }
    compiled = ov.Core().compile_model(part, "CPU", config)
    requests = [compiled.create_infer_request() for _ in range(streams)]
    for index in range(len(batches) + streams):
        request = requests[index % streams]
        if index >= streams:
            request.wait()
            yield index - streams, [tensor.data for tensor in request.output_tensors]
        if index < len(batches):
            request.start_async(_inputs(compiled, inputs(batches[index]), index, store), share_inputs=False)


def _inputs(
    compiled: ov.CompiledModel, of_text: Mapping[str, npt.NDArray[Any]], batch: int, store: _Store
) -> Mapping[ov.ConstOutput, npt.NDArray[Any]]:
    """Return the inputs of a segment for a batch: texts, and tensors of earlier segments."""
    inputs = {}
    for port in compiled.inputs:
        friendly, names = port.get_node().get_friendly_name(), sorted(port.get_names())
        name = next((name for name in names if name in of_text), None)
        if friendly in store:
            inputs[port] = store.load(batch, friendly)
        elif name is not None:
            inputs[port] = of_text[name]
        else:
            raise CompressionError(
                f"the model has an input named {(*names, friendly)[0]}, which is not computed from a text; only "
                f"{', '.join(sorted(of_text))} can be fed. Use settings that need no calibration text"
            )
    return inputs


class Summary:
    """Sums of one activation over the batches of a pass.

    Attributes:
        name: the activation.
        width: its channels, K.
    """

    def __init__(self, name: str, width: int, depth: Depth) -> None:
        self.name = name
        self.width = width
        self._depth: Depth = depth
        self._tiles = sum(1 for _ in tiles(width, depth))
        self._moment: Array | None = None
        self._windows: list[Array] = []
        self._rows: list[npt.NDArray[np.int64]] = []

    def add(self, outputs: Sequence[npt.NDArray[Any]], length: int) -> None:
        """Add the outputs of `_heads` for one batch of windows of this length; they are copied."""
        channels = _float32(outputs[0])
        parts = outputs[1 : 1 + self._tiles]
        rows = outputs[-1].item() if len(outputs) > 1 + self._tiles else length
        if self._moment is None:
            self._moment = np.zeros(stored_elements(self.width, self._depth), np.float32)
        position = 0
        for part in parts:
            self._moment[position : position + part.size] += part.reshape(-1)
            position += part.size
        self._windows.append(channels)
        self._rows.append(np.full(len(channels), rows))

    def finish(self, tokens: int) -> tuple[dict[str, Array], dict[str, float]]:
        """Return arrays and scalars, see `statistics.Statistics`.

        Args:
            tokens: calibration tokens in all.
        """
        assert self._moment is not None
        channels, rows = np.concatenate(self._windows).astype(np.float64), np.concatenate(self._rows)
        channels, rows = channels[rows > 0], rows[rows > 0, None]  # an expert may have no tokens in a batch
        if not len(rows):
            channels, rows = np.zeros((1, 4, self.width)), np.ones((1, 1), np.int64)
        mean, squares = channels[:, MEAN], np.square(channels[:, NORM]) / rows
        if not np.isfinite(squares).all() or not np.isfinite(self._moment).all():
            raise CompressionError(
                f"the activation {self.name} is not finite on the calibration texts; check model and texts"
            )
        variance = np.maximum(squares - np.square(mean), 0)
        largest = np.maximum(channels[:, HIGHEST], -channels[:, LOWEST])
        arrays = {
            "second_moment": np.divide(self._moment, np.float32(tokens), out=self._moment),
            "mean": ((mean * rows).sum(axis=0) / rows.sum()).astype(np.float32),
            "largest": largest.max(axis=0).astype(np.float32),
        }
        scalars = {
            "max_activation_variance": float(variance.max(axis=1).mean()),
            "mean_activation_variance": float(variance.mean(axis=1).mean()),
            "mean_activation_magnitude": float(largest.mean(axis=1).mean()),
            "hessian_input_activation": 2 * float(squares.mean()),
        }
        return arrays, scalars


def _float32(values: npt.NDArray[Any]) -> Array:
    # NumPy sees OpenVINO's bfloat16 as float16 with meaningless values.
    return widen_bf16(values.view(np.uint16)) if values.dtype.itemsize == 2 else np.array(values, np.float32)


class Tile(NamedTuple):
    """A part of a matrix: rows from `top` to `bottom`, columns from `left` to `right`."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.bottom - self.top, self.right - self.left


def tiles(width: int, depth: Depth) -> Iterator[Tile]:
    """Yield the tiles of a [width, width] matrix in the order in which they are stored."""
    for top in range(0, width, PANEL):
        bottom = min(top + PANEL, width)
        edge = min((top // BLOCK + 1) * BLOCK, width)
        yield Tile(top, bottom, top, edge)
        if depth == "full" and edge < width:
            yield Tile(top, bottom, edge, width)


def stored_elements(width: int, depth: Depth) -> int:
    """Count the numbers in all tiles together."""
    return sum(rows * columns for rows, columns in (tile.shape for tile in tiles(width, depth)))


def join_tiles(stored: Array, width: int, depth: Depth) -> Array:
    """Return the symmetric matrix, float32 [width, width], of its tiles, stored flat one after the other.

    Elements outside the tiles are zero.
    """
    matrix = np.zeros((width, width), np.float32)
    position = 0
    for tile in tiles(width, depth):
        rows, columns = tile.shape
        values = stored[position : position + rows * columns].reshape(rows, columns)
        matrix[tile.top : tile.bottom, tile.left : tile.right] = values
        matrix[tile.left : tile.right, tile.top : tile.bottom] = values.T
        position += rows * columns
    return matrix
