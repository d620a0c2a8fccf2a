"""Plans of trials: as a table, as a map of layers by kinds of weights, and those of budgets against the others."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import is_missing, label, printable, printable_data, size
from autotune.results.front.recommendation import accuracy_metric
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd

DIVERGENCE = "kl_divergence"

Plans = Mapping[str, Mapping[str, Any]]
"""The study's plans by key, as `plans.read_plans` returns them."""

WRAPPERS = re.compile(r"(^self\.|^__module\.|\._openvino_orig_weight$|[./]weight$|/?(MatMul|ov_ext::linear).*$)")
"""Parts of weights' names that exporters add."""


def plan_file(folder: Path, key: str | None) -> Path:
    """Return the file of a plan in a study's folder; the key's last part alone, if it has the form of a path."""
    return folder / "plans" / f"{Path(str(key)).name}.json"


def read_plan(folder: Path, key: str | None) -> Mapping[str, Any] | None:
    """Read a plan that a search wrote into the study's folder; None if it is missing or unreadable."""
    try:
        data = printable_data(json.loads(plan_file(folder, key).read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("variants"), dict) else None


def read_plans(results: StudyResults, folder: Path) -> dict[str, Mapping[str, Any]]:
    """Read the plans of all complete trials that are in the study's folder, by key."""
    keys = dict.fromkeys(record.plan for record in results.records.values() if record.complete and record.plan)
    return {key: plan for key in keys if key is not None and (plan := read_plan(folder, key)) is not None}


def plan_frame(plan: Mapping[str, Any]) -> pd.DataFrame:
    """Return a plan with one row a weight.

    Args:
        plan: plain data, as `read_plan` returns it.

    Returns:
        ``weight, layer, kind, mode, bits, group_size, awq, scale_estimation, gptq, lora_rank, sensitivity``. Weights
        that stay uncompressed are there if the plan knows their sensitivity; their mode is missing.
    """
    import pandas as pd

    sensitivities = (plan.get("sensitivity") or {}).get("values") or {}
    rows: list[dict[str, Any]] = []
    for weight in dict.fromkeys([*plan["variants"], *sensitivities]):
        layer, kind = place_of(weight)
        variant = plan["variants"].get(weight) or {}
        mode = variant.get("mode")
        row = {"weight": weight, "layer": layer, "kind": kind, "mode": mode, "bits": mode and bits_of(str(mode))}
        row["group_size"] = variant.get("group_size")
        row |= {name: bool(variant.get(name)) for name in ("awq", "scale_estimation", "gptq")}
        rows.append({**row, "lora_rank": variant.get("lora_rank") or 0, "sensitivity": sensitivities.get(weight)})
    integers, flags = ("bits", "group_size", "lora_rank"), ("awq", "scale_estimation", "gptq")
    columns = ["weight", "layer", "kind", "mode", "bits", "group_size", *flags, "lora_rank", "sensitivity"]
    kinds = dict.fromkeys(integers, "Int64") | dict.fromkeys(flags, "bool") | {"sensitivity": "float64"}
    return pd.DataFrame(rows, columns=columns).astype(kinds)


@dataclass(frozen=True, slots=True)
class Cell:
    """One weight of a map.

    Attributes:
        name: as the model calls it.
        kind: its name without the layer, such as ``mlp.down_proj``.
        format: such as ``int4_asym g64``; empty for an uncompressed weight.
        bits: of one stored element; None for an uncompressed weight.
        applied: the algorithms applied to this weight, such as ``GPTQ``.
        sensitivity: by the study's metric; None if it is unknown.
        rank: place among all weights by sensitivity, 0 the least and 1 the most sensitive.
    """

    name: str
    kind: str
    format: str
    bits: int | None
    applied: tuple[str, ...] = ()
    sensitivity: float | None = None
    rank: float | None = None


@dataclass(frozen=True, slots=True)
class WeightMap:
    """A plan as layers by kinds.

    Attributes:
        kinds: the columns, shortened.
        layers: (layer, a cell or None for each kind), top to bottom.
        outside: weights of no layer, such as embeddings and the last projection.
        formats: number of weights in each format, most first.
        notes: what the plan says about adjusted and impossible settings.
        metric: the sensitivity metric of the cells; None without one.
    """

    kinds: tuple[str, ...]
    layers: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    outside: tuple[Cell, ...]
    formats: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    metric: str | None


def known_sensitivity(plans: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the sensitivities of the plan that has most of them; empty if none has any.

    A plan of ratio 1 needs no sensitivities, but another plan of the same study may have them.
    """
    found = [plan["sensitivity"] for plan in plans if isinstance(plan.get("sensitivity"), dict)]
    found = [entry for entry in found if isinstance(entry.get("values"), dict)]
    # Prefer the engine's own metric: it is the error of the mode itself.
    return max(found, key=lambda entry: (len(entry["values"]), entry.get("metric") == "output_error"), default={})


def weight_map(plan: Mapping[str, Any], sensitivity: Mapping[str, Any] | None = None) -> WeightMap:
    """Lay out a plan.

    Args:
        plan: plain data, as `read_plan` returns it.
        sensitivity: ``metric`` and ``values``; its weights are shown even if the plan does not compress them.
    """
    sensitivities = dict((sensitivity or {}).get("values") or {})
    names = list(dict.fromkeys([*plan["variants"], *sensitivities]))
    ranks = _ranks(sensitivities)
    places = {name: place_of(name) for name in names}
    cells = {
        name: _cell(name, places[name][1], plan["variants"].get(name), sensitivities.get(name), ranks.get(name))
        for name in names
    }
    layered = [name for name in names if places[name][0] is not None]
    kinds = tuple(dict.fromkeys(places[name][1] for name in layered))
    grid: dict[str, dict[str, Cell]] = {}
    for name in layered:
        layer, kind = places[name]
        grid.setdefault(str(layer), {})[kind] = cells[name]
    order = sorted(grid, key=lambda layer: [int(part) for part in re.findall(r"\d+", layer)] or [0])
    counted = Counter(cell.format or "unchanged" for cell in cells.values())
    return WeightMap(
        kinds=_shortened(kinds),
        layers=tuple((layer, tuple(grid[layer].get(kind) for kind in kinds)) for layer in order),
        outside=tuple(cells[name] for name in names if places[name][0] is None),
        formats=tuple(sorted(counted.items(), key=lambda item: (-item[1], item[0]))),
        notes=tuple(str(note) for note in plan.get("notes") or ()),
        metric=(sensitivity or {}).get("metric") if ranks else None,
    )


def place_of(name: str) -> tuple[str | None, str]:
    """Split a weight's name into layer (the first number) and kind (the rest); (None, name) without a number."""
    plain = name
    for _ in range(4):
        plain = WRAPPERS.sub("", plain)
    parts = re.split(r"[./]", plain)
    for position, part in enumerate(parts):
        if part.isdigit() and position + 1 < len(parts):
            stem = ".".join(parts[:position])
            layer = part if re.search(r"(layers|blocks|h|decoder|block|layer)$", stem) else f"{stem}.{part}"
            return layer, ".".join(parts[position + 1 :])
    return None, plain.removeprefix("model.")


def readable(text: str) -> str:
    """Replace the names of weights in a text by those of the model's layers: ``layers.0.mlp.down_proj``."""
    names = r"[\w./]*_openvino_orig_weight|__module[\w./]+|[\w./]+\.weight\b"
    return re.sub(names, lambda m: readable_name(m[0]), printable(text))


def readable_name(name: str) -> str:
    """Return a weight's name without what the export added."""
    for _ in range(4):
        name = WRAPPERS.sub("", name)
    return name.removeprefix("model.")


def bits_of(mode: str) -> int:
    """Read the bits of one element from a mode's name: ``int4_asym`` 4, ``mxfp8_e4m3`` 8."""
    found = re.search(r"\d+", mode)
    return int(found[0]) if found else 16


def _cell(name: str, kind: str, variant: Mapping[str, Any] | None, sensitivity: Any, rank: float | None) -> Cell:
    value = None if sensitivity is None or is_missing(sensitivity) else float(sensitivity)
    if variant is None:
        return Cell(name, kind, "", None, (), value, rank)
    mode, group = str(variant["mode"]), variant.get("group_size")
    text = mode if group in (None, -1) else f"{mode} g{group}"
    applied = [word for key, word in (("awq", "AWQ"), ("scale_estimation", "SE"), ("gptq", "GPTQ")) if variant.get(key)]
    applied += [f"LoRA {variant['lora_rank']}"] if variant.get("lora_rank") else []
    return Cell(name, kind, text, bits_of(mode), tuple(applied), value, rank)


def _ranks(sensitivities: Mapping[str, Any]) -> dict[str, float]:
    values = {name: float(value) for name, value in sensitivities.items() if value is not None}
    order = sorted(values, key=lambda name: (math.inf if math.isnan(values[name]) else values[name], name))
    return {name: place / max(1, len(order) - 1) for place, name in enumerate(order)}


def _shortened(kinds: Sequence[str]) -> tuple[str, ...]:
    """Return the last parts of the names, as few as keep them distinct."""
    for count in (1, 2, 3):
        tails = [".".join(kind.split(".")[-count:]) for kind in kinds]
        if len(set(tails)) == len(tails):
            return tuple(tails)
    return tuple(kinds)


def _budget_trials(results: StudyResults, *, by_budget: bool = True) -> list[int]:
    """Return the unique complete trials whose plan comes from a budget, or all others."""
    return [
        number
        for number, record in results.records.items()
        if record.unique and record.settings.get("allocation", "ratio") == ("budget" if by_budget else "ratio")
    ]


def budget_sentences(results: StudyResults) -> list[str]:
    """Compare each plan from a budget with the other trials of at most its size; empty without budgets.

    The other trials are the uniform settings, the defaults of optimum-intel and the plans by ratio.
    """
    trials, others = _budget_trials(results), _budget_trials(results, by_budget=False)
    metric = accuracy_metric(results)
    if not trials or metric is None:
        return []
    if not others:
        return [
            "All trials have budgets, so they are not compared with uniform settings or ratios. "
            "`allocation: [budget, ratio]` tries both."
        ]
    if not set(trials) & set(results.front):
        return ["No plan from a budget is on the front: other settings dominate them at every size."]
    lines, compared = [], 0
    for trial in trials:
        bytes_, cost = results.value(trial, "footprint"), results.cost(trial, metric)
        if bytes_ is None or cost is None:
            continue
        rivals = [
            (their_cost, other)
            for other in others
            if (results.value(other, "footprint") or bytes_ + 1) <= bytes_
            and (their_cost := results.cost(other, metric)) is not None
        ]
        compared += bool(rivals)
        if rivals and min(rivals)[0] < cost:
            rival = min(rivals)[1]
            ours, other = (results.records[n].describe() for n in (trial, rival))
            lines.append(
                f"Trial {trial} ({ours}, {size(bytes_)}) is not the best of its size: it has {label(metric)} "
                f"{results.sentence_text(trial, metric)}, and trial {rival} ({other}) has "
                f"{results.sentence_text(rival, metric)}."
            )
    if not compared:
        return ["No other trial is as small as the plans from budgets."]
    return lines or [
        f"{compared} plans from budgets have other trials of at most their size. Each has a better {label(metric)} "
        "than all of those: uniform settings and plans by ratio."
    ]


def prediction_sentence(results: StudyResults, plans: Plans) -> str:
    """Return how far the predicted divergences are from the measured ones; empty without predictions."""
    differences = []
    for trial, plan in _plans_of(results, plans):
        predicted, value = (plan.get("sensitivity") or {}).get("predicted"), results.value(trial, DIVERGENCE)
        if value and predicted is not None:
            differences.append(100 * abs(float(predicted) / value - 1))
    if not differences:
        return ""
    return (
        f"The predicted KL divergence of these plans differs from the measured one by "
        f"{statistics.median(differences):.0f}% (median) and {max(differences):.0f}% (largest) over "
        f"{len(differences)} plans."
    )


def measured_errors(results: StudyResults, plans: Plans) -> Mapping[str, Mapping[str, float]]:
    """Return weight -> format -> KL divergence if this weight alone has it; empty if nothing was measured."""
    for _, plan in _plans_of(results, plans):
        errors = (plan.get("sensitivity") or {}).get("errors")
        if isinstance(errors, Mapping) and errors:
            return {weight: {name: float(error) for name, error in row.items()} for weight, row in errors.items()}
    return {}


def protected_weights(results: StudyResults, plans: Plans) -> list[str]:
    """Return the plans' notes on weights that had to stay uncompressed, each once."""
    notes = [str(note) for _, plan in _plans_of(results, plans) for note in plan.get("notes") or ()]
    return list(dict.fromkeys(note for note in notes if "ruins the model" in note or "times the usual" in note))


def _plans_of(results: StudyResults, plans: Plans) -> list[tuple[int, Mapping[str, Any]]]:
    keys = {trial: results.records[trial].plan or "" for trial in _budget_trials(results)}
    return [(trial, plans[key]) for trial, key in keys.items() if key in plans]
