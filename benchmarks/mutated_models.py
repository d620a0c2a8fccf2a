"""Broken models: mutate small model folders at random, and check that each is refused by name or served right.

    python benchmarks/mutated_models.py --minutes 5    # those of 200 mutations that have no result yet
    python benchmarks/mutated_models.py --seed 1       # 200 others
    python benchmarks/mutated_models.py --only 17      # one mutation again

Results are kept in docs/data/mutated_models.json, and written after each mutation: repeat the command until it has
nothing left to do. A mutation is drawn by its seed and number alone.

A mutated folder is served right if its exported model has the logits that transformers computes from the same folder.
transformers fills missing tensors with random numbers, so that an export of them has other logits. Outcomes:

    right     accepted, logits within 1e-3 of the largest one, equal tokens
    refused   an error of autotune before the export
    late      an error of autotune in or after the export
    WRONG     accepted with other logits or tokens, or a traceback

Exit code 1 if any is WRONG.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import common  # noqa: F401
from families import FAMILIES, write_family

from autotune.common.cache import Cache
from autotune.common.machine import machine
from autotune.errors import AutotuneError
from autotune.models import source
from autotune.models.architecture import quiet

DATA = Path(__file__).parents[1] / "docs" / "data" / "mutated_models.json"
FAMILY_NAMES = ("qwen2", "gpt2", "mixtral")
TOLERANCE = 1e-3
WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 26012\n"
TEXT = "Mira keeps eleven hens behind the mill."

Mutation = Callable[[Path, random.Random], str]
MUTATIONS: dict[str, Mutation] = {}


def mutation(function: Mutation) -> Mutation:
    """Add a function to the table of mutations; it changes a folder and returns what it did."""
    MUTATIONS[function.__name__] = function
    return function


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / WEIGHTS))


def _save(folder: Path, tensors: dict[str, Any]) -> None:
    from safetensors.torch import save_file

    copies = {name: value.clone().contiguous() for name, value in tensors.items()}
    save_file(copies, folder / WEIGHTS, metadata={"format": "pt"})


def _set(folder: Path, name: str, data: Any) -> None:
    (folder / name).write_text(json.dumps(data, indent=1))


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))


@mutation
def drop_tensor(folder: Path, draw: random.Random) -> str:
    tensors = _tensors(folder)
    name = draw.choice(sorted(tensors))
    del tensors[name]
    _save(folder, tensors)
    return name


@mutation
def rename_tensor(folder: Path, draw: random.Random) -> str:
    tensors = _tensors(folder)
    name = draw.choice(sorted(tensors))
    new = draw.choice([name.replace("weight", "wt"), f"x.{name}", name.replace(".0.", ".7."), f"{name}.0"])
    tensors[new] = tensors.pop(name)
    _save(folder, tensors)
    return f"{name} -> {new}"


@mutation
def add_prefix(folder: Path, draw: random.Random) -> str:
    prefix = draw.choice(["module.", "model.", "base_model.model.", "transformer."])
    _save(folder, {prefix + name: value for name, value in _tensors(folder).items()})
    return prefix


@mutation
def change_shape(folder: Path, draw: random.Random) -> str:
    tensors = _tensors(folder)
    name = draw.choice(sorted(name for name, value in tensors.items() if value.ndim > 1))
    value = tensors[name]
    ways = {"transposed": value.transpose(-1, -2), "narrower": value[..., :-1], "flat": value.reshape(-1)}
    way = draw.choice(sorted(ways))
    tensors[name] = ways[way]
    _save(folder, tensors)
    return f"{name} {way} {list(value.shape)} -> {list(tensors[name].shape)}"


@mutation
def change_type(folder: Path, draw: random.Random) -> str:
    import torch

    tensors = _tensors(folder)
    kind = draw.choice(["float16", "bfloat16", "float64", "int8", "int32", "float8_e4m3fn"])
    names = sorted(tensors) if draw.random() < 0.5 else [draw.choice(sorted(tensors))]
    for name in names:
        tensors[name] = tensors[name].to(getattr(torch, kind))
    _save(folder, tensors)
    return f"{kind}: {names[0] if len(names) == 1 else 'all'}"


@mutation
def not_finite(folder: Path, draw: random.Random) -> str:
    tensors = _tensors(folder)
    name = draw.choice(sorted(tensors))
    value = draw.choice([float("nan"), float("inf"), float("-inf")])
    flat = tensors[name].reshape(-1)
    flat[draw.randrange(flat.numel())] = value
    _save(folder, tensors)
    return f"{value} in {name}"


@mutation
def swap_tensors(folder: Path, draw: random.Random) -> str:
    tensors = _tensors(folder)
    one = draw.choice(sorted(tensors))
    two = draw.choice(sorted(tensors))
    tensors[one], tensors[two] = tensors[two], tensors[one]
    _save(folder, tensors)
    return f"{one} and {two}"


@mutation
def cut_file(folder: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(folder.iterdir()))
    content = file.read_bytes()
    size = draw.choice([0, draw.randrange(len(content)), len(content) - 1])
    file.write_bytes(content[:size])
    return f"{file.name} to {size} of {len(content)} bytes"


@mutation
def pointer(folder: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(folder.iterdir()))
    file.write_text(POINTER)
    return file.name


@mutation
def remove_file(folder: Path, draw: random.Random) -> str:
    file = draw.choice(sorted(folder.iterdir()))
    file.unlink()
    return file.name


@mutation
def damage_bytes(folder: Path, draw: random.Random) -> str:
    content = bytearray((folder / WEIGHTS).read_bytes())
    at = draw.randrange(min(2000, len(content)))
    content[at] = draw.randrange(256)
    (folder / WEIGHTS).write_bytes(content)
    return f"byte {at} of the header"


@mutation
def remove_config_key(folder: Path, draw: random.Random) -> str:
    config = _config(folder)
    name = draw.choice(sorted(config))
    del config[name]
    _set(folder, "config.json", config)
    return name


@mutation
def change_config_key(folder: Path, draw: random.Random) -> str:
    config = _config(folder)
    name = draw.choice(sorted(config))
    before = config[name]
    changes: list[Any] = [None, "wide", -1, 0, []]
    if isinstance(before, bool):
        changes = [not before, *changes]
    elif isinstance(before, (int, float)):
        changes = [before * 2, before + 1, *changes]
    config[name] = draw.choice(changes)
    _set(folder, "config.json", config)
    return f"{name}: {before} -> {config[name]}"


@mutation
def other_config(folder: Path, draw: random.Random) -> str:
    config = _config(folder)
    config["model_type"] = draw.choice(["llama", "mistral", "bert", "t5", "gpt2", "qwen3", "gemma2", "wide"])
    _set(folder, "config.json", config)
    return f"model_type {config['model_type']}"


@mutation
def split(folder: Path, draw: random.Random) -> str:
    from safetensors.torch import save_file

    tensors = _tensors(folder)
    names, weight_map = sorted(tensors), {}
    for number in range(2):
        part = {name: tensors[name].clone() for name in names[number::2]}
        save_file(part, folder / f"part-{number}.safetensors", metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, f"part-{number}.safetensors")
    (folder / WEIGHTS).unlink()
    what = draw.choice(["whole", "one removed", "swapped", "overwritten", "map without a tensor"])
    one, two = folder / "part-0.safetensors", folder / "part-1.safetensors"
    if what == "one removed":
        two.unlink()
    elif what == "swapped":
        content = one.read_bytes()
        one.write_bytes(two.read_bytes())
        two.write_bytes(content)
    elif what == "overwritten":
        shutil.copyfile(one, two)
    elif what == "map without a tensor":
        del weight_map[draw.choice(names)]
    _set(folder, "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    return what


@mutation
def other_tokenizer(folder: Path, draw: random.Random) -> str:
    data = json.loads((folder / "tokenizer.json").read_text())
    what = draw.choice(["no vocabulary", "larger ids", "no merges", "no decoder"])
    if what == "no vocabulary":
        data["model"]["vocab"] = {}
        data["model"]["merges"] = []
    elif what == "larger ids":
        data["model"]["vocab"] = {word: number + 1000 for word, number in data["model"]["vocab"].items()}
        data["added_tokens"] = []
    elif what == "no merges":
        data["model"]["merges"] = []
    else:
        data["decoder"] = None
    _set(folder, "tokenizer.json", data)
    return what


KIND_NAMES = sorted(MUTATIONS)


def original_answer(folder: Path) -> tuple[list[int], Any]:
    """Compute tokens [n] and logits float32 [n, vocabulary] with transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet(), torch.no_grad():
        tokens = AutoTokenizer.from_pretrained(folder)(TEXT)["input_ids"]
        model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").float().eval()
        return tokens, model(torch.tensor([tokens])).logits[0].numpy()


def served_answer(model: source.SourceModel) -> tuple[list[int], Any]:
    """Compute the same with the exported model."""
    import openvino as ov

    tokens = model.tokenizer()(TEXT)["input_ids"]
    compiled = ov.Core().compile_model(model.read(), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    count = len(tokens)
    given = {
        "input_ids": np.array([tokens]),
        "attention_mask": np.ones((1, count), np.int64),
        "position_ids": np.arange(count)[None],
        "beam_idx": np.zeros(1, np.int32),
    }
    names = {name for port in compiled.inputs for name in port.get_names()}
    answer = compiled({name: value for name, value in given.items() if name in names})
    return tokens, answer["logits"][0]


def run(folder: Path, work: Path) -> tuple[str, str]:
    """Return the outcome of one folder, and what was message or measured."""
    exported: list[Path] = []
    export = source._export_float

    def marked(model: str, files: Path, out: Path, *others: Any) -> None:
        exported.append(out)
        export(model, files, out, *others)

    source._export_float = marked
    try:
        model = source.resolve_model(str(folder), cache=Cache.resolve(work / "cache"))
        tokens, logits = served_answer(model)
    except AutotuneError as error:
        return ("late" if exported else "refused"), str(error).replace(str(folder), "MODEL")
    except Exception:
        return "WRONG", traceback.format_exc(limit=-3)
    finally:
        source._export_float = export
    try:
        expected_tokens, expected = original_answer(folder)
    except Exception as error:
        return "WRONG", f"accepted, but transformers fails: {error}"
    if tokens != expected_tokens:
        return "WRONG", f"tokens {tokens[:8]} instead of {expected_tokens[:8]}"
    difference = float(np.abs(logits - expected).max() / np.abs(expected).max())
    return ("right" if difference < TOLERANCE else "WRONG"), f"logits differ by {difference:.1e} of the largest"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutations, done again")
    parser.add_argument("--minutes", type=float, default=5, help="no mutation begins after this")
    options = parser.parse_args()

    found = json.loads(DATA.read_text("utf-8")) if DATA.is_file() else {"rows": {}}
    packages = ("transformers", "optimum-intel", "openvino")
    found |= {"command": "python benchmarks/mutated_models.py", "model": "tiny random models", "machine": machine()}
    found["measured"] = "exports of damaged model folders: refused, or with the logits of transformers"
    found |= {"versions": {package: version(package) for package in packages}, "date": str(date.today())}
    rows, ends = found["rows"], time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for family in FAMILY_NAMES:
            write_family(FAMILIES[family], work / family)
        importlib.import_module("optimum.intel")
        gc.freeze()  # the converter collects garbage often, with many objects of imported packages to look at
        for number in options.only or range(options.count):
            key = f"{options.seed}.{number}"
            if key in rows and not options.only:
                continue
            if time.monotonic() > ends:
                print("more to do: run it again")
                break
            draw = random.Random(f"{options.seed} {number}")
            family = draw.choice(FAMILY_NAMES)
            kind = KIND_NAMES[number % len(KIND_NAMES)]
            folder = shutil.copytree(work / family, work / "mutated")
            done = MUTATIONS[kind](folder, draw)
            started = time.perf_counter()
            outcome, message = run(folder, work)
            seconds = time.perf_counter() - started
            print(f"{number:4} {outcome:8} {seconds:5.1f} s  {family} {kind}: {done}\n       {message}", flush=True)
            rows[key] = {"family": family, "kind": kind, "mutation": done, "outcome": outcome, "shown": message}
            rows[key]["seconds"] = round(seconds, 2)
            DATA.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n", encoding="utf-8")
            for path in (folder, work / "cache"):
                shutil.rmtree(path, ignore_errors=True)
    counts = Counter(row["outcome"] for row in rows.values())
    print(", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items())))
    sys.exit(counts["WRONG"] > 0)


if __name__ == "__main__":
    main()
