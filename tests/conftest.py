"""What every room's tests share: no network, and a tiny random Llama as Hugging Face folder and as OpenVINO folder."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import settings

# Set before torch, transformers or datasets are imported: no test reaches for the network or the user's caches.
_home = tempfile.mkdtemp(prefix="autotune-tests-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
for _name, _value in {
    "HF_HOME": _home,
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "OPENVINO_TELEMETRY_OPT_OUT": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "2",
}.items():
    os.environ[_name] = _value

# The same examples on every run, and no time limit for one: the machine may be busy.
settings.register_profile("autotune", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("autotune")

TEXT = (
    "Mira keeps eleven hens behind the mill, and every morning she counts the eggs: two, five, sometimes nine. "
    "When the river is high, her brother rows across with bread and takes six eggs home. 'Seven and six make "
    "thirteen', he says, though nobody asked. In the evening the lamp is lit, the ledger is opened, and the day's "
    "numbers go in: eggs, loaves, the height of the water. Wie viele waren es heute? Neuf, dit-elle. "
    '{"eggs": 9, "bread": [1, 2]}\n'
)


def write_tiny_llama(folder: Path, *, seed: int = 0) -> Path:
    """Write a Llama (hidden 64, 2 layers, random float32 weights of real spread) with a byte-level tokenizer.

    The weights are wide (standard deviation 0.2), so that greedy text varies from prompt to prompt and every
    quantisation error shows.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=320,
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
    wrapped.save_pretrained(folder)
    return folder


def export_openvino(folder: Path, out: Path) -> Path:
    """Export a Hugging Face folder to an OpenVINO folder, tokenizer files included, without any compression."""
    with warnings.catch_warnings():
        # Not ours to mend: torch.jit.trace, which OpenVINO's converter calls, warns that it is deprecated.
        warnings.simplefilter("ignore")
        from optimum.intel import OVModelForCausalLM
        from transformers import AutoTokenizer

        model = OVModelForCausalLM.from_pretrained(folder, export=True, load_in_8bit=False, compile=False)
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out


@pytest.fixture(scope="session")
def tiny_llama_hf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as a Hugging Face folder (safetensors, tokenizer.json)."""
    return write_tiny_llama(tmp_path_factory.mktemp("tiny-llama-hf"))


@pytest.fixture(scope="session")
def tiny_llama(tiny_llama_hf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny Llama as an OpenVINO folder (openvino_model.xml/.bin, config, tokenizer files)."""
    return export_openvino(tiny_llama_hf, tmp_path_factory.mktemp("tiny-llama-ov"))
