"""Commands for the results of a study: report, export, reproduce, compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autotune.cli.output import (
    Json,
    Storage,
    StudyFolder,
    print_equivalents,
    print_front,
    print_json,
    print_paths,
    print_saved,
)
from autotune.errors import UsageError

CHOICE = "Choice of trials"


FigureFormat = Annotated[
    list[str] | None,
    typer.Option(
        metavar="FORMAT",
        help="Also write the plots as svg or pdf, for one column of a paper, without titles. Repeatable.",
        rich_help_panel="Output",
    ),
]


def report(
    folder: StudyFolder, storage: Storage = None, figure_format: FigureFormat = None, as_json: Json = False
) -> None:
    """Rebuild every table, plot and page of a study from its storage."""
    from autotune import api
    from autotune.reporting.text.terminal import as_json as outcome_json

    study = api.load_study(folder, storage)
    paths = study.write_report(figure_formats=figure_format or ())
    if as_json:
        print_json({**outcome_json(study.results), "folder": str(folder)})
        return
    print_front(study.results)
    print_paths(study.results, paths)


def export(
    folder: StudyFolder,
    out: Annotated[Path, typer.Argument(help="A new folder for the model.")],
    trial: Annotated[
        int | None,
        typer.Option(
            min=0, metavar="N", help="Export this trial. Default: the recommended one.", rich_help_panel=CHOICE
        ),
    ] = None,
    knee: Annotated[
        bool,
        typer.Option("--knee", help="Export the knee of the front, recommended or not.", rich_help_panel=CHOICE),
    ] = False,
    max_drop: Annotated[
        str | None,
        typer.Option(
            metavar="DROP",
            help="Export the smallest model that is at most this much worse than the original, such as 2%. Without %: "
            "in the unit of --metric. Default: no limit.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Metric of --max-drop. Default: perplexity_increase.", rich_help_panel=CHOICE
        ),
    ] = None,
    max_size: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="Export the most accurate model up to this size, such as 1.2GB. Default: no limit.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Write the model of one trial of a study as a deployable folder; by default the recommended trial."""
    from autotune import api

    if knee and (trial, max_drop, max_size) != (None, None, None):
        raise UsageError("--knee chooses one model; leave out --trial, --max-drop and --max-size")
    study = api.load_study(folder, storage)
    saved = study.export(out, trial=trial, max_drop=max_drop, metric=metric, max_size=max_size, knee=knee)
    if as_json:
        print_json(saved.as_dict())
        return
    print_saved(saved)
    print_equivalents(saved)


def reproduce(
    folder: StudyFolder,
    trial: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the trial.", rich_help_panel=CHOICE)],
    storage: Storage = None,
    as_json: Json = False,
) -> None:
    """Rebuild the model of a trial from its inputs and compare the bytes; print the inputs that changed."""
    from autotune import api

    outcome = api.reproduce(folder, trial, storage=storage)
    if as_json:
        print_json(outcome.as_dict())
    elif outcome.same:
        print(f"trial {trial}: the same bytes (plan {outcome.plan}, digest {outcome.digest})")
    else:
        what = "another plan" if outcome.plan != outcome.recorded_plan else "the same plan, other bytes"
        print(f"trial {trial}: {what} (plan {outcome.plan}, digest {outcome.digest})")
        print(f"  it had      plan {outcome.recorded_plan}, digest {outcome.recorded_digest}")
        for change in outcome.changed or ("no input changed that is known to matter; please report this",):
            print(f"  {change}")
    if not outcome.same:
        raise typer.Exit(1)


def compare(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders of studies.")],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="DIR", help="Folder for tables and plot.", rich_help_panel="Output"),
    ] = Path("comparison"),
    whole: Annotated[
        bool,
        typer.Option(
            "--front",
            help="Compare all trials of the fronts, not only the recommended ones.",
            rich_help_panel=CHOICE,
        ),
    ] = False,
    name: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Name of a study in table and plot, once for each folder in their order. Default: its model and, "
            "where models are equal, its folder.",
            rich_help_panel="Output",
        ),
    ] = None,
    figure_format: FigureFormat = None,
    as_json: Json = False,
) -> None:
    """Compare several studies in one table and one plot: Markdown, LaTeX, CSV and PNG."""
    from autotune import api
    from autotune.reporting.text.terminal import as_json as outcome_json

    studies = [api.load_study(folder) for folder in folders]
    api.compare(studies, whole=whole, names=name or (), output=output, figure_formats=figure_format or ())
    if as_json:
        print_json({"studies": [outcome_json(study.results) for study in studies], "folder": str(output)})
        return
    print((output / "compare.md").read_text(encoding="utf-8"))
    print(f"written: {', '.join(str(path) for path in sorted(output.glob('compare.*')))}")
