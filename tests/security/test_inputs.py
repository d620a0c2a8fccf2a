"""Generated inputs of every kind: a right result, or one paragraph with file and line; see `benchmarks/chaos.py`."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from broken_inputs import KINDS, Fault, try_input
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.common.paths import file_name
from autotune.errors import ConfigError


@pytest.mark.parametrize(("kind", "examples"), [("model.yaml", 60), ("text", 40), ("space", 40), ("codebook", 60)])
def test_inputs_are_right_or_refused(tmp_path: Path, kind: str, examples: int) -> None:
    """No traceback, no hang, no file left, and both outcomes occur."""
    found = set()

    @settings(max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 10**9))
    def attempt(seed: int) -> None:
        found.add(try_input(kind, tmp_path, seed))

    attempt()
    assert found == {"right", "refused"}


def test_a_line_break_in_a_path_is_printed_as_a_code(tmp_path: Path) -> None:
    """An error is one paragraph, whatever it quotes."""
    assert try_input("model.yaml", tmp_path, 7846) == "refused"
    error = ConfigError("no such file: a\nb", file="model.yaml", line=1)
    assert str(error) == "model.yaml:1: no such file: a\\nb"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("prompts.csv", b"prompt\n" + b"x" * 200_000 + b"\n"),
        ("prompts.csv", b'prompt\n"a\x00b"\n'),
        ("prompts.yaml", b"- 2024-01-01\n"),
        ("prompts.yaml", b"- !!binary eA==\n"),
        ("prompts.yaml", b"[" * 20_000),
        ("prompts.jsonl", b"[" * 100_000),
        ("prompts.jsonl", b"9" * 5_000),
    ],
)
def test_prompts_that_parsers_do_not_like(tmp_path: Path, name: str, content: bytes) -> None:
    """Fields of 200 kB, NUL, dates, bytes, depth, digits: read, or refused with the file's name."""
    from autotune.errors import ConfigError
    from autotune.evaluation.texts.prompts import read_prompts

    (tmp_path / name).write_bytes(content)
    if name.endswith(".csv") and len(content) < 100_000:
        assert read_prompts(tmp_path / name)
        return
    with pytest.raises(ConfigError, match="invalid prompts") as caught:
        read_prompts(tmp_path / name)
    assert caught.value.file == tmp_path / name
    assert "\n" not in str(caught.value)


def test_the_check_finds_faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that raises something else, or leaves a file, is found."""
    monkeypatch.setattr("broken_inputs.load_space", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(Fault, match="ZeroDivisionError"):
        try_input("space", tmp_path, 0)
    monkeypatch.setattr("broken_inputs.read_codebook", lambda path: (path.with_name("left").touch(), (0.0, 1.0))[1])
    with pytest.raises(Fault):
        [try_input("codebook", tmp_path, seed) for seed in range(8)]
    assert set(KINDS) == {"model.yaml", "text", "space", "codebook"}
    assert file_name("../a b") == "-a-b"
