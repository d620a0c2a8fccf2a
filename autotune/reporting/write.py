"""Everything a study's folder holds besides its storage: tables, plots, report.md, manifest.json and model.yaml."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.common.files import atomic_write
from autotune.common.yaml import dump_yaml
from autotune.reporting.html.page import report_html
from autotune.reporting.text.markdown import report_markdown
from autotune.reporting.text.tables import front_csv, front_latex, front_markdown, trials_csv
from autotune.results.decision import objective_pairs
from autotune.results.load import load_results
from autotune.results.types import StudyResults

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from optuna.storages import BaseStorage

__all__ = ["ReportPaths", "figures", "report", "write_report"]


@dataclass(frozen=True, slots=True)
class ReportPaths:
    """Where everything was written. `plots` is empty where there was nothing to draw; the front comes first."""

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


def report(folder: Path, storage: str | BaseStorage | None = None) -> ReportPaths:
    """Rebuild every table, plot and page of the study of `folder` from its storage, and nothing else.

    Raises:
        StudyError: there is no readable study (see `load_results`).
    """
    return write_report(load_results(folder, storage), folder)


def write_report(results: StudyResults, folder: Path) -> ReportPaths:
    """Write all files, each in one step; the same study gives the same bytes."""
    folder = Path(folder)
    plots = _write_plots(results, folder / "plots")
    config = "# The study's configuration as resolved; `autotune search` runs it again.\n"
    config += dump_yaml(dict(results.config))
    manifest = json.dumps(dict(results.manifest), indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    return ReportPaths(
        folder=folder,
        trials_csv=_write(folder / "trials.csv", trials_csv(results)),
        front_csv=_write(folder / "front.csv", front_csv(results)),
        front_md=_write(folder / "front.md", front_markdown(results)),
        front_tex=_write(folder / "front.tex", front_latex(results)),
        report_md=_write(folder / "report.md", report_markdown(results, [plot.name for plot in plots], folder)),
        report_html=_write(folder / "report.html", report_html(results, folder)),
        manifest=_write(folder / "manifest.json", manifest),
        model_yaml=_write(folder / "model.yaml", config),
        plots=plots,
    )


def _write(path: Path, text: str) -> Path:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def _write_plots(results: StudyResults, folder: Path) -> tuple[Path, ...]:
    from autotune.reporting.plots.style import look, save_png

    with look():
        return tuple(save_png(figure, folder / f"{name}.png") for name, figure in figures(results))


def figures(results: StudyResults) -> Iterator[tuple[str, Figure]]:
    """Every plot with its name: ``front`` (then ``front-Y-against-X``), ``settings-OBJECTIVE``, ``progress``.

    Draw inside `style.look()`. A pair or objective that no trial has is left out.
    """
    from autotune.reporting.plots.front import front_figure
    from autotune.reporting.plots.progress import progress_figure
    from autotune.reporting.plots.settings import settings_figure

    for position, (x, y) in enumerate(objective_pairs(results)):
        figure = front_figure(results, x, y)
        if figure is not None:
            yield ("front" if position == 0 else f"front-{y}-against-{x}", figure)
    for name in results.objectives:
        figure = settings_figure(results, name)
        if figure is not None:
            yield f"settings-{name}", figure
    figure = progress_figure(results)
    if figure is not None:
        yield "progress", figure
