"""Scores of one model by the name of the metric."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from autotune.evaluation.protocol import Measurement

if TYPE_CHECKING:
    import pandas as pd


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

    def __init__(self, measurements: Mapping[str, Measurement]) -> None:
        self._measurements = dict(measurements)

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
        from autotune.common.formatting import score

        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {score(m.value, m.stderr, name=name)}" for name, m in self.items())

    def _repr_html_(self) -> str:
        return str(self.to_frame().to_html())
