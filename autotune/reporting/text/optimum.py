"""optimum.md: the chosen settings as an entry of optimum-intel's default configurations, with scores before and after.

`optimum.intel.openvino.configuration` keeps a table of default 4-bit configurations by hub id. An entry is what
`OVWeightQuantizationConfig` takes as keyword arguments.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from autotune.common.formatting import DASH, markdown_table, size
from autotune.compression.settings import DATA_FREE_METRIC, INT8_MODES, Settings
from autotune.reporting.text.commands import WEIGHT_FORMATS, optimum_command
from autotune.results.front.recommendation import recommend
from autotune.results.records import StudyResults

ORIGINS = ("candidate: optimum-intel's default", "enqueued: optimum-intel's 4-bit default")
"""Origins of the trial that a new configuration is compared with; the first one that a study has."""

COMPARED = (
    *("similarity", "embedding_similarity", "rerank_similarity"),
    *("fdt_norm", "sdt_norm", "kl_divergence", "perplexity"),
)


def optimum_entry(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments of `OVWeightQuantizationConfig` for uniform settings, without its defaults.

    Args:
        settings: as `Settings.as_dict` returns them, defaults resolved; `optimum_command` has an equivalent for them.
    """
    mode = str(settings["mode"])
    dtype, symmetric = WEIGHT_FORMATS[mode]
    if mode in INT8_MODES:
        return {"bits": 8, "sym": symmetric}
    entry: dict[str, Any] = {"bits": 4, "sym": symmetric, **({} if dtype == "int4" else {"dtype": dtype})}
    entry |= {"group_size": int(settings.get("group_size") or 128), "ratio": float(settings.get("ratio", 1.0))}
    entry["group_size_fallback"] = str(settings.get("group_size_fallback") or "adjust")
    if Settings.from_dict(settings).resolved(calibrated=True).needs_calibration:
        entry["dataset"] = "wikitext2"
    if settings.get("awq"):
        entry["quant_method"] = "awq"
    entry |= {
        name: True for name in ("scale_estimation", "gptq", "lora_correction", "all_layers") if settings.get(name)
    }
    if settings.get("backup_mode") not in (None, "int8_asym"):
        entry["backup_precision"] = settings["backup_mode"]
    if entry["ratio"] < 1:
        entry["sensitivity_metric"] = str(settings.get("sensitivity_metric") or DATA_FREE_METRIC)
    return entry


def optimum_markdown(results: StudyResults) -> str | None:
    """Write optimum.md; None if no trial of the front has settings that optimum-intel can express.

    The entry is that of the recommended trial. If that one has a format for each weight, it is the entry of the most
    accurate trial of the front that is no larger and can be expressed, else of the smallest one that can.
    """
    chosen = recommend(results).trial
    expressed = [number for number in results.front if _command(results, number)]
    if chosen is None or not expressed:
        return None
    number = chosen
    if chosen not in expressed:
        limit = results.value(chosen, "footprint") or 0.0
        smaller = [each for each in expressed if (results.value(each, "footprint") or 0.0) <= limit]
        number = smaller[0] if smaller else expressed[-1]
    entry = optimum_entry(results.records[number].settings)
    written = ", ".join(
        f'"{key}": OVQuantizationMethod.AWQ' if key == "quant_method" else f'"{key}": {_python(value)}'
        for key, value in entry.items()
    )
    about = f"Trial {number}, {results.records[number].describe()}."
    if number != chosen:
        about += (
            f" The recommended trial {chosen} ({results.records[chosen].describe()}) has settings that optimum-intel "
            "cannot express; this is the nearest trial of the front that it can."
        )
    lines = [
        "# Configuration for optimum-intel",
        "",
        about,
        "",
        "```python",
        f"{json.dumps(results.model)}: {{{written}}},",
        "```",
        "",
        _before_and_after(results, number),
        "",
        "autotune measured these models as it compressed them. optimum-intel compresses with NNCF and calibrates on "
        "its own data set, so measure the model that it exports before you publish the entry.",
    ]
    return "\n".join(lines) + "\n"


def _python(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str) else str(value)


def _command(results: StudyResults, number: int) -> bool:
    """Return True if optimum-intel can express the settings of a trial."""
    settings = results.records[number].settings
    return settings.get("mode") in WEIGHT_FORMATS and optimum_command("MODEL", settings).call is not None


def _before_and_after(results: StudyResults, number: int) -> str:
    numbers = {record.origin: each for each, record in results.records.items() if record.complete}
    before = next((numbers[origin] for origin in ORIGINS if origin in numbers), None)
    names = [name for name in COMPARED if name in results.metrics and results.has_scores(name)]
    rows = []
    for title, trial in (("original", None), ("before: optimum-intel's default", before), ("after", number)):
        if title != "original" and trial is None:
            continue
        footprint = results.original.footprint if trial is None and results.original else None
        footprint = footprint if trial is None else results.records[trial].footprint
        formats = DASH if trial is None else results.records[trial].describe()
        rows.append([title, formats, size(footprint), *(results.score_text(trial, name) for name in names)])
    return markdown_table(["", "settings", "size", *map(results.heading, names)], rows, "llr" + "r" * len(names))
