"""Gain and cost of distillation by size: divergence, perplexity, similarity, seconds and peak memory, with and without.

    python benchmarks/distillation.py                                  # the demo model, int4_asym g64 GPTQ SE
    python benchmarks/distillation.py --model DIR --calibration FILE --report FILE --other FILE
    python benchmarks/distillation.py --sizes 11.83 13.79 --text FILE  # MB; formats are chosen for each weight
    python benchmarks/distillation.py --sizes 9.5 --allow int2 int3    # formats of fewer bits as well
    python benchmarks/distillation.py --mode int3_sym                  # one of them for all weights
    python benchmarks/distillation.py --rounding                       # stop before the training
    python benchmarks/distillation.py --rounding --gradient-tokens 2048

A run that is killed continues where it was if `--cache` is the same. Each row has a second line with the scores on
`--other`, a text of another kind than the calibration text.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import DEMO

import autotune
from autotune.distillation import codes, distil, training

HEAD = "| model | bytes | KL, 1e-3 nats/token | perplexity | similarity | s | peak GB |"
RULE = "|---|---:|---:|---:|---:|---:|---:|"
BEST: dict[str, Any] = {"gptq": True, "scale_estimation": True}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=str(DEMO / "model"))
    parser.add_argument("--calibration", type=Path, default=DEMO / "calibration.txt")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--sequence-length", type=int, default=256)
    parser.add_argument("--report", type=Path, default=DEMO / "report.txt")
    parser.add_argument("--other", type=Path, help="a text of another kind")
    parser.add_argument("--text", type=Path, default=DEMO / "search.txt", help="for --sizes: measures the formats")
    parser.add_argument("--sizes", type=float, nargs="*", default=[], help="in MB (1,000,000 bytes)")
    parser.add_argument(
        "--similarity", action="store_true", help="also score answers, to 160 prompts of the report text"
    )
    parser.add_argument("--mode", default="int4_asym")
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--all-layers", action="store_true")
    parser.add_argument("--allow", nargs="*", default=(), help="for --sizes: int2, int3")
    parser.add_argument("--rounding", action="store_true", help="only round again, without training")
    parser.add_argument(
        "--gradient-tokens", type=int, help="tokens whose gradients the rounding uses; with a new cache"
    )
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    if options.gradient_tokens:
        codes.MOST_TOKENS = options.gradient_tokens
    if options.rounding:
        # Another recipe has another key in the bank, so that no training is taken for done.
        training.Recipe = partial(training.Recipe, checks=0)  # type: ignore[assignment, misc]
        distil._trained = lambda *_: {distil.HELD_OUT_KEY: np.zeros((2, 1))}
    with tempfile.TemporaryDirectory() as folder:
        cache = options.cache or Path(folder)
        step = ", rounded again" if options.rounding else ", distillation"
        print(HEAD, RULE, sep="\n", flush=True)
        for name, arguments in plans(options):
            for distillation in (False, True):
                started = time.perf_counter()
                model = autotune.compress(
                    options.model,
                    calibration=options.calibration,
                    samples=options.samples,
                    sequence_length=options.sequence_length,
                    distillation=distillation,
                    cache=cache,
                    progress=False,
                    **arguments,
                )
                seconds = time.perf_counter() - started
                print(row(f"{name}{step * distillation}", model, seconds, options, cache), flush=True)


def plans(options: argparse.Namespace) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the label and the arguments of each compression."""
    if not options.sizes:
        setting = {"mode": options.mode, "group_size": options.group_size, "all_layers": options.all_layers}
        layers = " all_layers" * options.all_layers
        yield f"{options.mode} g{options.group_size}{layers} GPTQ SE", {**setting, **BEST}
    small = {"allow": tuple(options.allow), "runtime_compressed": False} if options.allow else {}
    for size in options.sizes:
        yield f"at most {size} MB", {"max_size": round(size * 1e6), "evaluation": options.text, **small}


def row(name: str, model: Any, seconds: float, options: argparse.Namespace, cache: Path) -> str:
    """Score a model, and format its line of the table; a second one for the other text."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    lines = []
    for text, label in ((options.report, name), (options.other, "on the other text")):
        if text is None:
            continue
        evaluators: dict[str, Any] = {"perplexity": {"path": text, "sequence_length": 512, "samples": 32}}
        if options.similarity and text == options.report:
            evaluators["similarity"] = {
                "embedder": "minilm",
                "decode": "always",
                "max_new_tokens": 64,
                "prompts": openings(text),
            }
        scores = autotune.evaluate(
            model.model, reference=options.model, evaluators=evaluators, cache=cache, progress=False
        )
        kl, similarity = scores["kl_divergence"], scores.get("similarity")
        shown = "" if similarity is None else f"{similarity.value:.4f} ± {similarity.stderr or 0:.4f}"
        cost = f"{seconds:.0f} | {peak:.1f}" if text == options.report else " | "
        lines.append(
            f"| {label} | {model.footprint:,} | {1000 * kl.value:.3f} ± {1000 * kl.stderr:.3f} | "
            f"{scores['perplexity'].value:.3f} | {shown} | {cost} |"
        )
    return "\n".join(lines)


def openings(text: Path) -> list[str]:
    """Return the first words of 160 paragraphs."""
    long = [line.split() for line in text.read_text(encoding="utf-8").splitlines() if len(line.split()) > 60]
    return [" ".join(words[:24]) for words in long[:: max(1, len(long) // 160)][:160]]


if __name__ == "__main__":
    main()
