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
from autotune.results.pareto import is_wide
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

    from autotune.evaluation import Direction

DPI = 160
INK = "#1f2328"
MUTED = "#6e7781"
GRID = "#e7e9ec"
LIMIT = "#b3412e"

# Okabe and Ito's colour-blind safe palette (Okabe and Ito, "Color universal design", 2008). Each mode has its own
# marker, too, so that it can be told apart in black and white.
MODES: dict[str, tuple[str, str]] = {
    "int8_asym": ("#D55E00", "s"),
    "int8_sym": ("#CC79A7", "P"),
    "int4_asym": ("#0072B2", "o"),
    "int4_sym": ("#56B4E9", "D"),
    "nf4": ("#009E73", "^"),
    "mxfp4": ("#E69F00", "v"),
    "mixed": ("#6A3D9A", "h"),
}
OTHERS = (
    *(("#7f7f7f", "X"), ("#5b4636", "p"), ("#9a9a00", "<")),
    *(("#444444", ">"), ("#b3446c", "d"), ("#1b7837", "*"), ("#2b4c7e", "8")),
)

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
    "axes.grid": True,
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
    "axes.prop_cycle": "cycler('color', ['#0072B2'])",
    "text.parse_math": False,
}


@dataclass(frozen=True, slots=True)
class Sheet:
    """The size and parts of a figure.

    Attributes:
        width: inches.
        columns: number of small multiples in a row.
        headed: draw title and legend; a page has them in its own text.
    """

    width: float
    columns: int
    headed: bool

    def axes_box(self, height: float, left: float, right: float, bottom: float, top: float) -> Box:
        """Return (left, bottom, width, height) in shares of the figure, from margins in inches."""
        across, up = self.width - left - right, height - bottom - top
        return left / self.width, bottom / height, across / self.width, up / height


Box = tuple[float, float, float, float]
PICTURE = Sheet(9.6, 4, headed=True)
"""A PNG file, or a figure in a notebook."""
SCREEN = Sheet(9.4, 4, headed=False)
"""report.html on a wide screen."""
PHONE = Sheet(4.6, 2, headed=False)
"""report.html on a phone."""


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


def new_figure(width: float, height: float) -> Figure:
    """Create a figure of so many inches on an Agg canvas; pyplot does not know it, and no display is needed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from autotune.reporting.plots.figure import NotebookFigure

    figure = NotebookFigure(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> Path:
    """Write a PNG atomically; the same figure gives the same bytes (no date, no version in the file)."""
    with look(), atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    return path


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


def tidy(axes: Axes, *, grid: Literal["both", "x", "y"] = "both") -> None:
    """Remove tick marks and minor grid lines."""
    axes.tick_params(which="both", length=0, pad=5)
    axes.grid(False)
    axes.grid(True, axis=grid, which="major")


def log_axis(axis: Axis, low: float, high: float) -> None:
    """Set ticks at 1, 2, 5 (over more than three decades: at 1) with plain numbers on a log axis over [low, high]."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    decades = math.log10(high / low)
    subs = (1.0,) if decades > 3.2 else (1.0, 3.0) if decades > 2.2 else (1.0, 2.0, 5.0)
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


def axis_scale(results: StudyResults, name: str, trials: pd.DataFrame) -> Scale:
    """Choose unit, limits and scale for these trials: sizes in MB or GB, log if values span more than tenfold."""
    values = trials[name].to_numpy(dtype=float, na_value=float("nan"))
    metric = results.metrics[name]
    factor, unit = size_unit(float(np.nanmax(values))) if metric.unit == "bytes" else (1.0, metric.unit)
    log = is_wide(values)
    low, high = padded(list(values / factor), log=log)
    if not log and f"{name}_stderr" in trials.columns:
        # Show the error bars to their ends, unless they take more than a quarter of the range on either side.
        errors, room = trials[f"{name}_stderr"].fillna(0).to_numpy(dtype=float) / factor, (high - low) / 4
        low = max(min(low, float(np.nanmin(values / factor - errors)) - room / 10), low - room)
        high = min(max(high, float(np.nanmax(values / factor + errors)) + room / 10), high + room)
    return Scale(name, metric.direction, factor, unit, log, (low, high))


def axis_text(scale: Scale, *, vertical: bool) -> str:
    """Return the axis title: metric, unit, and which way is better."""
    better_up = scale.direction == "maximize"
    arrow = ("↑" if better_up else "↓") if vertical else ("→" if better_up else "←")
    what = sentence("size of openvino_model.bin" if scale.name == "footprint" else label(scale.name))
    unit = f" ({scale.unit})" if scale.unit else ""
    word = ("larger" if better_up else "smaller") if scale.name == "footprint" else "higher" if better_up else "lower"
    return f"{what}{unit}   {arrow} {word} is better"


def in_units(trials: pd.DataFrame, scales: Scales) -> tuple[Any, Any]:
    """Return the trials' x and y in the units of the axes; float64 [n] each."""
    return tuple(  # type: ignore[return-value]
        trials[scale.name].to_numpy(dtype=float, na_value=float("nan")) / scale.factor for scale in scales
    )
