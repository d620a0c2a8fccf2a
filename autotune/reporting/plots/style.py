"""The style of the plots: palette, fonts, axes and their scales, deterministic PNG files."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast

import numpy as np

from autotune.common.files import atomic_write
from autotune.common.formatting import MINUS, label, size_unit
from autotune.common.units import Constraint
from autotune.results.front.pareto import is_wide
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from autotune.evaluation import Direction
    from autotune.reporting.plots.figure import NotebookFigure

DPI = 160
INK = "#1f2328"
MUTED = "#6e7781"
GRID = "#e7e9ec"
LIMIT = "#b3412e"

# Okabe and Ito's colour-blind safe palette (Okabe and Ito, "Color universal design", 2008); its light blue and orange
# are darker here, for a contrast of 3:1 to white. Each mode has its own marker, too, for black and white.
MODES: dict[str, tuple[str, str]] = {
    "int8_asym": ("#D55E00", "s"),
    "int8_sym": ("#CC79A7", "P"),
    "int4_asym": ("#0072B2", "o"),
    "int4_sym": ("#2F93D6", "D"),
    "nf4": ("#009E73", "^"),
    "mxfp4": ("#C98300", "v"),
    "mixed": ("#6A3D9A", "h"),
}
OTHERS = (
    *(("#7f7f7f", "X"), ("#5b4636", "p"), ("#8f8f00", "<")),
    *(("#444444", ">"), ("#b3446c", "d"), ("#1b7837", "*"), ("#2b4c7e", "8")),
)

TICKS = (("size", 0), ("pad", 5))
"""Length of tick marks, and the distance from an axis to its labels, in points."""

LOOK: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.labelsize": 10,
    "axes.edgecolor": "#8c959f",
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    **{f"{axis}tick.{kind}.{what}": size for axis in "xy" for kind in ("major", "minor") for what, size in TICKS},
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "xtick.color": "#8c959f",
    "ytick.color": "#8c959f",
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.frameon": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.hashsalt": "autotune",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,  # journals refuse Type 3
    "axes.prop_cycle": "cycler('color', ['#0072B2'])",
    "text.parse_math": False,
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """The size and parts of a figure.

    Attributes:
        width: inches.
        columns: number of small multiples in a row.
        headed: draw the title and the note; a page and a paper have them in their own text.
        legend: draw the legend: beside the axes of a headed figure, else below them.
        linked: marks are links to the rows of the table of all trials.
    """

    width: float
    columns: int
    headed: bool = False
    legend: bool = False
    linked: bool = False

    @property
    def small(self) -> bool:
        """True if there is no room for the longest labels."""
        return self.width < 5

    def axes_box(self, height: float, left: float, right: float, bottom: float, top: float) -> Box:
        """Return (left, bottom, width, height) in shares of the figure, from margins in inches."""
        across, up = self.width - left - right, height - bottom - top
        return left / self.width, bottom / height, across / self.width, up / height


Box = tuple[float, float, float, float]
PICTURE = Sheet(9.6, 4, headed=True, legend=True)
"""A PNG file, or a figure in a notebook."""
SCREEN = Sheet(9.4, 4, linked=True)
"""report.html on a wide screen."""
PHONE = Sheet(3.6, 2, linked=True)
"""report.html on a phone: 8 points are 11 pixels on a screen of 390 pixels."""
COLUMN = Sheet(3.4, 2, legend=True)
"""An SVG or PDF file for one column of a paper."""


@contextmanager
def look() -> Iterator[None]:
    """Draw with matplotlib's defaults and our style, whatever matplotlibrc the user has; restore theirs at the end."""
    import matplotlib

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(cast("Any", LOOK))
        yield


Draw = TypeVar("Draw", bound=Callable[..., Any])


def styled(draw: Draw) -> Draw:
    """Decorate a function that draws a figure, so that it draws with `look`."""

    @wraps(draw)
    def inside(*args: Any, **kwargs: Any) -> Any:
        with look():
            return draw(*args, **kwargs)

    return cast("Draw", inside)


def new_figure(width: float, height: float) -> NotebookFigure:
    """Create a figure of so many inches on an Agg canvas; pyplot does not know it, and no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from autotune.reporting.plots.figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
}
"""Format of a figure -> the entries to leave out, such as the date."""


def save_figure(figure: Figure, path: Path) -> Path:
    """Write a figure atomically in the format of the suffix; the same figure gives the same bytes.

    An SVG has its texts as outlines, so that it looks the same without the font.
    """
    import matplotlib

    kind = path.suffix[1:]
    with look(), atomic_write(path) as temporary:
        matplotlib.rcParams["svg.fonttype"] = "path"
        figure.savefig(temporary, format=kind, dpi=DPI, metadata=METADATA[kind])
    return path


def contrast(color: str, paper: str = "#ffffff") -> float:
    """Return the contrast of two colours, 1 to 21 (WCAG 2.2, relative luminance of sRGB)."""
    light, dark = sorted((_luminance(color), _luminance(paper)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: str) -> float:
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def tint(color: str, paper: str = "#ffffff") -> str:
    """Return the colour faded towards the paper as far as it keeps a contrast of 3:1."""
    for share in range(60, 0, -5):
        mixed = (
            round((int(color[i : i + 2], 16) * (100 - share) + int(paper[i : i + 2], 16) * share) / 100)
            for i in (1, 3, 5)
        )
        faded = "#{:02x}{:02x}{:02x}".format(*mixed)
        if contrast(faded, paper) >= 3:
            return faded
    return color


def mode_style(modes: Iterable[str]) -> dict[str, tuple[str, str]]:
    """Return mode -> (colour, marker); unknown modes get the spare ones in the order of their names."""
    unknown = sorted(set(modes) - set(MODES))
    return MODES | {mode: OTHERS[position % len(OTHERS)] for position, mode in enumerate(unknown)}


def sentence(text: str) -> str:
    """Return the text with a capital first letter."""
    return text[:1].upper() + text[1:]


def limit_text(limit: Constraint) -> str:
    """Return a limit with mathematical signs, e.g. ``≤ 5%``."""
    return limit.text.replace("<=", "≤").replace(">=", "≥")


def draw_grid(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Draw the major grid lines."""
    axes.grid(True, axis=grid, which="major")


def top_heading(axes: Axes, text: str, *, x: float) -> None:
    """Write the title of y horizontally above the axis, where it always fits; `x` in shares of the axes."""
    axes.set_title(text, loc="left", x=x, y=1, fontsize=9.5, color=INK, pad=9)  # a fixed y saves measuring all labels


def log_axis(axis: Axis, low: float, high: float) -> None:
    """Set ticks at 1, 2, 5 (over more decades: fewer) with plain numbers on a log axis over [low, high]."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(high / low)
    subs: tuple[float, ...] = (1.0,) if decades > 3.2 else (1.0, 3.0) if decades > 2.2 else (1.0, 2.0, 5.0)
    subs = subs if decades > 0.9 else (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    axis.set_major_locator(LogLocator(base=10, subs=subs, numticks=50))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def plain_axis(axis: Axis, ticks: int = 7, *, whole: bool = False) -> None:
    """Set about so many round ticks (`whole`: at whole numbers) without offset notation."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(
        MaxNLocator(nbins=ticks, steps=[1, 2, 5, 10] if whole else [1, 2, 2.5, 5, 10], integer=whole)
    )
    axis.set_major_formatter(FuncFormatter(lambda value, _: _plain(value)))


def _plain(value: float) -> str:
    if value == 0:
        return "0"
    if 1e-5 <= abs(value) < 1e-4:  # one notation along an axis where the figure has room for it
        return f"{value:.8f}".rstrip("0").replace("-", MINUS)
    text = re.sub(r"e([+-])0*", r"e\1", f"{value:.8g}").replace("e+", "e")
    return text.replace("-", MINUS)


def padded(values: Sequence[float], *, log: bool, share: float = 0.08) -> tuple[float, float]:
    """Return axis limits with a margin on both sides; around a single value it is a tenth of that."""
    finite = np.asarray([value for value in values if math.isfinite(value)], dtype=np.float64)
    low, high = float(finite.min()), float(finite.max())
    if log:
        margin = max(math.log10(high / low) * share, 0.05)
        return low / 10**margin, high * 10**margin
    margin = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


@dataclass(frozen=True, slots=True)
class Scale:
    """The axis of one metric: values divided by `factor`, in `unit`, on a log axis or not, within `limits`."""

    name: str
    direction: Direction
    factor: float
    unit: str
    log: bool
    limits: tuple[float, float]


Scales = tuple[Scale, Scale]
"""The scales of x and y."""


def axis_unit(results: StudyResults, name: str, largest: float) -> tuple[float, str]:
    """Return the unit of an axis as (factor, name): sizes in MB or GB, divergences in thousandths of a nat."""
    if results.metrics[name].unit == "bytes":
        return size_unit(largest)
    return results.scale(name), results.unit(name) or results.metrics[name].unit


def axis_scale(results: StudyResults, name: str, trials: pd.DataFrame, *, log: bool | None = None) -> Scale:
    """Choose unit, limits and scale for these trials; `log` None is log if values span more than tenfold."""
    values = trials[name].to_numpy(dtype=float, na_value=float("nan"))
    metric = results.metrics[name]
    factor, unit = axis_unit(results, name, float(np.nanmax(values)))
    log = is_wide(values) if log is None else log
    low, high = padded(list(values / factor), log=log)
    if not log and f"{name}_stderr" in trials.columns:
        # Show the error bars to their ends, unless they take more than a quarter of the range on either side.
        errors, room = trials[f"{name}_stderr"].fillna(0).to_numpy(dtype=float) / factor, (high - low) / 4
        low = max(min(low, float(np.nanmin(values / factor - errors)) - room / 10), low - room)
        high = min(max(high, float(np.nanmax(values / factor + errors)) + room / 10), high + room)
    return Scale(name, metric.direction, factor, unit, log, (low, high))


def axis_text(scale: Scale, *, vertical: bool, small: bool = False) -> str:
    """Return the axis title: metric, unit, and which way is better; `small` for a narrow figure."""
    better_up = scale.direction == "maximize"
    arrow = ("↑" if better_up else "↓") if vertical else ("→" if better_up else "←")
    long = "size" if small else "size of the weight files"
    what = sentence(long if scale.name == "footprint" else label(scale.name))
    unit = f" ({scale.unit})" if scale.unit else ""
    word = ("larger" if better_up else "smaller") if scale.name == "footprint" else "higher" if better_up else "lower"
    return f"{what}{unit}   {arrow} better" if small else f"{what}{unit}   {arrow} {word} is better"


def in_units(trials: pd.DataFrame, scales: Scales) -> tuple[Any, Any]:
    """Return the trials' x and y in the units of the axes; float64 [n] each."""
    return tuple(  # type: ignore[return-value]
        trials[scale.name].to_numpy(dtype=float, na_value=float("nan")) / scale.factor for scale in scales
    )
