"""A plan as a map: layers down, kinds of weights across."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autotune.common.formatting import is_missing

__all__ = ["Cell", "WeightMap", "bits_of", "known_sensitivity", "place_of", "read_plan", "weight_map"]

_NOISE = re.compile(r"(^self\.|^__module\.|\._openvino_orig_weight$|[./]weight$|/?(MatMul|ov_ext::linear).*$)")


@dataclass(frozen=True, slots=True)
class Cell:
    """One weight.

    Attributes:
        name: as the model calls it.
        kind: its name without the layer, such as ``mlp.down_proj``.
        format: such as ``int4_asym g64``; empty for a weight that stays as it was.
        bits: of one stored element; None for a weight that stays as it was.
        treated: what was really applied to this weight, such as ``GPTQ``.
        sensitivity: the study's metric; None where it is not known.
        rank: its place among all weights by sensitivity, 0 the least and 1 the most sensitive.
    """

    name: str
    kind: str
    format: str
    bits: int | None
    treated: tuple[str, ...] = ()
    sensitivity: float | None = None
    rank: float | None = None


@dataclass(frozen=True, slots=True)
class WeightMap:
    """Layers by kinds.

    Attributes:
        kinds: the columns, short enough to be read.
        layers: (layer, a cell or None for each kind), top to bottom.
        outside: weights of no layer, such as embeddings and the last projection.
        formats: how many weights have each format, most first.
        notes: what the plan says about adjusted and impossible settings.
        metric: the sensitivity that the cells carry; None without one.
    """

    kinds: tuple[str, ...]
    layers: tuple[tuple[str, tuple[Cell | None, ...]], ...]
    outside: tuple[Cell, ...]
    formats: tuple[tuple[str, int], ...]
    notes: tuple[str, ...]
    metric: str | None


def read_plan(folder: Path, key: str | None) -> Mapping[str, Any] | None:
    """The plan that a search wrote into its folder; None where it is not there or cannot be read."""
    try:
        data = json.loads((folder / "plans" / f"{key}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) and isinstance(data.get("variants"), dict) else None


def known_sensitivity(plans: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The sensitivities of the plan that knows most weights; empty where no ratio left a choice.

    A plan of ratio 1 had nothing to choose and knows none, but another one of the same study may.
    """
    found = [plan["sensitivity"] for plan in plans if isinstance(plan.get("sensitivity"), dict)]
    found = [entry for entry in found if isinstance(entry.get("values"), dict)]
    # The engine's own metric first: it tells the error of the mode itself.
    return max(found, key=lambda entry: (len(entry["values"]), entry.get("metric") == "output_error"), default={})


def weight_map(plan: Mapping[str, Any], sensitivity: Mapping[str, Any] | None = None) -> WeightMap:
    """Lay out a plan.

    Args:
        plan: plain data as `compression.plan.Plan.as_dict` gives it.
        sensitivity: ``metric`` and ``values``; its weights are shown even where the plan leaves them alone.
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
    """(layer, kind) of a weight: the first number of its name, and what follows; (None, name) without a number."""
    plain = name
    for _ in range(4):
        plain = _NOISE.sub("", plain)
    parts = re.split(r"[./]", plain)
    for position, part in enumerate(parts):
        if part.isdigit() and position + 1 < len(parts):
            stem = ".".join(parts[:position])
            layer = part if re.search(r"(layers|blocks|h|decoder|block|layer)$", stem) else f"{stem}.{part}"
            return layer, ".".join(parts[position + 1 :])
    return None, plain.removeprefix("model.")


def bits_of(mode: str) -> int:
    """Bits of one stored element, from the mode's name: ``int4_asym`` 4, ``mxfp8_e4m3`` 8."""
    found = re.search(r"\d+", mode)
    return int(found[0]) if found else 16


def _cell(name: str, kind: str, variant: Mapping[str, Any] | None, sensitivity: Any, rank: float | None) -> Cell:
    value = None if sensitivity is None or is_missing(sensitivity) else float(sensitivity)
    if variant is None:
        return Cell(name, kind, "", None, (), value, rank)
    mode, group = str(variant["mode"]), variant.get("group_size")
    text = mode if group in (None, -1) else f"{mode} g{group}"
    treated = [word for key, word in (("awq", "AWQ"), ("scale_estimation", "SE"), ("gptq", "GPTQ")) if variant.get(key)]
    treated += [f"LoRA {variant['lora_rank']}"] if variant.get("lora_rank") else []
    return Cell(name, kind, text, bits_of(mode), tuple(treated), value, rank)


def _ranks(sensitivities: Mapping[str, Any]) -> dict[str, float]:
    values = {name: float(value) for name, value in sensitivities.items() if value is not None}
    order = sorted(values, key=lambda name: (math.inf if math.isnan(values[name]) else values[name], name))
    return {name: place / max(1, len(order) - 1) for place, name in enumerate(order)}


def _shortened(kinds: Sequence[str]) -> tuple[str, ...]:
    """The last parts of the names, as many as keep them apart."""

    def tails(count: int) -> list[str]:
        return [".".join(kind.split(".")[-count:]) for kind in kinds]

    depth = next((count for count in (1, 2, 3) if _different(tails(count))), 9)
    return tuple(tails(depth))


def _different(words: Iterable[str]) -> bool:
    words = list(words)
    return len(set(words)) == len(words)
