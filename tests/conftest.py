"""Fixtures of all tests: no network, and a tiny random Llama as Hugging Face folder and as OpenVINO folder."""

from __future__ import annotations

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from families import FAMILIES, VOCABULARY, Family, export_openvino, write_family, write_tokenizer
from hypothesis import settings
from once import built_once

if TYPE_CHECKING:
    import openvino as ov

# Set before torch, transformers or datasets are imported: no test reaches for the network or the user's caches.
_home = tempfile.mkdtemp(prefix="autotune-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name, _value in {
    "HF_HOME": _home,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "CI": "true",  # the converter's telemetry then starts no process for each of its events: 3.6 s an export
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "2",
}.items():
    os.environ[_name] = _value

# The same examples on every run, and no time limit for one: the machine may be busy.
settings.register_profile("autotune", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("autotune")


MANY_MODULES = 100
_frozen_modules = 0


def pytest_runtest_setup() -> None:
    """Leave everything that was imported so far out of garbage collections: each trial of a study makes one."""
    global _frozen_modules
    if len(sys.modules) > _frozen_modules + MANY_MODULES:
        _frozen_modules = len(sys.modules)
        gc.collect()
        gc.freeze()


def write_tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Write a Llama (hidden 64, 2 layers, random float32 weights of real spread) with a byte-level tokenizer.

    The weights are wide (standard deviation 0.2), so that greedy text varies from prompt to prompt and every
    quantisation error shows.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_llama_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a Hugging Face folder (safetensors, tokenizer.json)."""
    return built_once(tmp_path_factory, "tiny-llama-hf", write_tiny_llama)


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as an OpenVINO folder (openvino_model.xml/.bin, config, tokenizer files)."""
    return built_once(tmp_path_factory, "tiny-llama-ov", lambda out: export_openvino(tiny_llama_hf, out))


@pytest.fixture(scope="session")
def llama(tiny_llama: Path) -> ov.Model:
    """The tiny Llama with gains in its norms that are not one, as trained models have them; 16 weights."""
    import openvino as ov
    from builders import with_norm_gains

    return with_norm_gains(ov.Core().read_model(tiny_llama / "openvino_model.xml"))


@pytest.fixture(scope="session")
def family_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a family by its name: ``hf`` as transformers writes it, ``ov`` exported; made when first asked."""

    def build(family: Family, folder: Path) -> None:
        export_openvino(write_family(family, folder / "hf"), folder / "ov", bounded=family.bounded)

    return lambda name: built_once(tmp_path_factory, name, lambda folder: build(FAMILIES[name], folder))
