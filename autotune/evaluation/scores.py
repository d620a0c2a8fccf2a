"""Scores of one model by the name of the metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from autotune.evaluation.protocol import Measurement, Metric

if TYPE_CHECKING:
    import pandas as pd

FOOTPRINT = Metric("minimize", "bytes", "size of the weight files: openvino_model.bin, or those of all IRs")
RELATIVE_ERROR = Metric("minimize", "%", "mean relative error of similarity and perplexity against the original", 0.0)
RELATIVE_TO = ("similarity", "perplexity")
"""The metrics of which relative_error is the mean; at least one must be measured."""


class Scores(Mapping[str, Measurement]):
    """Measurements of one model by the name of the metric, in the order of the evaluators.

    Each `autotune.evaluation.Measurement` has ``value``, and ``stderr``, its standard error in the same unit, or None.
    The unit is that of the metric: nats per token for divergences, % for increases. `autotune evaluators` lists them.

    Example:
        >>> import autotune
        >>> small = autotune.compress("examples/demo/model", progress=False)
        >>> scores = small.evaluate({"perplexity": {"path": "examples/demo/search.txt", "samples": 2}})
        >>> scores["kl_divergence"].value < 0.001
        True
        >>> list(scores.to_frame().columns)
        ['value', 'stderr']
    """

    def __init__(
        self,
        measurements: Mapping[str, Measurement],
        *,
        original: Mapping[str, Measurement] | None = None,
        metrics: Mapping[str, Metric] | None = None,
        scored: Mapping[str, str] | None = None,
    ) -> None:
        """Collect the scores.

        Args:
            measurements: of the model.
            original: the original's.
            metrics: the meaning of each metric, for its unit.
            scored: evaluator -> what it scored, such as the number of tokens.
        """
        self._measurements = dict(measurements)
        self.original, self.metrics, self.scored = dict(original or {}), dict(metrics or {}), dict(scored or {})

    def __getitem__(self, name: str) -> Measurement:
        return self._measurements[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._measurements)

    def __len__(self) -> int:
        return len(self._measurements)

    def to_frame(self) -> pd.DataFrame:
        """Return a DataFrame with the columns ``value`` and ``stderr``, float64, indexed by the metric."""
        import pandas as pd

        rows = {name: (m.value, float("nan") if m.stderr is None else m.stderr) for name, m in self.items()}
        return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "stderr"]).rename_axis("metric")

    def as_dict(self) -> dict[str, dict[str, float | None]]:
        """Convert to plain data: metric -> ``value`` and ``stderr``."""
        return {name: {"value": m.value, "stderr": m.stderr} for name, m in self.items()}

    def __repr__(self) -> str:
        rows = [["metric", "model", "original", "difference", "unit"], *(self._row(name) for name in self)]
        used = [place for place in range(len(rows[0])) if any(row[place] for row in rows[1:])] or [0]
        widths = [max(len(row[place]) for row in rows) for place in used]
        lines = ["  ".join(row[p].ljust(w) for p, w in zip(used, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, *(f"{name}: {what}" for name, what in self.scored.items())])

    def _row(self, name: str) -> list[str]:
        """Format a metric's name, score, the original's score, the difference with its standard error, and the unit."""
        from autotune.common.formatting import MINUS, is_missing, printed_unit, score

        measured, original, metric = self[name], self.original.get(name), self.metrics.get(name)
        scale, unit = printed_unit("" if metric is None else metric.unit)
        error = None if measured.stderr is None or is_missing(measured.stderr) else measured.stderr / scale

        def text(value: float, error: float | None) -> str:
            return score(value / scale, error, name=name, metric=metric)

        if original is None:
            return [name, text(measured.value, error), "", "", unit]
        # The error belongs to the difference: it comes from the differences on the same texts.
        change = text(measured.value - original.value, error)
        change = change.replace("-", MINUS) if change.startswith("-") else f"+{change}"
        value = text(measured.value, error).partition(" ±")[0]
        percent = "%" if metric is not None and metric.unit == "%" else ""
        decimals = len(value.rstrip("%").partition(".")[2])
        return [name, value.rstrip("%") + percent, f"{original.value / scale:.{decimals}f}{percent}", change, unit]

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html())
