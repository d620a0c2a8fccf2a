"""Similarity of answers, first divergent token, and divergence along the original's answers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import EvaluationError
from autotune.evaluation import Evaluator
from autotune.evaluation.stores import ReferenceStore
from autotune.evaluation.texts.prompts import read_prompts
from autotune.testing import EvaluatorConformance, FakeLanguageModel, FakeTokenizer
from evaluators import _answers, similarity
from evaluators._answers import divergence_tokens
from evaluators.similarity import Similarity, prompt_sets, prompt_tokens

PROMPTS = ("How many?", "Tell me more", "x", "Why is it that", "and so on")


class CountingEmbedder:
    """Embeddings by a hash of the words; remembers what it was asked for."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, embedder: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        self.texts += texts
        vectors = np.zeros((len(texts), 16), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for position in range(len(text)):
                vector[zlib.crc32(text[position : position + 2].encode()) % 16] += 1.0
        vectors += 0.01
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def embedder(monkeypatch: pytest.MonkeyPatch) -> CountingEmbedder:
    """An embedder that needs no model; the real one has its own tests."""
    counting = CountingEmbedder()
    monkeypatch.setattr(_answers, "embed", counting)
    monkeypatch.setattr(similarity, "embedder_fingerprint", str)
    return counting


class TestConformance(EvaluatorConformance):
    """Similarity does what every evaluator must."""

    def make(self) -> Evaluator:
        return Similarity(prompts=PROMPTS, max_new_tokens=24)


class TestLargeVocabularyConformance(TestConformance):
    """The same holds where only the top of each distribution is kept."""

    def model(self, **options: Any) -> FakeLanguageModel:
        return FakeLanguageModel(vocabulary_size=9000, **options)


def test_scores_are_those_of_the_definition() -> None:
    """Every metric is what a direct computation from the two models' plain greedy answers gives."""
    evaluator = Similarity(prompts=PROMPTS, max_new_tokens=24)
    original, candidate = FakeLanguageModel(), FakeLanguageModel(noise=0.5)
    scores = evaluator.evaluate(candidate, evaluator.reference(original))
    tokenizer = original.tokenizer
    prompts = [tokenizer(prompt)["input_ids"] for prompt in PROMPTS]
    ours = [original.greedy(prompt, 24) for prompt in prompts]
    answers = [candidate.greedy(prompt, 24) for prompt in prompts]
    assert ours != answers
    embed = CountingEmbedder()
    cosines = (embed("", [tokenizer.decode(a) for a in ours]) * embed("", [tokenizer.decode(a) for a in answers])).sum(
        1
    )
    assert scores["similarity"].value == pytest.approx(cosines.mean(), abs=1e-6)
    pairs = [divergence_tokens(a, b) for a, b in zip(ours, answers, strict=True)]
    assert scores["fdt"].value == np.mean([fdt for fdt, _ in pairs])
    assert scores["fdt_norm"].value == pytest.approx(np.mean([f for f, _ in pairs]) / np.mean([len(a) for a in ours]))
    assert scores["sdt"].value == np.mean([sdt for _, sdt in pairs])
    assert scores["sdt_norm"].value == pytest.approx(
        np.mean([sdt / len(b) for (_, sdt), b in zip(pairs, answers, strict=True)])
    )
    divergences, agreements = _along_answers(original, candidate, prompts, ours, 24)
    assert scores["answer_kl_divergence"].value == pytest.approx(np.mean(divergences), rel=1e-4)
    assert scores["answer_top1_agreement"].value == pytest.approx(np.mean(agreements))
    prefixes = [
        next((i for i, pair in enumerate(zip(a, b, strict=False)) if pair[0] != pair[1]), min(len(a), len(b)))
        for a, b in zip(ours, answers, strict=True)
    ]
    counted = sum(prefix + (a == b and len(a) < 24) for prefix, a, b in zip(prefixes, ours, answers, strict=True))
    assert scores["answer_prefix"].value == pytest.approx(counted / len(agreements))


def _along_answers(
    original: FakeLanguageModel,
    candidate: FakeLanguageModel,
    prompts: list[list[int]],
    answers: list[list[int]],
    limit: int,
) -> tuple[list[float], list[bool]]:
    """KL divergence and agreement at every decision of the original, one by one, in float64."""
    divergences, agreements = [], []
    for prompt, answer in zip(prompts, answers, strict=True):
        for length in range(min(len(answer) + 1, limit)):
            tokens = np.array([prompt + answer[:length]])
            logits = [model.logits(tokens)[0, -1].astype(np.float64) for model in (original, candidate)]
            p, q = (one - np.log(np.exp(one).sum()) for one in logits)
            divergences.append(float((np.exp(p) * (p - q)).sum()))
            agreements.append(bool(p.argmax() == q.argmax()))
    return divergences, agreements


def test_one_scan_and_one_decoding(embedder: CountingEmbedder) -> None:
    """A candidate is verified in one scan and decodes once; what agrees is neither decoded nor embedded."""
    evaluator = Similarity(prompts=PROMPTS, max_new_tokens=24)
    reference = evaluator.reference(FakeLanguageModel())
    assert len(embedder.texts) == len(PROMPTS)
    same = FakeLanguageModel()
    scores = evaluator.evaluate(same, reference)
    assert scores["similarity"].value == 1.0
    assert same.calls == {"logits": 0, "scan": 1, "greedy": 0, "greedy_batch": 1, "sample_batch": 0}
    assert len(embedder.texts) == len(PROMPTS)


def test_an_original_without_answers_is_an_error() -> None:
    """If the original answers nothing at all there is nothing to compare, and the message says what to try."""

    class Silent(FakeLanguageModel):
        def greedy_batch(self, prompts: Any, max_new_tokens: Any, drafts: Any = None) -> list[list[int]]:
            return [[] for _ in prompts]

    with pytest.raises(EvaluationError, match="answers to all 5 prompts are empty"):
        Similarity(prompts=PROMPTS).reference(Silent())


def test_answers_that_end_early_count_their_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decision to end an answer is compared too, unless the answer was cut at its longest length."""
    evaluator = Similarity(prompts=PROMPTS, max_new_tokens=200)
    reference = evaluator.reference(FakeLanguageModel())
    lengths = reference["lengths"]
    assert (lengths < 200).any()
    assert len(reference["best"]) == int(np.minimum(lengths + 1, 200).sum())


def test_the_fingerprint_is_of_prompts_and_options(tmp_path: Path) -> None:
    """The same prompts from a file or a list are the same; other prompts, lengths, embedders and templates are not."""
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    prints = [
        Similarity(**options).fingerprint()
        for options in (
            {"prompts": PROMPTS},
            {"prompts": "default"},
            {"prompts": PROMPTS, "max_new_tokens": 5},
            {"prompts": PROMPTS, "embedder": "minilm"},
            {"prompts": PROMPTS, "use_chat_template": False},
        )
    ]
    assert Similarity(prompts=file).fingerprint() == prints[0]
    assert Similarity(prompts=list(PROMPTS)).fingerprint() == prints[0]
    assert len(set(prints)) == len(prints)


def test_the_same_scores_without_decoding(embedder: CountingEmbedder) -> None:
    """`never` measures only what one scan tells, `front` that as a preview, and all of it is what `always` measures."""
    original, candidate = FakeLanguageModel(), FakeLanguageModel(noise=0.5)
    options = {"prompts": PROMPTS, "max_new_tokens": 24}
    always, front, never = (Similarity(**options, decode=decode) for decode in ("always", "front", "never"))
    reference = always.reference(original)
    every = always.evaluate(candidate, reference)
    assert set(every) == set(always.metrics) == set(always.previewed) == set(front.metrics)
    assert always.preview(candidate, reference) == front.evaluate(candidate, reference) == every
    embedder.texts.clear()
    candidate.calls["greedy_batch"] = 0
    cheap = front.preview(candidate, reference)
    assert set(cheap) == set(front.previewed) == set(never.metrics)
    assert cheap == never.evaluate(candidate, never.reference(original))
    assert cheap == {name: every[name] for name in cheap}
    assert candidate.calls["greedy_batch"] == 0
    assert not embedder.texts


class TestNeverDecodingConformance(TestConformance):
    """Without decoding the evaluator keeps the protocol, too."""

    def make(self) -> Evaluator:
        return Similarity(prompts=PROMPTS, max_new_tokens=24, decode="never")


def test_a_tie_is_a_draft_that_could_have_gone_otherwise() -> None:
    """Answers that pass two equally good tokens are counted, on the original and on a candidate."""

    class Undecided(FakeLanguageModel):
        def _logits(self, tokens: Any) -> Any:
            logits = super()._logits(tokens)
            logits[..., 5] = logits[..., 7]
            logits[..., 5:8:2] += 9.0 * (tokens[..., None] == 20)
            return logits

    evaluator = Similarity(prompts=("say 2", "x"), max_new_tokens=24)
    reference = evaluator.reference(Undecided())
    ties = evaluator.original(reference)["answer_ties"].value
    assert ties == evaluator.evaluate(Undecided(), reference)["answer_ties"].value > 0.0
    assert evaluator.original(evaluator.reference(FakeLanguageModel()))["answer_ties"].value == 0.0


@pytest.mark.parametrize("name", ["default", "report", "short", "long", "languages"])
def test_prompt_sets_are_what_they_say(name: str) -> None:
    """No prompt is there twice; the long ones are of a thousand tokens or so, the others many and short."""
    prompts = Similarity(prompts=name)._prompts
    assert prompts == read_prompts(prompt_sets()[name])
    assert len(set(prompts)) == len(prompts)
    lengths = [len(prompt.encode()) for prompt in prompts]
    if name == "long":
        assert min(lengths) > 3500
    else:
        assert len(prompts) >= 27
        assert max(lengths) < 600
    if name == "languages":
        assert sum(not prompt.isascii() for prompt in prompts) > len(prompts) / 2
    if name in ("default", "report"):
        assert min(lengths) < 30
        assert max(lengths) > 200
        assert sum(not prompt.isascii() for prompt in prompts) >= 5


def test_an_unknown_set_of_prompts_is_refused() -> None:
    """An unknown prompt set is refused with the names of the sets."""
    with pytest.raises(ValueError, match="use one of default, languages, long, report, short, or a file"):
        Similarity(prompts="longer")


TOKENS = st.lists(st.integers(1, 4), max_size=12)


@given(TOKENS, TOKENS)
def test_divergent_tokens_are_within_bounds(original: list[int], candidate: list[int]) -> None:
    """FDT is never longer than the common beginning, SDT never than the answer; equal answers do not diverge."""
    fdt, sdt = divergence_tokens(original, candidate)
    common = next((i for i, (a, b) in enumerate(zip(original, candidate, strict=False)) if a != b), None)
    assert 0 <= fdt <= (min(len(original), len(candidate)) if common is None else common)
    assert 0 <= sdt <= max(len(candidate), len(original) if not candidate else 0)
    assert divergence_tokens(original, original) == (len(original), 0)


@pytest.mark.parametrize(
    ("original", "candidate", "fdt", "sdt"),
    [
        ([1, 2, 3, 4], [1, 2, 9, 4], 2, 1),
        ([1, 2, 3, 4], [9, 2, 3, 4], 0, 1),
        ([1, 2, 3], [4, 5], 0, 2),
        ([1, 2, 3], [], 0, 3),
        ([], [1, 2], 0, 2),
        ([], [], 0, 0),
        ([1, 2, 3], [1, 2, 3, 4], 3, 1),
        # The longest match, 2 3 4 5, stands elsewhere in the candidate; the common beginning 1 is found before it.
        ([1, 2, 3, 4, 5], [1, 9, 2, 3, 4, 5], 1, 1),
        # Here the longest match begins the original but not the candidate: no first block at both beginnings.
        ([1, 2, 3], [1, 1, 2, 3], 0, 1),
    ],
)
def test_divergent_tokens_by_hand(original: list[int], candidate: list[int], fdt: int, sdt: int) -> None:
    """FDT and SDT are those of WhoWhatBench's definition, its corner cases included."""
    assert divergence_tokens(original, candidate) == (fdt, sdt)


class ChatTokenizer(FakeTokenizer):
    """A tokenizer with a chat template and a begin token that it adds by default."""

    chat_template = "<{{ messages }}>"

    def __call__(self, text: str, add_special_tokens: bool = True, verbose: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [1] * add_special_tokens + super().__call__(text)["input_ids"]}

    def apply_chat_template(self, messages: list[dict[str, str]], tokenize: bool, add_generation_prompt: bool) -> str:
        assert not tokenize
        assert add_generation_prompt
        return f"<{messages[0]['role']}>{messages[0]['content']}</>"


def test_chat_templates_are_used_where_there_is_one() -> None:
    """`auto` uses a template that is there, False never does, True insists; special tokens are added once."""
    plain, chat = FakeTokenizer(), ChatTokenizer()
    templated = plain("<user>Hi</>")["input_ids"]
    assert prompt_tokens(chat, "Hi", "auto") == templated
    assert prompt_tokens(chat, "Hi", True) == templated
    assert prompt_tokens(chat, "Hi", False) == [1, *plain("Hi")["input_ids"]]
    assert prompt_tokens(plain, "Hi", "auto") == plain("Hi")["input_ids"]
    with pytest.raises(EvaluationError, match="no chat template"):
        prompt_tokens(plain, "Hi", True)


def test_answers_of_a_real_model(tiny_llama: Path, tmp_path: Path) -> None:
    """Through OpenVINO and the disk, a model is perfect against itself and one with 4-bit weights is not."""
    import nncf
    import openvino as ov
    from transformers import AutoTokenizer

    from autotune.models.runtime.language_model import OpenVINOLanguageModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    evaluator = Similarity(prompts=PROMPTS, max_new_tokens=16)
    with OpenVINOLanguageModel(tiny_llama, tokenizer) as original:
        reference, _ = ReferenceStore(tmp_path).get_or_create("key", lambda: evaluator.reference(original))
        own, stated = evaluator.evaluate(original, reference), evaluator.original(reference)
    for name, measurement in own.items():
        assert measurement.value == pytest.approx(stated[name].value, abs=1e-6), name
    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    mode = nncf.CompressWeightsMode.INT4_SYM
    with OpenVINOLanguageModel(nncf.compress_weights(model, mode=mode, group_size=64), tokenizer) as compressed:
        scores = evaluator.evaluate(compressed, reference)
        prompts = [prompt_tokens(tokenizer, prompt, "auto") for prompt in PROMPTS]
        plain = [compressed.greedy(prompt, 16) for prompt in prompts]
    assert scores["similarity"].value < 1.0
    assert scores["answer_kl_divergence"].value > 1e-3
    texts = [tokenizer.decode(answer, skip_special_tokens=True) for answer in plain]
    drafts = np.split(reference["answers"], np.cumsum(reference["lengths"])[:-1])
    originals = [tokenizer.decode(answer, skip_special_tokens=True) for answer in drafts]
    expected = np.mean(
        [
            divergence_tokens(tokenizer(a)["input_ids"], tokenizer(b)["input_ids"])[0]
            for a, b in zip(originals, texts, strict=True)
        ]
    )
    assert scores["fdt"].value == expected
