"""Seconds and peak memory of distillation by the memory that it may use, on random tokens: no tokenizer is needed.

    python benchmarks/random_llama.py DIR
    python benchmarks/distillation_memory.py --model DIR --memory 8 --layers 11 --tokens 1024

With a memory of 0 the blocks are as small as possible. Run the script once for each: memory that an earlier run has
freed would hide the peak of the next.
The weights of these layers are int4_asym g64, all others int8_asym: only those of 4 bits are rounded again.
"""

from __future__ import annotations

import argparse
import math
import tempfile
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import common  # noqa: F401
import numpy as np
from memory import peak_memory

from autotune.compression.bank import Bank
from autotune.compression.engine import Engine
from autotune.compression.ir.constants import model_digest
from autotune.compression.settings import Settings
from autotune.distillation import distil, training
from autotune.distillation.memory import divide

HEAD = "| may use, GB | block, GB | estimate, GB | peak, GB | seconds (CPU) by stage | KL on held-out windows | bytes |"
RULE = "|---:|---:|---:|---:|---|---|---|"


def main() -> None:
    import openvino as ov

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="an OpenVINO folder")
    parser.add_argument("--memory", type=float, required=True, help="in GB")
    parser.add_argument("--layers", type=int, nargs="*", help="default: all")
    parser.add_argument("--windows", type=int, default=20)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--tokens", type=int, default=0, help="of the training; 0: only round again")
    options = parser.parse_args()
    training.Recipe = partial(training.Recipe, most_tokens=options.tokens, checks=1)  # type: ignore[assignment, misc]
    if not options.tokens:
        distil._trained = lambda *_: {distil.HELD_OUT_KEY: np.zeros((2, 1))}
    model = ov.Core().read_model(options.model / "openvino_model.xml")
    engine = Engine(model)
    low = engine.plan(Settings(mode="int8_asym")).variants
    plan = engine.plan(Settings(mode="int4_asym", group_size=64))
    parts = None if options.layers is None else [f"layers.{layer}." for layer in options.layers]
    chosen = {
        name: variant if parts is None or any(part in name for part in parts) else low[name]
        for name, variant in plan.variants.items()
    }
    plan = engine.plan_of(chosen)
    vocabulary = next(weight.shape[0] for weight in engine.weights if weight.kind == "embedding")
    tokens = np.random.default_rng(0).integers(0, vocabulary, (options.windows, options.length), dtype=np.int64)
    print(HEAD, RULE, row(engine, plan, tokens, round(options.memory * 1e9)), sep="\n")


def row(engine: Engine, plan: Any, tokens: Any, memory: int) -> str:
    """Distil a new compressed model, and format its line of the table."""
    division = divide(engine.model, tokens.shape, memory)
    seconds: Counter[str] = Counter()
    stage, since = "", time.process_time()

    def begin(text: str) -> None:
        nonlocal stage, since
        now = time.process_time()
        seconds[stage] += now - since  # type: ignore[assignment]
        stage, since = text.removeprefix("distillation: ").partition(" ")[0].strip(","), now
        stage = "training" if stage.isdigit() else stage

    held_out = []
    rounded = distil._rounded

    def recorded(*arguments: Any) -> Any:
        found = rounded(*arguments)
        held_out.append(found[distil.HELD_OUT_KEY].mean(1))
        begin("scoring")
        return found

    distil._rounded = recorded
    with tempfile.TemporaryDirectory() as scratch, peak_memory() as peak:
        compressed = engine.apply(plan)
        begin("starting")
        distil.distil(
            engine.model,
            compressed,
            engine.compressed_weights(plan),
            tokens,
            bank=Bank(),
            scratch=Path(scratch),
            memory=memory,
            stage=begin,
        )
        begin("")
    distil._rounded = rounded
    before, after = held_out[0]
    block = "all" if division.limit == math.inf else f"{division.limit / 1e9:.2f}"
    stages = ", ".join(f"{name} {elapsed:.0f}" for name, elapsed in seconds.items() if name)
    numbers = f"{memory / 1e9:g} | {block} | {division.needed / 1e9:.2f} | {peak.nbytes / 1e9:.2f}"
    return f"| {numbers} | {stages} | {before:.3g} -> {after:.3g} | {model_digest(compressed)[:8]} |"


if __name__ == "__main__":
    main()
