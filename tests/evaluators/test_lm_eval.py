"""The adapter to lm_eval, and our word perplexity and lambada beside lm_eval's own on the Hugging Face model."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autotune.errors import EvaluationError
from autotune.models.runtime.language_model import OpenVINOLanguageModel
from autotune.testing import FakeLanguageModel
from evaluators.lambada import Lambada
from evaluators.lm_eval import LmEval
from evaluators.word_perplexity import WordPerplexity

pytest.importorskip("lm_eval")

PAGES = [
    f" = Page {i} = \n \n The mill , the hens ( {i} ) and 1 @,@ {i}00 eggs . \n" + "row row " * 40 * i + "\n"
    for i in (1, 2)
]
PASSAGES = [
    "Mira keeps eleven hens behind the mill",
    "every morning she counts the eggs",
    "the lamp is lit, the ledger",
]
CHOICES = [
    {"q": f"{a} and {b} make", "choices": ["five", "nine", "thirteen"], "gold": (a + b) % 3}
    for a in (1, 2)
    for b in (3, 4)
]
TASKS = {
    "pages": "output_type: loglikelihood_rolling\ndoc_to_text: ''\n"
    "doc_to_target: !function own.page\nprocess_results: !function own.score\n"
    "metric_list: [{metric: word_perplexity, aggregation: weighted_perplexity, higher_is_better: false}]\n",
    "words": "output_type: loglikelihood\ndoc_to_text: \"{{text.split(' ')[:-1]|join(' ')}}\"\n"
    "doc_to_target: \"{{' '+text.split(' ')[-1]}}\"\n"
    "metric_list: [{metric: perplexity, aggregation: perplexity, higher_is_better: false}, "
    "{metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "choices": "output_type: multiple_choice\ndoc_to_text: q\ndoc_to_target: gold\ndoc_to_choice: choices\n"
    "metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]\n",
    "written": 'output_type: generate_until\ndoc_to_text: q\ndoc_to_target: "{{choices[gold]}}"\n'
    "generation_kwargs: {until: ['e'], max_gen_toks: 6, do_sample: false}\n"
    "metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]\n",
}
OWN = """
import re
from lm_eval.tasks.wikitext.preprocess_wikitext import wikitext_detokenizer

def page(doc):
    return wikitext_detokenizer(doc)

def score(doc, results):
    return {"word_perplexity": (results[0], len(re.split(r"\\s+", doc["page"])))}
"""


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of lm_eval's four kinds on a few documents of our own."""
    folder = tmp_path_factory.mktemp("tasks")
    documents: dict[str, list[dict[str, Any]]] = {
        "pages": [{"page": page} for page in PAGES],
        "words": [{"text": passage} for passage in PASSAGES],
        "choices": CHOICES,
        "written": CHOICES,
    }
    (folder / "own.py").write_text(OWN)
    for name, task in TASKS.items():
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(document) + "\n" for document in documents[name]))
        head = (
            f"task: {name}\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: '{data}'}}}}\ntest_split: test\n"
        )
        (folder / f"{name}.yaml").write_text(head + task)
    return folder


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> Iterator[OpenVINOLanguageModel]:
    from transformers import AutoTokenizer

    with OpenVINOLanguageModel(tiny_llama, AutoTokenizer.from_pretrained(tiny_llama)) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def peer(tiny_llama_hf: Path, tasks: Path) -> dict[str, Any]:
    """Scores of lm_eval for the same weights in PyTorch."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        harness = HFLM(str(tiny_llama_hf), device="cpu", dtype="float32", batch_size=1, max_length=64)
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        results = lm_eval.simple_evaluate(harness, tasks=list(TASKS), bootstrap_iters=0, task_manager=manager)
    return dict(results["results"])


@pytest.mark.filterwarnings("ignore")
def test_word_perplexity_equals_lm_evals(model: Any, peer: dict[str, Any], tmp_path: Path) -> None:
    """On the same documents, within 0.1%."""
    text = tmp_path / "pages.txt"
    text.write_text("".join(PAGES))
    evaluator = WordPerplexity(path=text, max_length=64)
    assert evaluator._documents == PAGES
    value = evaluator.original(evaluator.reference(model))["word_perplexity"].value
    assert value == pytest.approx(peer["pages"]["word_perplexity,none"], rel=1e-3)


@pytest.mark.filterwarnings("ignore")
def test_lambada_equals_lm_evals(model: Any, peer: dict[str, Any], tasks: Path) -> None:
    """On the same passages the accuracy is the same and the perplexity within 0.5%."""
    evaluator = Lambada(path=tasks / "words.jsonl")
    scores = evaluator.original(evaluator.reference(model))
    assert scores["lambada_accuracy"].value == peer["words"]["acc,none"]
    assert scores["lambada_perplexity"].value == pytest.approx(peer["words"]["perplexity,none"], rel=5e-3)


@pytest.mark.filterwarnings("ignore")
def test_the_adapter_gives_lm_evals_scores(model: Any, peer: dict[str, Any], tasks: Path) -> None:
    """Likelihoods, choices and written answers, through OpenVINO, score as on the PyTorch model."""
    evaluator = LmEval(tasks=("choices", "written"), include_path=tasks, max_length=64)
    reference = evaluator.reference(model)
    assert reference["choices"].mean() == peer["choices"]["acc,none"]
    assert reference["written"].mean() == peer["written"]["exact_match,none"]
    score = evaluator.original(reference)["task_score"]
    assert score.value == np.mean([reference["choices"].mean(), reference["written"].mean()])
    same = evaluator.evaluate(model, reference)
    assert same["task_score_change"].value == 0.0
    assert same["task_score"].stderr == 0.0


@pytest.mark.filterwarnings("ignore")
def test_a_task_that_cannot_be_scored_says_why(tasks: Path) -> None:
    """An unknown task, and one whose documents have no number of their own, are one EvaluationError each."""
    with pytest.raises(EvaluationError, match="no_such_task"):
        LmEval(tasks=("no_such_task",), include_path=tasks).reference(FakeLanguageModel())
    with pytest.raises(EvaluationError, match="no number"):
        LmEval(tasks=("pages",), include_path=tasks).reference(FakeLanguageModel())


def test_the_fingerprint_is_of_tasks_and_their_files(tasks: Path, tmp_path: Path) -> None:
    """Other tasks, limits or task files are another reference."""
    one = LmEval(tasks=("choices",), include_path=tasks)
    assert one.fingerprint() == LmEval(tasks=("choices",), include_path=tasks).fingerprint()
    assert one.fingerprint() != LmEval(tasks=("choices",), include_path=tasks, limit=2).fingerprint()
    (tmp_path / "choices.yaml").write_text("task: choices\n")
    assert one.fingerprint() != LmEval(tasks=("choices",), include_path=tmp_path).fingerprint()
