"""The profile of a study: every second and token is in the table, the text and the trace."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from search_fakes import FakeConfig, FakeSession, StudyOptions, search

from autotune.reporting.profile import chrome_trace, profile_frame, profile_text, stage_table
from autotune.results.load import load_results
from autotune.study.trials.clock import StageClock, stage_name


@pytest.mark.parametrize(
    ("message", "stage"),
    [
        ("scoring: perplexity", "scoring perplexity"),
        ("the original model's reference for perplexity, part 3", "reference"),
        ("calibrating: 3 of 128 windows", "calibration"),
        ("loading a/model", "export"),
        ("measuring 80 weights", "allocation"),
    ],
)
def test_messages_have_stages(message: str, stage: str) -> None:
    """The stage of a progress message, whatever it counts."""
    assert stage_name(message) == stage


def test_the_spans_of_a_clock_are_all_of_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spans follow each other without gaps; messages of one stage are one span."""
    times = iter(range(100))
    monkeypatch.setattr("autotune.study.trials.clock.time.time", lambda: float(next(times)))
    passed: list[str] = []
    clock = StageClock(passed.append)
    for message in ("planning", "compressing", "compiling"):
        clock(message)
        if message == "planning":
            with clock.waiting():
                pass
    spans = clock.close()
    assert [name for name, *_ in spans] == ["planning", "waiting", "planning", "compression", "compilation"]
    assert all(a[1] + a[2] == b[1] for a, b in pairwise(spans))
    assert passed == ["planning", "compressing", "compiling"]


def test_a_studys_time_is_in_table_text_and_trace(tmp_path: Path) -> None:
    """The sums of a study's stages agree everywhere, and each trial that was compressed has a row."""
    config = FakeConfig(tmp_path / "study", study=StudyOptions(trials=5))
    session = FakeSession()
    session.engine.delay = 0.002
    search(config, session)
    results = load_results(tmp_path / "study")
    frame = profile_frame(results)
    compressed = frame[frame["stage"] == "compression"]
    assert set(compressed["trial"]) == {n for n, record in results.records.items() if record.unique}
    assert compressed["seconds"].min() >= 0.002
    table = stage_table(results)
    assert table["seconds"].sum() == pytest.approx(frame["seconds"].sum())
    assert table["share"].sum() == pytest.approx(1.0)
    events = chrome_trace(results)["traceEvents"]
    assert sum(event["dur"] for event in events) / 1e6 == pytest.approx(frame["seconds"].sum(), abs=1e-3)
    text = profile_text(results)
    assert "compression" in text
    assert "█" in text
