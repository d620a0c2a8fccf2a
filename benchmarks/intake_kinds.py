"""Table of the models that people bring: what is refused with which message, what is served, and how fast.

    python benchmarks/intake_kinds.py                     # broken and unusual models
    python benchmarks/intake_kinds.py --quantized         # quantized checkpoints, exported and compared
    python benchmarks/intake_kinds.py --only tokenizer    # kinds whose name has this word

Every kind is made from a small random Llama. A row has the kind, the class of the error with the message (or the
result), the seconds until it was shown, and the folders that were left in the cache, which must be none after an error.
Quantized checkpoints that are kept are compared with their dequantized float model: codes, and the relative difference
of logits in float32. Exit code 1 if a kind ends in another way than it should.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
import common  # noqa: F401
from families import Family, write_family

from autotune import api
from autotune.common.cache import Cache
from autotune.errors import AutotuneError
from autotune.models.architecture import quiet
from autotune.models.source import resolve_model

LLAMA = Family(
    "llama",
    "llama",
    {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    },
)
WEIGHTS = "model.safetensors"
TEXT = "Mira keeps eleven hens behind the mill. " * 30
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 26012\n"
DOWN = "model.layers.1.mlp.down_proj"

Make = Callable[[Path], None]
KINDS: dict[str, tuple[Make, Callable[[Path, Path], Any]]] = {}
"""Kind -> how the folder is changed, and what is run with (folder, cache)."""


def resolve(folder: Path, cache: Path) -> str:
    """Take the model in, and export it."""
    path = resolve_model(str(folder), cache=Cache.resolve(cache)).path
    assert path is not None
    return "exported"


def evaluate(folder: Path, cache: Path, **options: Any) -> str:
    """Score the model against itself."""
    perplexity = {"texts": [TEXT], "sequence_length": 32, "samples": 2, **options}
    scores = api.evaluate(folder, reference=folder, evaluators={"perplexity": perplexity}, cache=cache, progress=False)
    return f"perplexity {scores['perplexity'].value:.1f}"


def kind(name: str, run: Callable[[Path, Path], Any] = resolve) -> Callable[[Make], Make]:
    """Add a function that changes a folder to the table."""

    def add(make: Make) -> Make:
        KINDS[name] = make, run
        return make

    return add


def _tensors(folder: Path) -> dict[str, Any]:
    from safetensors.torch import load_file

    return dict(load_file(folder / WEIGHTS))


def _save(folder: Path, tensors: dict[str, Any], name: str = WEIGHTS) -> None:
    from safetensors.torch import save_file

    save_file({name: value.clone().contiguous() for name, value in tensors.items()}, folder / name, {"format": "pt"})


def _configure(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


@kind("whole model")
def _whole(folder: Path) -> None:
    pass


@kind("checkpoint without lm_head")
def _headless(folder: Path) -> None:
    _save(folder, {name: value for name, value in _tensors(folder).items() if name != "lm_head.weight"})


@kind("checkpoint without one down_proj")
def _one_missing(folder: Path) -> None:
    _save(folder, {name: value for name, value in _tensors(folder).items() if name != f"{DOWN}.weight"})


@kind("checkpoint under another prefix")
def _prefixed(folder: Path) -> None:
    _save(folder, {f"module.{name}": value for name, value in _tensors(folder).items()})


@kind("checkpoint of a classifier")
def _classifier(folder: Path) -> None:
    tensors = _tensors(folder)
    tensors["score.weight"] = tensors.pop("lm_head.weight")[:2]
    _save(folder, tensors)
    _configure(folder, architectures=["LlamaForSequenceClassification"])


@kind("quantized tensors without their configuration")
def _unnamed_quantization(folder: Path) -> None:
    import torch

    tensors = _tensors(folder)
    weight = tensors.pop(f"{DOWN}.weight")
    tensors |= {f"{DOWN}.qweight": torch.zeros(weight.shape[1] // 8, weight.shape[0], dtype=torch.int32)}
    _save(folder, tensors | {f"{DOWN}.scales": torch.ones(4, weight.shape[0])})


@kind("no tokenizer")
def _no_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


@kind("tokenizer of another model")
def _other_tokenizer(folder: Path) -> None:
    data = json.loads((folder / "tokenizer.json").read_text())
    data["model"]["vocab"] = {word: number + 300 for word, number in data["model"]["vocab"].items()}
    data["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(data))


@kind("NaN in a norm, bfloat16")
def _nan(folder: Path) -> None:
    tensors = {name: value.bfloat16() for name, value in _tensors(folder).items()}
    tensors["model.norm.weight"][3] = float("nan")
    _save(folder, tensors)


@kind("infinity in the embedding, float16")
def _infinite(folder: Path) -> None:
    tensors = {name: value.half() for name, value in _tensors(folder).items()}
    tensors["model.embed_tokens.weight"][3, 5] = float("inf")
    _save(folder, tensors)


@kind("architecture that needs an older transformers")
def _old(folder: Path) -> None:
    _configure(folder, model_type="mamba", architectures=["MambaForCausalLM"])


@kind("windows longer than the positions", lambda folder, cache: evaluate(folder, cache, sequence_length=256))
def _long(folder: Path) -> None:
    pass


@kind("Git LFS pointer")
def _pointer(folder: Path) -> None:
    (folder / WEIGHTS).write_text(POINTER)


@kind("safetensors file that is cut off")
def _cut(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-999])


@kind("index that names a missing file")
def _shards(folder: Path) -> None:
    tensors = _tensors(folder)
    index = {name: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, name in enumerate(tensors)}
    _save(folder, tensors, "model-00001-of-00002.safetensors")
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


@kind("empty file")
def _empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


@kind("config.json that is no JSON")
def _no_json(folder: Path) -> None:
    (folder / "config.json").write_text("{'model_type': 'llama'}")


@kind("JSONL text that is cut off", lambda folder, cache: _evaluate_file(folder, cache, "text.jsonl"))
def _cut_text(folder: Path) -> None:
    (folder / "text.jsonl").write_text('{"text": "one"}\n{"text": "tw')


@kind("dataset column that is missing", lambda folder, cache: _evaluate_file(folder, cache, "text.csv", column="body"))
def _no_column(folder: Path) -> None:
    (folder / "text.csv").write_text("title,text\na,Mira keeps hens\n")


def _evaluate_file(folder: Path, cache: Path, name: str, **options: Any) -> str:
    """Score the model on a dataset of one file."""
    perplexity = {"dataset": str(folder / name), **options, "sequence_length": 8, "samples": 1}
    api.evaluate(folder, reference=folder, evaluators={"perplexity": perplexity}, cache=cache, progress=False)
    return "scored"


@kind("encoder-decoder")
def _encoder_decoder(folder: Path) -> None:
    _configure(folder, model_type="t5", architectures=["T5ForConditionalGeneration"], is_encoder_decoder=True)


@kind("encoder-decoder exported to OpenVINO")
def _parts(folder: Path) -> None:
    for part in ("encoder", "decoder"):
        (folder / f"openvino_{part}_model.xml").write_text("<net></net>")


def _openvino(folder: Path, **options: Any) -> Any:
    """Export the model in place, and return it."""
    from optimum.intel import OVModelForCausalLM

    with quiet():
        model = OVModelForCausalLM.from_pretrained(folder, export=True, load_in_8bit=False, compile=False, **options)
        model.save_pretrained(folder)
    (folder / WEIGHTS).unlink()
    return model.model


@kind("OpenVINO model with its cache in inputs", evaluate)
def _stateless(folder: Path) -> None:
    _openvino(folder, stateful=False)


@kind("OpenVINO model without a cache", evaluate)
def _cacheless(folder: Path) -> None:
    _openvino(folder, use_cache=False, stateful=False)


@kind("OpenVINO model of a fixed shape", evaluate)
def _fixed(folder: Path) -> None:
    import openvino as ov

    model = _openvino(folder).clone()
    model.reshape({port.get_any_name(): [1] if port.get_any_name() == "beam_idx" else [1, 16] for port in model.inputs})
    ov.save_model(model, folder / "other.xml")
    for end in ("xml", "bin"):
        (folder / f"other.{end}").replace(folder / f"openvino_model.{end}")


_SECTIONS: dict[str, dict[str, Any]] = {
    "GPTQ of 3 bits": {"quant_method": "gptq", "bits": 3, "group_size": 32},
    "AWQ for GEMV": {"quant_method": "awq", "bits": 4, "version": "gemv"},
    "compressed-tensors, 2:4 sparse": {"quant_method": "compressed-tensors", "format": "marlin-24"},
    "bitsandbytes FP4": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "fp4"},
    "HQQ": {"quant_method": "hqq"},
    "a new method": {"quant_method": "brand-new"},
}
for _name, _section in _SECTIONS.items():
    kind(_name)(lambda folder, section=_section: _configure(folder, quantization_config=section))  # type: ignore[misc]
kind("MLX")(lambda folder: _configure(folder, quantization={"group_size": 64, "bits": 4}))


@kind("GGUF alone")
def _gguf(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model.gguf")


def show(name: str, make: Make, run: Callable[[Path, Path], Any], base: Path, work: Path) -> None:
    """Make one kind, run it, and print its row."""
    folder, cache = shutil.copytree(base, work / "model"), work / "cache"
    before = set((cache / "models").glob("*"))
    with quiet():
        make(folder)
    started = time.perf_counter()
    try:
        found = str(run(folder, cache))
    except AutotuneError as error:
        found = f"{type(error).__name__}: {error}".replace(str(folder), "MODEL").replace(str(work), "")
    seconds = time.perf_counter() - started
    left = [path.name for path in set((cache / "models").glob("*")) - before if path.is_dir()]
    print(f"| {name} | {found} | {seconds:.2f} | {len(left) or 'none'} |", flush=True)
    shutil.rmtree(folder)


def show_kept(name: str, base: Path, work: Path) -> bool:
    """Quantize the model in one way, export it, and print the row; return True if all codes are kept."""
    from builders import constants, distance, logits
    from quantized_checkpoints import KINDS as QUANTIZED
    from quantized_checkpoints import torch_logits, write_checkpoint

    layers = write_checkpoint(base, work / "model", QUANTIZED[name])
    started = time.perf_counter()
    model = resolve_model(str(work / "model"), cache=Cache.resolve(work / "cache")).read()
    seconds = time.perf_counter() - started
    found = constants(model)
    kept = sum(name.endswith("/scale") for name in found)
    tokens = np.random.default_rng(0).integers(0, 320, (2, 12), dtype=np.int64)
    difference = distance(torch_logits(base, layers, tokens), logits(model, tokens))
    print(f"| {name} | {kept} of {len(layers)} layers | {difference:.1e} | {seconds:.1f} |", flush=True)
    for path in (work / "model", work / "cache"):
        shutil.rmtree(path, ignore_errors=True)
    return kept == len(layers) and difference < 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quantized", action="store_true", help="quantized checkpoints that are kept")
    parser.add_argument("--only", default="", help="kinds whose name has this word")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        base = write_family(LLAMA, work / "base")
        importlib.import_module("optimum.intel")
        gc.freeze()  # the converter collects garbage often, with many objects of imported packages to look at
        if options.quantized:
            from quantized_checkpoints import KINDS as QUANTIZED

            print("| checkpoint | codes kept | logits differ by | seconds |\n|---|---|---|---|")
            right = [show_kept(kind, base, work) for kind in QUANTIZED if options.only in kind]
            sys.exit(not all(right))
        print("| kind | shown | seconds | folders left |\n|---|---|---|---|")
        for title, (make, run) in KINDS.items():
            if options.only in title:
                show(title, make, run, base, work)


if __name__ == "__main__":
    main()
