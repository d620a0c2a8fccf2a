"""Text generation about images: a language model whose input embeddings come from IRs of their own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation.texts.prompts import read_images, read_prompts
from autotune.models.checkpoint import quantization
from autotune.models.companions import LANGUAGE_MODEL_FILE
from autotune.models.runtime.graph import IMAGE_INPUTS, why_not_scorable
from autotune.models.runtime.images import FAMILIES
from autotune.models.tasks.task import WIKITEXT
from autotune.models.tasks.text_generation import TextGeneration

if TYPE_CHECKING:
    from autotune.evaluation import IntArray
    from autotune.evaluation.texts.sources import TextSource
    from autotune.models.runtime.embeddings import Embeddings

TESTED: tuple[str, ...] = tuple(FAMILIES)
"""Types whose embeddings `runtime.embeddings` computes as optimum-intel does."""

EXPORTED_UP_TO = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), "5.0"),
    **dict.fromkeys(("got_ocr2", "idefics3", "llama4", "llava_next_video", "smolvlm"), "4.57.6"),
}
"""Newest version of transformers with which optimum-intel 2.1 exports these types; autotune needs a newer one."""

OPTIMUM = """\
from optimum.intel import OVModelForVisualCausalLM
from PIL import Image
from transformers import AutoProcessor

folder = "."  # this folder, or its name on the hub
processor = AutoProcessor.from_pretrained(folder)
model = OVModelForVisualCausalLM.from_pretrained(folder)
inputs = model.preprocess_inputs("What is in the image?", Image.open("image.png"), processor, config=model.config)
print(processor.batch_decode(model.generate(**inputs, max_new_tokens=20))[0])
"""
GENAI = """\
import numpy, openvino, openvino_genai
from PIL import Image

pipeline = openvino_genai.VLMPipeline(".", "CPU")  # this folder; download it first where it is on the hub
image = openvino.Tensor(numpy.array(Image.open("image.png").convert("RGB"))[None])
print(pipeline.generate("What is in the image?", images=[image], max_new_tokens=20))
"""


class VisualText(TextGeneration):
    """See `Task`. The language model is compressed, scored and calibrated as one for text alone."""

    name = "visual-text"
    label = "Text generation about images"
    kind = "model for text and images"
    export_class = "OVModelForVisualCausalLM"
    export_task = "image-text-to-text"
    examples: ClassVar[tuple[str, ...]] = TESTED
    evaluators: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "perplexity": {**WIKITEXT, "split": "test", "sequence_length": 512, "samples": 16}
    }
    pipeline_tag = "image-text-to-text"
    distillable = False
    in_parts = True

    def matches(self, config: Mapping[str, Any], files: Collection[str]) -> bool:
        """See `Task`."""
        return LANGUAGE_MODEL_FILE in files or (
            isinstance(config.get("vision_config"), dict)
            and any(str(name).endswith("ForConditionalGeneration") for name in config.get("architectures") or ())
        )

    def why_not_served(self, config: Mapping[str, Any]) -> str | None:
        """See `Task`."""
        if quantization(config) is not None:
            return "is the configuration of a quantized checkpoint in parts; name the float model that it was made of."
        kind = config.get("model_type")
        if kind in TESTED:
            return None
        newest = EXPORTED_UP_TO.get(str(kind))
        why = "" if newest is None else f", which optimum-intel exports with transformers up to {newest} only"
        where = "" if newest is None else f", in an environment with transformers<={newest}"
        return (
            f"is a {self.kind} of model_type `{kind}`{why}; of these models, {', '.join(TESTED)} can be tuned as a "
            "whole. Its language model alone can be compressed without texts: `optimum-cli export openvino "
            f"--weight-format fp16 --task {self.export_task} -m MODEL OUT`{where}, and in Python "
            "`autotune.compress(openvino.Core().read_model("
            f"'OUT/{LANGUAGE_MODEL_FILE}'), mode='int4_asym', group_size=64)`, whose `model` is saved by "
            "openvino.save_model(..., compress_to_fp16=False)."
        )

    def snippets(self, folder: Path | None) -> Sequence[str]:
        """See `Task`."""
        return OPTIMUM, GENAI

    def why_not_scorable(
        self, inputs: Iterable[Any], outputs: Iterable[Any], *, states: int | None = None, fed: Collection[str] = ()
    ) -> str | None:
        """See `Task`."""
        return why_not_scorable(inputs, outputs, states=states, fed={*fed, *IMAGE_INPUTS}, tokens="inputs_embeds")

    def windows(
        self,
        source: TextSource,
        tokenizer: Any,
        texts: Sequence[str],
        *,
        length: int,
        samples: int,
        name: str,
        embeddings: Any = None,
    ) -> IntArray:
        """See `Task`; a .jsonl file has prompts about images, which are joined as they are."""
        path = source.path
        if path is None or path.suffix.lower() != ".jsonl":
            return super().windows(source, tokenizer, texts, length=length, samples=samples, name=name)
        ids: list[int] = []
        for prompt, image in zip(read_prompts(path), read_images(path), strict=True):
            ids += embeddings.prompt(prompt, image)
        count = min(len(ids) // length, samples)
        if not count:
            raise ConfigError(
                f"{name} has {len(ids)} tokens and vectors of images, but one window needs sequence_length={length}. "
                "Add prompts, or set a smaller sequence_length.",
                key="calibration.sequence_length",
            )
        return np.array(ids[: count * length], np.int64).reshape(count, length)

    def embeddings(self, folder: Path | None, device: str, ov_config: Mapping[str, Any] | None) -> Embeddings:
        """See `Task`.

        Raises:
            EvaluationError: a model in memory has no other IRs.
        """
        from autotune.models.runtime.embeddings import Embeddings

        if folder is None:
            raise EvaluationError(
                "the language model of a model for text and images needs the IRs beside it to read texts, and a model "
                "in memory has none; name the folder with all of them instead."
            )
        return Embeddings(folder, device=device, ov_config=ov_config)


TASK = VisualText()
