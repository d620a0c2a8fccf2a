"""The model card: settings that have an effect, names of the texts, and metadata that the hub accepts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import yaml

from autotune.compression.settings import Settings
from autotune.models.tasks.text_generation import TASK
from autotune.reporting.text.model_card import model_card
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


def settings_of(results: StudyResults, trial: int) -> dict[str, object]:
    """The settings of a trial with all defaults resolved."""
    return Settings.from_dict(results.records[trial].settings).as_dict()


def test_settings_without_effect_are_left_out(make: Make) -> None:
    """Neither the order of GPTQ without GPTQ nor the rank of adapters without adapters; int8 has the mode alone."""
    results = make(trials=4)
    card = model_card(results, 1, settings_of(results, 1), TASK, TASK.snippets(None))
    assert "gptq" not in card.lower()
    assert "rank" not in card
    assert "| group size " in card
    eight = model_card(results, 0, settings_of(results, 0), TASK, TASK.snippets(None))
    assert "| mode " in eight
    assert "| group size  " not in eight
    assert "| ratio " not in eight


def test_the_hub_reads_the_metadata(make: Make, tmp_path: Path) -> None:
    """`huggingface_hub` parses base model and results; the scores are those of the trial, by the names of the texts."""
    from huggingface_hub import ModelCard

    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "org/llama"}))
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\ntags: [x]\n---\n# Llama\n")
    results = make(trials=4, config={"model": str(tmp_path)})
    data = ModelCard(model_card(results, 3, settings_of(results, 3), TASK, TASK.snippets(None))).data
    assert data.base_model == "org/llama"
    assert data.license == "apache-2.0"
    assert data.eval_results is not None
    found = {result.metric_type: (result.dataset_name, result.metric_value) for result in data.eval_results}
    assert found["kl_divergence"] == ("test.txt", results.value(3, "kl_divergence"))
    assert found["similarity"] == ("default prompts", results.value(3, "similarity"))


def test_texts_are_named_and_decimals_follow_the_error(make: Make) -> None:
    """Calibration and evaluation texts have a line each; the original has the decimals of the model's score."""
    results = make(trials=4, config={"calibration": {"dataset": "org/text", "name": "raw", "split": "train"}})
    card = model_card(results, 1, settings_of(results, 1), TASK, TASK.snippets(None))
    assert "- calibration: org/text, raw, split train" in card
    assert "- scores of perplexity: test.txt" in card
    row = next(line for line in card.splitlines() if line.startswith("| similarity "))
    ours, original = (cell.strip() for cell in row.split("|")[3:5])
    assert len(ours.split(" ±")[0]) == len(original) == len("0.812")
    assert yaml.safe_load(card.split("---")[1])["library_name"] == "openvino"
