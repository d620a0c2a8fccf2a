"""Commands for the results of a study: report, export, reproduce, compare."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.output import (
    Json,
    LogFile,
    Quiet,
    Storage,
    StudyFolder,
    print_equivalents,
    print_front,
    print_json,
    print_paths,
    print_saved,
)
from autotune.errors import UsageError

if TYPE_CHECKING:
    from autotune.results.records import StudyResults

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
    folder: StudyFolder,
    storage: Storage = None,
    figure_format: FigureFormat = None,
    open_page: Annotated[
        bool, typer.Option("--open", help="Open report.html in the browser.", rich_help_panel="Output")
    ] = False,
    profile: Annotated[
        bool,
        typer.Option(
            "--profile",
            help="Print seconds and tokens by stage and trial instead, and write profile.json, a Chrome trace.",
            rich_help_panel="Output",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Rebuild every table, plot and page of a study from its storage."""
    from autotune import api
    from autotune.reporting.text.terminal import as_json as outcome_json

    study = api.load_study(folder, storage)
    if profile:
        print_profile(study.results, study.folder, as_json=as_json)
        return
    paths = study.write_report(figure_formats=figure_format or (), open_page=open_page)
    if as_json:
        print_json({**outcome_json(study.results), "folder": str(folder)})
        return
    print_front(study.results)
    print_paths(study.results, paths)


def print_profile(results: StudyResults, folder: Path, *, as_json: bool) -> None:
    """Print where the time of a study went, and write its Chrome trace into the folder."""
    from autotune.reporting.profile import chrome_trace, profile_frame, profile_text

    if as_json:
        print_json(profile_frame(results).to_dict("records"))
        return
    path = folder / "profile.json"
    path.write_text(json.dumps(chrome_trace(results)), encoding="utf-8")
    print(profile_text(results))
    print(f"\n{path}: open it in chrome://tracing or https://ui.perfetto.dev")


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
    runtime: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Runtime setting, by its number in runtime.md. Default: the recommended one; none without a "
            "runtime.search.",
            rich_help_panel=CHOICE,
        ),
    ] = None,
    storage: Storage = None,
    upload: Annotated[
        str | None,
        typer.Option(
            metavar="REPO",
            help="Check the folder for the Hugging Face hub without network, and print the command that uploads it to "
            "this repository, such as me/model-int4-ov. Default: no check.",
            rich_help_panel="Output",
        ),
    ] = None,
    quiet: Quiet = False,
    log_file: LogFile = None,
    as_json: Json = False,
) -> None:
    """Write the model of one trial of a study as a deployable folder; by default the recommended trial."""
    from autotune import api

    if knee and (trial, max_drop, max_size) != (None, None, None):
        raise UsageError("--knee chooses one model; leave out --trial, --max-drop and --max-size")
    study = api.load_study(folder, storage)
    saved = study.export(
        out,
        trial=trial,
        max_drop=max_drop,
        metric=metric,
        max_size=max_size,
        knee=knee,
        upload=upload,
        runtime=runtime,
        progress=not quiet,
    )
    if as_json:
        print_json(saved.as_dict())
        return
    print_saved(saved)
    print_equivalents(saved)
    if upload is not None:
        print(f"\nchecked for the hub; after `hf auth login`, upload it with:\n{saved.upload_command(upload)}")


def reproduce(
    folder: StudyFolder,
    trial: Annotated[int, typer.Option(min=0, metavar="N", help="Number of the trial.", rich_help_panel=CHOICE)],
    storage: Storage = None,
    quiet: Quiet = False,
    log_file: LogFile = None,
    as_json: Json = False,
) -> None:
    """Rebuild the model of a trial from its inputs and compare the bytes; print the inputs that changed."""
    from autotune import api

    outcome = api.reproduce(folder, trial, storage=storage, progress=not quiet)
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
    report: Annotated[
        bool,
        typer.Option(
            "--report",
            help="Also write compare.html, one page for all models: settings by model, the best within each size, and "
            "geometric means with their errors; and its table as compare-settings.tex and .csv.",
            rich_help_panel="Output",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Compare several studies in one table and one plot: Markdown, LaTeX, CSV and PNG."""
    from autotune import api
    from autotune.reporting.text.terminal import as_json as outcome_json

    studies = [api.load_study(folder) for folder in folders]
    api.compare(
        studies, whole=whole, names=name or (), output=output, report=report, figure_formats=figure_format or ()
    )
    if as_json:
        print_json({"studies": [outcome_json(study.results) for study in studies], "folder": str(output)})
        return
    print_comparison(output)


def print_comparison(folder: Path) -> None:
    """Print the table of a comparison and the paths of its files."""
    print((folder / "compare.md").read_text(encoding="utf-8"))
    print(f"written: {', '.join(str(path) for path in sorted(folder.glob('compare*')))}")
