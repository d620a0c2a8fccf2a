"""The engine beside NNCF: bytes, KL divergence and seconds for the same settings, alternating in one run.

    python benchmarks/engine_table.py                       # the demo model
    python benchmarks/engine_table.py --model DIR --calibration FILE --text FILE

NNCF is run with its defaults on the same model and the same calibration windows. KL divergence is scored in f32 over
windows of the text. Seconds are those of compression alone, for autotune with an empty layer bank; the calibration pass
of autotune (one for all settings) is given on its own.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import logging
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import openvino as ov

from autotune.compression.bank import Bank
from autotune.compression.engine import Engine
from autotune.compression.settings import ALGORITHMS, Settings
from autotune.compression.sizes import Sizes
from autotune.compression.statistics import StatisticsCache
from autotune.models import resolve_model
from autotune.runtime import OpenVINOLanguageModel
from autotune.texts import token_windows
from evaluators.perplexity import Perplexity

DEMO = Path(__file__).parents[1] / "examples" / "demo"


class Row(NamedTuple):
    """One setting on one side."""

    footprint: int
    divergence: float
    stderr: float
    seconds: float


def settings() -> list[Settings]:
    rows = [Settings(mode="int8_asym"), Settings(mode="int8_sym")]
    rows += [Settings(mode=m, group_size=g) for m in ("int4_asym", "int4_sym") for g in (32, 64, 128)]
    rows += [Settings(mode="nf4", group_size=64), Settings(mode="mxfp4")]
    g64 = {"mode": "int4_asym", "group_size": 64}
    for ratio in (0.8, 0.6):
        rows += [
            Settings(**g64, ratio=ratio, sensitivity_metric=metric)
            for metric in ("weight_quantization_error", "max_activation_variance", "output_error")
        ]
    rows += [Settings(**g64, all_layers=True), Settings(**g64, awq=True), Settings(**g64, scale_estimation=True)]
    rows += [Settings(**g64, awq=True, scale_estimation=True)]
    rows += [Settings(**g64, gptq=True), Settings(**g64, gptq=True, scale_estimation=True)]
    rows += [Settings(**g64, lora_correction=True)]
    return [*rows, Settings(**g64, awq=True, scale_estimation=True, lora_correction=True)]


def name(s: Settings) -> str:
    parts = [s.mode, "" if s.group_size is None else f"g{s.group_size}", "" if s.ratio == 1 else f"ratio {s.ratio}"]
    parts += [s.sensitivity_metric or "", "all_layers" if s.all_layers else "", "AWQ" if s.awq else ""]
    parts += ["SE" if s.scale_estimation else "", "GPTQ" if s.gptq else "", "LoRA" if s.lora_correction else ""]
    return " ".join(part for part in parts if part)


def nncf_compress(model: ov.Model, s: Settings, windows: np.ndarray) -> ov.Model:
    import nncf

    nncf.set_log_level(logging.ERROR)
    options: dict[str, Any] = {"mode": nncf.CompressWeightsMode(s.mode)}
    if not s.mode.startswith("int8"):
        options |= {"ratio": s.ratio, "all_layers": s.all_layers}
        if s.group_size is not None:
            options["group_size"] = s.group_size
    if s.ratio < 1 and s.sensitivity_metric:
        # NNCF has no output_error; its own default with data stands beside it.
        metric = "max_activation_variance" if s.sensitivity_metric == "output_error" else s.sensitivity_metric
        options["sensitivity_metric"] = nncf.SensitivityMetric(metric)
    algorithms = {name: getattr(s, name) for name in ALGORITHMS}
    if any(algorithms.values()):
        options |= algorithms
    if s.needs_statistics:
        options["dataset"] = nncf.Dataset([inputs(row) for row in windows])
        options["subset_size"] = len(windows)
    with contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.compress_weights(model.clone(), **options)


def inputs(tokens: np.ndarray) -> dict[str, np.ndarray]:
    tokens = tokens[None]
    return {
        "input_ids": tokens,
        "attention_mask": np.ones_like(tokens),
        "position_ids": np.arange(tokens.shape[1])[None],
        "beam_idx": np.zeros(1, np.int32),
    }


def timed(work: Callable[[], ov.Model]) -> tuple[ov.Model, float]:
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO / "model"))
    parser.add_argument("--calibration", type=Path, default=DEMO / "calibration.txt")
    parser.add_argument("--text", type=Path, default=DEMO / "report.txt")
    parser.add_argument("--sequence-length", type=int, default=256, help="of calibration windows")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--windows", type=int, default=32, help="scored windows of 512 tokens")
    parser.add_argument("--without-nncf", action="store_true")
    options = parser.parse_args()

    from autotune.cache import Cache

    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.resolve(folder)
        source = resolve_model(options.model, cache=cache)
        model, tokenizer = source.read(), source.tokenizer()
        windows = token_windows(
            tokenizer,
            [options.calibration.read_text(encoding="utf-8")],
            sequence_length=options.sequence_length,
            samples=options.samples,
        )
        scorer = Perplexity(path=options.text, sequence_length=512, samples=options.windows)
        with OpenVINOLanguageModel(model, tokenizer) as original:
            reference = scorer.reference(original)
        engine = Engine(model, bank=Bank())
        start = time.perf_counter()
        statistics = StatisticsCache(cache.statistics).get_or_collect(
            model, engine.activations, windows, model_fingerprint=source.fingerprint
        )
        print(f"calibration pass: {time.perf_counter() - start:.1f} s for {windows.size:,} tokens\n")

        def row(compressed: ov.Model, seconds: float) -> Row:
            with OpenVINOLanguageModel(compressed, tokenizer) as candidate:
                divergence = scorer.evaluate(candidate, reference)["kl_divergence"]
            return Row(Sizes(compressed).original, divergence.value, divergence.stderr or 0.0, seconds)

        def ours(s: Settings) -> ov.Model:
            fresh = Engine(model, bank=Bank(), statistics=lambda: statistics)
            return fresh.apply(fresh.plan(s))

        print("| setting | bytes | KL divergence | s | NNCF: bytes | KL divergence | s |")
        print("|---|---:|---:|---:|---:|---:|---:|")
        for s in settings():
            cells = [row(*timed(lambda s=s: ours(s)))]
            if not options.without_nncf:
                cells.append(row(*timed(lambda s=s: nncf_compress(model, s, windows))))
            text = " | ".join(f"{c.footprint:,} | {c.divergence:.6f} ± {c.stderr:.6f} | {c.seconds:.2f}" for c in cells)
            print(f"| {name(s)} | {text} |", flush=True)


if __name__ == "__main__":
    main()
