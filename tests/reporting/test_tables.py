"""The tables say what the study says."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable

import pandas as pd
import pytest

from autotune.reporting.front_table import front_csv, front_markdown, trials_csv
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


def table(text: str) -> list[list[str]]:
    """The cells of the first Markdown table."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if not line.startswith("|:")]


def test_trials_csv_keeps_every_digit(make: Make) -> None:
    """Numbers in trials.csv read back to the last bit, and missing values stay missing."""
    results = make(trials=12)
    rows = list(csv.DictReader(io.StringIO(trials_csv(results))))
    assert list(rows[0]) == list(results.trials.columns)
    for number, row in enumerate(rows):
        for name in (
            "kl_divergence",
            "perplexity",
            "footprint",
            "group_size",
            "compression_rate",
            "kl_divergence_stderr",
        ):
            assert (float(row[name]) if row[name] else None) == results.value(number, name)
    assert rows[9]["kl_divergence"] == rows[9]["footprint"] == ""
    assert rows[1]["group_size"] == "128"
    assert (rows[1]["on_front"], rows[1]["awq"]) == ("True", "False")


def test_front_csv_is_the_front_in_order(make: Make) -> None:
    """front.csv holds the front's rows of trials.csv, the largest first."""
    results = make()
    read = pd.read_csv(io.StringIO(front_csv(results)))
    assert tuple(read["trial"]) == results.front
    assert read["on_front"].all()
    assert read["knee"].sum() == 1


def test_front_md_has_the_form_of_nncfs_table(make: Make) -> None:
    """First NNCF's columns in NNCF's order, the original model first, the knee marked, one row a front trial."""
    results = make()
    header, original, *rows = table(front_markdown(results))
    assert header[:6] == ["mode", "%int4", "%int8", "lora rank", "average relative error", "compression rate"]
    assert original[:6] == ["original", "0%", "0%", "–", "0.0%", "2.0x"]
    assert [int(row[6]) for row in rows] == list(results.front)
    assert [row[6] for row in rows if "★" in row[0]] == [str(results.knee)]
    assert header[-1] == "KL divergence (nats/token)"
    assert all("±" in row[-1] for row in rows)


def test_front_md_shows_lora_ranks(make: Make, fake: object) -> None:
    """A LoRA correction's rank stands in NNCF's column."""
    results = make(trials=2)
    object.__setattr__(
        results.records[1], "settings", {**results.records[1].settings, "lora_correction": True, "lora_rank": 64}
    )
    assert table(front_markdown(results))[-1][3] == "64"


@pytest.mark.parametrize("metric", ["similarity", "relative_error", "perplexity"])
def test_a_missing_metric_is_a_dash(make: Make, metric: str) -> None:
    """Without an evaluator its columns are empty and nothing else changes."""
    results = make(trials=12, without_metrics=[metric])
    assert results.trials[metric].isna().all()
    rows = table(front_markdown(results))
    assert (rows[2][4] == "–") == (metric == "relative_error")


def test_no_front_still_makes_a_table(make: Make) -> None:
    """All infeasible: the nearest trial and a sentence; nothing complete: the original alone."""
    text = front_markdown(make(constraints={"footprint": {"op": "<=", "value": 1.0, "text": "<= 1 B"}}))
    assert "No trial keeps the limits" in text
    assert len(table(text)) == 3
    text = front_markdown(make(trials=3, only_failing=True))
    assert "No trial was completed" in text
    assert len(table(text)) == 2
