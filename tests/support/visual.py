"""A model for text and images, small and random: LLaVA with a CLIP vision tower, its processor, and images."""

from __future__ import annotations

import json
from pathlib import Path

from families import VOCABULARY, write_tokenizer

__all__ = ["IMAGE_TOKENS", "write_images", "write_llava"]

IMAGE_TOKENS = 16
"""Vectors of features of an image: 4 x 4 patches."""


def write_llava(folder: Path, *, seed: int = 0) -> Path:
    """Write a Hugging Face folder; its processor needs PIL only."""
    import torch
    import transformers

    write_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    text = transformers.LlamaConfig(
        vocab_size=VOCABULARY + 1,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
    )
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    config = transformers.LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=IMAGE_TOKENS,
    )
    torch.manual_seed(seed)
    model = transformers.LlavaForConditionalGeneration(config).float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    # transformers 5.4 and later name the class that needs no torchvision CLIPImageProcessorPil.
    make = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    images = make(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    transformers.LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1
    ).save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int, *, name: str = "images.jsonl") -> Path:
    """Write random images and a JSON Lines file that names them with a text each."""
    import numpy as np
    from PIL import Image

    random, lines = np.random.default_rng(0), []
    for index in range(count):
        file = folder / f"{index}.png"
        Image.fromarray(random.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file)
        lines.append(json.dumps({"image": file.name, "text": f"How many hens are in picture {index}?"}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path
