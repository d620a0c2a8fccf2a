"""Perplexity, KL divergence and top-1 agreement of windows."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.errors import ConfigError, EvaluationError
from autotune.evaluation import Evaluator, Reference, looks, scoring_order
from autotune.evaluation.stores import PartedReference, ReferenceStore
from autotune.testing import EvaluatorConformance, FakeLanguageModel
from evaluators import perplexity
from evaluators.perplexity import Perplexity

TEXT = "The miller counts the sacks, and the sacks count the miller.\n" * 12


@pytest.fixture
def text(tmp_path: Path) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(TEXT)
    return file


class TestConformance(EvaluatorConformance):
    """Perplexity does what every evaluator must."""

    @pytest.fixture(autouse=True)
    def _text(self, text: Path) -> None:
        self.text = text

    def make(self) -> Evaluator:
        return Perplexity(path=self.text, sequence_length=32)


class TestSyntheticConformance(EvaluatorConformance):
    """So it does on text that the original writes."""

    def make(self) -> Evaluator:
        return Perplexity(synthetic=True, sequence_length=16, samples=4)


class TestLargeVocabularyConformance(TestConformance):
    """The same holds where only the top of each distribution is kept."""

    def model(self, **options: Any) -> FakeLanguageModel:
        return FakeLanguageModel(vocabulary_size=9000, **options)

    def make(self) -> Evaluator:
        return Perplexity(path=self.text, sequence_length=16, samples=3)


def _log_softmax(model: FakeLanguageModel, windows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    logits = model.logits(windows).astype(np.float64)
    return np.asarray(logits - np.log(np.exp(logits).sum(-1, keepdims=True)))


def test_scores_are_those_of_the_definition(text: Path) -> None:
    """All four metrics and their standard errors are what a direct float64 computation gives."""
    evaluator = Perplexity(path=text, sequence_length=32)
    original, candidate = FakeLanguageModel(), FakeLanguageModel(noise=0.4)
    reference = evaluator.reference(original)
    windows = reference["tokens"]
    p, q = _log_softmax(original, windows), _log_softmax(candidate, windows)
    targets = windows[:, 1:, None]
    nll = {name: -np.take_along_axis(one[:, :-1], targets, -1)[..., 0].mean(1) for name, one in (("p", p), ("q", q))}
    difference = nll["q"] - nll["p"]
    n = len(windows)
    each = (np.exp(p) * (p - q)).sum(-1)
    kl = each.mean(1)
    agree = (p.argmax(-1) == q.argmax(-1)).mean(1)
    expected = {
        "perplexity": (math.exp(nll["q"].mean()), math.exp(nll["q"].mean()) * difference.std(ddof=1) / n**0.5),
        "perplexity_increase": (
            100 * (math.exp(difference.mean()) - 1),
            100 * math.exp(difference.mean()) * difference.std(ddof=1) / n**0.5,
        ),
        "kl_divergence": (kl.mean(), kl.std(ddof=1) / n**0.5),
        "top1_agreement": (agree.mean(), agree.std(ddof=1) / n**0.5),
    }
    scores = evaluator.evaluate(candidate, reference)
    for name, (value, error) in expected.items():
        assert scores[name].value == pytest.approx(value, rel=1e-4), name
        assert scores[name].stderr == pytest.approx(error, rel=1e-3), name
        assert len(scores[name].values) == n
    assert scores["kl_divergence_median"].value == pytest.approx(np.median(each), rel=1e-3)
    assert scores["kl_divergence_p99"].value == pytest.approx(np.quantile(each, 0.99), rel=1e-3)


def test_the_originals_perplexity_is_its_own(text: Path) -> None:
    """The first row of the table has the original's measured perplexity, and no increase."""
    evaluator = Perplexity(path=text, sequence_length=32)
    model = FakeLanguageModel()
    reference = evaluator.reference(model)
    p = _log_softmax(model, reference["tokens"])
    expected = math.exp(-np.take_along_axis(p[:, :-1], reference["tokens"][:, 1:, None], -1).mean())
    stated = evaluator.original(reference)
    assert stated["perplexity"].value == pytest.approx(expected, rel=1e-5)
    assert stated["perplexity_increase"].value == 0.0


def test_a_single_window_has_no_standard_error(text: Path) -> None:
    """One window has no standard error."""
    evaluator = Perplexity(path=text, sequence_length=32, samples=1)
    scores = evaluator.evaluate(FakeLanguageModel(noise=0.4), evaluator.reference(FakeLanguageModel()))
    assert {score.stderr for score in scores.values()} == {None}


def test_samples_are_the_first_windows(text: Path) -> None:
    """A limit on windows scores the beginning of the text, window for window with the same numbers as without it."""
    every, some = Perplexity(path=text, sequence_length=32), Perplexity(path=text, sequence_length=32, samples=5)
    original, candidate = FakeLanguageModel(), FakeLanguageModel(noise=0.4)
    long, short = every.reference(original), some.reference(original)
    np.testing.assert_array_equal(short["tokens"], long["tokens"][:5])
    in_order = []
    for one, reference in ((every, long), (some, short)):
        values = np.array(one.evaluate(candidate, reference)["kl_divergence"].values)
        in_order.append(values[np.argsort(scoring_order(len(values)))])
    np.testing.assert_array_equal(in_order[0][:5], in_order[1])


def test_a_stage_is_the_score_of_its_windows(text: Path) -> None:
    """Each stage has the numbers of the windows before it, which later stages do not change."""
    evaluator = Perplexity(path=text, sequence_length=32)
    stages = list(evaluator.stages(FakeLanguageModel(noise=0.4), evaluator.reference(FakeLanguageModel())))
    for name in ("kl_divergence", "perplexity", "perplexity_increase"):
        every = stages[-1][name].values
        assert len(stages) == len(looks(len(every))) > 2
        for stop, scores in zip(looks(len(every)), stages, strict=True):
            assert scores[name].values == every[:stop]


def test_parts_of_the_reference_are_computed_when_needed(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a block of windows only their parts exist; the scores are those with the whole reference, to the bit."""
    monkeypatch.setattr(perplexity, "_PART_TOKENS", 64)
    evaluator, original, store = (
        Perplexity(path=text, sequence_length=32),
        FakeLanguageModel(),
        ReferenceStore(tmp_path),
    )
    outline, made = evaluator.outline(original), []

    def create(part: int) -> Reference:
        made.append(part)
        key = evaluator.part_key(outline, part)
        return store.get_or_create(key, lambda: evaluator.part(original, outline, part))[0]

    lazy, candidate = PartedReference(outline, create), FakeLanguageModel(noise=0.4)
    some = evaluator.original_on(lazy, 1)
    assert made == [0]
    stages = evaluator.stages(candidate, lazy)
    next(stages)
    assert made == [0, 1]  # a block of four windows
    *_, last = stages
    assert len(made) == len(set(made)) == len(list(tmp_path.glob("*.safetensors"))) == -(-len(outline["tokens"]) // 2)
    assert last == evaluator.evaluate(candidate, evaluator.reference(original))
    whole = evaluator.original(lazy)
    assert some["perplexity"].values == whole["perplexity"].values[:2]
    assert evaluator.original_on(lazy, 1000) == whole
    same = Perplexity(path=text, sequence_length=32, samples=len(outline["tokens"]))
    assert same.part_key(same.outline(original), 1) == evaluator.part_key(outline, 1)
    assert evaluator.part_key(outline, 0) != evaluator.part_key(outline, 1)


def test_a_long_text_has_a_compact_reference(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the reference is small, and the score is the same within a few thousandths."""
    evaluator = Perplexity(path=text, sequence_length=32, samples=8)
    model = partial(FakeLanguageModel, vocabulary_size=2000)
    exact = evaluator.reference(model())
    monkeypatch.setattr(perplexity, "_EXACT_BYTES", 1)
    compact = evaluator.reference(model())
    sizes = [sum(array.nbytes for array in reference.values()) for reference in (exact, compact)]
    assert sizes[1] < 0.2 * sizes[0]
    candidate = model(noise=0.4)
    first, second = (evaluator.evaluate(candidate, each)["kl_divergence"] for each in (exact, compact))
    assert second.value == pytest.approx(first.value, rel=0.01)
    assert evaluator.part_key(exact, 0) != evaluator.part_key(compact, 0)


def test_the_held_out_windows_are_the_next_ones(text: Path) -> None:
    """They go on where the search's own end, and a text that is used up has none."""
    every = Perplexity(path=text, sequence_length=32)
    some = Perplexity(path=text, sequence_length=32, samples=5)
    model = FakeLanguageModel()
    other = some.held_out()
    assert other is not None
    np.testing.assert_array_equal(other.reference(model)["tokens"], every.reference(model)["tokens"][5:10])
    assert every.held_out() is None
    last = Perplexity(path=text, sequence_length=32, samples=500).held_out()
    assert last is not None
    with pytest.raises(ConfigError, match="none is left after the first 500"):
        last.reference(model)


def test_the_models_own_text_has_more_of_it() -> None:
    """Windows that the original writes for the report are others than those for the search."""
    some, model = Perplexity(synthetic=True, sequence_length=16, samples=3), FakeLanguageModel()
    other = some.held_out()
    assert other is not None
    tokens = [one.reference(model)["tokens"] for one in (some, other)]
    assert tokens[0].shape == tokens[1].shape
    assert not {tuple(row) for row in tokens[0].tolist()} & {tuple(row) for row in tokens[1].tolist()}


def test_the_noise_of_another_batch_shape_is_measured(text: Path) -> None:
    """The difference of the original from itself, run window by window, is part of every score it concerns."""

    class Shaky(FakeLanguageModel):
        """Its logits depend on what runs together, as those of a real model do in the last digits."""

        def scan(self, sequences: Any, first: Any) -> Any:
            for index, start, logits in super().scan(sequences, first):
                yield index, start, logits * np.float32(1.01 if len(sequences) == 1 else 1.0)

    evaluator = Perplexity(path=text, sequence_length=32)
    candidate = FakeLanguageModel(noise=0.4)
    exact = evaluator.evaluate(candidate, evaluator.reference(FakeLanguageModel()))
    shaky = evaluator.evaluate(candidate, evaluator.reference(Shaky()))
    assert all(score.noise == 0.0 for score in exact.values())
    assert 0.0 < shaky["kl_divergence"].noise < shaky["kl_divergence"].value
    assert shaky["perplexity"].noise > 0.0
    assert shaky["perplexity"].value == exact["perplexity"].value


def test_the_fingerprint_is_of_content_not_of_place(text: Path, tmp_path: Path) -> None:
    """A copy of the text has the same fingerprint; another text, length or number of windows another one."""
    copy, other = tmp_path / "copy.txt", tmp_path / "other.txt"
    copy.write_text(TEXT)
    other.write_text(TEXT + "!")
    prints = [
        Perplexity(path=path, **options).fingerprint()
        for path, options in (
            (text, {}),
            (other, {}),
            (text, {"sequence_length": 64}),
            (text, {"samples": 3}),
        )
    ]
    assert Perplexity(path=copy).fingerprint() == prints[0]
    assert len(set(prints)) == len(prints)


def test_a_text_too_short_is_named(text: Path) -> None:
    """A text shorter than one window is a ConfigError with file, tokens found and tokens needed."""
    with pytest.raises(ConfigError, match=rf"text\.txt has {len(TEXT)} tokens.*sequence_length=4096"):
        Perplexity(path=text, sequence_length=4096).reference(FakeLanguageModel())


def test_another_models_reference_is_refused(text: Path) -> None:
    """A candidate with another vocabulary does not get a score."""
    evaluator = Perplexity(path=text, sequence_length=32)
    reference = evaluator.reference(FakeLanguageModel())
    with pytest.raises(EvaluationError, match="not versions of one model"):
        evaluator.evaluate(FakeLanguageModel(vocabulary_size=120), reference)


def test_scores_of_a_real_model(tiny_llama: Path, text: Path, tmp_path: Path) -> None:
    """Through OpenVINO and the disk, a model is perfect against itself, and its 8-bit version slightly worse."""
    import nncf
    import openvino as ov
    from transformers import AutoTokenizer

    from autotune.models.runtime.language_model import OpenVINOLanguageModel

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    evaluator = Perplexity(path=text, sequence_length=32, samples=10)
    with OpenVINOLanguageModel(tiny_llama, tokenizer) as original:
        reference, _ = ReferenceStore(tmp_path).get_or_create("key", lambda: evaluator.reference(original))
        own = evaluator.evaluate(original, reference)
    assert own["kl_divergence"].value == own["kl_divergence_p99"].value == 0.0
    assert own["top1_agreement"].value == 1.0
    assert own["perplexity"].value == evaluator.original(reference)["perplexity"].value
    model = ov.Core().read_model(tiny_llama / "openvino_model.xml")
    with OpenVINOLanguageModel(nncf.compress_weights(model), tokenizer) as compressed:
        score = evaluator.evaluate(compressed, reference)["kl_divergence"]
    assert score.stderr is not None
    assert 1e-6 < score.value < 0.1


def test_synthetic_text_needs_a_number_of_windows() -> None:
    """Synthetic texts without a number of samples are refused."""
    with pytest.raises(ValueError, match="synthetic: true needs samples"):
        Perplexity(synthetic=True)
