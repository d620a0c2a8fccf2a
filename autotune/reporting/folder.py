"""Write the files of a study's folder: tables, plots, report.md, report.html, manifest.json and model.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.common.files import atomic_write, remove_leftovers
from autotune.common.paths import file_name
from autotune.common.yaml import dump_yaml
from autotune.errors import StudyError, UsageError
from autotune.reporting.front_table import front_csv, front_latex, front_markdown, trials_csv
from autotune.reporting.html.page import report_html
from autotune.reporting.report import build_report
from autotune.reporting.text.deployed import deployed_markdown
from autotune.reporting.text.markdown import report_markdown
from autotune.reporting.text.optimum import optimum_markdown
from autotune.reporting.text.runtime import runtime_csv, runtime_markdown
from autotune.results.front.decision import objective_pairs
from autotune.results.load import load_results
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    from optuna.storages import BaseStorage

    from autotune.reporting.plots.figure import NotebookFigure
    from autotune.reporting.plots.style import Sheet


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """The paths of all files, and the results that they show.

    `plots` is empty if there was nothing to draw; the front comes first.
    """

    folder: Path
    trials_csv: Path
    front_csv: Path
    front_md: Path
    front_tex: Path
    report_md: Path
    report_html: Path
    manifest: Path
    model_yaml: Path
    plots: tuple[Path, ...]
    results: StudyResults = field(repr=False)


def rebuild_report(folder: Path, storage: str | BaseStorage | None = None) -> ReportPaths:
    """Write all files of the study in `folder` again from its storage.

    Raises:
        StudyError: there is no readable study (see `load_results`).
    """
    return write_report(load_results(folder, storage), folder)


def write_report(results: StudyResults, folder: Path, figure_formats: Sequence[str] = ()) -> ReportPaths:
    """Write all files, each atomically; the same study gives the same bytes. What killed processes left is deleted.

    Args:
        results: the study.
        folder: receives the files.
        figure_formats: ``svg``, ``pdf``: also write the plots for one column of a paper, without titles.

    Raises:
        UsageError: an unknown format.
        StudyError: ``plots`` is a link to another place, whose files would be replaced.
    """
    from autotune.reporting.plots.style import COLUMN, save_figure

    check_formats(figure_formats)
    folder = Path(folder)
    if (place := (folder / "plots").resolve()).parent != folder.resolve():
        raise StudyError(
            f"{folder / 'plots'}: this is a link to {place}, and a report is written into the study's folder only. "
            "Remove the link."
        )
    remove_leftovers(folder.rglob(".*.tmp"))
    plots = tuple(save_figure(fig, folder / "plots" / f"{file_name(name)}.png") for name, fig in figures(results))
    for kind in figure_formats:
        for name, figure in figures(results, COLUMN):
            save_figure(figure, folder / "plots" / f"{file_name(name)}.{kind}")
    report = build_report(results, folder)
    config = "# The study's configuration as resolved; `autotune search` runs it again.\n"
    config += dump_yaml(dict(results.config))
    manifest = json.dumps(dict(results.manifest), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    pages = {"optimum.md": optimum_markdown(results), "deployed.md": deployed_markdown(results)}
    pages |= {"runtime.md": runtime_markdown(results), "runtime.csv": runtime_csv(results)}
    for name, page in pages.items():
        if page is not None:
            write_text(folder / name, page)
    return ReportPaths(
        folder=folder,
        trials_csv=write_text(folder / "trials.csv", trials_csv(results)),
        front_csv=write_text(folder / "front.csv", front_csv(results)),
        front_md=write_text(folder / "front.md", front_markdown(results)),
        front_tex=write_text(folder / "front.tex", front_latex(results)),
        report_md=write_text(folder / "report.md", report_markdown(report, [plot.name for plot in plots])),
        report_html=write_text(folder / "report.html", report_html(results, report)),
        manifest=write_text(folder / "manifest.json", manifest),
        model_yaml=write_text(folder / "model.yaml", config),
        plots=plots,
        results=results,
    )


FIGURE_FORMATS = ("svg", "pdf")


def check_formats(formats: Sequence[str]) -> None:
    """Raise UsageError if there is a format that figures are not written in."""
    unknown = [name for name in formats if name not in FIGURE_FORMATS]
    if unknown:
        raise UsageError(f"figures are written as {' or '.join(FIGURE_FORMATS)} beside the PNG, not as {unknown[0]!r}")


def figures(results: StudyResults, sheet: Sheet | None = None) -> Iterator[tuple[str, NotebookFigure]]:
    """Draw every plot: ``front`` (then ``front-Y-against-X``), ``settings-OBJECTIVE`` and ``progress``, by name.

    A pair or objective without trials is left out. `sheet` None is that of a PNG file.
    """
    from autotune.reporting.plots.front import front_figure
    from autotune.reporting.plots.progress import progress_figure
    from autotune.reporting.plots.settings import settings_figure
    from autotune.reporting.plots.style import PICTURE

    sheet = PICTURE if sheet is None else sheet
    for position, (x, y) in enumerate(objective_pairs(results)):
        figure = front_figure(results, x, y, sheet)
        if figure is not None:
            yield ("front" if position == 0 else f"front-{y}-against-{x}", figure)
    for name in results.objectives:
        figure = settings_figure(results, name, sheet)
        if figure is not None:
            yield f"settings-{name}", figure
    figure = progress_figure(results, sheet)
    if figure is not None:
        yield "progress", figure


def write_text(path: Path, text: str) -> Path:
    """Write a text file atomically, with the same bytes on every system."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path
