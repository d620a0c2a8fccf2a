"""A front for every size: plans allocated from measured errors, verified, and scored on a text that they never saw.

    python benchmarks/budget.py                       # the demo model
    python benchmarks/budget.py --model DIR --calibration FILE --text FILE --report FILE
    python benchmarks/budget.py --sizes 11.83 12.9 13.79 16.4 17.5   # MB, beside the front
    python benchmarks/budget.py --small int2                         # 2 bits allowed
    python benchmarks/budget.py --small int2 int3 --no-runtime-compressed   # also what the CPU expands

Divergences are predicted and verified on `--text`; the last column is on `--report`, with the compressed model itself.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from common import DEMO

from autotune.allocation.allocator import Point, open_allocator
from autotune.allocation.choices import default_settings, make_menus
from autotune.allocation.probe import MeasuringInputs
from autotune.common.cache import Cache
from autotune.compression.bank import Bank
from autotune.compression.calibration.statistics import StatisticsCache
from autotune.compression.engine import Engine
from autotune.evaluation.texts.sources import token_windows
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from autotune.models.source import resolve_model
from autotune.models.tasks.text_generation import TASK
from evaluators.perplexity import Perplexity


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO / "model"))
    parser.add_argument("--calibration", type=Path, default=DEMO / "calibration.txt")
    parser.add_argument("--text", type=Path, default=DEMO / "search.txt")
    parser.add_argument("--report", type=Path, default=DEMO / "report.txt")
    parser.add_argument("--sizes", type=float, nargs="*", default=[], help="in MB (1,000,000 bytes)")
    parser.add_argument("--points", type=int, default=14)
    parser.add_argument("--small", nargs="*", default=[], choices=["int2", "int3"], help="formats of fewer bits, too")
    parser.add_argument("--runtime-compressed", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()

    start = time.perf_counter()

    def stage(message: str) -> None:
        print(f"{time.perf_counter() - start:7.1f} s  {message}", flush=True)

    with tempfile.TemporaryDirectory() as folder:
        cache = Cache.resolve(folder)
        source = resolve_model(options.model, cache=cache)
        model, tokenizer = source.read(), source.tokenizer()
        stage("the model is exported")
        text = options.calibration.read_text(encoding="utf-8")
        windows = token_windows(tokenizer, [text], sequence_length=256, samples=128)
        statistics = StatisticsCache(cache.statistics)

        def collect() -> object:
            return statistics.get_or_collect(model, engine.activations, windows, model_fingerprint=source.fingerprint)

        engine = Engine(model, bank=Bank(), statistics=collect)
        unseen = Perplexity(path=options.report, sequence_length=512, samples=32)
        inputs = MeasuringInputs(engine, source, lambda: tokenizer, cache)
        short, full = (inputs.texts({"path": options.text, **windows}) for windows in (TASK.loss.short, TASK.loss.full))
        menus = make_menus(
            engine,
            default_settings(data_aware=True, small=options.small),
            runtime_compressed=options.runtime_compressed,
        )
        with open_allocator(inputs, menus, short=short, full=full) as allocator:
            forwards = allocator.token_forwards / len(menus.choices)
            stage(f"errors of {len(menus.choices)} weights, {forwards:,.0f} token-forwards a weight")
            front = allocator.front(options.points)
            stage(f"{len(allocator.points)} plans verified, {allocator.token_forwards:,} token-forwards in all")
            plans = [allocator.best(round(size * 1e6)) for size in options.sizes]
            stage("the sizes asked for")
        with OpenVINOLanguageModel(model, tokenizer) as original:
            reported = unseen.reference(original)

        def row(point: Point) -> str:
            with OpenVINOLanguageModel(engine.apply(point.plan), tokenizer) as candidate:
                held_out = unseen.evaluate(candidate, reported)["kl_divergence"]
            prediction = f"{point.predicted:.6f} | {point.measured.value:.6f} | {100 * point.difference:+.1f}%"
            kind = "uniform" if point.uniform else ""
            return (
                f"| {point.plan.footprint:,} | {prediction} | {held_out.value:.6f} ± {held_out.stderr:.6f} | {kind} |"
            )

        for title, points in (("front", front), ("asked for", plans)):
            print(f"\n| {title}: bytes | predicted | measured | difference | on the report text | |")
            print("|---:|---:|---:|---:|---:|---|")
            for point in points:
                print(row(point), flush=True)
        own = [point for point in allocator.points if not point.uniform]
        differences = np.array([abs(point.difference) for point in own])
        ranks = [np.argsort(np.argsort([getter(p) for p in own])) for getter in (_predicted, _measured)]
        print(
            f"\nprediction against measurement over {len(own)} verified plans: median error "
            f"{100 * np.median(differences):.1f}%, rank correlation {np.corrcoef(*ranks)[0, 1]:.4f}"
        )


def _predicted(point: Point) -> float:
    return point.predicted


def _measured(point: Point) -> float:
    return point.measured.value


if __name__ == "__main__":
    main()
