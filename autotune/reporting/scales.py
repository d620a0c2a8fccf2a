"""How a metric becomes an axis: its unit, its limits, linear or log, and what the axis says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.reporting import front as pareto
from autotune.reporting.formatting import label, size_unit
from autotune.reporting.style import padded
from autotune.reporting.view import StudyResults

if TYPE_CHECKING:
    import pandas as pd

    from autotune.evaluation import Direction

__all__ = ["Scale", "Scales", "axis_scale", "axis_text", "in_units"]


@dataclass(frozen=True, slots=True)
class Scale:
    """How one metric is drawn: divided by `factor`, in `unit`, on a log axis or not, within `limits`."""

    name: str
    direction: Direction
    factor: float
    unit: str
    log: bool
    limits: tuple[float, float]


Scales = tuple[Scale, Scale]
"""Of x and of y."""


def axis_scale(results: StudyResults, name: str, trials: pd.DataFrame) -> Scale:
    """Scale, unit and limits that show these trials; sizes in MB or GB, log where values span more than tenfold."""
    values = trials[name].to_numpy(dtype=float, na_value=float("nan"))
    metric = results.metrics[name]
    factor, unit = size_unit(float(np.nanmax(values))) if metric.unit == "bytes" else (1.0, metric.unit)
    log = pareto.is_wide(values)
    low, high = padded(list(values / factor), log=log)
    if not log and f"{name}_stderr" in trials.columns:
        # Bars are shown to their ends, but may not take more than a quarter of the room on either side.
        errors, room = trials[f"{name}_stderr"].fillna(0).to_numpy(dtype=float) / factor, (high - low) / 4
        low = max(min(low, float(np.nanmin(values / factor - errors)) - room / 10), low - room)
        high = min(max(high, float(np.nanmax(values / factor + errors)) + room / 10), high + room)
    return Scale(name, metric.direction, factor, unit, log, (low, high))


def axis_text(scale: Scale, *, vertical: bool) -> str:
    """The axis title: what, in which unit, and which way is better."""
    better_up = scale.direction == "maximize"
    arrow = ("↑" if better_up else "↓") if vertical else ("→" if better_up else "←")
    what = "size of openvino_model.bin" if scale.name == "footprint" else label(scale.name)
    what = what[0].upper() + what[1:]
    unit = f" ({scale.unit})" if scale.unit else ""
    word = ("larger" if better_up else "smaller") if scale.name == "footprint" else "higher" if better_up else "lower"
    return f"{what}{unit}   {arrow} {word} is better"


def in_units(trials: pd.DataFrame, scales: Scales) -> tuple[Any, Any]:
    """The trials' x and y as drawn; float64 [n] each."""
    return tuple(  # type: ignore[return-value]
        trials[scale.name].to_numpy(dtype=float, na_value=float("nan")) / scale.factor for scale in scales
    )
