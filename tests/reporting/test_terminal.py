"""The front in the terminal and as JSON."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest
from rich.console import Console

from autotune.reporting.text.terminal import as_json, plain_front, rich_front
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]

FOUR = {"kl_divergence": "minimize", "similarity": "maximize", "perplexity": "minimize", "footprint": "minimize"}


@pytest.mark.parametrize("width", [80, 100, 120])
@pytest.mark.parametrize(
    "options", [{}, {"objectives": FOUR}, {"trials": 1}, {"trials": 0}, {"trials": 2, "only_failing": True}]
)
def test_lines_fit_the_terminal(make: Make, width: int, options: dict[str, object]) -> None:
    """No line is longer than the terminal is wide, plain or rich."""
    results = make(**options)
    assert all(len(line) <= width for line in plain_front(results, width).splitlines())
    out = io.StringIO()
    Console(file=out, width=width).print(rich_front(results, width))
    assert all(len(line) <= width for line in out.getvalue().splitlines())


def test_original_first_and_knee_starred(make: Make) -> None:
    """The original is the first row, then the front from large to small; exactly the knee has a star."""
    results = make()
    rows = plain_front(results, 80).splitlines()[3:-2]
    assert rows[0].split()[1] == "original"
    assert [int(row.split()[0].strip("*")) for row in rows[1:]] == list(results.front)
    assert [row.split()[0] for row in rows if row.lstrip().startswith("*")] == [f"*{results.knee}"]


def test_wider_terminals_say_more(make: Make) -> None:
    """With more room come more columns, and none is lost."""
    results = make()
    narrow, wide = (plain_front(results, width).splitlines()[2].split("  ") for width in (80, 120))
    assert len(wide) > len(narrow)
    assert {word.strip() for word in narrow} <= {word.strip() for word in wide}


def test_markup_in_names_is_text(make: Make) -> None:
    """Brackets in a model's name are printed, not interpreted."""
    results = make(trials=2, config={"model": "[bold]llama[/nonsense]"})
    out = io.StringIO()
    Console(file=out, width=100).print(rich_front(results, 100))
    assert "[bold]llama[/nonsense]" in out.getvalue()


def test_json_is_strict_and_complete(make: Make) -> None:
    """Plain JSON without NaN that holds the original, the knee and every front trial with settings and scores."""
    results = make(extra_metrics=["judge"])
    data = json.loads(json.dumps(as_json(results), allow_nan=False))
    assert data["knee"] == results.knee
    assert [row["trial"] for row in data["front"]] == list(results.front)
    row = next(row for row in data["front"] if row["knee"])
    assert row["metrics"]["kl_divergence"] == {
        "value": results.value(results.knee or 0, "kl_divergence"),
        "stderr": results.stderr(results.knee or 0, "kl_divergence"),
    }
    assert row["settings"]["mode"] == "int4_asym"
    assert data["trials"] == {"complete": 34, "fail": 2}
    assert json.dumps(as_json(make(trials=0)), allow_nan=False)
