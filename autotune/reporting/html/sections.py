"""What each section of the page shows, as plain data; the template only lays it out.

Every number passes through `reporting.formatting`, as it does in the tables, so that it reads the same everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from autotune.common.formatting import DASH, label, number, score, size, times
from autotune.compression.describe import describe_settings
from autotune.reporting.plots.style import mode_style
from autotune.reporting.text.commands import export_command
from autotune.results.decision import (
    Choice,
    accuracy_metric,
    baseline,
    broken_limits,
    budgets,
    choices,
    context_metrics,
    measured,
    saving,
)
from autotune.results.types import StudyResults

__all__ = ["Card", "Cell", "Column", "LegendEntry", "budget_rows", "cards", "front_legend", "trial_table"]


@dataclass(frozen=True, slots=True)
class Card:
    """One model to choose, or to compare with.

    Attributes:
        role: why it is here.
        trial: its number; None for the original.
        rows: (name, value, remark) one below the other.
        command: how to get it; empty for what is only compared with.
    """

    role: str
    trial: int | None
    settings: str
    size: str
    rows: tuple[tuple[str, str, str], ...]
    command: str = ""
    chosen: bool = False


def cards(results: StudyResults) -> list[Card]:
    """The choices, then int8 and the original to compare with."""
    picks = choices(results)
    other, metrics = baseline(results), context_metrics(results)
    found = [_choice_card(results, pick, other, metrics) for pick in picks]
    if picks and other is not None and other not in [pick.trial for pick in picks]:
        found.append(_choice_card(results, Choice(other, ("to compare: 8 bits",)), other, metrics, offer=False))
    original = results.original_score("footprint")
    if picks and original is not None:
        rows = []
        for name in metrics:
            known = results.original_score(name)
            if known is not None:
                rows.append((label(name), score(known.value, name=name, metric=results.metrics.get(name)), ""))
        found.append(Card("to compare: the original", None, results.model, size(original.value), tuple(rows)))
    return found


def _choice_card(
    results: StudyResults, pick: Choice, other: int | None, metrics: Sequence[str], *, offer: bool = True
) -> Card:
    ours = results.value(pick.trial, "footprint")
    rows = []
    original = results.original_score("footprint")
    if original is not None:
        rows.append(("against the original", saving(ours, original.value), ""))
    if other is not None and other != pick.trial:
        mode = str(results.records[other].settings["mode"])
        rows.append((f"against {mode}", saving(ours, results.value(other, "footprint")), ""))
    for name in metrics:
        remark = ""
        if other is not None and other != pick.trial and results.value(other, name) is not None:
            theirs = score(results.value(other, name), name=name, metric=results.metrics.get(name))
            remark = f"{results.records[other].settings['mode']}: {theirs}"
        rows.append((label(name), measured(results, pick.trial, name), remark if name == metrics[0] else ""))
    if offer and not results.front:
        rows.append(("outside", "; ".join(broken_limits(results, pick.trial)), ""))
    return Card(
        role=", ".join(pick.roles),
        trial=pick.trial,
        settings=describe_settings(results.records[pick.trial].settings),
        size=size(ours),
        rows=tuple(rows),
        command=export_command(results, pick.trial) if offer else "",
        chosen=offer and pick.trial == results.knee,
    )


def budget_rows(results: StudyResults) -> list[tuple[str, int, str, str, str]]:
    """(at most, trial, settings, size, accuracy) for round sizes."""
    metric = accuracy_metric(results)
    if metric is None:
        return []
    return [
        (
            size(limit),
            trial,
            describe_settings(results.records[trial].settings, short=True),
            size(results.value(trial, "footprint")),
            measured(results, trial, metric),
        )
        for limit, trial in budgets(results)
    ]


@dataclass(frozen=True, slots=True)
class LegendEntry:
    """One entry beside a front plot: a mark's path in a box of 20 by 20, its colour and look."""

    text: str
    path: str
    color: str
    look: str = "solid"


MARKS = {
    "o": "M10 4a6 6 0 1 0 0 12a6 6 0 1 0 0-12z",
    "s": "M5 5h10v10h-10z",
    "D": "M10 3l7 7l-7 7l-7-7z",
    "^": "M10 4l7 12h-14z",
    "v": "M10 16l7-12h-14z",
    "<": "M4 10l12-7v14z",
    ">": "M16 10l-12-7v14z",
    "P": "M8 4h4v4h4v4h-4v4h-4v-4h-4v-4h4z",
    "X": "M5.2 8l2.8-2.8 2 2 2-2 2.8 2.8-2 2 2 2-2.8 2.8-2-2-2 2-2.8-2.8 2-2z",
    "h": "M10 3.5l5.6 3.25v6.5l-5.6 3.25-5.6-3.25v-6.5z",
    "p": "M10 4l6.2 4.5-2.4 7.3h-7.6l-2.4-7.3z",
}
"""Outlines of matplotlib's markers for the page's own legends."""


def front_legend(results: StudyResults, *, tied: bool) -> list[LegendEntry]:
    """Modes first, then what a mark's look means."""
    scored = results.complete
    modes = scored["mode"].dropna().astype(str)
    styles = mode_style(modes)
    present = [mode for mode in styles if (modes == mode).any()]
    found = []
    for mode in present:
        color, marker = styles[mode]
        found.append(LegendEntry(mode, MARKS.get(marker, MARKS["o"]), f"var(--x-{color[1:].lower()}, {color})"))
    found.append(LegendEntry("on the front", MARKS["o"], "var(--muted)", "solid"))
    found.append(LegendEntry("beaten", MARKS["o"], "var(--muted)", "faint"))
    if len(results.feasible) < len(scored):
        found.append(LegendEntry("outside the limits", MARKS["o"], "var(--muted)", "hollow"))
    if results.knee is not None:
        found.append(LegendEntry("the knee", "M10 2a8 8 0 1 0 0 16a8 8 0 1 0 0-16z", "var(--ink)", "hollow"))
    if tied:
        found.append(LegendEntry("tied: the errors overlap", "M5 10h10", "var(--ink)", "band"))
    return found


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the trials' table; `unit` stands below the name."""

    name: str
    title: str
    unit: str
    numeric: bool


@dataclass(frozen=True, slots=True)
class Cell:
    """What is printed and what is sorted by: the number as trials.csv has it, or a text; empty for none."""

    text: str
    key: str


def trial_table(results: StudyResults) -> tuple[list[Column], list[dict[str, Any]]]:
    """All trials: settings, sizes, every metric that was scored, times.

    Returns:
        the columns, and rows with ``number``, ``classes`` and ``cells``.
    """
    names = ["footprint", "compression_rate", "bits_per_weight"]
    scored = [name for name in results.metrics if name not in (*names, "int4_percent", "int8_percent")]
    first = [name for name in results.objectives if name in scored]
    names += [*first, *(name for name in scored if name not in first)]
    names += ["seconds_compress", "seconds_evaluate"]
    names = [n for n in names if n in results.trials.columns and results.trials[n].notna().any()]
    columns = [Column("trial", "trial", "", True), Column("state", "state", "", False)]
    columns.append(Column("settings", "settings", "", False))
    columns += [Column(name, _title(name), _unit(results, name), True) for name in names]
    return columns, [_row(results, int(str(n)), names) for n in results.trials.index]


def _title(name: str) -> str:
    return {"seconds_compress": "compressing", "seconds_evaluate": "scoring", "compression_rate": "rate"}.get(
        name, label(name)
    )


def _unit(results: StudyResults, name: str) -> str:
    if name.startswith("seconds_"):
        return "s"
    unit = results.metrics[name].unit if name in results.metrics else ""
    return "" if unit in ("%", "bytes") else unit


def _row(results: StudyResults, trial: int, names: Sequence[str]) -> dict[str, Any]:
    record = results.records[trial]
    settings = describe_settings(record.settings)
    state = _state(results, trial)
    cells = [Cell(str(trial), str(trial)), Cell(state, state), Cell(settings, settings)]
    cells += [Cell(_printed(results, trial, name), _key(results, trial, name)) for name in names]
    classes = []
    if trial in results.front:
        classes.append("front")
    if trial == results.knee:
        classes.append("knee")
    if not record.complete:
        classes.append("unscored")
    return {"number": trial, "classes": " ".join(classes), "cells": cells}


def _printed(results: StudyResults, trial: int, name: str) -> str:
    value = results.value(trial, name)
    if name == "compression_rate":
        return times(value)
    if name in ("bits_per_weight", "seconds_compress", "seconds_evaluate"):
        return number(value, 2)
    return measured(results, trial, name)


def _key(results: StudyResults, trial: int, name: str) -> str:
    """The number as trials.csv writes it."""
    value = results.value(trial, name)
    return "" if value is None else str(int(value)) if name == "footprint" else repr(value)


def _state(results: StudyResults, trial: int) -> str:
    record = results.records[trial]
    if trial == results.knee:
        return "the knee" if len(results.objectives) > 1 else "the best"
    if trial in results.front:
        return "on the front"
    if record.duplicate_of is not None:
        return f"as trial {record.duplicate_of}"
    if record.complete:
        return "beaten" if trial in results.feasible.index else "outside the limits"
    if record.interrupted:
        return "interrupted"
    return {"FAIL": "failed", "PRUNED": "not scored", "RUNNING": "running", "WAITING": "waiting"}.get(
        record.state, record.state.lower()
    )


def stat_rows(mapping: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Nested data as (dotted key, value), one leaf a row."""
    rows: list[tuple[str, str]] = []

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping) and value:
            for key, item in value.items():
                walk(f"{prefix}.{key}" if prefix else str(key), item)
        elif isinstance(value, (list, tuple)):
            rows.append((prefix, ", ".join(map(str, value)) or DASH))
        else:
            rows.append((prefix, DASH if value is None or value == {} else str(value)))

    walk("", mapping)
    return rows
