"""Several studies side by side."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from autotune.errors import UsageError
from autotune.reporting.compare import compare, write_comparison
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]


def test_every_study_has_its_original_and_its_choices(make: Make) -> None:
    """Names stay apart, the metric is one that all have scored, and the form is that of the front's table."""
    studies = [make(trials=14), make(trials=14, seed=3), make(trials=8, config={"model": "org/other"})]
    comparison = compare(studies)
    assert comparison.names == (
        "models/wiki-llama-22m, int4",
        "models/wiki-llama-22m, int4 (2)",
        "org/other",
    )
    assert comparison.metric == "kl_divergence"
    header, rows, align = comparison.table()
    assert header[:4] == ["study", "trial", "settings", "footprint"]
    assert len(align) == len(header) == len(rows[0])
    assert [row[0] for row in rows if row[2] == "original"] == list(comparison.names)
    assert all(f"{number}" in [row[1].removesuffix(" ★") for row in rows] for number in comparison.trials(studies[0]))


def test_the_files_say_the_same(make: Make, tmp_path: Path) -> None:
    """CSV has the numbers of the studies, Markdown and LaTeX a row each, and twice is the same bytes."""
    studies = [make(trials=10), make(trials=10, seed=5)]
    comparison = compare(studies, whole=True)
    first = write_comparison(comparison, tmp_path / "a")
    second = write_comparison(comparison, tmp_path / "b")
    rows = list(csv.DictReader(io.StringIO(first.csv.read_text())))
    assert len(rows) == sum(1 + len(comparison.trials(study)) for study in studies)
    assert [row["study"] for row in rows if row["mode"] == "original"] == list(comparison.names)
    assert float(rows[1]["kl_divergence"]) == studies[0].value(int(rows[1]["trial"]), "kl_divergence")
    assert first.markdown.read_text().count("| original ") == 2
    latex = first.latex.read_text()
    ends = [line for line in latex.splitlines() if line.endswith(r"\\")]
    assert len(ends) == len(rows) + 1 + 2  # with the header and the headings of the studies
    assert latex.count(r"\multicolumn") == 2
    assert "KL divergence" in latex
    assert first.plot is not None
    for name in ("compare.md", "compare.tex", "compare.csv", "compare.png"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert second.plot is not None


def test_studies_without_a_shared_score_have_no_plot(make: Make, tmp_path: Path) -> None:
    """The table stands all the same."""
    apart = make(
        trials=6,
        extra_metrics=["judge"],
        without_metrics=[
            *("similarity", "fdt", "relative_error", "kl_divergence", "top1_agreement"),
            *("perplexity", "perplexity_increase"),
        ],
        objectives={"judge": "maximize", "footprint": "minimize"},
        constraints={},
    )
    paths = write_comparison(compare([make(trials=6), apart]), tmp_path)
    assert paths.plot is None
    assert paths.markdown.is_file()


def test_nothing_to_compare_is_refused() -> None:
    """At least one study."""
    with pytest.raises(UsageError):
        compare([])


def test_scores_on_other_texts_are_not_compared_silently(make: Make, tmp_path: Path) -> None:
    """If the texts of an evaluator differ, the table says so."""
    from dataclasses import replace

    one, two = (replace(make(trials=4), manifest={"hashes": {"evaluators.perplexity": text}}) for text in "ab")
    text = write_comparison(compare([one, two]), tmp_path / "differ").markdown.read_text()
    assert "options of perplexity differ" in text
    assert "differ" not in write_comparison(compare([one, one]), tmp_path / "same").markdown.read_text()
