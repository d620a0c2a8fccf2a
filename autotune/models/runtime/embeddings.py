"""Input embeddings of a language model in parts: tokens by its embedding IR, images by its vision IR."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.files import fingerprint_file
from autotune.errors import EvaluationError, reason
from autotune.models.runtime.compile import compile_model, read_model, scoring_properties
from autotune.models.runtime.images import FAMILIES, Family, processed

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

    def inputs(self, ids: IntArray) -> dict[str, Any]:
        """Return the inputs of a language model for ids, int64 [B, T], by name.

        Besides ``inputs_embeds`` there is ``token_type_ids``, int64 [B, T], 1 for vectors of images: in models such as
        Gemma 3 they attend to all vectors of their image. All images must be in the first inference of a sequence.
        """
        return {"inputs_embeds": self(ids), "token_type_ids": (ids >= IMAGE_ROWS).astype(np.int64)}

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
        """Return the ids of a prompt, laid out as optimum-intel's `preprocess_inputs` does.

        The text is put into the processor's chat template if it has one. Otherwise the image comes before the text.

        Raises:
            EvaluationError: the image or the processor cannot be read, or their tokens do not fit the vision IR.
        """
        picture = None if image is None else open_image(image)
        inputs = processed(self._family, self._load_processor(), text, picture)
        ids: list[int] = np.asarray(inputs["input_ids"])[0].tolist()
        if image is None:
            return ids
        marker = self._config.get("image_token_index", self._config.get("image_token_id"))
        rows = self._rows(image, inputs)
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

    def _rows(self, image: Path, inputs: Mapping[str, Any]) -> list[int]:
        """Compute an image's features if they are not there yet, and return their ids."""
        key = 1 + int(fingerprint_file(image)[:7], 16)
        if key not in self._features:
            if self._vision is None:
                self._vision = self._compile(VISION_FILE)
            self._features[key] = self._family.vectors(self._see, inputs, self._config)
        return list(range(IMAGE_ROWS * key, IMAGE_ROWS * key + len(self._features[key])))

    def _see(self, pixels: FloatArray) -> FloatArray:
        """Run the vision IR: pixels float32 [P, C, H, W] -> vectors float32 [P, n, D]."""
        return np.array(self._vision({"pixel_values": pixels})[0], np.float32)

    @cached_property
    def _config(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "config.json").read_text(encoding="utf-8"))
        return found

    @property
    def _family(self) -> Family:
        return FAMILIES[self._config["model_type"]]

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
