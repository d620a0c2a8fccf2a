"""Arguments and options that several commands share.

What commands print on stdout: results for people, or JSON for programs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from autotune.evaluation import Metric
    from autotune.reporting.folder import ReportPaths
    from autotune.results.records import StudyResults
    from autotune.single import Produced
    from autotune.study.planning.dry_run import DryRun
    from autotune.study.planning.forecast import Forecast, Measuring
    from autotune.study.progress import Listener

__all__ = [
    "ConfigFile",
    "Json",
    "Set",
    "Storage",
    "StudyFolder",
    "listening",
    "print_equivalents",
    "print_evaluators",
    "print_front",
    "print_json",
    "print_paths",
    "print_plan",
    "print_produced",
]

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
ConfigFile = Annotated[Path, typer.Argument(metavar="MODEL.YAML", help="The study's configuration.")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="A.B=C", help="Overrides a key of the file; repeatable.")
]
Storage = Annotated[str | None, typer.Option(help="An Optuna storage URL instead of the folder's study.db.")]
StudyFolder = Annotated[Path, typer.Argument(metavar="DIR", help="A study's folder.")]


@contextmanager
def listening() -> Iterator[Listener]:
    """A listener for progress on stderr, closed at the end."""
    from autotune.study.progress import make_listener

    listener = make_listener()
    try:
        yield listener
    finally:
        listener.close()


def print_json(data: Any) -> None:
    """One JSON value."""
    print(json.dumps(data, indent=2, ensure_ascii=False))


def print_front(results: StudyResults) -> None:
    """The front: a table with colours on a terminal, plain text elsewhere."""
    from rich.console import Console

    from autotune.reporting.text.terminal import plain_front, rich_front

    print()
    if sys.stdout.isatty():
        Console().print(rich_front(results))
    else:
        print(plain_front(results))
    print()


def print_paths(paths: ReportPaths) -> None:
    """Where the report is, and what to do next."""
    here = Path.cwd()

    def short(path: Path) -> str:
        return str(path.relative_to(here) if path.is_relative_to(here) else path)

    print(f"report: {short(paths.report_html)}   # open it in a browser; report.md is the same for a terminal")
    print(f"tables: {short(paths.front_md)}, {short(paths.front_csv)}, {short(paths.trials_csv)}")
    if paths.plots:
        print(f"plots:  {', '.join(short(plot) for plot in paths.plots)}")
    print(f"next:   autotune export {short(paths.folder)} OUT   # the knee as a folder that loads in OpenVINO GenAI")


def print_plan(told: DryRun, space: str) -> None:
    """What a search would do."""
    from autotune.common.formatting import size

    points = "more than 100,000 or infinitely many" if told.distinct_settings is None else f"{told.distinct_settings:,}"
    print(f"{told.model}: {told.weights} weights, {told.elements:,} elements, {size(told.original_footprint)}")
    print(f"space {space}: {points} different settings{_plans(told)}; the study is to have {told.trials} trials")
    if told.forecast is not None:
        print(_forecast(told.forecast))
    print("\nit begins with")
    for point in told.points:
        if point.footprint is None:
            print(f"  {point.label}: impossible")
        else:
            about = "" if point.exact else "about "
            rate = f"{point.compression_rate:.2f}x smaller than fp32, {point.bits_per_weight:.2f} bits a weight"
            memory = f"{point.expanded_percent:.0f}% of it expanded" if point.expanded_percent else "kept compressed"
            print(f"  {point.label}: {about}{point.footprint:,} bytes, {rate}, {memory} in memory")
        for note in point.notes:
            print(f"    {note}")
    if told.measuring is not None:
        print(f"\n{_measuring(told.measuring)}")
    for impossible, title in ((True, "cannot be tried with this model"), (False, "adjusted or left out in the space")):
        found = [finding for finding in told.findings if finding.impossible == impossible]
        if found:
            print(f"\n{title}")
        for finding in found:
            more = f" and {len(finding.settings) - 3} more" if len(finding.settings) > 3 else ""
            print(f"  {finding.text} ({', '.join(finding.settings[:3])}{more})")


def _forecast(told: Forecast) -> str:
    """What the study takes, in two lines."""
    from autotune.common.formatting import size
    from autotune.study.progress import duration

    workers = "one worker" if told.workers == 1 else f"{told.workers} workers"
    text = (
        f"with {workers} and an empty cache it takes about {duration(told.seconds)}: "
        f"{duration(told.preparation_seconds)} to calibrate and score the original, up to "
        f"{duration(told.trial_seconds)} a trial"
    )
    if told.not_measured:
        text += f" (without the time of {', '.join(told.not_measured)})"
    return f"{text}\na worker holds up to {size(told.memory)} in memory; cache and study take {size(told.disk)} on disk"


def _measuring(told: Measuring) -> str:
    """What the budgets wait for, once."""
    from autotune.study.progress import duration

    return (
        f"budgets wait for errors that are measured once: {told.variants:,} variants of {told.weights:,} weights, "
        f"{told.token_forwards:,} token-forwards ({told.per_weight:,.0f} a weight) and up to {told.verification:,} for "
        f"plans that correct them; about {duration(told.seconds)} here, compressing not counted"
    )


def _plans(told: DryRun) -> str:
    """How many plans the settings come to, for the line about the space."""
    least, most = told.plans_at_least, told.plans_at_most
    if least is None:
        return ""
    return f", {least:,} different models" if least == most else f", {least:,} to {most:,} different models"


def print_produced(produced: Produced) -> None:
    """What became of a model."""
    plan = produced.plan
    share = 100 * plan.footprint / produced.original_footprint
    print(
        f"{produced.folder}: {plan.footprint:,} bytes, {share:.1f}% of the original, {plan.compression_rate:.2f}x fp32"
    )
    print(f"{plan.int4_percent:.0f}% of the weights in 4 bits, {plan.int8_percent:.0f}% in 8 bits, plan {plan.key}")
    for note in plan.notes:
        print(f"note: {note}")


def print_equivalents(produced: Produced) -> None:
    """The same settings as calls of optimum-cli and NNCF, or why there is none."""
    from autotune.reporting.text.commands import nncf_call, optimum_command

    record = json.loads((produced.folder / "autotune.json").read_text(encoding="utf-8"))
    settings = produced.settings or {}
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
    """Name, origin, metrics and (for a broken plug-in) the problem of every evaluator."""
    for name, origin, metrics, problem in found:
        print(f"{name}  ({origin}){f'  BROKEN: {problem}' if problem else ''}")
        for metric, about in metrics.items():
            arrow = "down" if about.direction == "minimize" else "up"
            print(f"  {metric:22}  {arrow:4}  {about.description}{f' [{about.unit}]' if about.unit else ''}")
