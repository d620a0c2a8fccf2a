"""Quantities as people write them."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.common.units import Constraint, parse_bytes, parse_constraint, parse_duration

DECIMAL = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
SPACES = st.sampled_from(["", " ", "  "])


@given(st.integers(0, 10**15))
def test_a_whole_number_is_itself_in_bytes(number: int) -> None:
    """A whole number, as number or as text, is that many bytes."""
    assert parse_bytes(number) == parse_bytes(str(number)) == parse_bytes(f" {number} B ") == number


@given(st.decimals(0, 10**6, places=3), st.sampled_from(sorted({**DECIMAL, **BINARY}.items())), SPACES, st.booleans())
def test_a_size_is_its_number_times_its_unit(number: Decimal, unit: tuple[str, int], space: str, lower: bool) -> None:
    """A size is number times unit, exact to half a byte, whatever the case and spaces."""
    name, factor = unit
    size = parse_bytes(f"{number}{space}{name.lower() if lower else name}")
    assert abs(size - number * factor) <= Decimal("0.5")


@given(st.integers(0, 99), st.integers(0, 59), st.integers(1, 59), SPACES)
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, seconds: int, space: str) -> None:
    """Hours, minutes and seconds add up, in any spelling."""
    expected = 3600 * hours + 60 * minutes + seconds
    assert parse_duration(f"{hours}h{space}{minutes}m{space}{seconds}s") == expected
    assert parse_duration(f"{hours} hours{space}{minutes} min{space}{seconds} seconds") == expected
    assert parse_duration(expected) == expected


@pytest.mark.parametrize(
    ("text", "seconds"), [("2h", 7200), ("90s", 90), ("1.5 days", 129600), (".5h", 1800), ("15 MIN", 900), (0.5, 0.5)]
)
def test_the_usual_durations(text: object, seconds: float) -> None:
    """Usual ways to write a timeout are accepted."""
    assert parse_duration(text) == seconds


@given(st.floats(-1e6, 1e6, allow_nan=False), st.sampled_from(["<=", ">="]), SPACES)
def test_a_limit_keeps_its_value_in_every_unit(value: float, op: str, space: str) -> None:
    """A limit's value is the number written, in percent for percentages, and its text reads back as an equal limit."""
    plain = parse_constraint(f"{op}{space}{value}", unit="nats/token")
    percent = parse_constraint(f"{op}{space}{value}{space}%", unit="%")
    assert (plain.op, plain.value) == (percent.op, percent.value) == (op, value)
    assert parse_constraint(percent.text, unit="%") == percent


def test_a_limit_on_bytes_is_a_size() -> None:
    """A footprint is limited in bytes, and a share of 1 may be written in percent."""
    assert parse_constraint("<=1.2 GB", unit="bytes") == Constraint("<=", 1.2e9, "<= 1.2 GB")
    assert parse_constraint("<= 13784525", unit="bytes").value == 13784525
    assert parse_constraint(">= 95%", unit="", share=True).value == 0.95
    assert parse_constraint(">= 0.95", unit="", share=True).as_dict() == {"op": ">=", "value": 0.95, "text": ">= 0.95"}


@pytest.mark.parametrize(
    ("text", "value", "beyond"),
    [("<= 3", 5.0, 2.0), ("<= 3", 3.0, 0.0), ("<= 3", 1.0, -2.0), (">= 3", 1.0, 2.0), (">= 3", 5.0, -2.0)],
)
def test_a_violation_is_positive_beyond_the_limit(text: str, value: float, beyond: float) -> None:
    """A violation is measured in the metric's unit, and the limit itself is no violation."""
    assert parse_constraint(text, unit="").violation(value) == beyond


@pytest.mark.parametrize(
    "text", ["", "GB", "-1", -1, "1,2 GB", "1.5", 1.5, "3 XB", "1 GB 2", True, None, "nan", "1e3 B"]
)
def test_what_is_not_a_size_is_refused(text: object) -> None:
    """A size that could be misread is refused with what is allowed."""
    with pytest.raises(ValueError, match=r"must"):
        parse_bytes(text)


@pytest.mark.parametrize("text", ["", "2x", "1:30", "-5s", -5, 0, "0s", float("inf"), True, None, "h", "2h later"])
def test_what_is_not_a_duration_is_refused(text: object) -> None:
    """A duration that could be misread, or is not above zero, is refused with what is allowed."""
    with pytest.raises(ValueError, match=r"must"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "unit", "message"),
    [
        ("5%", "%", "with <= or >="),
        ("< 5%", "%", "with <= or >="),
        (5, "%", "with <= or >="),
        ("<= 0.05", "%", "needs the % sign"),
        ("<= 5%", "nats/token", "not a percentage"),
        ("<= 5%", "bytes", "size"),
        ("<= 1.2", "bytes", "needs a unit"),
        ("<= much", "", "must be a limit"),
        ("<= nan", "", "finite"),
        ("<= much", None, "must be"),
    ],
)
def test_a_limit_that_does_not_fit_its_metric_is_refused(text: object, unit: str | None, message: str) -> None:
    """A limit without operator, or in a unit that its metric does not have, is refused with an example."""
    with pytest.raises(ValueError, match=message):
        parse_constraint(text, unit=unit)
