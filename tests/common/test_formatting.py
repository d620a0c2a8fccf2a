"""Numbers and tables as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.common.formatting import (
    DASH,
    markdown_table,
    number,
    score,
    signed_percent,
    size,
    times,
)
from autotune.evaluation import Metric

PERCENT = Metric("minimize", "%")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (2_500, "2.500 kB"),
        (13_784_525, "13.78 MB"),
        (123_400_000, "123.4 MB"),
        (1_234_000_000, "1.234 GB"),
        (None, DASH),
        (math.nan, DASH),
    ],
)
def test_sizes_are_readable(count: float | None, text: str) -> None:
    """Bytes become kB, MB and GB of 1000, with four digits."""
    assert size(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.00295, "0.00295"),
        (0.000056, "0.0000560"),
        (40.271, "40.27"),
        (0.0, "0"),
        (1e-9, "1.00e-09"),
        (1234.5, "1234"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    """About three significant digits, and no more decimals than they need."""
    assert number(value) == text


def test_scores_end_where_their_error_does() -> None:
    """Value and standard error share their decimals, two digits of the error; percent and bytes carry their unit."""
    assert score(0.0029512, 0.0000612) == "0.002951 ± 0.000061"
    assert score(0.445, 0.06, metric=PERCENT) == "0.445 ± 0.060%"
    assert score(1.23456, 0.0) == score(1.23456, math.nan) == score(1.23456) == "1.23"
    assert score(13_784_525.0, name="footprint") == "13.78 MB"
    assert score(None) == score(math.nan) == DASH


@given(st.floats(-1e9, 1e9), st.floats(1e-9, 1e3))
def test_scores_stay_within_their_error(value: float, error: float) -> None:
    """Rounding for print moves a value by less than a tenth of its error (unless twelve decimals are not enough)."""
    shown = float(score(value, error).split(" ± ")[0])
    assert abs(shown - value) <= max(error / 10, 1e-12)


def test_small_words() -> None:
    """Rates and changes are short and signed."""
    assert times(6.4) == "6.4x"
    assert times(None) == DASH
    assert signed_percent(-14.6) == "\N{MINUS SIGN}15%"
    assert signed_percent(2.34) == "+2.3%"
    assert signed_percent(-0.01) == "0%"


def test_tables_escape_and_align() -> None:
    """A pipe or a line break in a cell cannot break the table; every line has the same cells."""
    table = markdown_table(["a", "b"], [["x|y", "1\n2"]], "lr")
    assert table.splitlines()[1] == "|:-----|----:|"
    assert table.splitlines()[2] == "| x\\|y | 1 2 |"
