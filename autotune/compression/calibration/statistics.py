"""Statistics of one calibration pass, for all metrics and algorithms, and their cache on disk."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from autotune.common.files import DAMAGE, fingerprint, get_or_create_directory, read_tensors, write_tensors
from autotune.compression.calibration.calibrate import (
    Depth,
    Inputs,
    Precision,
    Progress,
    Summary,
    calibrate,
    join_tiles,
    native_precision,
)
from autotune.compression.calibration.segments import text_inputs
from autotune.errors import CompressionError

if TYPE_CHECKING:
    import openvino as ov

VERSION = 2
"""Changes whenever the collected numbers change."""


@dataclass(frozen=True)
class Statistics:
    """Statistics of every activation that feeds a weight, read from their folder on demand.

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
            if _digest(index) != index["digest"]:
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

    @property
    def depth(self) -> Depth:
        """The part of the second moments that is stored."""
        depth: Depth = self._index["depth"]
        return depth

    def scalar(self, activation: str, metric: str) -> float:
        """Return the activation's part of a sensitivity metric, see `sensitivity.sensitivity`."""
        return float(self._index["activations"][activation]["scalars"][metric])

    def array(self, activation: str, name: str) -> npt.NDArray[np.float32]:
        """Return one of the arrays, float32.

        ``second_moment`` [K, K] is the sum of x xᵀ over the tokens that came this way, divided by the number of all
        calibration tokens; at the depth ``blocks`` it is zero outside blocks of `calibrate.BLOCK` channels.
        ``mean`` [K] is over the tokens that came this way, ``largest`` [K] the largest magnitude among them.
        """
        arrays = read_tensors(self.folder / self._index["activations"][activation]["file"])
        array: npt.NDArray[np.float32] = arrays[name]
        return join_tiles(array, len(arrays["mean"]), self.depth) if name == "second_moment" else array


class StatisticsCache:
    """Statistics on disk under their fingerprint, computed once even if several processes need them.

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
        inputs: Inputs = text_inputs,
        depth: Depth = "full",
        precision: Precision | None = None,
        progress: Progress | None = None,
    ) -> Statistics:
        """Return the statistics of these activations on these tokens, from disk if they are there and complete.

        Args:
            model: the original model; not changed.
            activations: ``name:port`` of outputs, see `weights.Use`.
            tokens: int64 [n, T], calibration windows.
            model_fingerprint: changes with the model's weights.
            inputs: see `calibrate`; a function of the tokens that each model has one of.
            depth: the least that is needed; both depths have the same bits where both have values.
            precision: in which the model runs; by default the fastest of this CPU.
            progress: called after each batch.
        """
        precision = native_precision() if precision is None else precision
        text = [list(tokens.shape), tokens.tobytes()]
        key = fingerprint(VERSION, model_fingerprint, sorted(activations), precision, *text)
        if (self.directory / f"{key}-full").is_dir():
            depth = "full"
        folder = self.directory / f"{key}-{depth}"

        def collect(path: Path) -> None:
            summaries = calibrate(
                model,
                activations,
                tokens,
                inputs=inputs,
                depth=depth,
                precision=precision,
                scratch=path,
                progress=progress,
            )
            write_statistics(path, summaries, tokens.size, depth)

        for _ in range(2):
            _, created = get_or_create_directory(folder, collect)
            try:
                statistics = Statistics.open(folder, key)
            except CompressionError:
                shutil.rmtree(folder, ignore_errors=True)
                continue
            self.counters["computed" if created else "reused"] += 1
            return statistics
        return Statistics.open(folder, key)


def write_statistics(folder: Path, summaries: Iterable[Summary], tokens: int, depth: Depth) -> None:
    """Write the sums of a calibration pass over so many tokens into an empty folder.

    Raises:
        CompressionError: an activation is not finite.
    """
    index: dict[str, Any] = {"version": VERSION, "tokens": tokens, "depth": depth, "activations": {}}
    for summary in summaries:
        file = f"{len(index['activations']):04d}.safetensors"
        arrays, scalars = summary.finish(tokens)
        write_tensors(folder / file, arrays, durable=False)
        index["activations"][summary.name] = {"file": file, "scalars": scalars}
    index["digest"] = _digest(index)
    (folder / "index.json").write_text(json.dumps(index, indent=1))


def _digest(index: Mapping[str, Any]) -> str:
    return fingerprint(index["tokens"], index["depth"], index["activations"])
