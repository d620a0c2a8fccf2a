"""The model card (README.md) of an exported model."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

from yaml import YAMLError

from autotune.common.formatting import DASH, label, markdown_table, markdown_text, percent, size, times
from autotune.common.paths import HUB_ID, looks_like_path
from autotune.common.yaml import dump_yaml
from autotune.compression.settings import SETTINGS
from autotune.results.frame import SIZE_COLUMNS, effective_settings
from autotune.results.front.decision import saving
from autotune.results.records import StudyResults


class Usage(Protocol):
    """Entry of a model on the hub; `autotune.models.tasks.task.Task` is one.

    Attributes:
        label: name of the task in a sentence.
        pipeline_tag: name of the task on the hub.
    """

    label: ClassVar[str]
    pipeline_tag: ClassVar[str]


def model_card(
    results: StudyResults,
    trial: int,
    settings: Mapping[str, Any],
    usage: Usage,
    snippets: Sequence[str],
    runtime: Mapping[str, Any] | None = None,
    unstored: Mapping[str, Any] | None = None,
) -> str:
    """Write Markdown with the front matter of a model hub: source, scores, settings, how to load it.

    Args:
        results: the study of the model.
        trial: the model's trial.
        settings: the model's settings with all defaults resolved.
        usage: of the model's task.
        snippets: Python code that loads and runs the model.
        runtime: properties of OpenVINO that were chosen for it.
        unstored: those of `runtime` that the IR does not carry.
    """
    record, base = results.records[trial], str(results.config.get("model", results.model))
    on_hub = bool(HUB_ID.fullmatch(base)) and not looks_like_path(base) and "/" in base
    origin = base if on_hub else hub_origin(base)
    matter: dict[str, Any] = {"base_model": origin} if origin else {}
    matter |= license_of(base)
    matter |= {"library_name": "openvino", "pipeline_tag": usage.pipeline_tag}
    matter["tags"] = ["openvino", "autotune", *([str(settings["mode"])] if settings.get("mode") else [])]
    name = results.model.split("/")[-1]
    matter["model-index"] = [{"name": name, "results": index_results(results, trial, usage)}]
    original = results.original_score("footprint")
    footprint = results.value(trial, "footprint")
    smaller = f", {saving(footprint, original.value)} than the original" if original is not None else ""
    device = (results.config.get("target") or ["CPU"])[0]
    source = f"[{origin}](https://huggingface.co/{origin})" if origin else markdown_text(results.model)
    lines = [
        "---",
        dump_yaml(matter).rstrip(),
        "---",
        "",
        f"# {markdown_text(name)} in OpenVINO, {markdown_text(record.describe())}",
        "",
        f"{source} with its weights compressed for OpenVINO: {size(footprint)}{smaller}. autotune searched "
        "the settings and measured the scores below. The licence of the base model applies.",
        "",
        "## How close it is to the original",
        "",
        _scores(results, trial),
        "",
        "Scores compare with the original on the same texts. Both compute in f32, so they measure the weights alone. "
        "± is one standard error.",
        "",
        *(f"- {markdown_text(line)}" for line in texts(results)),
        "",
        "## Settings",
        "",
        _settings(results, trial, settings),
        "",
        "`autotune.json` in this folder lists the format of every weight and the hashes of all inputs.",
        "",
        "## How to load it",
        "",
        "\n".join(f"```python\n{code}```\n" for code in snippets).rstrip().replace('"CPU"', f'"{device}"'),
        *(runtime_lines(runtime, unstored or {}) if runtime else ()),
    ]
    return "\n".join(lines) + "\n"


def runtime_lines(runtime: Mapping[str, Any], unstored: Mapping[str, Any]) -> list[str]:
    """Say which properties were chosen, and how to pass those that the IR does not carry."""
    stored = [f"`{name}={value}`" for name, value in runtime.items() if name not in unstored]
    carried = f" OpenVINO reads these from the model: {', '.join(stored)}." if stored else ""
    lines = ["", f"Runtime properties were chosen with the weights.{carried}"]
    if unstored:
        lines[-1] += f" Pass the others: `ov_config={dict(unstored)}` to optimum-intel, the same as keyword arguments "
        lines[-1] += "to OpenVINO GenAI's pipeline."
    return lines


def _scores(results: StudyResults, trial: int) -> str:
    rows = [
        [
            label(name),
            results.unit(name) or metric.unit or DASH,
            results.score_text(trial, name),
            _original(results, trial, name),
        ]
        for name, metric in results.metrics.items()
        if name not in SIZE_COLUMNS and results.value(trial, name) is not None
    ]
    return markdown_table(["metric", "unit", "this model", "original"], rows, "llrr")


def _original(results: StudyResults, trial: int, name: str) -> str:
    """Format the original's score with the decimals of the model's, which its standard error gives."""
    score, text = results.original_score(name), results.score_text(trial, name)
    if score is None or "±" not in text:
        return results.score_text(None, name, stderr=False)
    decimals = len(text.partition(" ±")[0].partition(".")[2])
    return f"{score.value / results.scale(name):.{decimals}f}" + ("%" if text.endswith("%") else "")


def hub_origin(folder: str) -> str | None:
    """Return the hub id that the `config.json` of a model's folder names; None if it names none."""
    try:
        name = json.loads((Path(folder) / "config.json").read_text(encoding="utf-8")).get("_name_or_path")
    except (OSError, ValueError, AttributeError):
        return None
    is_id = isinstance(name, str) and "/" in name and HUB_ID.fullmatch(name) and not looks_like_path(name)
    return name if is_id else None


def license_of(folder: str) -> dict[str, Any]:
    """Return the licence in the model card of a model's folder, as metadata; empty if there is none."""
    from huggingface_hub import metadata_load

    try:
        found = metadata_load(Path(folder) / "README.md") or {}
    except (OSError, ValueError, YAMLError):
        return {}
    return {name: found[name] for name in ("license", "license_name", "license_link") if found.get(name)}


EVALUATOR_OF = {**dict.fromkeys(("similarity", "fdt", "sdt", "answer"), "similarity"), "chat": "chat_similarity"}
"""First word of a metric -> the evaluator that measures it; the metrics of language modelling are perplexity's."""


def texts(results: StudyResults) -> list[str]:
    """Return one line for each text: what it is used for, and its name."""
    config = results.config
    named = {"calibration": config.get("calibration") or {}}
    named |= {f"scores of {name}": options or {} for name, options in (config.get("evaluators") or {}).items()}
    return [f"{use}: {text}" for use, options in named.items() if (text := text_name(options))]


def text_name(options: Mapping[str, Any]) -> str:
    """Name a text: the dataset with its configuration and split, the name of a file, or generated text."""
    if options.get("dataset"):
        parts = [options.get("name"), options.get("split") and f"split {options['split']}"]
        return ", ".join([str(options["dataset"]), *(str(part) for part in parts if part)])
    if options.get("synthetic"):
        return "text generated by the model"
    for key in ("path", "prompts", "conversations"):
        value = options.get(key)
        if isinstance(value, str):
            return Path(value).name if key == "path" or looks_like_path(value) else f"{value} {key}"
    return ""


def index_results(results: StudyResults, trial: int, usage: Usage) -> list[dict[str, Any]]:
    """Return the scores in the form of the hub's `model-index`, one entry a text."""
    evaluators = results.config.get("evaluators") or {}
    grouped: dict[str, list[dict[str, Any]]] = {}
    for name, metric in results.metrics.items():
        value = results.value(trial, name)
        if name in SIZE_COLUMNS or name == "relative_error" or value is None:
            continue
        evaluator = name if name in evaluators else EVALUATOR_OF.get(name.split("_")[0], "perplexity")
        unit = f" ({metric.unit})" if metric.unit else ""
        entry = {"type": name, "name": f"{label(name)}{unit}", "value": value}
        grouped.setdefault(text_name(evaluators.get(evaluator) or {}) or "texts of the study", []).append(entry)
    return [
        {
            "task": {"type": usage.pipeline_tag, "name": usage.label},
            "dataset": {"name": text, "type": text.split(",")[0]},
            "metrics": metrics,
        }
        for text, metrics in grouped.items()
    ]


def _has_effect(name: str, settings: Mapping[str, Any]) -> bool:
    """Return True if a setting is on and changes the model beside the others."""
    required = SETTINGS[name].requires if name in SETTINGS else None
    return settings.get(name) not in (None, False, [], ()) and (required is None or bool(settings.get(required)))


def _settings(results: StudyResults, trial: int, settings: Mapping[str, Any]) -> str:
    footprint = results.value(trial, "footprint")
    rows = [
        ["size", f"{size(footprint)} (fp32: {times(results.value(trial, 'compression_rate'))})"],
        ["weights in 4 bits", percent(results.value(trial, "int4_percent"))],
        ["weights in 8 bits", percent(results.value(trial, "int8_percent"))],
    ]
    rows += [
        [label(name), "yes" if value is True else ", ".join(value) if isinstance(value, list) else str(value)]
        for name, value in effective_settings(settings).items()
        if _has_effect(name, settings) and not (name.startswith("lora_") and not settings.get("lora_correction"))
    ]
    versions = results.manifest.get("versions") or {}
    rows += [[name, str(versions[name])] for name in ("autotune", "openvino") if name in versions]
    return markdown_table(["", ""], rows, "lr")
