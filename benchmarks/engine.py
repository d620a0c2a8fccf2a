"""The engine beside NNCF: seconds and peak memory of every algorithm, alternating in one run.

    python benchmarks/engine.py                                   # the demo model
    python benchmarks/engine.py --model DIR --calibration FILE --repeats 3
    python benchmarks/engine.py --model DIR --random-tokens --samples 16 --sequence-length 128 \\
        --rows int8_asym "int4_asym g64 SE"

Every figure is measured in a process of its own, autotune's and NNCF's in turn, and the table shows medians. Seconds
are those of calibration and compression; loading libraries and the model, and writing the result, are left out.
"Cached" has the calibration statistics on disk, from the cold run before it. Memory is the peak of what no file backs
(the mapped model does not count) above what there was when the model had been read, the compressed model included.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import openvino as ov
from common import DEMO, label
from memory import peak_memory

from autotune.compression.settings import Settings

G64 = {"mode": "int4_asym", "group_size": 64}
ROWS = {
    label(s): s
    for s in (
        Settings(mode="int8_asym"),
        Settings(**G64),
        Settings(mode="nf4", group_size=64),
        Settings(**G64, awq=True),
        Settings(**G64, scale_estimation=True),
        Settings(**G64, awq=True, scale_estimation=True),
        Settings(**G64, gptq=True),
        Settings(**G64, gptq=True, scale_estimation=True),
        Settings(**G64, lora_correction=True),
    )
}
SIDES = ("autotune", "NNCF")
LIBRARIES = {
    "": (),
    "autotune": ("autotune.compression.engine", "scipy.linalg", "scipy.sparse.csgraph", "threadpoolctl"),
    "NNCF": ("nncf",),
}
PRECISIONS: dict[str, dict[str, Any]] = {
    "default": {},
    "f32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
}


def can_cache(side: str, s: Settings) -> bool:
    """Return True if a second run can reuse statistics; NNCF runs the whole model again for GPTQ."""
    return s.needs_calibration and (side == "autotune" or not s.gptq)


def autotune(model: ov.Model, s: Settings, windows: np.ndarray, statistics: Path) -> ov.Model:
    from autotune.compression.calibration.statistics import StatisticsCache
    from autotune.compression.engine import Engine

    def collected() -> Any:
        return StatisticsCache(statistics).get_or_collect(
            model, engine.activations, windows, model_fingerprint="benchmark", depth=engine.depth(s)
        )

    engine = Engine(model, statistics=collected if s.needs_calibration else None)
    return engine.apply(engine.plan(s))


def nncf(model: ov.Model, s: Settings, windows: np.ndarray, statistics: Path) -> ov.Model:
    from peer import nncf_compress

    return nncf_compress(model, s, windows, statistics=statistics if can_cache("NNCF", s) else None)


def plain_forward(model: ov.Model, windows: np.ndarray, precision: str) -> None:
    from autotune.compression.calibration.segments import text_inputs

    request = ov.Core().compile_model(model, "CPU", PRECISIONS[precision]).create_infer_request()
    names = {port.get_any_name() for port in model.inputs}
    for window in windows:
        request.reset_state()
        inputs = {name: value for name, value in text_inputs(window[None]).items() if name in names}
        request.infer(inputs, share_inputs=True)


def calibration_pass(model: ov.Model, windows: np.ndarray, depth: Any) -> None:
    from autotune.compression.calibration.statistics import StatisticsCache
    from autotune.compression.engine import Engine

    with tempfile.TemporaryDirectory() as folder:
        StatisticsCache(Path(folder)).get_or_collect(
            model, Engine(model).activations, windows, model_fingerprint="benchmark", depth=depth
        )


PASSES: dict[str, Callable[[ov.Model, np.ndarray], None]] = {
    "plain forward, f32": lambda model, windows: plain_forward(model, windows, "f32"),
    "plain forward, default precision": lambda model, windows: plain_forward(model, windows, "default"),
    "calibration, second moments in full": lambda model, windows: calibration_pass(model, windows, "full"),
    "calibration, diagonal blocks": lambda model, windows: calibration_pass(model, windows, "blocks"),
}


def measure(job: dict[str, Any]) -> dict[str, float]:
    """In a process of its own: one piece of work."""
    windows = np.load(job["windows"])
    model = ov.Core().read_model(Path(job["model"]) / "openvino_model.xml")
    for library in LIBRARIES[job["side"]]:
        importlib.import_module(library)  # loading it is not what is measured

    with peak_memory() as peak:
        start = time.perf_counter()
        if job["row"] in PASSES:
            result: Any = PASSES[job["row"]](model, windows)
        else:
            work = autotune if job["side"] == "autotune" else nncf
            result = work(model, ROWS[job["row"]], windows, Path(job["statistics"]))
        seconds = time.perf_counter() - start
    del result
    return {"seconds": seconds, "memory": peak.nbytes}


def in_process(job: dict[str, Any]) -> dict[str, float]:
    command = [sys.executable, __file__, "--measure", json.dumps(job)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measurements(row: str, common: dict[str, Any], sides: tuple[str, ...], repeats: int) -> dict[str, str]:
    """Cells of one row: medians over the repeats, the sides in turn."""
    s = ROWS[row]
    cold: dict[str, list[float]] = {side: [] for side in sides}
    cached: dict[str, list[float]] = {side: [] for side in sides}
    memory: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(repeats):
            for side in sides:
                statistics = Path(folder) / side / str(number)
                statistics.parent.mkdir(exist_ok=True)
                job = {**common, "row": row, "side": side, "statistics": str(statistics)}
                found = in_process(job)
                cold[side].append(found["seconds"])
                memory[side].append(found["memory"])
                if can_cache(side, s):
                    cached[side].append(in_process(job)["seconds"])

    def cells(values: dict[str, list[float]], text: Callable[[float], str]) -> Iterator[str]:
        medians = [median(values[side]) if values[side] else None for side in SIDES if side in values]
        yield from ("" if value is None else text(value) for value in medians)
        yield from [""] * (2 - len(medians))
        both = len(medians) == 2 and None not in medians
        yield f"{medians[1] / medians[0]:.1f}" if both else ""  # type: ignore[operator]

    if not cached.get("NNCF") and cached["autotune"] and cold.get("NNCF"):
        cached["NNCF"] = cold["NNCF"]  # all of it, every time
    columns = [*cells(cold, "{:.2f}".format), *cells(cached, "{:.2f}".format)]
    return " | ".join([*columns, *cells(memory, lambda value: f"{value / 1e6:,.0f}")])


def tokens(options: argparse.Namespace) -> np.ndarray:
    shape = (options.samples, options.sequence_length)
    if options.random_tokens:
        vocabulary = json.loads((options.model / "config.json").read_text())["vocab_size"]
        return np.random.default_rng(0).integers(0, vocabulary, shape)
    from transformers import AutoTokenizer

    from autotune.evaluation.texts.sources import token_windows

    text = options.calibration.read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    return token_windows(tokenizer, [text], sequence_length=shape[1], samples=shape[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="an OpenVINO folder; the demo model by default")
    parser.add_argument("--calibration", type=Path, default=DEMO / "calibration.txt")
    parser.add_argument("--random-tokens", action="store_true", help="for models without a tokenizer")
    parser.add_argument("--samples", type=int, default=128, help="calibration windows")
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--rows", nargs="*", choices=[*PASSES, *ROWS], default=[*PASSES, *ROWS], metavar="ROW", help="only these"
    )
    parser.add_argument("--without-nncf", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(json.loads(options.measure))))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.model is None:
            from autotune.common.cache import Cache
            from autotune.models.source import resolve_model

            options.model = resolve_model(str(DEMO / "model"), cache=Cache.resolve(folder)).path
        windows = Path(folder) / "windows.npy"
        np.save(windows, tokens(options))
        common = {"model": str(options.model), "windows": str(windows)}
        print("| passes | s | MB |\n|---|---:|---:|")
        for row in PASSES:
            if row in options.rows:
                found = [in_process({**common, "row": row, "side": ""}) for _ in range(options.repeats)]
                seconds, peak = (median(one[key] for one in found) for key in ("seconds", "memory"))
                print(f"| {row} | {seconds:.2f} | {peak / 1e6:,.0f} |", flush=True)
        print("\n| setting | cold, s | NNCF | ratio | cached, s | NNCF | ratio | peak, MB | NNCF | ratio |")
        print("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|")
        sides = SIDES[:1] if options.without_nncf else SIDES
        for row in ROWS:
            if row in options.rows:
                print(f"| {row} | {measurements(row, common, sides, options.repeats)} |", flush=True)


if __name__ == "__main__":
    main()
