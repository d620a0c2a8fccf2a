"""One real study of the tiny Llama, run once by the command line; the tests beside it look at what it left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]

DEMO = Path(__file__).parents[2] / "examples" / "demo"

CONFIG = """\
model: {model}
output: study
calibration: {{path: calibration.txt, samples: 8, sequence_length: 32}}
space: {{mode: [int8_asym, int4_asym, int4_sym], group_size: [32, 64], ratio: [0.6, 1.0],
  sensitivity_metric: hessian_input_activation, all_layers: [false, true], awq: [false, true],
  scale_estimation: [false, true]}}
evaluators:
  similarity: {{prompts: prompts.txt, max_new_tokens: 12, embedder: minilm}}
  perplexity: {{path: search.txt, sequence_length: 32, samples: 16}}
study: {{trials: {trials}, seed: 3, workers: 1}}
"""


def write_config(folder: Path, model: Path, trials: int = 8) -> Path:
    """A study of `model` on the demo's texts, as a user would lay it out."""
    for name, length in (("calibration", 6000), ("search", 6000)):
        text = (DEMO / f"{name}.txt").read_text(encoding="utf-8")[:length]
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    prompts = (DEMO / "prompts.txt").read_text(encoding="utf-8").splitlines()[:3]
    (folder / "prompts.txt").write_text("\n".join(prompts), encoding="utf-8")
    file = folder / "model.yaml"
    file.write_text(CONFIG.format(model=model, trials=trials), encoding="utf-8")
    return file


def start(folder: Path, *arguments: str, cache: Path) -> subprocess.Popen[str]:
    """`autotune ...` in its own process, in `folder`."""
    return subprocess.Popen(
        [sys.executable, "-m", "autotune", *arguments],
        cwd=folder,
        env={**os.environ, "AUTOTUNE_CACHE": str(cache), "COLUMNS": "120"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_llama_hf: Path) -> Path:
    """A folder with model.yaml and its texts."""
    folder = tmp_path_factory.mktemp("workplace")
    write_config(folder, tiny_llama_hf)
    return folder


@pytest.fixture(scope="session")
def run(workplace: Path) -> Run:
    """Runs `autotune ...` in the workplace and waits for it."""

    def call(*arguments: str, folder: Path = workplace) -> subprocess.CompletedProcess[str]:
        process = start(folder, *arguments, cache=workplace / "cache")
        stdout, stderr = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)

    return call


@pytest.fixture(scope="session")
def searched(run: Run) -> subprocess.CompletedProcess[str]:
    """The finished search."""
    return run("search", "model.yaml")
