"""Writes a Llama of any shape with random float16 weights as an OpenVINO folder: for measuring speed and memory.

    python benchmarks/random_llama.py OUT                # TinyLlama's shape, 1.1 B parameters, 2.2 GB
    python benchmarks/random_llama.py OUT --layers 2 --hidden 256 --intermediate 704 --heads 4 --vocabulary 4096

The folder has no tokenizer: it is for benchmarks that take tokens.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path


def write(out: Path, **shape: int) -> None:
    import torch
    from optimum.intel import OVModelForCausalLM
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    model = LlamaForCausalLM(LlamaConfig(**shape, max_position_embeddings=2048, tie_word_embeddings=False))
    torch.set_default_dtype(torch.float32)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        model.save_pretrained(folder)
        del model
        exported = OVModelForCausalLM.from_pretrained(folder, export=True, load_in_8bit=False, compile=False)
        exported.save_pretrained(out)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--hidden", type=int, default=2048)
    parser.add_argument("--intermediate", type=int, default=5632)
    parser.add_argument("--heads", type=int, default=32)
    parser.add_argument("--kv-heads", type=int, default=4)
    parser.add_argument("--vocabulary", type=int, default=32000)
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write(
        options.out,
        num_hidden_layers=options.layers,
        hidden_size=options.hidden,
        intermediate_size=options.intermediate,
        num_attention_heads=options.heads,
        num_key_value_heads=options.kv_heads,
        vocab_size=options.vocabulary,
    )


if __name__ == "__main__":
    main()
