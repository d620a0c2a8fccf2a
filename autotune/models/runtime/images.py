"""Families of models for text and images: the layout of a prompt, and the vectors of an image in order.

Layouts are those of optimum-intel's `preprocess_inputs`, which WhoWhatBench uses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.errors import EvaluationError

if TYPE_CHECKING:
    from autotune.evaluation import FloatArray

    Vision = Callable[[FloatArray], FloatArray]


@dataclass(frozen=True, slots=True)
class Family:
    """Layout of prompts and images of a family.

    Attributes:
        vectors: (vision IR as a function, the processor's outputs for an image, config.json) -> float32 [n, D].
        image_first: the image comes before the text in the chat template.
        needs_template: there is no layout without a chat template.
        one_start: a template with a start token replaces that of the tokenizer.
    """

    vectors: Callable[[Vision, Mapping[str, Any], Mapping[str, Any]], FloatArray]
    image_first: bool = False
    needs_template: bool = False
    one_start: bool = False


def whole_image(vision: Vision, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> FloatArray:
    """Return the vectors of an image that is one input of the vision IR."""
    features = vision(np.asarray(inputs["pixel_values"], np.float32))
    return features.reshape(-1, features.shape[-1])


def tiled_image(vision: Vision, inputs: Mapping[str, Any], config: Mapping[str, Any]) -> FloatArray:
    """Return the vectors of the image in small, then of its tiles as rows of one grid, each ended by a newline vector.

    The tiles cover a resolution of ``image_grid_pinpoints``, to which the image was scaled and padded. Vectors of
    the padding are left out (LLaVA-NeXT).

    Raises:
        EvaluationError: the vision IR computes another number of vectors for a tile than it has patches.
    """
    from transformers.image_processing_utils import select_best_resolution

    tiles = np.asarray(inputs["pixel_values"], np.float32)[0]
    features = vision(tiles)
    size = config["vision_config"]["image_size"]
    side = size // config["vision_config"]["patch_size"]
    if features.shape[1] != side * side:
        raise EvaluationError(
            f"the vision model computes {features.shape[1]} vectors for a tile of {side} x {side} patches; only models "
            "with vision_feature_select_strategy: default are supported."
        )
    newline = np.asarray(config["image_newline"], np.float32)
    if len(tiles) == 1:
        return np.concatenate([features[0], newline[None]])
    height, width = np.asarray(inputs["image_sizes"])[0].tolist()
    best = select_best_resolution((height, width), config["image_grid_pinpoints"])
    down, across = (length // size for length in best)
    grid = features[1:].reshape(down, across, side, side, -1).swapaxes(1, 2).reshape(down * side, across * side, -1)
    grid = without_padding(grid, height, width)
    lines = np.concatenate([grid, np.broadcast_to(newline, (len(grid), 1, len(newline)))], axis=1)
    return np.concatenate([features[0], lines.reshape(-1, len(newline))])


def without_padding(grid: FloatArray, height: int, width: int) -> FloatArray:
    """Remove the vectors [rows, columns, D] outside an image of this size that was scaled into the grid and centred."""
    rows, columns = grid.shape[:2]
    if width / height > columns / rows:
        margin = (rows - int(round(height * (columns / width), 7))) // 2
        return grid[margin : rows - margin]
    margin = (columns - int(round(width * (rows / height), 7))) // 2
    return grid[:, margin : columns - margin]


FAMILIES: Mapping[str, Family] = {
    "llava": Family(whole_image),
    "llava_next": Family(tiled_image),
    "gemma3": Family(whole_image, image_first=True, needs_template=True, one_start=True),
}
"""By `model_type` of config.json; each is compared with optimum-intel and OpenVINO GenAI in the tests."""


def processed(family: Family, processor: Any, text: str, picture: Any) -> Any:
    """Return the processor's outputs for a prompt, as arrays.

    Args:
        family: of the model.
        processor: of `transformers`.
        text: the prompt.
        picture: an RGB `PIL.Image`, or None.

    Raises:
        EvaluationError: the family needs a chat template, and the processor has none.
    """
    template = getattr(processor, "chat_template", None)
    if template:
        parts = [{"type": "text", "text": text}, *([] if picture is None else [{"type": "image"}])]
        messages = [{"role": "user", "content": parts[::-1] if family.image_first else parts}]
        text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    elif family.needs_template:
        raise EvaluationError(
            "the processor has no chat template, which lays out prompts. Copy chat_template.jinja of the original "
            "model into the folder."
        )
    elif picture is not None and "<image>" not in text:
        text = f"<image>\n{text}"
    tokenizer = processor.tokenizer
    before = getattr(tokenizer, "add_bos_token", None)
    if family.one_start and "bos_token" in str(template):
        tokenizer.add_bos_token = False
    try:
        return processor(images=picture, text=text, return_tensors="np")
    finally:
        if family.one_start:
            tokenizer.add_bos_token = before
