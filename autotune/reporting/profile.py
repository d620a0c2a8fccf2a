"""Where a study's time went: seconds and tokens by stage and trial, as a table, as text and as a Chrome trace."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from autotune.common.formatting import duration

if TYPE_CHECKING:
    import pandas as pd

    from autotune.results.records import StudyResults

PREPARATION = -1
"""Trial number of the work before the first trial."""

BAR = 40


def profile_frame(results: StudyResults) -> pd.DataFrame:
    """Return one row for each stage of each trial.

    Returns:
        ``trial`` (-1 for the preparation), ``stage``, ``start`` (seconds since the epoch), ``seconds``, ``tokens`` (in
        forward passes of the trial's model; 0 in stages without any).
    """
    import pandas as pd

    return pd.DataFrame(_rows(results), columns=["trial", "stage", "start", "seconds", "tokens"])


def _rows(results: StudyResults) -> Iterator[tuple[int, str, float, float, int]]:
    for name, start, seconds in results.preparation:
        yield PREPARATION, str(name), float(start), float(seconds), 0
    for number, record in results.records.items():
        tokens = dict(record.tokens)
        for name, start, seconds in record.stages:
            yield number, str(name), float(start), float(seconds), int(tokens.pop(str(name), 0))


def stage_table(results: StudyResults) -> pd.DataFrame:
    """Return seconds, tokens and share of the time by stage, the longest first, and compression by algorithm.

    The rows ``compression: <algorithms>`` are part of ``compression`` and of ``planning``; they have no share.
    """
    import pandas as pd

    frame = profile_frame(results)
    table = frame.groupby("stage")[["seconds", "tokens"]].sum().sort_values("seconds", ascending=False)
    table["share"] = table["seconds"] / max(float(table["seconds"].sum()), 1e-12)
    algorithms: dict[str, float] = {}
    for record in results.records.values():
        for name, seconds in record.algorithms.items():
            algorithms[f"compression: {name}"] = algorithms.get(f"compression: {name}", 0.0) + seconds
    parts = pd.DataFrame({"seconds": pd.Series(algorithms, dtype="float64")}).sort_values("seconds", ascending=False)
    parts["tokens"], parts["share"] = 0, float("nan")
    return pd.concat([table, parts.rename_axis("stage")]) if len(parts) else table


def profile_text(results: StudyResults) -> str:
    """Return the stages with a bar for each, then the trials with the most seconds, as plain text."""
    table, frame = stage_table(results), profile_frame(results)
    if frame.empty:
        return "This study has no profile: its trials were run by an older autotune."
    width = max(len(str(name)) for name in table.index)
    lines = [f"{'stage':{width}}  {'time':>8}  {'share':>6}  {'tokens':>11}"]
    longest = float(table["seconds"].max())
    for name, row in table.iterrows():
        share = f"{100 * row['share']:5.1f}%" if row["share"] == row["share"] else ""
        bar = "█" * max(1, round(BAR * row["seconds"] / longest)) if row["seconds"] else ""
        tokens = f"{int(row['tokens']):,}" if row["tokens"] else ""
        lines.append(f"{name:{width}}  {duration(row['seconds']):>8}  {share:>6}  {tokens:>11}  {bar}".rstrip())
    lines += ["", f"{'trial':>5}  {'time':>8}  {'tokens':>11}  stages, in the order of time"]
    of_trials = frame[frame["trial"] != PREPARATION]
    order = of_trials.groupby("trial")["seconds"].sum().sort_values(ascending=False, kind="stable")
    scale = BAR / max(float(order.max()), 1e-12) if len(order) else 0.0
    for trial, seconds in order.head(10).items():
        rows = of_trials[of_trials["trial"] == trial].sort_values("start")
        stages = zip(rows["stage"], rows["seconds"], strict=True)
        bar = "".join(str(stage)[0] * round(scale * part) for stage, part in stages)
        total = f"{int(rows['tokens'].sum()):,}"
        lines.append(f"{trial:>5}  {duration(seconds):>8}  {total:>11}  {bar}".rstrip())
    return "\n".join(lines)


def chrome_trace(results: StudyResults) -> dict[str, Any]:
    """Return the stages in the Trace Event Format, for chrome://tracing or ui.perfetto.dev: one row a trial."""
    frame = profile_frame(results)
    begin = float(frame["start"].min()) if len(frame) else 0.0
    return {
        "displayTimeUnit": "ms",
        "traceEvents": [
            {
                "name": stage,
                "ph": "X",
                "pid": 0,
                "tid": int(trial) + 1,
                "ts": round(1e6 * (start - begin)),
                "dur": round(1e6 * seconds),
                "args": {"trial": None if trial == PREPARATION else int(trial), "tokens": int(tokens)},
            }
            for trial, stage, start, seconds, tokens in frame.itertuples(index=False)
        ],
    }
