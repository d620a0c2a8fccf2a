"""YAML as plain data, and back."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from autotune.common.yaml import NODE_LIMIT, dump_yaml, parse_yaml, yaml_line
from autotune.errors import ConfigError


def test_yaml_is_read_by_the_rules_of_1_2() -> None:
    """1e-3 is a number; on, no, 12:30:45, dates and 1_000 are texts; 010 is ten; quotes make texts."""
    data = parse_yaml("[1e-3, on, no, 12:30:45, 2024-01-01, 1_000, 010, 0o10, '5', true, ~, .5, -.inf, n, <=]").data
    assert data == [
        *(0.001, "on", "no", "12:30:45", "2024-01-01", "1_000", 10, 8, "5", True, None, 0.5, float("-inf"), "n", "<=")
    ]


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from("abcdef"), PLAIN))
def test_plain_data_survives_yaml(data: dict[str, Any]) -> None:
    """Written YAML reads back with equal values and types, here and in every YAML 1.1 reader."""
    text = dump_yaml(data)
    source = parse_yaml(text)
    assert (source.data or {}) == data
    assert not source.problems
    assert (yaml.safe_load(text) or {}) == data


@given(st.text(st.characters(codec="ascii", exclude_categories=["C"])))
def test_one_line_of_yaml_is_one_line(value: str) -> None:
    """A key and a text become one line that reads back as that text."""
    line = yaml_line("model", value)
    assert "\n" not in line
    assert parse_yaml(line).data == {"model": value}


def test_every_key_knows_its_line() -> None:
    """Keys and list items carry the line they stand on; what has no line of its own has that of what is around it."""
    source = parse_yaml("a: 1\n\nb:\n  - x\n  - {c: 3,\n     d: 4}\n")
    assert source.lines == {(): 1, ("a",): 1, ("b",): 3, ("b", 0): 4, ("b", 1): 5, ("b", 1, "c"): 5, ("b", 1, "d"): 6}


def test_a_bomb_of_aliases_is_refused() -> None:
    """Aliases that unfold into more values than any configuration has are refused instead of filling the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 9)]
    with pytest.raises(ConfigError, match=f"more than {NODE_LIMIT} values"):
        parse_yaml("\n".join(lines))
