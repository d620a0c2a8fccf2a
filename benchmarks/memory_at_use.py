"""Memory at use: what the evaluator `memory` predicts for compressed models, against a process that runs the prompt.

    python benchmarks/memory_at_use.py MODEL [MODEL ...] --tokens 512 2048 8192

MODEL is an OpenVINO folder; one without a tokenizer, as `random_llama.py` writes it, gets the one of `--tokenizer`.
With `--from int8_asym` that model takes the place of the original: it is the reference, and predicts the others.
Every measurement is a process of its own. Memory is in MB above a process that has imported OpenVINO GenAI.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import common  # noqa: F401  the import path
from transformers import AutoTokenizer

import autotune
from autotune.common.formatting import markdown_table
from evaluators.memory import Memory

MODES: dict[str, dict[str, Any]] = {
    "int8_asym": {"mode": "int8_asym"},
    "int4_asym g64": {"mode": "int4_asym", "group_size": 64},
}


def rows(folder: Path, tokenizer: Any, lengths: list[int], scratch: Path, first: str) -> list[list[str]]:
    """Measure a model and the others at all lengths; `first` is the one that predicts them."""
    compressed = {"original": SimpleNamespace(source=folder / "openvino_model.xml", tokenizer=tokenizer)}
    for name, settings in MODES.items():
        out = scratch / name.replace(" ", "-")
        autotune.compress(folder, **settings, output=out, progress=False)
        compressed[name] = SimpleNamespace(source=out / "openvino_model.xml", tokenizer=tokenizer)
    original = compressed.pop(first)
    found = []
    for tokens in lengths:
        evaluator = Memory(prompt_tokens=tokens)
        reference = evaluator.reference(original)
        measured = float(reference["memory"][0])
        found.append([folder.name, first, str(tokens), "", mb(measured), ""])
        for name, model in compressed.items():
            scores = evaluator.evaluate(model, reference)
            predicted, measured = scores["memory"].value, scores["memory_measured"].value
            error = f"{100 * (predicted / measured - 1):+.1f}%"
            found.append([folder.name, name, str(tokens), mb(predicted), mb(measured), error])
            print(*found[-1], file=sys.stderr, flush=True)
    return found


def mb(count: float) -> str:
    """Format bytes."""
    return f"{count / 1e6:.0f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--tokens", nargs="+", type=int, default=[512, 2048, 8192])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--from", dest="first", choices=["original", *MODES], default="original")
    options = parser.parse_args()
    table = []
    for folder in options.models:
        tokenizer = AutoTokenizer.from_pretrained(options.tokenizer or folder)
        with tempfile.TemporaryDirectory() as scratch:
            table += rows(folder, tokenizer, options.tokens, Path(scratch), options.first)
    print(markdown_table(["model", "weights", "tokens", "predicted (MB)", "measured (MB)", "error"], table, "llrrrr"))


if __name__ == "__main__":
    main()
