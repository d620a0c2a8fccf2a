"""The model card (README.md) of an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from autotune.common.formatting import DASH, label, markdown_table, percent, size, times
from autotune.common.paths import HUB_ID, looks_like_path
from autotune.common.yaml import dump_yaml
from autotune.compression.describe import describe_settings
from autotune.results.decision import saving
from autotune.results.frame import SIZE_COLUMNS
from autotune.results.records import StudyResults

PYTHON = """\
```python
from optimum.intel import OVModelForCausalLM
from transformers import AutoTokenizer

folder = "."  # this folder, or its name on the hub
tokenizer = AutoTokenizer.from_pretrained(folder)
model = OVModelForCausalLM.from_pretrained(folder)
inputs = tokenizer("Once upon a time", return_tensors="pt")
print(tokenizer.decode(model.generate(**inputs, max_new_tokens=20)[0]))
```
"""
GENAI = """\
```python
import openvino_genai

pipeline = openvino_genai.LLMPipeline(".", "CPU")  # this folder; download it first where it is on the hub
print(pipeline.generate("Once upon a time", max_new_tokens=20))
```
"""


def model_card(results: StudyResults, trial: int, settings: Mapping[str, Any]) -> str:
    """Write Markdown with the front matter of a model hub: source, scores, settings, how to load it.

    Args:
        results: the study of the model.
        trial: the model's trial.
        settings: the model's settings with all defaults resolved.
    """
    record, base = results.records[trial], str(results.config.get("model", results.model))
    on_hub = bool(HUB_ID.fullmatch(base)) and not looks_like_path(base) and "/" in base
    matter: dict[str, Any] = {"base_model": base} if on_hub else {}
    matter |= {"library_name": "openvino", "pipeline_tag": "text-generation"}
    matter["tags"] = ["openvino", "autotune", *([str(settings["mode"])] if settings.get("mode") else [])]
    name = results.model.split("/")[-1]
    original = results.original_score("footprint")
    footprint = results.value(trial, "footprint")
    smaller = f", {saving(footprint, original.value)} than the original" if original is not None else ""
    source = f"[{base}](https://huggingface.co/{base})" if on_hub else results.model
    lines = [
        "---",
        dump_yaml(matter).rstrip(),
        "---",
        "",
        f"# {name} in OpenVINO, {describe_settings(record.settings)}",
        "",
        f"{source} with its weights compressed for OpenVINO: {size(footprint)}{smaller}. The settings were found, and "
        "the scores below measured, by autotune. The base model's licence applies.",
        "",
        "## How close it is to the original",
        "",
        _scores(results, trial),
        "",
        "Scores are of the weights alone: computed in f32, against the original on the same texts; ± is one standard "
        "error.",
        "",
        "## What was done",
        "",
        _settings(results, trial, settings),
        "",
        "`autotune.json` beside this file holds what every single weight got, and the hashes of all inputs.",
        "",
        "## How to load it",
        "",
        PYTHON,
        GENAI.rstrip(),
    ]
    return "\n".join(lines) + "\n"


def _scores(results: StudyResults, trial: int) -> str:
    rows = [
        [
            label(name),
            metric.unit or DASH,
            results.score_text(trial, name),
            results.score_text(None, name, stderr=False),
        ]
        for name, metric in results.metrics.items()
        if name not in SIZE_COLUMNS and results.value(trial, name) is not None
    ]
    return markdown_table(["metric", "unit", "this model", "original"], rows, "llrr")


def _settings(results: StudyResults, trial: int, settings: Mapping[str, Any]) -> str:
    footprint = results.value(trial, "footprint")
    rows = [
        ["size", f"{size(footprint)} (fp32: {times(results.value(trial, 'compression_rate'))})"],
        ["weights in 4 bits", percent(results.value(trial, "int4_percent"))],
        ["weights in 8 bits", percent(results.value(trial, "int8_percent"))],
    ]
    rows += [
        [label(name), "yes" if value is True else ", ".join(value) if isinstance(value, list) else str(value)]
        for name, value in settings.items()
        if value not in (None, False, []) and not (name.startswith("lora_") and not settings.get("lora_correction"))
    ]
    versions = results.manifest.get("versions") or {}
    rows += [[name, str(versions[name])] for name in ("autotune", "openvino") if name in versions]
    return markdown_table(["", ""], rows, "lr")
