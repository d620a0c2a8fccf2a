"""Progress of a running search on stderr: a live table on a terminal, plain lines elsewhere.

The module also converts trials to the rows that progress shows, and finds the front.
"""

from __future__ import annotations

import io
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from autotune.common.formatting import duration, label, score, size
from autotune.compression.describe import describe_settings
from autotune.evaluation import Metric
from autotune.models.hub import import_progress_bars
from autotune.study.storage.rows import Row

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table


FRONT_ROWS = 8
SHORT = {"kl_divergence": "kl", "answer_kl_divergence": "answer kl", "top1_agreement": "top-1", "perplexity": "ppl"}


@dataclass(frozen=True, slots=True)
class StudyInfo:
    """Facts of a study that are fixed when trials begin.

    Attributes:
        folder: the study's folder.
        total: number of trials of the whole study, without duplicates.
        done: number of those that finished before this run.
        objectives: metric name -> meaning, in the study's order.
        original: the original model's scores, by metric name, footprint in bytes included.
        front: the front of the trials that finished before.
        remaining: returns the forecast of the seconds until the report is written; None before a trial has finished.
    """

    folder: str
    total: int
    done: int
    objectives: Mapping[str, Metric]
    original: Mapping[str, float] = field(default_factory=dict)
    front: Sequence[Row] = ()
    remaining: Callable[[], float | None] = lambda: None


class Listener(Protocol):
    """Receiver of a search's progress. Methods must not raise and must return at once."""

    def stage(self, message: str, trial: int | None = None) -> None:
        """Report the current step, before the first trial or inside the trial with that number."""

    def note(self, message: str) -> None:
        """Report something that the user should also read after the search."""

    def started(self, info: StudyInfo) -> None:
        """Report that trials begin."""

    def trial_started(self, number: int, count: int, settings: Mapping[str, Any]) -> None:
        """Report that the trial with that number in the storage begins, the `count`-th of `StudyInfo.total`."""

    def trial_finished(self, row: Row, front: Sequence[Row], eta: float | None) -> None:
        """Report a finished trial, with the front as of now and `eta` in seconds."""

    def finished(self, message: str) -> None:
        """Report the end of the search; `message` says why."""

    def close(self) -> None:
        """Release the terminal; called once at the end, also after an error."""


class SilentListener:
    """Listener that shows nothing."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


class Listeners:
    """Listener that passes everything on to several others, in order."""

    def __init__(self, *listeners: Listener) -> None:
        self._listeners = listeners

    def __getattr__(self, name: str) -> Callable[..., None]:
        methods = [getattr(listener, name) for listener in self._listeners]

        def call(*args: Any, **kwargs: Any) -> None:
            for method in methods:
                method(*args, **kwargs)

        return call


LOG = logging.getLogger("autotune.progress")
"""Receives the lines of `PlainListener` at level INFO, whether or not progress is shown."""


class LogStream(io.StringIO):
    """Text stream that writes to `LOG`."""

    def write(self, text: str) -> int:
        """Log a line."""
        if text.strip():
            LOG.info(text.rstrip())
        return len(text)


@contextmanager
def listening(progress: bool = True) -> Iterator[Listener]:
    """Yield a listener that shows progress on stderr, or one that shows nothing; closed at the end."""
    import_progress_bars()
    listener: Listener = make_listener() if progress else SilentListener()
    if LOG.isEnabledFor(logging.INFO):
        listener = Listeners(listener, PlainListener(LogStream()))
    try:
        yield listener
    finally:
        listener.close()


def make_listener(stream: TextIO | None = None) -> Listener:
    """Make a live display if `stream` (default stderr) is a terminal that can move its cursor, else plain lines."""
    from rich.console import Console

    stream = sys.stderr if stream is None else stream
    console = Console(file=stream)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveListener(console)
    return PlainListener(stream, in_place=console.is_jupyter)


def scores(row: Row, objectives: Mapping[str, Metric]) -> list[str]:
    """Format the objective values of a row, except the footprint, each with its short name."""
    return [
        f"{SHORT.get(name, label(name))} {score(row.values[name], row.errors.get(name), name=name, metric=metric)}"
        for name, metric in objectives.items()
        if name != "footprint" and name in row.values
    ]


VARYING = re.compile(r"\S*\d\S*")
"""Words of a stage's message that change with each step: counts, sizes and names of layers."""


class PlainListener:
    """Listener that writes one line a trial and one a stage, for logs, pipes and simple terminals.

    With `in_place`, as in notebooks, a preparation step replaces the one before, and is removed at the end.
    """

    def __init__(self, stream: TextIO | None = None, *, in_place: bool = False) -> None:
        self.stream = sys.stderr if stream is None else stream
        self.in_place = in_place
        self.width = 0  # of the step on the current line
        self.info: StudyInfo | None = None
        self._kind = ""

    def write(self, line: str) -> None:
        """Print one line unbuffered."""
        self.close()
        print(line, file=self.stream, flush=True)

    def stage(self, message: str, trial: int | None = None) -> None:
        """See `Listener`."""
        if self.info is None and self.in_place:
            print(f"\r{message:{self.width}}", end="", file=self.stream, flush=True)
            self.width = len(message)
            return
        kind = VARYING.sub("", message)
        # One line a stage, without its steps; inside a trial the stages would drown the trials.
        if kind != self._kind and trial is None:
            self.write(message)
            self._kind = kind

    def note(self, message: str) -> None:
        """See `Listener`."""
        self.write(message)

    def started(self, info: StudyInfo) -> None:
        """See `Listener`."""
        self.info = info
        done = f", {info.done} of them finished earlier" if info.done else ""
        self.write(f"searching: {info.total} trials{done}; study in {info.folder}")

    def trial_started(self, number: int, count: int, settings: Mapping[str, Any]) -> None:
        """See `Listener`."""

    def trial_finished(self, row: Row, front: Sequence[Row], eta: float | None) -> None:
        """See `Listener`."""
        self.write(trial_line(row, self.info))

    finished = note

    def close(self) -> None:
        """See `Listener`."""
        if self.width:
            print(f"\r{'':{self.width}}\r", end="", file=self.stream, flush=True)
            self.width = 0


def trial_line(row: Row, info: StudyInfo | None) -> str:
    """Format a trial: ``[ 7/24] int4_asym g64 r0.8 AWQ  13.78 MB  kl 0.0037 ± 0.0001  2.1 s  (on the front)``."""
    total = "?" if info is None else str(info.total)
    parts = [f"[{row.count:>{len(total)}}/{total}] {describe_settings(row.settings, short=True)}"]
    if row.footprint is not None:
        parts.append(size(row.footprint))
    if row.state == "complete":
        parts += scores(row, info.objectives if info else {})
    parts.append(duration(row.seconds))
    if row.reason:
        parts.append(f"({row.reason})")
    elif row.on_front:
        parts.append("(on the front)")
    elif not row.feasible:
        parts.append("(over a limit)")
    return "  ".join(parts)


COUNT = re.compile(r"(\d+) of (\d+)")
"""Steps of a stage, as its message counts them."""

BAR = 24
"""Characters of a bar."""

REMEMBERED = 1.0
"""Seconds from which a stage of the preparation leaves a line."""


def with_bar(text: str, steps: tuple[int, int] | None, after: str = "", *, style: str = "") -> RenderableType:
    """Return one line: a text, a bar of `steps` (done, total), and what follows; without steps the bar moves."""
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1), expand=False)
    line.add_column(no_wrap=True, overflow="ellipsis")
    line.add_column(width=BAR)
    line.add_column(no_wrap=True)
    done, total = steps or (0, 0)
    bar = ProgressBar(total=total or None, completed=done, width=BAR, pulse=not total, complete_style="green")
    line.add_row(Text(text, style=style), bar, Text(after))
    return line


def steps_in(message: str) -> tuple[int, int] | None:
    """Return (done, total) of a stage's message; None if it counts no steps."""
    found = COUNT.search(message)
    return (int(found[1]), int(found[2])) if found and int(found[2]) else None


class LiveListener:
    """Listener that redraws the current stage with a bar, then a status line, the trials and the front, in place.

    Stages of the preparation that took at least a second leave a line with their time.
    """

    def __init__(self, console: Console) -> None:
        from rich.live import Live

        self.console = console
        self.info: StudyInfo | None = None
        self.begun = self.since = time.monotonic()
        self.doing = ""
        self.current: dict[int, tuple[str, str]] = {}  # trial -> its settings in short, what it is at
        self.count = 0
        self.front: Sequence[Row] = ()
        self.failures = 0
        self.live = Live(
            console=console, get_renderable=self.render, refresh_per_second=4, transient=True, redirect_stdout=False
        )

    def stage(self, message: str, trial: int | None = None) -> None:
        """See `Listener`."""
        if trial is None:
            self._change(message)
        elif trial in self.current:
            self.current[trial] = (self.current[trial][0], message)
        if not self.live.is_started:
            self.live.start()

    def _change(self, message: str) -> None:
        """Begin a stage; a step of the current one is none."""
        if VARYING.sub("", message) != VARYING.sub("", self.doing):
            seconds = time.monotonic() - self.since
            if self.doing and self.info is None and seconds >= REMEMBERED:
                steps = COUNT.search(self.doing)
                name = self.doing if steps is None else self.doing.replace(steps[0], steps[2])
                self.note(f"{name}: {duration(seconds)}")
            self.since = time.monotonic()
        self.doing = message

    def note(self, message: str) -> None:
        """See `Listener`."""
        self.console.print(message, markup=False, highlight=False)

    def started(self, info: StudyInfo) -> None:
        """See `Listener`."""
        self.stage("")
        self.info, self.count, self.front, self.begun = info, info.done, info.front, time.monotonic()

    def trial_started(self, number: int, count: int, settings: Mapping[str, Any]) -> None:
        """See `Listener`."""
        self.count, self.doing = count, ""
        self.current[number] = (describe_settings(settings, short=True), "")

    def trial_finished(self, row: Row, front: Sequence[Row], eta: float | None) -> None:
        """See `Listener`."""
        self.front, self.doing = front, ""
        self.current.pop(row.number, None)
        self.failures += row.state == "fail"

    def finished(self, message: str) -> None:
        """See `Listener`."""
        self.close()
        self.console.print(message, markup=False, highlight=False)

    def close(self) -> None:
        """See `Listener`."""
        if self.live.is_started:
            self.live.stop()

    def render(self) -> RenderableType:
        """Render the whole display."""
        from rich.console import Group
        from rich.text import Text

        if self.info is None:
            return with_bar(self.doing, steps_in(self.doing), duration(time.monotonic() - self.since))
        done = self.info.done if not self.count else max(self.count - len(self.current), 0)
        lines: list[RenderableType] = [with_bar(self.status(), (done, self.info.total), style="bold")]
        if self.doing:
            lines.append(with_bar(self.doing, steps_in(self.doing)))
        for now in list(self.current.values()):  # one line a worker
            text, steps = ": ".join(part for part in now if part), steps_in(now[1])
            lines.append(Text(text) if steps is None else with_bar(text, steps))
        if self.front:
            lines.append(self.table())
        return Group(*lines)

    def status(self) -> str:
        """Format the status: ``trial 7 of 24 · 0:31 min · about 1:10 min left · 2 failed``."""
        now = time.monotonic()
        total = self.info.total if self.info else 0
        parts = [f"trial {min(self.count, total)} of {total}", duration(now - self.begun)]
        left = None if self.info is None else self.info.remaining()
        if left is not None:
            parts.append(f"about {duration(round(left))} left")
        if self.failures:
            parts.append(f"{self.failures} failed")
        return " · ".join(parts)

    def table(self) -> Table:
        """Build the table of the front so far, best in the first objective first, below the original model."""
        from rich import box
        from rich.table import Table

        objectives = self.info.objectives if self.info else {}
        table = Table(title=f"front so far: {len(self.front)}", title_justify="left", box=box.SIMPLE_HEAD)
        table.add_column("trial", justify="right")
        table.add_column("settings", no_wrap=True)
        for name in objectives:
            table.add_column(label(name), justify="right")
        original = self.info.original if self.info else {}
        table.add_row("", "original", *(score(original.get(n), name=n, metric=m) for n, m in objectives.items()))
        for row in thinned(self.front, FRONT_ROWS):
            cells = (score(row.values[n], row.errors.get(n), name=n, metric=m) for n, m in objectives.items())
            table.add_row(str(row.number), describe_settings(row.settings, short=True), *cells)
        return table


def thinned(rows: Sequence[Row], limit: int) -> list[Row]:
    """Choose at most `limit` rows (2 or more), evenly spread, both ends included."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]
