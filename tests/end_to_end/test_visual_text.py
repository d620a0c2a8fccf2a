"""A model for text and images from search to the exported folder, which optimum-intel runs."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov
import pytest
from families import TEXT
from visual import IMAGE_TOKENS, write_images, write_visual

import autotune
from autotune.errors import ConfigError, EvaluationError
from autotune.models.runtime import decoding
from autotune.models.runtime.embeddings import IMAGE_ROWS, Embeddings
from autotune.models.tasks.registry import find_task, task_named
from autotune.models.tasks.visual_text import EXPORTED_UP_TO, TESTED
from evaluators import _answers, similarity

EXACT = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0"}
WINDOW, WINDOWS, ANSWER = 32, 4, 12


def embed(embedder: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embeddings by a hash of pairs of letters."""
    vectors = np.full((len(texts), 16), 0.01, np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for position in range(len(text)):
            vector[zlib.crc32(text[position : position + 2].encode()) % 16] += 1.0
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LLaVA as a Hugging Face folder, with ``images.jsonl`` beside it."""
    monkeypatch.setattr(_answers, "embed", embed)
    monkeypatch.setattr(similarity, "embedder_fingerprint", str)
    write_images(tmp_path, 3)
    (tmp_path / "search.txt").write_text(TEXT * 2)
    return write_visual(tmp_path / "model")


def search(model: Path, **changes: Any) -> Any:
    """Search with calibration on prompts about images, and with both kinds of scores."""
    folder = model.parent
    text = {"path": str(folder / "search.txt"), "sequence_length": WINDOW, "samples": WINDOWS}
    prompts = {"prompts": str(folder / "images.jsonl"), "max_new_tokens": ANSWER, "embedder": "minilm"}
    config = {
        "model": str(model),
        "output": str(folder / "study"),
        "calibration": {"path": str(folder / "images.jsonl"), "samples": 2, "sequence_length": WINDOW},
        "space": {"mode": ["int4_asym"], "group_size": 32, "gptq": [True], "awq": [False, True]},
        "evaluators": {"perplexity": text, "similarity": {**prompts, "decode": "always"}},
        "study": {"trials": 2, "workers": 0, "racing": False},
        "report": False,
        "cache": {"directory": str(folder / "cache")},
        **changes,
    }
    return autotune.search(config, progress=False)


class Peer:
    """A folder as optimum-intel runs it."""

    def __init__(self, folder: Path) -> None:
        from optimum.intel import OVModelForVisualCausalLM
        from transformers import AutoProcessor

        self.model = OVModelForVisualCausalLM.from_pretrained(folder, ov_config=EXACT)
        self.processor = AutoProcessor.from_pretrained(folder)
        self.tokenizer = self.processor.tokenizer

    def inputs(self, text: str, image: Path) -> Any:
        """Lay out a prompt."""
        from PIL import Image

        picture = Image.open(image).convert("RGB")
        return self.model.preprocess_inputs(text, picture, self.processor, config=self.model.config)

    def answer(self, text: str, image: Path) -> str:
        """Answer a question as WhoWhatBench lets optimum-intel do it."""
        inputs = self.inputs(text, image)
        found = self.model.generate(**inputs, max_new_tokens=ANSWER, do_sample=False)
        return str(self.tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def log_probabilities(self, tokens: Any) -> Any:
        """Compute those of whole windows, float64."""
        import torch

        with torch.no_grad():
            logits = self.model(torch.tensor(tokens), attention_mask=torch.ones(tokens.shape, dtype=torch.int64)).logits
        return torch.log_softmax(logits.double(), -1).numpy()


def genai_answer(folder: Path, text: str, image: Path) -> str:
    """Answer a question by OpenVINO GenAI, in the chat template if there is one."""
    import openvino_genai
    from PIL import Image

    pipeline = openvino_genai.VLMPipeline(str(folder), "CPU", **EXACT)
    config = pipeline.get_generation_config()
    config.apply_chat_template, config.max_new_tokens = (folder / "chat_template.jinja").is_file(), ANSWER
    picture = ov.Tensor(np.array(Image.open(image))[None])
    return str(pipeline.generate(text, images=[picture], generation_config=config).texts[0])


def test_scores_and_answers_are_those_of_optimum(model: Path) -> None:
    """Search and export: divergence, similarity and FDT worked by hand on what optimum-intel computes."""
    study = search(model)
    trial = int(study.front["trial"].iloc[0])
    folder = study.export(model.parent / "out", trial=trial).folder
    small = autotune.compress(str(model), mode="int8_asym", cache=model.parent / "cache", progress=False)
    assert small.source.path is not None
    original, peer = Peer(small.source.path), Peer(folder)
    measured = study.trials.set_index("trial").loc[trial]

    lines = [json.loads(line) for line in (model.parent / "images.jsonl").read_text().splitlines()]
    pairs = [(one["text"], model.parent / one["image"]) for one in lines]
    before, after = ([each.answer(*pair) for pair in pairs] for each in (original, peer))
    assert before != after
    cosines = np.sum(embed("", before) * embed("", after), axis=1)
    assert measured["similarity"] == pytest.approx(float(cosines.mean()), abs=1e-6)
    tokens = [[peer.tokenizer(text)["input_ids"] for text in side] for side in (before, after)]
    first = [_answers.divergence_tokens(*pair)[0] for pair in zip(*tokens, strict=True)]
    assert measured["fdt"] == pytest.approx(np.mean(first))

    assert genai_answer(folder, *pairs[0]) == after[0]

    ids = peer.tokenizer((model.parent / "search.txt").read_text())["input_ids"]
    windows = np.array(ids[: WINDOW * WINDOWS]).reshape(WINDOWS, WINDOW)
    p, q = original.log_probabilities(windows), peer.log_probabilities(windows)
    expected = float((np.exp(p) * (p - q)).sum(-1).mean())
    assert measured["kl_divergence"] == pytest.approx(expected, rel=1e-3)

    parts = {file.name: file for file in folder.glob("openvino_*_model.bin")}
    assert len(parts) == 3
    assert measured["footprint"] == sum(file.stat().st_size for file in parts.values())
    given = {file.name for file in model.iterdir()} - {"model.safetensors"}
    assert given <= {file.name for file in folder.iterdir()}
    assert "pipeline_tag: image-text-to-text" in (folder / "README.md").read_text()
    assert find_task(folder).name == "visual-text"

    options: dict[str, Any] = {"cache": model.parent / "cache", "progress": False}
    text = {"perplexity": {"path": str(model.parent / "search.txt"), "sequence_length": WINDOW, "samples": WINDOWS}}
    scores = autotune.evaluate(str(folder), reference=str(model), evaluators=text, **options)
    assert scores["kl_divergence"].value == measured["kl_divergence"]
    language_model = ov.Core().read_model(small.source.path / "openvino_language_model.xml")
    assert autotune.compress(language_model, mode="int4_asym", group_size=32, progress=False).footprint > 0
    options["tokenizer"] = peer.tokenizer
    with pytest.raises(EvaluationError, match="needs the IRs beside it"):
        autotune.compress(language_model, mode="int4_asym", group_size=32, gptq=True, calibration=[TEXT * 2], **options)
    with pytest.raises(ConfigError, match="Give the settings by value"):
        search(model, candidates=[str(folder)], output=str(model.parent / "other"))

    embeddings = Embeddings(folder)
    prompt = embeddings.prompt(*pairs[0])
    assert sum(token >= IMAGE_ROWS for token in prompt) == IMAGE_TOKENS["llava"]
    assert Embeddings(folder).prompt(*pairs[0]) == prompt != embeddings.prompt(pairs[0][0], pairs[1][1])
    with pytest.raises(EvaluationError, match="cannot be read as an image"):
        embeddings.prompt("What?", model / "config.json")


@pytest.mark.parametrize("kind", ["llava_next", "gemma3"])
def test_other_families_run_as_in_optimum(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compressed by calibration on images: logits and answers, one by one and together; those of GenAI, too.

    Passes have three positions, where an image need not be in one.
    """
    monkeypatch.setattr(decoding, "_PREFILL_COLUMNS", 3)
    options: dict[str, Any] = {"mode": "int4_asym", "group_size": 32, "gptq": True, "progress": False}
    texts = {"calibration": {"path": str(write_images(tmp_path, 3))}, "samples": 2, "sequence_length": WINDOW}
    original = write_visual(tmp_path / "model", kind)
    folder = tmp_path / "out"
    autotune.compress(original, output=folder, cache=tmp_path / "cache", **options, **texts)
    peer, image = Peer(folder), tmp_path / "0.png"
    inputs = peer.inputs("How many?", image)
    with find_task(folder).compiled(folder, peer.tokenizer, folder=folder, columns=3) as model:
        prompt = model.prompt("How many?", image)
        assert sum(token >= IMAGE_ROWS for token in prompt) == IMAGE_TOKENS[kind]
        logits = model.logits(np.array([prompt]))
        assert np.abs(logits - peer.model(**inputs).logits.numpy()).max() < 1e-5
        pieces = [piece.copy() for _, _, piece in model.scan([prompt], [0])]
        assert np.abs(np.concatenate(pieces) - logits[0]).max() < 1e-5
        prompts = [prompt, model.prompt("What?", None), model.prompt("Why?", tmp_path / "1.png")]
        answers = model.greedy_batch(prompts, [ANSWER] * 3, [[]] * 3)
        assert answers == [model.greedy(each, ANSWER) for each in prompts]
        assert answers[0] != model.greedy(model.prompt("How many?", tmp_path / "1.png"), ANSWER)
    text = peer.tokenizer.decode(answers[0], skip_special_tokens=True)
    assert peer.answer("How many?", image) == text
    assert genai_answer(folder, "How many?", image) == text


def test_other_types_are_refused_with_what_works() -> None:
    """The message names the type and the reason; compressing a language model alone is tried above."""
    task = task_named("visual-text")
    config = {"model_type": "qwen2_vl", "vision_config": {}, "architectures": ["Qwen2VLForConditionalGeneration"]}
    assert task.matches(config, ())
    refused = str(task.why_not_served(config))
    assert "exports with transformers up to 5.0 only" in refused
    assert "Its language model alone can be compressed" in refused
    assert not set(EXPORTED_UP_TO) & set(TESTED)
    assert all(task.why_not_served({**config, "model_type": kind}) is None for kind in TESTED)
    quantized = {"model_type": "llava", "quantization_config": {"quant_method": "gptq"}}
    assert "name the float model" in str(task.why_not_served(quantized))
