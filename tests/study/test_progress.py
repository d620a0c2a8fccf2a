"""Progress display of a running search."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from search_fakes import METRICS, FakeConfig, StudyOptions, search

from autotune.common.formatting import duration
from autotune.common.units import parse_constraint
from autotune.evaluation import Metric
from autotune.study.progress import (
    Listener,
    LiveListener,
    PlainListener,
    SilentListener,
    StudyInfo,
    make_listener,
    thinned,
)
from autotune.study.storage.rows import Row

OBJECTIVES = {"kl_divergence": METRICS["kl_divergence"], "footprint": Metric("minimize", "bytes")}
SETTINGS = {"mode": "int4_asym", "group_size": 64, "ratio": 0.8, "awq": True}


def row(number: int, **changes: object) -> Row:
    """A complete trial on the front."""
    values = {"kl_divergence": 0.0037 + number / 1e4, "footprint": 13.8e6 - number}
    settled = {
        "number": number,
        "count": number + 1,
        "settings": SETTINGS,
        "state": "complete",
        "values": values,
        "errors": {"kl_divergence": 0.0001},
        "footprint": 13_800_000,
        "seconds": 2.13,
        "feasible": True,
        "on_front": True,
        **changes,
    }
    return Row(**settled)  # type: ignore[arg-type]


def test_plain_lines_are_one_line_a_trial() -> None:
    """Count, settings, size, score with its error, time and verdict; failures and limits say why."""
    stream = io.StringIO()
    listener = PlainListener(stream)
    listener.stage("loading the model")
    listener.started(StudyInfo("reports/x", 24, 0, OBJECTIVES))
    listener.stage("compressing", 6)
    listener.trial_finished(row(6), [], 10.0)
    listener.trial_finished(row(7, state="fail", values={}, on_front=False, reason="failed: no memory"), [], 10.0)
    listener.trial_finished(row(8, on_front=False, feasible=False), [], 10.0)
    listener.finished("done")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "loading the model"
    assert "24 trials" in lines[1]
    assert lines[2] == "[ 7/24] int4_asym g64 r0.8 AWQ  13.80 MB  kl 0.00430 ± 0.00010  2.1 s  (on the front)"
    assert lines[3].endswith("2.1 s  (failed: no memory)")
    assert lines[4].endswith("(over a limit)")
    assert lines[5:] == ["done"]


def test_a_stage_has_one_line_in_a_pipe() -> None:
    """Its steps are left out: counts, sizes and names of layers."""
    stream = io.StringIO()
    listener = PlainListener(stream)
    for step in range(1, 31):
        listener.stage(f"measuring weight {step} of 30")
    for layer in range(20):
        listener.stage(f"measuring layers.{layer}.mlp.down_proj again, in int4_asym")
    for size in range(20):
        listener.stage(f"verifying a plan of {size:,} bytes")
    listener.stage("compressing")
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == [
        "measuring",
        "measuring",
        "verifying",
        "compressing",
    ]


def test_a_real_search_prints_one_line_for_every_trial(tmp_path: Path) -> None:
    """Driven by a search, plain lines count up to the number of trials, and pruned trials say which limit."""
    stream = io.StringIO()
    config = FakeConfig(
        tmp_path / "study",
        study=StudyOptions(trials=10),
        constraints={"footprint": parse_constraint("<= 5 MB", unit="bytes")},
    )
    search(config, listener=PlainListener(stream))
    lines = [line for line in stream.getvalue().splitlines() if line.startswith("[")]
    counts = [int(match[1]) for line in lines if (match := re.match(r"\[ *(\d+)/10\]", line))]
    assert sorted(set(counts)) == list(range(1, 11))
    assert any("over the limit of footprint" in line for line in lines)


def test_the_live_display_shows_trial_time_failures_and_the_front() -> None:
    """The rendered display holds the status line, the current settings with their stage, and the front's rows."""
    console = Console(file=io.StringIO(), force_terminal=True, width=120)
    listener = LiveListener(console)
    try:
        listener.stage("loading the model")
        original = {"kl_divergence": 0.0, "footprint": 44e6}
        listener.started(StudyInfo("reports/x", 24, 6, OBJECTIVES, original, remaining=lambda: 70.2))
        listener.trial_started(6, 7, SETTINGS)
        listener.trial_finished(row(6), [row(number) for number in range(12)], 70.0)
        listener.trial_finished(row(7, state="fail", on_front=False), [row(number) for number in range(12)], 70.0)
        listener.trial_started(8, 8, SETTINGS)
        listener.stage("compressing", 8)
        with console.capture() as capture:
            console.print(listener.render())
    finally:
        listener.close()
    shown = capture.get()
    for part in (
        "trial 8 of 24",
        "about 1:10 min left",
        "1 failed",
        "int4_asym g64 r0.8 AWQ: compressing",
        "front so far: 12",
        "44.00 MB",
    ):
        assert part in shown
    assert len([line for line in shown.splitlines() if "int4_asym" in line]) == 9


def test_a_stage_of_the_preparation_has_a_bar_and_leaves_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar follows the counted steps, the line fits 80 columns, and short stages leave nothing."""
    now = [0.0]
    monkeypatch.setattr("autotune.study.progress.time.monotonic", lambda: now[0])
    stream = io.StringIO()
    listener = LiveListener(Console(file=stream, width=80))
    shown = []
    try:
        for message, seconds in (
            ("opening", 0.2),
            ("calibrating: 1 of 4 windows", 3.0),
            ("calibrating: 4 of 4 windows", 2.0),
        ):
            listener.stage(message)
            now[0] += seconds
            console = Console(file=io.StringIO(), width=80)
            with console.capture() as capture:
                console.print(listener.render())
            shown.append(capture.get())
        listener.stage("compiling " + "x" * 90)
        with console.capture() as capture:
            console.print(listener.render())
    finally:
        listener.close()
    assert len(capture.get().splitlines()) == 1
    assert shown[1].count("━") < shown[2].count("━")
    assert "calibrating: 4 windows: 5.0 s" in stream.getvalue()
    assert "opening" not in stream.getvalue().split("calibrating: 4 windows: 5.0 s")[1]


CALLS: dict[str, tuple[Any, ...]] = {
    "stage": ("compressing",),
    "stage of a trial": ("compressing", 6),
    "note": ("[red] is no markup",),
    "started": (StudyInfo("reports/x", 24, 6, OBJECTIVES, {"kl_divergence": 0.0}, [row(3)]),),
    "trial_started": (6, 7, SETTINGS),
    "trial_started without settings": (7, 8, {}),
    "trial_finished": (row(6), [row(number) for number in range(12)], 70.0),
    "trial_finished failed": (row(7, state="fail", values={}, footprint=None, reason="failed: [x]"), [], None),
    "finished": ("done",),
    "close": (),
}


@pytest.mark.parametrize("kind", ["plain", "live", "silent"])
@settings(max_examples=12)
@given(calls=st.lists(st.sampled_from(sorted(CALLS)), max_size=12))
def test_every_listener_takes_every_call_in_any_order(kind: str, calls: list[str]) -> None:
    """No call raises or writes to stdout, also before the start and after the end; closing twice does no harm."""
    stream, stdout = io.StringIO(), io.StringIO()
    listeners: dict[str, Callable[[], Listener]] = {
        "plain": lambda: PlainListener(stream),
        "live": lambda: LiveListener(Console(file=stream, force_terminal=True, width=100)),
        "silent": SilentListener,
    }
    with contextlib.redirect_stdout(stdout):
        listener = listeners[kind]()
        try:
            for call in calls:
                getattr(listener, call.partition(" ")[0])(*CALLS[call])
                if isinstance(listener, LiveListener):
                    Console(file=stream).print(listener.render())
        finally:
            listener.close()
            listener.close()
    assert stdout.getvalue() == ""
    if kind != "silent":
        assert stream.getvalue().count("[red] is no markup") == calls.count("note")
        assert stream.getvalue().count("done") == calls.count("finished")


def test_a_pipe_gets_plain_lines_and_a_terminal_the_live_display() -> None:
    """The stream decides."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    assert isinstance(make_listener(io.StringIO()), PlainListener)
    assert isinstance(make_listener(Terminal()), (LiveListener, PlainListener))


def test_durations_read_well() -> None:
    """Seconds, minutes, hours."""
    assert [duration(s) for s in (2.13, 65, 7505)] == ["2.1 s", "1:05 min", "2:05 h"]


def test_a_long_front_is_thinned_with_both_ends_kept() -> None:
    """At most so many rows, in order, first and last included."""
    rows = [row(number) for number in range(40)]
    few = thinned(rows, 8)
    assert len(few) == 8
    assert (few[0], few[-1]) == (rows[0], rows[-1])
    assert thinned(rows[:5], 8) == rows[:5]


def test_in_a_notebook_a_step_replaces_the_one_before() -> None:
    """Steps stay on one line, which is clear before the lines that remain and at the end."""
    stream = io.StringIO()
    listener = PlainListener(stream, in_place=True)
    listener.stage("loading the model")
    listener.stage("calibrating")
    listener.note("a note")
    listener.stage("compressing")
    listener.close()
    lines = stream.getvalue().split("\n")
    assert lines == [f"\rloading the model\rcalibrating      \r{' ' * 11}\ra note", f"\rcompressing\r{' ' * 11}\r"]
