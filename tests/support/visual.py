"""Models for text and images, small and random, with their processors, and images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from families import VOCABULARY, write_tokenizer

__all__ = ["IMAGE_TOKENS", "write_images", "write_visual"]

IMAGE_TOKENS = {"llava": 16, "llava_next": 70, "gemma3": 4}
"""Vectors of features of an image of 40 x 50 pixels. LLaVA: 4 x 4 patches of 8 pixels. LLaVA-NeXT: the same in small,
then 2 x 2 such tiles without padding, and a vector at the end of each of the 6 rows. Gemma 3: 2 x 2 pooled patches."""

TEXT_SHAPE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 0,
}
LAYERS = ["sliding_attention", "full_attention"]

GEMMA_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m.role }}\n{% for part in m.content %}"
    "{% if part.type == 'image' %}<start_of_image>{% else %}{{ part.text }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)


def write_visual(folder: Path, kind: str = "llava", *, seed: int = 0) -> Path:
    """Write a Hugging Face folder of a `model_type`; its processor needs PIL only."""
    import torch
    import transformers

    write_tokenizer(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model, processor = (_gemma3 if kind == "gemma3" else _llava)(tokenizer, kind)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0.0, 0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def _llava(tokenizer: Any, kind: str) -> tuple[Any, Any]:
    """Return a LLaVA or LLaVA-NeXT with a CLIP vision tower, and its processor."""
    import transformers

    tokenizer.add_tokens(["<image>"], special_tokens=True)
    common = {
        "vision_config": transformers.CLIPVisionConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            image_size=32,
            patch_size=8,
        ),
        "text_config": transformers.LlamaConfig(vocab_size=VOCABULARY + 1, **TEXT_SHAPE),
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "image_seq_length": 16,
    }
    options = {"patch_size": 8, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    if kind == "llava":
        images = _without_torchvision("CLIPImageProcessor")(**sizes)
        model = transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(**common))
        return model.float(), transformers.LlavaProcessor(images, tokenizer, **options)
    pinpoints = [[32, 64], [64, 32], [64, 64]]
    images = _without_torchvision("LlavaNextImageProcessor")(**sizes, image_grid_pinpoints=pinpoints)
    config = transformers.LlavaNextConfig(**common, image_grid_pinpoints=pinpoints)
    model = transformers.LlavaNextForConditionalGeneration(config)
    return model.float(), transformers.LlavaNextProcessor(images, tokenizer, **options)


def _gemma3(tokenizer: Any, kind: str) -> tuple[Any, Any]:
    """Return a Gemma 3 with a SigLIP vision tower, and its processor."""
    import transformers

    names = ("<start_of_image>", "<image_soft_token>", "<end_of_image>")
    tokenizer.add_tokens(list(names), special_tokens=True)
    for key, name in zip(("boi_token", "image_token", "eoi_token"), names, strict=True):
        tokenizer._set_model_specific_special_tokens({key: name})
    begin, marker, end = map(tokenizer.convert_tokens_to_ids, names)
    vision = transformers.SiglipVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    text = transformers.Gemma3TextConfig(
        vocab_size=VOCABULARY + 3,
        head_dim=16,
        sliding_window=24,
        layer_types=LAYERS,
        tie_word_embeddings=False,
        **TEXT_SHAPE,
    )
    config = transformers.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=4,
        tie_word_embeddings=False,
        boi_token_index=begin,
        eoi_token_index=end,
        image_token_index=marker,
    )
    images = _without_torchvision("Gemma3ImageProcessor")(size={"height": 32, "width": 32})
    processor = transformers.Gemma3Processor(images, tokenizer, chat_template=GEMMA_TEMPLATE, image_seq_length=4)
    return transformers.Gemma3ForConditionalGeneration(config).float(), processor


def _without_torchvision(name: str) -> Any:
    """Return the class of an image processor; transformers 5.4 and later give those without torchvision a suffix."""
    import transformers

    return getattr(transformers, f"{name}Pil", None) or getattr(transformers, name)


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
