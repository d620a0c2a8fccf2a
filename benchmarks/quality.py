"""The engine beside NNCF: bytes and KL divergence to the original, for the same settings in one run.

    python benchmarks/quality.py                       # the demo model
    python benchmarks/quality.py --model DIR --calibration FILE --text FILE
    python benchmarks/quality.py --settings            # autotune alone: the rows of docs/data/settings.json

NNCF runs with its defaults on the same model and the same calibration windows. KL divergence is scored in f32 over
windows of the text. The last column is the difference of the two divergences in standard errors of the paired
differences, window by window (below 0: ours is better). At the end stand the geometric means of the ratios.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from common import DEMO, label
from peer import nncf_compress

from autotune.common.cache import Cache
from autotune.common.machine import available_memory
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import StatisticsCache
from autotune.compression.engine import Engine
from autotune.compression.ir.sizes import Sizes
from autotune.compression.settings import Settings
from autotune.distillation.distil import output_gradients
from autotune.evaluation.texts.sources import token_windows
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from autotune.models.source import resolve_model
from evaluators.perplexity import Perplexity


class Scored(NamedTuple):
    """One setting on one side.

    Attributes:
        footprint: bytes.
        divergence: float64 [n], KL divergence of each window in nats a token.
    """

    footprint: int
    divergence: np.ndarray


def data_free() -> Iterator[Settings]:
    for mode in ("int8_asym", "int8_sym"):
        yield Settings(mode=mode)
    for mode in ("int4_sym", "int4_asym"):
        for group_size in (128, 64, 32):
            yield Settings(mode=mode, group_size=group_size)
    yield Settings(mode="nf4", group_size=64)
    yield Settings(mode="mxfp4")
    for ratio in (0.8, 0.6):
        yield Settings(mode="int4_asym", group_size=64, ratio=ratio, sensitivity_metric="weight_quantization_error")
    yield Settings(mode="int4_asym", group_size=64, all_layers=True)


def more_formats() -> Iterator[Settings]:
    yield Settings(mode="fp4", group_size=64, backup_mode="int8_asym")
    for mode in ("cb4", "int3_sym", "int2_sym", "fp8_e4m3"):
        yield Settings(mode=mode, group_size=64)
    for group_size in (64, -1):
        yield Settings(mode="adaptive_codebook", group_size=group_size)
    yield Settings(mode="nvfp4")
    yield Settings(mode="mxfp8_e4m3")


def more_formats_with_data() -> Iterator[Settings]:
    for mode in ("nf4", "fp4", "mxfp4", "nvfp4", "cb4", "adaptive_codebook", "int3_sym", "int2_sym"):
        group_size = None if mode in ("mxfp4", "nvfp4") else 64
        for algorithms in ("scale_estimation", "awq", "gptq", "gptq scale_estimation"):
            yield Settings(mode=mode, group_size=group_size, **dict.fromkeys(algorithms.split(), True))


def data_aware() -> Iterator[Settings]:
    for ratio in (0.8, 0.6):
        yield Settings(mode="int4_asym", group_size=64, ratio=ratio, sensitivity_metric="output_error")
    for algorithms in ("awq", "scale_estimation", "awq scale_estimation", "gptq", "gptq scale_estimation"):
        yield Settings(mode="int4_asym", group_size=64, **dict.fromkeys(algorithms.split(), True))
    for algorithms in ("lora_correction", "awq scale_estimation lora_correction"):
        yield Settings(mode="int4_asym", group_size=64, **dict.fromkeys(algorithms.split(), True))


def of_the_settings() -> Iterator[Settings]:
    """The rows of docs/data/settings.json, which the pages of docs/reference/settings show."""

    def int4(**others: Any) -> Settings:
        return Settings(mode="int4_asym", group_size=64, **others)

    for rank in (8, 16, 32):
        yield int4(lora_correction=True, lora_rank=rank)
    yield int4(gptq=True, gptq_act_order=False)
    yield int4(backup_mode="none")
    for pattern in (".*down_proj.*", ".*layers\\.0\\..*"):
        yield int4(ignored_scope=(pattern,))


def standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))


def compare(ours: Scored, peer: Scored) -> tuple[str, float]:
    """Cells of a row, and the ratio of the divergences."""
    differences = ours.divergence - peer.divergence
    error = standard_error(differences)
    apart = differences.mean() / error if error else 0.0
    ratio = float(ours.divergence.mean() / peer.divergence.mean())
    return f"{peer.footprint:,} | {peer.divergence.mean():.6f} | {ratio:.3f} | {apart:+.1f}", ratio


class Bench:
    """One original model with its engine and calibration windows, scored on a text.

    Attributes:
        model: the original.
        engine: over an empty bank.
        windows: int64 [n, T], calibration tokens.
    """

    def __init__(self, options: argparse.Namespace, folder: str) -> None:
        cache = Cache.resolve(folder)
        source = resolve_model(options.model, cache=cache)
        self.model, self._tokenizer = source.read(), source.tokenizer()
        text = options.calibration.read_text(encoding="utf-8")
        length, samples = options.sequence_length, options.samples
        self.windows = token_windows(self._tokenizer, [text], sequence_length=length, samples=samples)
        self._scorer = Perplexity(path=options.text, sequence_length=512, samples=options.windows)
        with OpenVINOLanguageModel(self.model, self._tokenizer) as original:
            self._reference = self._scorer.reference(original)
        activations = Engine(self.model).activations
        statistics = StatisticsCache(cache.statistics).get_or_collect(
            self.model, activations, self.windows, model_fingerprint=source.fingerprint
        )
        self._bank = Bank()
        self._statistics = lambda: statistics
        self.engine = Engine(self.model, bank=self._bank, statistics=self._statistics, gradients=self._gradients)

    def without_gradients(self) -> Engine:
        """Return an engine that counts all outputs alike."""
        return Engine(self.model, bank=self._bank, statistics=self._statistics)

    def _gradients(self) -> Mapping[str, np.ndarray]:
        memory = available_memory()
        return output_gradients(self.model, self.engine.weights, self.windows, bank=self._bank, memory=memory)

    def score(self, compressed: ov.Model) -> Scored:
        """Score a compressed model on the text."""
        with OpenVINOLanguageModel(compressed, self._tokenizer) as candidate:
            divergence = self._scorer.evaluate(candidate, self._reference)["kl_divergence"]
        return Scored(Sizes(compressed).original, np.array(divergence.values))


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a `Bench`."""
    parser.add_argument("--model", default=str(DEMO / "model"))
    parser.add_argument("--calibration", type=Path, default=DEMO / "calibration.txt")
    parser.add_argument("--text", type=Path, default=DEMO / "report.txt")
    parser.add_argument("--sequence-length", type=int, default=256, help="of calibration windows")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--windows", type=int, default=32, help="scored windows of 512 tokens")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--without-nncf", action="store_true")
    parser.add_argument("--settings", action="store_true", help="only the rows of docs/data/settings.json")
    parser.add_argument("--only", default="", help="rows whose label contains this")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(options, folder)
        print("| setting | bytes | KL divergence | NNCF: bytes | KL divergence | ratio | standard errors |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        groups = {
            "data-free": data_free(),
            "data-aware": data_aware(),
            "more formats": more_formats(),
            "more formats, data-aware": more_formats_with_data(),
        }
        for title, rows in ({"settings": of_the_settings()} if options.settings else groups).items():
            ratios = []
            for s in rows:
                if options.only not in label(s):
                    continue
                ours = bench.score(bench.engine.apply(bench.engine.plan(s)))
                mean, error = ours.divergence.mean(), standard_error(ours.divergence)
                cells = "| | |"
                peer = (
                    None if options.without_nncf or options.settings else nncf_compress(bench.model, s, bench.windows)
                )
                if peer is not None:
                    cells, ratio = compare(ours, bench.score(peer))
                    ratios.append(ratio)
                print(f"| {label(s)} | {ours.footprint:,} | {mean:.6f} ± {error:.6f} | {cells} |", flush=True)
            if ratios:
                print(f"| *{title}: geometric mean* | | | | | *{np.exp(np.mean(np.log(ratios))):.3f}* | |")


if __name__ == "__main__":
    main()
