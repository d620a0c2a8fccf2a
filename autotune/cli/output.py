"""Options that several commands share, and the output of commands: text, or JSON with `--json`."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from autotune.common.formatting import printable
from autotune.common.version import __version__
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.evaluation import Metric
    from autotune.reporting.folder import ReportPaths
    from autotune.reporting.listing import StudySummary
    from autotune.results.records import StudyResults
    from autotune.study.export import SavedModel
    from autotune.study.planning.dry_run import DryRun
    from autotune.study.planning.forecast import Forecast, Measuring

LOG = logging.getLogger("autotune.progress")
"""Receives the lines of progress; see `autotune.study.progress.LOG`."""

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel="Output")]
ConfigFile = Annotated[
    str,
    typer.Argument(
        metavar="MODEL.YAML",
        help="Configuration of the study; or a model (a Hugging Face id or a folder), for which NAME.yaml is written "
        "with the defaults of `autotune init`.",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="A.B=C",
        help="Override a key of the file, such as study.seed=1. Repeatable.",
        rich_help_panel="Study",
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DEVICE",
        rich_help_panel="Device",
        help="Device that the model must run on: CPU, GPU or NPU; restricts the settings. Repeatable. Default: as "
        "in the file, else none.",
    ),
]
Storage = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Optuna storage of the study. Default: study.db in the study's folder.",
        rich_help_panel="Study",
    ),
]
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", help="Show no progress; warnings and errors are shown.", rich_help_panel="Output"),
]


_LOGS: list[logging.Handler] = []


def open_log(context: typer.Context, path: Path | None) -> Path | None:
    """Append progress, warnings and errors of this command to a file, until `close_logs`.

    Raises:
        UsageError: it cannot be written.
    """
    if path is None or context.resilient_parsing:
        return None
    try:
        handler = logging.FileHandler(path, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--log-file {path} cannot be written: {error.strerror}; name another file") from error
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    _LOGS.append(handler)
    if not LOG.isEnabledFor(logging.INFO):
        LOG.setLevel(logging.INFO)
    LOG.info("autotune %s, version %s", context.info_name, __version__)
    return path


def log_error(text: str, *, exc_info: bool = False) -> None:
    """Write an error into the files of `open_log`; stderr has it already."""
    if _LOGS:
        LOG.error(text, exc_info=exc_info)


def close_logs() -> None:
    """Close the files of `open_log`."""
    while _LOGS:
        handler = _LOGS.pop()
        logging.getLogger().removeHandler(handler)
        handler.close()
        LOG.setLevel(logging.NOTSET)


LogFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        callback=open_log,
        help="Append progress, warnings and errors to this file, with times. Default: none.",
        rich_help_panel="Output",
    ),
]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of a study.")]


def print_json(data: Any) -> None:
    """Print one JSON value."""
    print(printable(json.dumps(data, indent=2, ensure_ascii=False)))


def print_front(results: StudyResults) -> None:
    """Print the front: a table with colours on a terminal, else plain text."""
    from rich.console import Console

    from autotune.reporting.text.terminal import plain_front, rich_front

    print()
    if sys.stdout.isatty():
        Console().print(rich_front(results))
    else:
        print(plain_front(results))
    print()


def print_paths(results: StudyResults, paths: ReportPaths) -> None:
    """Print the paths of the report, and the command that exports the recommended model or the reason for none."""
    from autotune.reporting.text.commands import export_command
    from autotune.results.front.decision import decision_sentence
    from autotune.results.front.recommendation import recommend

    here = Path.cwd()

    def short(path: Path) -> str:
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    print(f"report: {short(paths.report_html)}   # open it in a browser; report.md has the same text")
    print(f"tables: {short(paths.front_md)}, {short(paths.front_csv)}, {short(paths.trials_csv)}")
    if paths.plots:
        print(f"plots:  {', '.join(short(plot) for plot in paths.plots)}")
    chosen = recommend(results).trial
    if chosen is None:
        sentence = decision_sentence(results).replace("**", "").replace("`", "")
        print("\n".join(_wrapped(f"next:   {sentence}")))
    else:
        print(f"next:   {export_command(results, chosen, here=here)}")


def print_plan(planned: DryRun, space: str) -> None:
    """Print the sizes of the first trials, and the settings that are adjusted or impossible."""
    from autotune.common.formatting import size
    from autotune.results.plans import readable

    points = (
        "more than 100,000 or infinitely many"
        if planned.distinct_settings is None
        else f"{planned.distinct_settings:,}"
    )
    lines = [] if planned.intake is None else list(planned.intake.lines())
    original = size(planned.original_footprint)
    lines += [
        f"{planned.model}: {planned.weights} weights, {planned.elements:,} elements, {original}",
        f"space {space}: {points} different settings{_plans(planned)}; {planned.trials} trials in the study",
        *([f"limits: {'; '.join(planned.limits)}"] if planned.limits else []),
        *(planned.devices and ["", *planned.devices, *(f"left out of the space: {each}" for each in planned.left_out)]),
    ]
    print("\n".join(wrapped for line in lines for wrapped in _wrapped(line) or [""]))
    print()
    print("\n".join(_points(planned)))
    for impossible, title in ((True, "impossible with this model"), (False, "adjusted or left out")):
        found = [finding for finding in planned.findings if finding.impossible == impossible]
        if found:
            print(f"\n{title}")
        for finding in found:
            more = f" and {len(finding.settings) - 3} more" if len(finding.settings) > 3 else ""
            text = f"{readable(finding.text)} ({', '.join(finding.settings[:3])}{more})"
            print("\n".join(_wrapped(text, "  ")))


def _points(planned: DryRun) -> list[str]:
    """Format the first trials as a table; a note that several of them share stands once below it."""
    from autotune.results.plans import readable

    notes: dict[str, int] = {}
    header = ["first trials", "bytes", "fp32/size", "bits/weight", "expanded in memory"]
    rows = []
    for point in planned.points:
        marks = "".join(f" ({notes.setdefault(readable(note), len(notes) + 1)})" for note in point.notes)
        if point.footprint is None:
            rows.append([f"{point.label}{marks}", "impossible", "", "", "-"])
            continue
        about = "" if point.exact else "<= " if point.settings.get("budget") is not None else "about "
        expanded = f"{point.expanded_percent:.0f}%" if point.expanded_percent else "-"
        numbers = [f"{point.compression_rate:.2f}x", f"{point.bits_per_weight:.2f}", expanded]
        rows.append([f"{point.label}{marks}", f"{about}{point.footprint:,}", *numbers])
    columns = len(header) - all(row[-1] == "-" for row in rows)
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(1, columns)]
    first = min(max(len(row[0]) for row in [header, *rows]), 80 - sum(widths) - 2 * len(widths))
    lines = []
    for row in [header, *rows]:
        name, *rest = textwrap.wrap(row[0], first, subsequent_indent="  ")
        cells = (cell.rjust(width) for cell, width in zip(row[1:columns], widths, strict=True))
        lines += ["  ".join([name.ljust(first), *cells]).rstrip(), *rest]
    return [*lines, *(line for note, mark in notes.items() for line in _wrapped(f"({mark}) {note}"))]


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Break a line for a terminal, which breaks inside words otherwise; in a pipe it stays whole."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 100_000
    return textwrap.wrap(text, width, initial_indent=indent, subsequent_indent=f"{indent}    ")


def print_forecast(planned: DryRun) -> None:
    """Print the time, memory and disk space that the study takes."""
    lines = [] if planned.forecast is None else ["", *_forecast(planned.forecast)]
    lines += [] if planned.measuring is None else [_measuring(planned.measuring)]
    for line in lines:
        print("\n".join(_wrapped(line)))


def _forecast(forecast: Forecast) -> list[str]:
    """Format the time, memory and disk space of a study."""
    from autotune.common.formatting import duration, size

    workers = "one worker" if forecast.workers == 1 else f"{forecast.workers} workers"
    text = (
        f"time with {workers} and an empty cache: about {duration(forecast.seconds)}, of which "
        f"{duration(forecast.preparation_seconds)} for calibration and the scores of the original; up to "
        f"{duration(forecast.trial_seconds)} a trial"
    )
    if (found := forecast.deployment) is not None:
        kinds = f"with {found.settings} runtime settings" if found.settings else "as deployed"
        text += f"; {duration(found.seconds)} for scores {kinds}, if {found.models} models are on the front"
    if forecast.not_measured:
        text += f" (without the time of {', '.join(forecast.not_measured)})"
    disk = f"disk of cache and study: {size(forecast.disk)}"
    if forecast.temporary:
        disk += f", of which {size(forecast.temporary)} for temporary files of distillation"
    return [text, f"memory of a worker: up to {size(forecast.memory)}; {disk}"]


def _measuring(measuring: Measuring) -> str:
    """Format the cost of measuring the errors that budgets need."""
    from autotune.common.formatting import duration

    return (
        f"error measurement for budgets, once a model: {measuring.variants:,} variants of {measuring.weights:,} "
        f"weights, {measuring.token_forwards:,} tokens ({measuring.per_weight:,.0f} a weight) and up to "
        f"{measuring.verification:,} to verify plans; about {duration(measuring.seconds)}, without compressing"
    )


def _plans(planned: DryRun) -> str:
    """Format the number of different models of a space."""
    least, most = planned.plans_at_least, planned.plans_at_most
    if least is None:
        return ""
    return f", {least:,} different models" if least == most else f", {least:,} to {most:,} different models"


def print_saved(saved: SavedModel) -> None:
    """Print size and formats of a compressed model."""
    plan = saved.plan
    share = 100 * plan.footprint / saved.original_footprint
    if saved.trial is not None:
        print(f"trial {saved.trial}: {saved.reason}")
    print(f"{saved.folder}: {plan.footprint:,} bytes, {share:.1f}% of the original, {plan.compression_rate:.2f}x fp32")
    print(f"{plan.int4_percent:.0f}% of the weights in 4 bits, {plan.int8_percent:.0f}% in 8 bits, plan {plan.key}")
    for sentence in saved.devices:
        print(sentence)
    if saved.runtime:
        print(f"runtime properties: {', '.join(f'{name}={value}' for name, value in saved.runtime.items())}")
    if saved.unstored:
        print(f"not stored in the IR, to be passed as ov_config: {', '.join(saved.unstored)}")
    for note in plan.notes:
        print(f"note: {note}")


def print_equivalents(saved: SavedModel) -> None:
    """Print the same settings as calls of optimum-cli and NNCF, or the reason why there is none."""
    from autotune.reporting.text.commands import nncf_call, optimum_command

    record = json.loads((saved.folder / "autotune.json").read_text(encoding="utf-8"))
    settings = saved.settings or {}
    for name, found in (
        ("optimum-cli", optimum_command(record["model"]["name"], settings)),
        ("NNCF", nncf_call(settings)),
    ):
        print(f"\nthe same settings in {name}:" if found.call else f"\nno equivalent in {name}: {found.note}")
        if found.call:
            print(found.call)
            if found.note:
                print(f"({found.note})")


def print_evaluators(found: Iterable[tuple[str, str, Mapping[str, Metric], str]]) -> None:
    """Print name, origin, metrics and, if it cannot be imported, the problem of every evaluator."""
    for name, origin, metrics, problem in found:
        print(f"{name}  ({origin}){f'  BROKEN: {problem}' if problem else ''}")
        for metric, about in metrics.items():
            arrow = "down" if about.direction == "minimize" else "up"
            print(f"  {metric:22}  {arrow:4}  {about.description}{f' [{about.unit}]' if about.unit else ''}")


def print_studies(found: Sequence[StudySummary]) -> None:
    """Print studies, two lines each: folder, state, trials, age; model and recommended point."""
    from autotune.common.formatting import duration, label, score, size

    width = max(len(summary.folder) for summary in found)
    for summary in found:
        if summary.error is not None:
            print(f"{summary.folder:{width}}  unreadable: {summary.error}")
            continue
        age = "" if summary.age is None else f", last one {duration(round(summary.age))} ago"
        failed = f", {summary.failed} failed" if summary.failed else ""
        print(f"{summary.folder:{width}}  {summary.state:8}  {summary.trials} of {summary.total} trials{failed}{age}")
        best = "no trial is recommended"
        if summary.trial is not None:
            best = f"trial {summary.trial}: {summary.settings}, {size(summary.footprint)}"
            if summary.metric is not None:
                best += f", {label(summary.metric)} {score(summary.value, summary.stderr, name=summary.metric)}"
        print("\n".join(_wrapped(f"{summary.model}: {best}", "  ")))
