"""report.md: a `Report` as Markdown."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from autotune.common.formatting import DASH, label, markdown_table, markdown_text
from autotune.reporting.front_table import Table, starred
from autotune.reporting.report import Card, Report

ERRORS = 40
"""Rows of the table of measured errors; report.html has all."""


def report_markdown(report: Report, plots: Sequence[str] = ()) -> str:
    """Write report.md.

    Args:
        report: of the study.
        plots: file names in ``plots/`` to embed.
    """
    fronts = [_image(name, "The front") for name in plots if name.startswith("front")]
    settings = [
        _image(name, f"Effect of each setting on {label(name.removesuffix('.png').removeprefix('settings-'))}")
        for name in plots
        if name.startswith("settings")
    ]
    progress = [_image(name, "Progress") for name in plots if name == "progress.png"]
    sections = [
        ["## The decision", markdown_text(report.decision), _cards(report.cards)],
        ["## The front", *fronts, *_front(report)] if report.front else [],
        ["## On held-out texts", _table(report.held_out), report.held_out_note],
        ["## Runtime settings", _table(report.runtime), report.runtime_note if report.runtime else ""],
        ["## Budgets", *report.budgets, *_budgets(report)],
        ["## Effect of each setting", *settings, *_effects(report)],
        ["## Progress", *progress],
        ["## Trials without scores", report.trials_note if report.failures else "", _table(report.failures)],
        ["## How to reproduce", *_commands(report)],
        ["## Metrics and configuration", _table(report.metrics), *_configuration(report)],
    ]
    blocks = [f"# {markdown_text(report.model)}: results of the search", report.counts]
    for section in sections:
        filled = [block for block in section if block]
        blocks += filled if len(filled) > 1 else []
    return "\n\n".join(blocks) + "\n"


def _image(name: str, text: str) -> str:
    return f"![{text}](plots/{name})"


def _table(table: Table | None) -> str:
    return "" if table is None else markdown_table(*table)


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markdown_text(line)}" for line in lines)


def _cards(cards: Sequence[Card]) -> str:
    if not cards:
        return ""
    names = list(dict.fromkeys(name for card in cards for name, _, _ in card.rows))
    rows = []
    for card in cards:
        values = {name: value for name, value, _ in card.rows}
        trial, settings = (DASH, DASH) if card.trial is None else (str(card.trial), card.settings)
        rows.append([card.role, trial, settings, card.size, *(values.get(name, DASH) for name in names)])
    align = "lrlr" + "".join("l" if name.startswith("against") else "r" for name in names)
    return markdown_table(["choice", "trial", "settings", "footprint", *names], rows, align)


def _front(report: Report) -> list[str]:
    assert report.front is not None
    blocks = [markdown_table(*starred(report.front)), _bullets(report.legend), report.ties]
    return [*blocks, "Outside the limits:", _bullets(report.outside)] if report.outside else blocks


def _budgets(report: Report) -> list[str]:
    blocks = [_bullets(report.budget_notes)]
    if report.budget_errors is not None:
        rows = report.budget_errors.rows
        blocks += [
            "Measured errors: KL divergence in nats per token if only this weight has the format.",
            _table(report.budget_errors._replace(rows=rows[:ERRORS])),
        ]
        if len(rows) > ERRORS:
            blocks.append(f"The {ERRORS} weights with the largest errors; report.html has all {len(rows)}.")
    return blocks


def _effects(report: Report) -> list[str]:
    return [report.paired_note, _table(report.paired), report.importances_note, _table(report.importances)]


def _commands(report: Report) -> list[str]:
    if not report.exports:
        return []
    return [
        report.export_note,
        _code(report.exports),
        report.commands_note,
        _code(report.commands),
    ]


def _code(lines: Sequence[str]) -> str:
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}sh\n{text}\n{fence}"


def _configuration(report: Report) -> list[str]:
    lines = [f"{key}: {_flat(value)}" for key, value in report.described.items()]
    lines += [f"{key.replace('_', ' ')}: {_flat(value)}" for key, value in sorted(report.manifest.items())]
    return [_bullets(lines), report.unmeasured]


def _flat(value: Any) -> str:
    """Return nested data on one line: ``a 1, b (c 2, d 3)``."""
    if isinstance(value, Mapping):
        parts = [
            f"{key} ({_flat(item)})" if isinstance(item, Mapping) and item else f"{key} {_flat(item)}"
            for key, item in value.items()
        ]
        return ", ".join(parts) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(_flat(item) for item in value) or "none"
    return "none" if value is None else f"`{value}`" if isinstance(value, str) else str(value)
