"""Conversations of several turns, scored as by a plain loop of `generate` with the chat template."""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from autotune.config.config import config_from
from autotune.errors import ConfigError
from autotune.evaluation import SCORING_CONFIG, Evaluator, read_conversations
from autotune.testing import EvaluatorConformance, FakeLanguageModel, FakeTokenizer
from evaluators import _answers, chat_similarity
from evaluators._answers import divergence_tokens
from evaluators.chat_similarity import ChatSimilarity, conversation_sets

CHATS = (("How many?", "And then?", "Why"), ("Tell me",), ("x", "y"), ("Go on", "Stop"))
TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if enable_thinking is defined and not enable_thinking %}<fast>{% endif %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def embed(embedder: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
    """Embeddings by a hash of pairs of letters."""
    vectors = np.full((len(texts), 16), 0.01, np.float32)
    for vector, text in zip(vectors, texts, strict=True):
        for position in range(len(text)):
            vector[zlib.crc32(text[position : position + 2].encode()) % 16] += 1.0
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def _embedder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_answers, "embed", embed)
    monkeypatch.setattr(chat_similarity, "embedder_fingerprint", str)


class ChatTokenizer(FakeTokenizer):
    """Tokenizer with a chat template, whose `enable_thinking` has an effect unless `switch` is off."""

    chat_template = TEMPLATE
    switch = True

    def apply_chat_template(
        self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool, **switches: bool
    ) -> str:
        assert not tokenize
        assert add_generation_prompt
        fast = "<fast>" if self.switch and switches.get("enable_thinking") is False else ""
        return "".join(f"<{one['role']}>{one['content']}" for one in messages) + fast + "<assistant>"

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + super().__call__(text)["input_ids"]}


class ChatModel(FakeLanguageModel):
    """The fake model with that tokenizer."""

    @property
    def tokenizer(self) -> ChatTokenizer:
        return ChatTokenizer()


class TestConformance(EvaluatorConformance):
    """The evaluator does what every evaluator must."""

    def make(self) -> Evaluator:
        return ChatSimilarity(conversations=CHATS, max_new_tokens=24)

    def model(self, **options: Any) -> FakeLanguageModel:
        return ChatModel(**options)


def test_scores_are_those_of_a_plain_loop_of_generate(tiny_llama: Path, tmp_path: Path) -> None:
    """optimum-intel's `generate`, turn by turn with `apply_chat_template`, gives the same answers and scores."""
    import nncf
    import openvino as ov
    from optimum.intel import OVModelForCausalLM
    from transformers import AutoTokenizer

    from autotune.models.runtime.language_model import OpenVINOLanguageModel

    folders = [tmp_path / "original", tmp_path / "compressed"]
    for folder in folders:
        shutil.copytree(tiny_llama, folder)
        (folder / "chat_template.jinja").write_text(TEMPLATE)
    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    compressed = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT4_SYM, group_size=64)
    ov.save_model(compressed, folders[1] / "openvino_model.xml", compress_to_fp16=False)
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    evaluator = ChatSimilarity(conversations=CHATS, max_new_tokens=12, thinking=False)
    with OpenVINOLanguageModel(folders[0], tokenizer) as original:
        reference = evaluator.reference(original)
    with OpenVINOLanguageModel(folders[1], tokenizer) as candidate:
        scores = evaluator.evaluate(candidate, reference)

    config = {**SCORING_CONFIG, "PERFORMANCE_HINT": "LATENCY"}
    talks: list[list[list[str]]] = []
    for folder in folders:
        optimum = OVModelForCausalLM.from_pretrained(folder, ov_config=config)
        talks.append([])
        for turns in CHATS:
            messages: list[dict[str, str]] = []
            for turn in turns:
                messages.append({"role": "user", "content": turn})
                inputs = tokenizer.apply_chat_template(
                    messages, add_generation_prompt=True, enable_thinking=False, return_tensors="pt", return_dict=True
                )
                found = optimum.generate(**inputs, do_sample=False, max_new_tokens=12)
                text = tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
                messages.append({"role": "assistant", "content": text})
            talks[-1].append([message["content"] for message in messages[1::2]])
    assert talks[0] != talks[1]
    answers = [answer for talk in talks[0] for answer in talk]
    assert _answers.texts(tokenizer, _answers.split(reference)) == answers
    cosines = [float((embed("", a) * embed("", b)).sum(1).mean()) for a, b in zip(*talks, strict=True)]
    assert scores["chat_similarity"].value == pytest.approx(np.mean(cosines), abs=1e-6)
    last = [[tokenizer(talk[-1])["input_ids"] for talk in side] for side in talks]
    pairs = [divergence_tokens(a, b) for a, b in zip(*last, strict=True)]
    assert scores["chat_fdt"].value == np.mean([fdt for fdt, _ in pairs])
    assert scores["chat_sdt"].value == np.mean([sdt for _, sdt in pairs])
    assert [example.answer for example in scores["chat_similarity"].examples] == ["\n\n".join(t) for t in talks[1]]


def test_only_what_differs_is_decoded() -> None:
    """The original itself is scored from one pass, without a token of decoding; a preview decodes nothing."""
    evaluator = ChatSimilarity(conversations=CHATS, max_new_tokens=24)
    reference = evaluator.reference(ChatModel())
    sizes: list[int] = []

    class Counting(ChatModel):
        def greedy_batch(self, prompts: Any, max_new_tokens: Any, drafts: Any = None) -> list[list[int]]:
            sizes.append(len(prompts))
            return super().greedy_batch(prompts, max_new_tokens, drafts)

    evaluator.evaluate(Counting(), reference)
    assert set(sizes) == {0}
    sizes.clear()
    other = Counting(noise=0.5)
    assert evaluator.preview(other, reference).keys() == evaluator.previewed
    assert sizes == []
    evaluator.evaluate(other, reference)
    assert sizes == [4, 3, 1]


def test_models_without_chats_are_refused() -> None:
    """A tokenizer without a template, or a template without the switch, is refused with the key and a remedy."""
    with pytest.raises(ConfigError, match=r"^evaluators.chat_similarity: .*evaluator similarity.*chat_template.jinja"):
        ChatSimilarity().check(FakeTokenizer())
    tokenizer = ChatTokenizer()
    ChatSimilarity(thinking=False).check(tokenizer)
    tokenizer.switch = False
    ChatSimilarity().check(tokenizer)
    with pytest.raises(ConfigError, match=r"chat_similarity\.thinking: the model's chat template has no switch"):
        ChatSimilarity(thinking=True).check(tokenizer)


@pytest.mark.parametrize(
    ("evaluators", "message"),
    [
        ({"chat_similarity": None}, r"^evaluators.chat_similarity: chats need a chat template"),
        (
            {"similarity": {"use_chat_template": True}},
            r"^evaluators.similarity.use_chat_template: is true, but the mod",
        ),
    ],
)
def test_a_configuration_of_a_model_without_template_is_refused(
    evaluators: dict[str, Any], message: str, tiny_llama_hf: Path, tmp_path: Path
) -> None:
    """By the files alone, without its tokenizer; with a template, and where the files do not say it, it is read."""
    model = shutil.copytree(tiny_llama_hf, tmp_path / "model")
    with pytest.raises(ConfigError, match=message):
        config_from({"model": str(model), "evaluators": evaluators})
    (model / "chat_template.jinja").write_text("{{ messages }}")
    assert config_from({"model": str(model), "evaluators": evaluators})
    for name in ("chat_template.jinja", "tokenizer_config.json"):
        (model / name).unlink()
    assert config_from({"model": str(model), "evaluators": evaluators})


def test_conversations_from_files(tmp_path: Path) -> None:
    """JSON lines and YAML hold the same conversations; other files and blank turns are refused with the file."""
    texts = {
        "a.jsonl": '["Hello", "And now?"]\n\n{"turns": ["Hi"]}\n',
        "a.yaml": "- [Hello, 'And now?']\n- turns: [Hi]\n",
        "b.yaml": "conversations:\n- [Hello, 'And now?']\n- [Hi]\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
        assert read_conversations(tmp_path / name) == [("Hello", "And now?"), ("Hi",)]
    wrong = {"a.txt": "Hello", "c.jsonl": '["a"]\n["a", " "]', "d.jsonl": "", "e.yaml": "- Hello"}
    for (name, text), message in zip(
        wrong.items(), ("read from .jsonl", "line 2: a list of user turns", "no conversations", "Hello"), strict=True
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ConfigError, match=message) as caught:
            read_conversations(tmp_path / name)
        assert caught.value.file == tmp_path / name
    sets = [read_conversations(path) for path in conversation_sets().values()]
    turns = [turn for conversations in sets for each in conversations for turn in each]
    assert len(set(turns)) == len(turns) > 50
    with pytest.raises(ValueError, match="use one of default, report, or a file"):
        ChatSimilarity(conversations="reports")
    with pytest.raises(ValueError, match="at least one conversation"):
        ChatSimilarity(conversations=[["a"], []])
