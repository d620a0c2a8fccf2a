"""The plots are drawn as promised, the same every time, and leave matplotlib alone."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import pytest

from autotune.reporting.folder import figures
from autotune.reporting.html.drawings import DARK
from autotune.reporting.plots.front import front_figure
from autotune.reporting.plots.settings import settings_figure
from autotune.reporting.plots.style import COLUMN, MODES, OTHERS, contrast, look, mode_style, save_figure, tint
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]
MB16 = {"footprint": {"op": "<=", "value": 16e6, "text": "<= 16 MB"}}


@pytest.mark.parametrize(
    "options", [{"seed": 1}, {"seed": 2, "trials": 60}, {"seed": 3, "constraints": MB16}, {"trials": 2}, {"trials": 1}]
)
def test_labels_do_not_overlap(make: Make, options: dict[str, object]) -> None:
    """No two texts in a front plot share a pixel, and all stand inside the figure."""
    with look():
        figure = front_figure(make(**options), "footprint", "kl_divergence")
        assert figure is not None
        axes = figure.axes[0]
        legends = [text for legend in figure.legends for text in (*legend.get_texts(), legend.get_title())]
        title = next(
            child for child in axes.get_children() if getattr(child, "get_text", str)() == axes.get_title(loc="left")
        )
        texts: list[Any] = [*axes.texts, *figure.texts, *legends, axes.xaxis.label, title]
        texts = [text for text in texts if text.get_text()]
        figure.canvas.draw()
        boxes = [text.get_window_extent() for text in texts]
    for (first, a), (second, b) in combinations(zip(texts, boxes, strict=True), 2):
        apart = a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
        assert apart, (first.get_text(), second.get_text())
    width, height = figure.canvas.get_width_height()
    assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height for box in boxes)


def test_same_study_same_png(make: Make, tmp_path: Path) -> None:
    """Two drawings of one study are equal byte by byte, whatever the user's matplotlibrc says."""
    results = make(trials=10)
    pictures = []
    for size in (10, 30):
        with matplotlib.rc_context({"font.size": size, "axes.facecolor": "black"}), look():
            figure = front_figure(results, "footprint", "kl_divergence")
            assert figure is not None
            pictures.append(save_figure(figure, tmp_path / f"{size}.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert b"Software" not in pictures[0][:400]


def test_global_state_comes_back(make: Make) -> None:
    """Drawing changes no rcParams of the caller's."""
    before = dict(matplotlib.rcParams)
    with look():
        list(figures(make(trials=10)))
    assert dict(matplotlib.rcParams) == before


def test_the_knee_is_labelled_with_its_trial(make: Make) -> None:
    """The knee's label names the trial, its settings and both values; int8 and the original are named as well."""
    results = make()
    with look():
        figure = front_figure(results, "footprint", "kl_divergence")
    assert figure is not None
    words = "\n".join(text.get_text() for text in figure.axes[0].texts)
    for part in ("knee: trial 13\nint4_asym g32 SE\n15.39 MB", "int8_asym (0)", "original: 44.04 MB"):
        assert part in words
    assert figure.axes[0].get_yscale() == "log"
    assert "← smaller is better" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize(
    ("objectives", "names"),
    [
        ({"kl_divergence": "minimize", "footprint": "minimize"}, ["front"]),
        ({"kl_divergence": "minimize"}, ["front"]),
        ({"footprint": "minimize"}, ["front"]),
        (
            {"similarity": "maximize", "kl_divergence": "minimize", "footprint": "minimize"},
            ["front", "front-kl_divergence-against-footprint", "front-similarity-against-kl_divergence"],
        ),
    ],
)
def test_every_pair_of_objectives_has_its_plot(make: Make, objectives: dict[str, str], names: list[str]) -> None:
    """One front plot a pair, the footprint always across; settings plots for each objective; one progress plot."""
    with look():
        drawn = [name for name, _ in figures(make(trials=14, objectives=objectives))]
    assert [name for name in drawn if name.startswith("front")] == names
    assert [name for name in drawn if name.startswith("settings")] == [f"settings-{name}" for name in objectives]
    assert drawn[-1] == "progress"


@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_a_figure_for_a_paper_fits_a_column_and_has_no_title(make: Make, tmp_path: Path, kind: str) -> None:
    """Twice the same bytes, 3.4 inches wide, the legend inside, and no text below 8 points."""
    pictures = []
    for _ in range(2):
        drawn = dict(figures(make(trials=10), COLUMN))
        front = drawn["front"]
        assert front.get_size_inches()[0] == COLUMN.width
        assert front.texts == []
        assert len(front.legends) == 1
        front.canvas.draw()
        box, page = front.legends[0].get_window_extent(), front.bbox
        assert page.x0 <= box.x0 < box.x1 <= page.x1
        for figure in drawn.values():
            texts = [text for axes in figure.axes for text in (*axes.texts, axes.xaxis.label, *axes.get_xticklabels())]
            assert min(text.get_fontsize() for text in texts if text.get_text()) >= 8
        pictures.append(save_figure(front, tmp_path / f"front.{kind}").read_bytes())
    assert pictures[0] == pictures[1]


def test_dominated_marks_keep_a_contrast_of_three_to_one() -> None:
    """On white and on the dark page, for every mode."""
    for color, _ in (*MODES.values(), *OTHERS):
        assert contrast(tint(color)) >= 3
        dark = "#" + DARK[color[1:].lower()]
        assert contrast(tint(dark, "#14181d"), "#14181d") >= 3


def test_a_median_needs_two_trials(make: Make) -> None:
    """A bar stands over the values that two trials or more have, and the axis is that of the front's plot."""
    results = make()
    figure = settings_figure(results, "kl_divergence")
    assert figure is not None
    assert {axes.get_yscale() for axes in figure.axes} == {"log"}
    panel = next(axes for axes in figure.axes if axes.get_title(loc="left") == "sensitivity metric")
    counts = results.unique["sensitivity_metric"].dropna().value_counts()
    bars = [c for c in panel.collections if type(c).__name__ == "LineCollection"]
    assert len(bars) == sum(count > 1 for count in counts)
    assert "not shown: int8_asym" in figure.note


def test_nothing_to_draw_draws_nothing(make: Make) -> None:
    """Without a complete trial there are no plots."""
    for options in ({"trials": 0}, {"trials": 3, "only_failing": True}):
        with look():
            assert list(figures(make(**options))) == []


def test_settings_panels_are_those_that_varied(make: Make) -> None:
    """One panel a varying setting."""
    with look():
        figure = settings_figure(make(), "kl_divergence")
    assert figure is not None
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert titles == ["mode", "group size", "ratio", "sensitivity metric", "all layers", "AWQ", "scale estimation"]


def test_modes_differ_in_colour_and_marker() -> None:
    """Every mode, known or not, has a colour and a marker of its own."""
    styles = mode_style(["int4_asym", "int9_weird", "fp8", "codebook"])
    assert len({color for color, _ in styles.values()}) == len(styles)
    assert len({marker for _, marker in styles.values()}) == len(styles)
