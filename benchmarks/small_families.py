"""Train four small models of other families than Llama on WikiText-2, from nothing, on one core.

    python benchmarks/small_families.py OUT --texts test.txt valid.txt
    python benchmarks/small_families.py OUT --texts test.txt valid.txt --only gpt2 --seconds 300

Each family is written to OUT/<family>, a float16 folder of transformers. OUT/calibration.txt and OUT/report.txt are
the first and the second quarter of the second text; the models are trained on the first text and the other half.
A run stops after `--seconds` and continues from its checkpoint when the command is repeated. Every draw is seeded.
For each model, the perplexity on report.txt is printed beside that of the training tokens' frequencies.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

hub: Any = transformers
END = "<|endoftext|>"
VOCABULARY = 2048
ROWS, LENGTH = 8, 256
SIZES = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 0}


def gpt2() -> Any:
    """Tied, LayerNorm, learned positions, one matrix for queries, keys and values."""
    config = hub.GPT2Config(**SIZES, n_embd=128, n_layer=6, n_head=4, n_positions=1024)
    config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = 0.0
    return hub.GPT2LMHeadModel(config)


def opt() -> Any:
    """Tied, LayerNorm, ReLU: most activations of the MLP are zero."""
    sizes = {"hidden_size": 128, "word_embed_proj_dim": 128, "ffn_dim": 512, "num_hidden_layers": 6}
    config = hub.OPTConfig(**SIZES, **sizes, num_attention_heads=4, max_position_embeddings=1024, dropout=0.0)
    return hub.OPTForCausalLM(config)


def gpt_neox() -> Any:
    """Not tied, attention and MLP in parallel, rotary positions on a quarter of the channels."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 6, "num_attention_heads": 4}
    return hub.GPTNeoXForCausalLM(hub.GPTNeoXConfig(**SIZES, **sizes, max_position_embeddings=1024))


def qwen3() -> Any:
    """Tied, RMSNorm, gated MLP, shared keys and values, norms of queries and keys."""
    sizes = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4}
    attention = {"num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 1024}
    return hub.Qwen3ForCausalLM(hub.Qwen3Config(**SIZES, **sizes, **attention, tie_word_embeddings=True))


FAMILIES: dict[str, Callable[[], Any]] = {"qwen3": qwen3, "gpt2": gpt2, "opt": opt, "gpt_neox": gpt_neox}


def train_tokenizer(text: str) -> Any:
    """Fit a byte-level BPE tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(text.splitlines(keepends=True), trainer)
    return hub.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END)


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up over 20 steps, then a cosine down to a hundredth."""
    return 4e-3 * min((step + 1) / 20, 0.01 + 0.495 * (1 + math.cos(math.pi * step / steps)))


def train(model: Any, tokens: torch.Tensor, steps: int, checkpoint: Path, until: float) -> bool:
    """Train on random windows: Muon for matrices inside the layers, AdamW for the rest; False if time ran out."""
    inside = [p for name, p in model.named_parameters() if p.dim() == 2 and ("layers." in name or ".h." in name)]
    chosen = {id(p) for p in inside}
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.Muon(inside, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW([p for p in model.parameters() if id(p) not in chosen], betas=(0.9, 0.95), weight_decay=0.0),
    ]
    first = 0
    if checkpoint.is_file():
        state = torch.load(checkpoint)
        first = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    model.train()
    for step in range(first, steps):
        if time.monotonic() > until:
            saved = [optimizer.state_dict() for optimizer in optimizers]
            torch.save({"step": step, "model": model.state_dict(), "optimizers": saved}, checkpoint)
            print(f"stopped at step {step} of {steps}; repeat the command", flush=True)
            return False
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps)
        starts = torch.randint(len(tokens) - LENGTH, (ROWS,), generator=torch.Generator().manual_seed(step))
        batch = torch.stack([tokens[start : start + LENGTH] for start in starts.tolist()])
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(input_ids=batch, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].float().flatten(0, 1), batch[:, 1:].flatten())
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        if step % 50 == 49:
            print(f"step {step + 1} of {steps}: loss {loss.item():.3f}", flush=True)
    return True


@torch.no_grad()
def perplexity(model: Any, tokens: torch.Tensor) -> float:
    """Perplexity in windows of 512 tokens."""
    model.eval()
    windows = tokens[: min(len(tokens), 1 << 14) // 512 * 512].view(-1, 512)
    losses = [
        torch.nn.functional.cross_entropy(model(input_ids=window[None]).logits[0, :-1], window[1:])
        for window in windows
    ]
    return math.exp(torch.stack(losses).mean().item())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--texts", type=Path, nargs=2, required=True, metavar=("TRAIN", "SPLIT"))
    parser.add_argument("--only", choices=FAMILIES, nargs="*", default=list(FAMILIES))
    parser.add_argument("--steps", type=int, default=300, help=f"of {ROWS * LENGTH} tokens")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop training after so long")
    options = parser.parse_args()
    until = time.monotonic() + options.seconds
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    training, other = (path.read_text(encoding="utf-8") for path in options.texts)
    quarter = len(other) // 4
    training += other[2 * quarter :]
    (options.out / "calibration.txt").write_text(other[:quarter], encoding="utf-8")
    (options.out / "report.txt").write_text(other[quarter : 2 * quarter], encoding="utf-8")
    tokenizer = train_tokenizer(training)
    tokens = torch.tensor(tokenizer(training)["input_ids"])
    report = torch.tensor(tokenizer(other[quarter : 2 * quarter])["input_ids"])
    counts = 1 + torch.bincount(tokens, minlength=VOCABULARY).double()
    unigram = math.exp(-(counts / counts.sum()).log()[report].mean().item())
    print(
        f"{len(tokens):,} tokens to train on; perplexity of their frequencies on report.txt: {unigram:.0f}", flush=True
    )
    for family in options.only:
        folder, checkpoint = options.out / family, options.out / f"{family}.pt"
        if folder.is_dir():
            continue
        torch.manual_seed(0)
        model = FAMILIES[family]()
        if not train(model, tokens, options.steps, checkpoint, until):
            return
        parameters = sum(p.numel() for p in model.parameters())
        print(f"{family}: {parameters:,} parameters, perplexity {perplexity(model, report):.1f}", flush=True)
        model.half().save_pretrained(folder.with_suffix(".new"))
        tokenizer.save_pretrained(folder.with_suffix(".new"))
        folder.with_suffix(".new").rename(folder)
        checkpoint.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
