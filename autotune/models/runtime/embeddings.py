"""Input embeddings of a language model in parts: tokens by its embedding IR, images by its vision IR."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.files import fingerprint_file
from autotune.errors import EvaluationError, reason
from autotune.models.runtime.compile import compile_model, read_model, scoring_properties

if TYPE_CHECKING:
    from autotune.evaluation import FloatArray, IntArray

TEXT_FILE = "openvino_text_embeddings_model.xml"
VISION_FILE = "openvino_vision_embeddings_model.xml"

IMAGE_ROWS = 1 << 32
"""Number from which on an id is no token but a vector of features of an image."""


class Embeddings:
    """Embedding and vision IRs of one folder.

    A prompt with an image is a sequence of ids: tokens of the vocabulary, and one id from `IMAGE_ROWS` on for each
    vector of features: `IMAGE_ROWS` times a hash of the image's file, plus the vector's position. Everything that takes
    token ids (batches, windows, drafts, fingerprints) takes such sequences as well.
    """

    def __init__(self, folder: Path, *, device: str = "CPU", ov_config: Mapping[str, Any] | None = None) -> None:
        """Compile the embedding IR; the vision IR and the processor are loaded with the first image.

        Args:
            folder: with the IRs, the configuration and the processor's files.
            device, ov_config: as for `OpenVINOLanguageModel`.

        Raises:
            EvaluationError: an IR is missing or cannot be compiled.
        """
        self.folder = folder
        self._device, self._properties = device, scoring_properties(ov_config)
        self._text: Any = self._compile(TEXT_FILE)
        self._vision: Any = None
        self._processor: Any = None
        self._features: dict[int, FloatArray] = {}

    def _compile(self, name: str) -> Any:
        path = self.folder / name
        return compile_model(read_model(path, str(path)), str(path), self._device, self._properties)

    def __call__(self, ids: IntArray) -> FloatArray:
        """Return the embeddings of ids, int64 [B, T] -> float32 [B, T, D]."""
        of_image = ids >= IMAGE_ROWS
        request = self._text.create_infer_request()  # several threads may call
        found = np.array(request.infer([np.where(of_image, 0, ids)])[self._text.outputs[0]], np.float32)
        for image in np.unique(ids[of_image] // IMAGE_ROWS).tolist():
            at = ids // IMAGE_ROWS == image
            found[at] = self._features[image][ids[at] % IMAGE_ROWS]
        return found

    def prompt(self, text: str, image: Path | None = None) -> list[int]:
        """Return the ids of a prompt, laid out as optimum-intel's `preprocess_inputs` does for LLaVA.

        The text is put into the processor's chat template if it has one. Otherwise the image comes before the text.

        Raises:
            EvaluationError: the image or the processor cannot be read, or their tokens do not fit the vision IR.
        """
        processor = self._load_processor()
        if getattr(processor, "chat_template", None):
            content = [{"type": "text", "text": text}, *([] if image is None else [{"type": "image"}])]
            messages = [{"role": "user", "content": content}]
            text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        elif image is not None and "<image>" not in text:
            text = f"<image>\n{text}"
        picture = None if image is None else open_image(image)
        inputs = processor(images=picture, text=text, return_tensors="np")
        ids: list[int] = np.asarray(inputs["input_ids"])[0].tolist()
        if image is None:
            return ids
        marker = _image_token(self.folder)
        rows = self._rows(image, inputs["pixel_values"])
        at = [position for position, token in enumerate(ids) if token == marker]
        if len(at) == 1:  # processors of before transformers 4.46 leave the repetition to the model
            return [*ids[: at[0]], *rows, *ids[at[0] + 1 :]]
        if len(at) != len(rows):
            raise EvaluationError(
                f"{image}: the processor in {self.folder} reserves {len(at)} tokens for the image, and the vision "
                f"model computes {len(rows)} vectors: processor and model do not belong together. Use the processor's "
                "files of the original model."
            )
        for position, row in zip(at, rows, strict=True):
            ids[position] = row
        return ids

    def _rows(self, image: Path, pixels: Any) -> list[int]:
        """Compute an image's features if they are not there yet, and return their ids."""
        key = 1 + int(fingerprint_file(image)[:7], 16)
        if key not in self._features:
            if self._vision is None:
                self._vision = self._compile(VISION_FILE)
            features = np.asarray(self._vision({"pixel_values": np.asarray(pixels, np.float32)})[0], np.float32)
            self._features[key] = features.reshape(-1, features.shape[-1]).copy()
        return list(range(IMAGE_ROWS * key, IMAGE_ROWS * key + len(self._features[key])))

    def _load_processor(self) -> Any:
        if self._processor is None:
            from autotune.models.architecture import quiet

            try:
                with quiet():
                    from transformers import AutoProcessor

                    self._processor = AutoProcessor.from_pretrained(self.folder)
            except Exception as error:
                raise EvaluationError(
                    f"{self.folder}: the processor of the model cannot be loaded ({reason(error)}). Copy "
                    "processor_config.json or preprocessor_config.json of the original model into the folder."
                ) from error
        return self._processor


def open_image(path: Path) -> Any:
    """Return an image file as an RGB `PIL.Image`.

    Raises:
        EvaluationError: the file is missing or no image.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except OSError as error:
        raise EvaluationError(
            f"{path} cannot be read as an image ({reason(error)}); name a PNG or JPEG file"
        ) from error


def _image_token(folder: Path) -> int | None:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    found = config.get("image_token_index", config.get("image_token_id"))
    return None if found is None else int(found)
