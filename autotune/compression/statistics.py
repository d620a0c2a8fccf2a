"""One calibration pass: what every metric and every algorithm needs to know of the activations.

The reductions are computed inside the OpenVINO model, so that only small tensors leave it: the second moments, a few
numbers a channel and a sample of tokens. Where the second moments of a model do not fit the memory limit at once, the
pass is repeated for one part of the layers at a time, each time only as deep as that part needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.errors import CompressionError
from autotune.evaluation import SCORING_CONFIG
from autotune.files import fingerprint, get_or_create_directory
from autotune.tensors import DAMAGE, read_tensors, write_tensors

if TYPE_CHECKING:
    import openvino as ov

__all__ = ["Statistics", "StatisticsCache", "collect"]

VERSION = 1
"""Changes whenever the collected numbers change."""

TOKENS_PER_INFERENCE = 2048
SAMPLED_TOKENS = 512
MEMORY_LIMIT = 4 << 30

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Statistics:
    """Statistics of every activation that feeds a weight, read from their folder when they are needed.

    Attributes:
        folder: holds ``index.json`` and one safetensors file for each activation.
        fingerprint: of model, tokens and version; part of the key of everything computed from these numbers.
    """

    folder: Path
    fingerprint: str
    _index: Mapping[str, Any] = field(repr=False)

    @classmethod
    def open(cls, folder: Path, key: str) -> Statistics:
        """Open a finished folder.

        Raises:
            CompressionError: a file is missing or not the one that was written.
        """
        try:
            index = json.loads((folder / "index.json").read_text())
            if fingerprint(index["tokens"], index["activations"]) != index["digest"]:
                raise ValueError("index.json does not have the digest that it gives")
            for entry in index["activations"].values():
                read_tensors(folder / entry["file"])
        except DAMAGE as error:
            raise CompressionError(
                f"{folder}: the cached statistics are damaged ({error}); remove this folder"
            ) from error
        return cls(folder, key, index)

    def __contains__(self, activation: object) -> bool:
        return activation in self._index["activations"]

    @property
    def tokens(self) -> int:
        """Number of calibration tokens."""
        return int(self._index["tokens"])

    def scalar(self, activation: str, metric: str) -> float:
        """The activation's part of a sensitivity metric, see `sensitivity.sensitivity`."""
        return float(self._index["activations"][activation]["scalars"][metric])

    def array(self, activation: str, name: str) -> npt.NDArray[np.float32]:
        """One of the arrays, float32.

        ``second_moment`` [K, K] and ``mean``, ``mean_magnitude`` [K] are means over all tokens, ``largest`` [K] is the
        largest magnitude, ``tokens`` [S, K] a sample of tokens spread evenly over the windows.
        """
        file = self._index["activations"][activation]["file"]
        array: npt.NDArray[np.float32] = read_tensors(self.folder / file)[name]
        return array


class StatisticsCache:
    """Statistics on disk under their fingerprint, computed once however many processes ask.

    Attributes:
        directory: where the folders are.
        counters: ``computed`` and ``reused`` in this process.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.counters = {"computed": 0, "reused": 0}

    def get_or_collect(
        self,
        model: ov.Model,
        activations: Sequence[str],
        tokens: npt.NDArray[np.int64],
        *,
        model_fingerprint: str,
        progress: Progress | None = None,
    ) -> Statistics:
        """Return the statistics of these activations on these tokens, from disk where they are there whole.

        Args:
            model: the original model; not changed.
            activations: ``name:port`` of outputs, see `weights.Use`.
            tokens: int64 [n, T], calibration windows.
            model_fingerprint: changes with the model's weights.
            progress: called with (windows done, windows in all).
        """
        import shutil

        key = fingerprint(VERSION, model_fingerprint, sorted(activations), list(tokens.shape), tokens.tobytes())
        folder = self.directory / key
        for _ in range(2):
            _, created = get_or_create_directory(
                folder, lambda path: collect(model, activations, tokens, path, progress=progress)
            )
            try:
                statistics = Statistics.open(folder, key)
            except CompressionError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self.counters["computed" if created else "reused"] += 1
            return statistics
        return Statistics.open(folder, key)


def collect(
    model: ov.Model,
    activations: Sequence[str],
    tokens: npt.NDArray[np.int64],
    folder: Path,
    *,
    memory_limit: int = MEMORY_LIMIT,
    progress: Progress | None = None,
) -> None:
    """Run the calibration pass and write its results into `folder`.

    Args:
        model: a causal language model with inputs as optimum-intel exports them.
        activations: outputs to look at, [B, T, K], or of another rank from 2 on, channels last: all tokens of a batch
            count as one window of these.
        tokens: int64 [n, T].
        folder: an empty folder.
        memory_limit: bytes that second moments may take at once; more layers than fit take several passes.
        progress: called with (windows done, windows in all).

    Raises:
        CompressionError: an activation has no known number of channels, or is not finite.
    """
    windows, length = tokens.shape
    parts = _parts(model, activations, memory_limit)
    index: dict[str, Any] = {"version": VERSION, "tokens": windows * length, "activations": {}}
    done = 0
    for part in parts:
        accumulators = {name: _Accumulator(width) for name, width in part.items()}
        for batch, outputs in _inferences(model, list(part), tokens):
            for name, values in outputs.items():
                accumulators[name].add(*values)
            done += batch
            if progress is not None:
                progress(done, windows * len(parts))
        for name, accumulator in accumulators.items():
            file = f"{len(index['activations']):04d}.safetensors"
            arrays, scalars = accumulator.finish(name, windows * length)
            write_tensors(folder / file, arrays, durable=False)
            index["activations"][name] = {
                "file": file,
                "scalars": scalars,
            }
    index["digest"] = fingerprint(index["tokens"], index["activations"])
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _output(nodes: Mapping[str, ov.Node], activation: str) -> ov.Output:
    name, _, port = activation.rpartition(":")
    return nodes[name].output(int(port))


def _parts(model: ov.Model, activations: Sequence[str], memory_limit: int) -> list[dict[str, int]]:
    """Activations with their widths, in topological order, cut so that each part's second moments fit the limit."""
    nodes = {node.get_friendly_name(): node for node in model.get_ordered_ops()}
    order = {name: position for position, name in enumerate(nodes)}
    parts: list[dict[str, int]] = []
    used = 0
    for activation in sorted(set(activations), key=lambda a: order[a.rpartition(":")[0]]):
        shape = _output(nodes, activation).get_partial_shape()
        if shape.rank.is_dynamic or len(shape) < 2 or shape[-1].is_dynamic:
            raise CompressionError(
                f"the activation {activation} has shape {shape}; only [..., tokens, channels] with a known number of "
                "channels can be calibrated: add the weights that it feeds to ignored_scope or use data-free settings"
            )
        width = shape[-1].get_length()
        # The accumulator, and the output that is added to it.
        needed = 2 * 4 * width * width
        if not parts or used + needed > memory_limit:
            parts.append({})
            used = 0
        parts[-1][activation] = width
        used += needed
    return parts


def _with_reductions(model: ov.Model, activations: Sequence[str], positions: npt.NDArray[np.int64]) -> ov.Model:
    """A copy of the model whose only outputs are the reductions of these activations."""
    import openvino as ov
    from openvino import opset15 as ops

    copy = model.clone()
    nodes = {node.get_friendly_name(): node for node in copy.get_ordered_ops()}
    results = []
    tokens_axis = np.int64(1)
    for activation in activations:
        x = ops.convert(_output(nodes, activation), np.float32)  # [B, T, K]
        width = x.get_output_partial_shape(0)[-1].get_length()
        flat = ops.reshape(x, np.array([-1, width]), special_zero=False)  # [B * T, K]
        if len(x.get_output_partial_shape(0)) != 3:
            x = ops.unsqueeze(flat, np.int64(0))
        mean = ops.reduce_mean(x, tokens_axis, keep_dims=True)
        magnitude = ops.abs(x)
        reductions = [
            ops.matmul(flat, flat, transpose_a=True, transpose_b=False),  # [K, K]
            ops.concat(  # [B, 4, K]
                [
                    mean,
                    ops.reduce_mean(ops.squared_difference(x, mean), tokens_axis, keep_dims=True),
                    ops.reduce_mean(magnitude, tokens_axis, keep_dims=True),
                    ops.reduce_max(magnitude, tokens_axis, keep_dims=True),
                ],
                axis=1,
            ),
            ops.gather(x, ops.constant(positions), tokens_axis),  # [B, P, K]
        ]
        results += [ops.result(reduction) for reduction in reductions]
    name = f"{model.get_friendly_name()}_statistics"
    # Only the sinks of the states that are read: the others would have the layers above computed for nothing.
    reached = ov.Model(results, copy.get_parameters(), name).get_ordered_ops()
    read = {node.get_attributes()["variable_id"] for node in reached if node.get_type_name() == "ReadValue"}
    sinks = [sink for sink in copy.get_sinks() if sink.get_attributes()["variable_id"] in read]
    return ov.Model(results, sinks, copy.get_parameters(), name)


def _inferences(
    model: ov.Model, activations: Sequence[str], tokens: npt.NDArray[np.int64]
) -> Iterator[tuple[int, dict[str, list[npt.NDArray[np.float32]]]]]:
    """Yield (windows, {activation: its three reductions}) for each batch of windows."""
    import openvino as ov

    windows, length = tokens.shape
    per_window = min(length, max(1, -(-SAMPLED_TOKENS // windows)))
    # Spread over the window, never the first token: its activations are the outliers of most models.
    positions = np.unique(np.ceil(np.linspace(length - 1, 0, per_window, endpoint=False)).astype(np.int64))
    compiled = ov.Core().compile_model(_with_reductions(model, activations, positions), "CPU", dict(SCORING_CONFIG))
    request = compiled.create_infer_request()
    batch = max(1, TOKENS_PER_INFERENCE // length)
    for start in range(0, windows, batch):
        part = tokens[start : start + batch]
        request.reset_state()
        request.infer(_inputs(compiled, part), share_inputs=True)
        outputs = [request.get_output_tensor(i).data for i in range(3 * len(activations))]
        yield len(part), {name: outputs[3 * i : 3 * i + 3] for i, name in enumerate(activations)}


def _inputs(compiled: ov.CompiledModel, tokens: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """The inputs of an exported causal language model for whole windows, int64 [B, T], from an empty cache."""
    batch, length = tokens.shape
    known: dict[str, npt.NDArray[Any]] = {
        "input_ids": tokens,
        "attention_mask": np.ones((batch, length), np.int64),
        "position_ids": np.tile(np.arange(length, dtype=np.int64), (batch, 1)),
        "beam_idx": np.arange(batch, dtype=np.int32),
    }
    names = [port.get_any_name() for port in compiled.inputs]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise CompressionError(
            f"the model has an input named {unknown[0]}, which a text-only causal language model does not have; only "
            "models with input_ids, attention_mask, position_ids and beam_idx can be calibrated"
        )
    return {name: known[name] for name in names}


class _Accumulator:
    """Sums of one activation over the batches of a pass."""

    def __init__(self, width: int) -> None:
        self.moment = np.zeros((width, width), np.float32)
        self.windows: list[npt.NDArray[np.float32]] = []
        self.tokens: list[npt.NDArray[np.float32]] = []

    def add(
        self, moment: npt.NDArray[np.float32], channels: npt.NDArray[np.float32], tokens: npt.NDArray[np.float32]
    ) -> None:
        self.moment += moment
        self.windows.append(channels.copy())
        self.tokens.append(tokens.reshape(-1, tokens.shape[-1]).copy())

    def finish(self, name: str, tokens: int) -> tuple[dict[str, npt.NDArray[np.float32]], dict[str, float]]:
        channels = np.concatenate(self.windows)  # [n, 4, K]
        mean, variance, magnitude, largest = (channels[:, i] for i in range(4))
        squares = np.diagonal(self.moment).astype(np.float64) / tokens
        if not np.isfinite(squares).all() or not np.isfinite(self.moment).all():
            raise CompressionError(
                f"the activation {name} is not finite on the calibration texts; check model and texts"
            )
        arrays = {
            "second_moment": self.moment / np.float32(tokens),
            "mean": mean.mean(axis=0, dtype=np.float64).astype(np.float32),
            "mean_magnitude": magnitude.mean(axis=0, dtype=np.float64).astype(np.float32),
            "largest": largest.max(axis=0),
            "tokens": np.concatenate(self.tokens),
        }
        scalars = {
            "max_activation_variance": float(variance.max(axis=1).mean(dtype=np.float64)),
            "mean_activation_variance": float(variance.mean(axis=1).mean(dtype=np.float64)),
            "mean_activation_magnitude": float(largest.mean(axis=1).mean(dtype=np.float64)),
            "hessian_input_activation": 2 * float(squares.mean()),
        }
        return arrays, scalars
