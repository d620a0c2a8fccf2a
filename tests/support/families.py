"""Families of language models, each as a small random one: a table of configurations, and how one is written.

The widths are chosen to reach every case: rows that a group size of 64 divides and rows that it does not, weights
that are tied, fused, transposed (Conv1D), biased, in experts, and tables of learned positions. The fixture
`family_folder` of `conftest.py` exports a family once a run.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from packaging.specifiers import SpecifierSet

__all__ = ["FAMILIES", "VOCABULARY", "Family", "export_openvino", "write_family", "write_tokenizer"]

TEXT = (
    "Mira keeps eleven hens behind the mill, and every morning she counts the eggs: two, five, sometimes nine. "
    "When the river is high, her brother rows across with bread and takes six eggs home. 'Seven and six make "
    "thirteen', he says, though nobody asked. In the evening the lamp is lit, the ledger is opened, and the day's "
    "numbers go in: eggs, loaves, the height of the water. Wie viele waren es heute? Neuf, dit-elle. "
    '{"eggs": 9, "bread": [1, 2]}\n'
)

VOCABULARY = 320
_SIZES = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 128}
_GATED = {**_SIZES, "intermediate_size": 96, "num_key_value_heads": 2}


@dataclass(frozen=True, slots=True)
class Family:
    """A family of models.

    Attributes:
        name: of the family, as tests are named by it.
        model_type: as transformers knows it.
        options: of its configuration, beside vocabulary and special tokens.
        tied: whether the table of the embedding is the head, too.
        routed: whether a small error may send a token to other experts.
        bounded: name of the class in optimum-intel whose bound on the version of transformers is lifted for the
            export. (That the export is right, a test shows on its logits.)
        transformers: versions that export it.
    """

    name: str
    model_type: str
    options: Mapping[str, Any] = field(repr=False)
    tied: bool = False
    routed: bool = False
    bounded: str | None = None
    transformers: str = ""


_TABLE = (
    Family("gpt2", "gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 160}, tied=True),
    Family("opt", "opt", {**_SIZES, "ffn_dim": 160, "word_embed_proj_dim": 64}, tied=True),
    Family("gpt_neox", "gpt_neox", {**_SIZES, "intermediate_size": 160}),
    Family("mistral", "mistral", {**_GATED, "sliding_window": 32}),
    Family("qwen2", "qwen2", {**_GATED}, tied=True),
    Family("qwen3", "qwen3", {**_GATED, "head_dim": 24}),
    Family(
        "gemma",
        "gemma",
        {**_GATED, "head_dim": 16, "hidden_activation": "gelu_pytorch_tanh"},
        tied=True,
        bounded="GemmaOpenVINOConfig",
    ),
    Family("phi3", "phi3", {**_GATED, "pad_token_id": 0}),
    Family("falcon", "falcon", {**_SIZES, "multi_query": True, "parallel_attn": True, "alibi": False}, tied=True),
    Family("mixtral", "mixtral", {**_GATED, "num_local_experts": 4, "num_experts_per_tok": 2}, routed=True),
    Family(
        "qwen2_moe",
        "qwen2_moe",
        {
            **_GATED,
            "mlp_only_layers": [0],
            "moe_intermediate_size": 96,
            "shared_expert_intermediate_size": 128,
            "num_experts": 4,
            "num_experts_per_tok": 2,
        },
        routed=True,
    ),
    Family(
        "lfm2",
        "lfm2",
        {**_GATED, "layer_types": ["conv", "full_attention"], "block_auto_adjust_ff_dim": False},
        tied=True,
        transformers="<=5.4.0",
    ),
    Family(
        "granitemoehybrid",
        "granitemoehybrid",
        {
            **_GATED,
            "layer_types": ["mamba", "attention"],
            "mamba_d_state": 8,
            "mamba_d_head": 32,
            "mamba_n_heads": 4,
            "mamba_chunk_size": 16,
            "shared_intermediate_size": 96,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
        },
        routed=True,
        transformers="<=5.3.0",
    ),
)

FAMILIES = {f.name: f for f in _TABLE if SpecifierSet(f.transformers).contains(version("transformers"))}


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level tokenizer of `VOCABULARY` tokens; token 0 begins and ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([TEXT], trainer)
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", bos_token="<|end|>")
    wrapped.save_pretrained(folder)


def write_family(family: Family, folder: Path, *, seed: int = 0) -> Path:
    """Write a model as a Hugging Face folder (safetensors, tokenizer.json): random float32 weights of real spread.

    Matrices are wide enough that greedy text varies; gains are not one and biases not zero, so that an export cannot
    fold them away.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family.model_type,
        vocab_size=VOCABULARY,
        bos_token_id=0,
        eos_token_id=0,
        tie_word_embeddings=family.tied,
        **family.options,
    )
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 or name.endswith("bias"):
                parameter.normal_(0.0, 0.1)
            else:
                parameter.uniform_(0.4, 1.6)
    model.save_pretrained(folder)
    write_tokenizer(folder)
    return folder


def export_openvino(folder: Path, out: Path, *, bounded: str | None = None) -> Path:
    """Export a Hugging Face folder to an OpenVINO folder, tokenizer files included, without any compression.

    Args:
        folder, out: from where, and to where.
        bounded: see `Family`.
    """
    import pytest

    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        # Not ours to mend: torch.jit.trace, which OpenVINO's converter calls, warns that it is deprecated.
        warnings.simplefilter("ignore")
        from optimum.exporters.openvino import model_configs
        from optimum.intel import OVModelForCausalLM
        from transformers import AutoTokenizer

        # The converter collects garbage four times: 1.6 of 4 s, with 600,000 objects of imported packages to look at.
        gc.freeze()
        if bounded is not None:
            patch.setattr(getattr(model_configs, bounded), "MAX_TRANSFORMERS_VERSION", None)
        model = OVModelForCausalLM.from_pretrained(folder, export=True, load_in_8bit=False, compile=False)
        model.save_pretrained(out)
        AutoTokenizer.from_pretrained(folder).save_pretrained(out)
    return out
