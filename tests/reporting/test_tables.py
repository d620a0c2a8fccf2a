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
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines if set(line) - set("|:-")]


def test_trials_csv_keeps_every_digit(make: Make) -> None:
    """Numbers in trials.csv read back to the last bit, and missing values stay missing."""
    results = make(trials=12)
    rows = list(csv.DictReader(io.StringIO(trials_csv(results))))
    assert sorted(rows[0]) == sorted([*results.trials.columns, "settings"])
    assert list(rows[0])[:3] == ["trial", "settings", "state"]
    names = list(rows[0])
    assert all(names[names.index(name) + 1] == f"{name}_stderr" for name in ("kl_divergence", "similarity"))
    assert names.index("footprint") < names.index("kl_divergence") < names.index("plan")
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


def test_front_md_begins_with_what_is_compared(make: Make) -> None:
    """Sizes, scores, limited scores; the original first, the recommended trial marked; columns that differ follow."""
    results = make()
    header, original, *rows = table(front_markdown(results))
    assert header[:4] == ["trial", "settings", "footprint", "KL divergence (1e-3 nats/token)"]
    assert header[4:6] == ["perplexity increase", "similarity"]
    assert header[6:] == ["compression rate", "%int4", "%int8", "average relative error"]
    assert original[:4] == ["–", "original", "44.04 MB", "0"]
    assert [int(row[0].strip("*★ ")) for row in rows] == list(results.front)
    assert [row[0] for row in rows if "★" in row[0]] == [f"**{results.knee}** ★"]
    value, error = (results.value(results.front[0], name) or 0 for name in ("kl_divergence", "kl_divergence_stderr"))
    assert rows[0][3] == f"{1e3 * value:.4f} ± {1e3 * error:.4f}"


def test_columns_that_are_equal_everywhere_are_left_out(make: Make) -> None:
    """int8 alone has one share of 8 bits; nothing has a rank."""
    from autotune.reporting.front_table import optional_columns

    results = make(trials=4)
    assert "lora_rank" not in optional_columns([(results, n) for n in results.front])
    assert optional_columns([(results, 0), (results, 0)]) == []


@pytest.mark.parametrize("options", [{}, {"trials": 80}, {"extra_metrics": ["judge"]}, {"trials": 1}])
def test_front_tex_fits_an_article(make: Make, options: dict[str, object]) -> None:
    """A float with caption and label, one unit in each header, within the width of the text."""
    from autotune.reporting.front_table import POINTS, fitting, front_latex, front_table, points, units_in_header

    results = make(**options)
    text = front_latex(results)
    for part in (
        r"\begin{table*}",
        r"\caption{",
        r"\label{tab:front-models-wiki-llama-22m}",
        r"\bottomrule",
        r"\end{table*}",
    ):
        assert part in text
    shown = fitting(units_in_header(front_table(results)))
    assert points(shown) <= POINTS
    assert shown.header[:4] == ["trial", "settings", "footprint (MB)", "KL divergence (1e-3 nats/token)"]
    assert " MB &" not in text
    assert "$10^{-3}$ nats/token" in text


def test_front_md_shows_lora_ranks(make: Make, fake: object) -> None:
    """A LoRA correction's rank stands in NNCF's column."""
    results = make(trials=2)
    object.__setattr__(
        results.records[1], "settings", {**results.records[1].settings, "lora_correction": True, "lora_rank": 64}
    )
    header, *rows = table(front_markdown(results))
    assert rows[-1][header.index("lora rank")] == "64"


@pytest.mark.parametrize("metric", ["similarity", "relative_error", "perplexity"])
def test_a_missing_metric_is_a_dash(make: Make, metric: str) -> None:
    """Without an evaluator its columns are empty and nothing else changes."""
    results = make(trials=12, without_metrics=[metric])
    assert results.trials[metric].isna().all()
    header = table(front_markdown(results))[0]
    assert ("average relative error" in header) == (metric != "relative_error")
    assert ("similarity" in header) == (metric != "similarity")


def test_no_front_still_makes_a_table(make: Make) -> None:
    """All infeasible: the nearest trial and a sentence; nothing complete: the original alone."""
    text = front_markdown(make(constraints={"footprint": {"op": "<=", "value": 1.0, "text": "<= 1 B"}}))
    assert "No trial keeps the limits" in text
    assert len(table(text)) == 3
    text = front_markdown(make(trials=3, only_failing=True))
    assert "No trial was completed" in text
    assert len(table(text)) == 2
