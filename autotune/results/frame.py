"""A study's trials as one pandas DataFrame: the columns of trials.csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import SETTINGS

if TYPE_CHECKING:
    import pandas as pd

    from autotune.results.types import Score, TrialRecord

__all__ = ["MEASURE_COLUMNS", "SETTING_COLUMNS", "add_unseen", "build_frame", "effective_settings"]

SETTING_COLUMNS = tuple(name for name, info in SETTINGS.items() if info.search_order)
SIZE_COLUMNS = ("footprint", "bits_per_weight", "compression_rate", "int4_percent", "int8_percent")
MEASURE_COLUMNS = (
    "similarity",
    "fdt",
    "fdt_norm",
    "sdt",
    "sdt_norm",
    "kl_divergence",
    "top1_agreement",
    "answer_kl_divergence",
    "answer_top1_agreement",
    "perplexity",
    "perplexity_increase",
    "relative_error",
)
TIME_COLUMNS = ("seconds_compress", "seconds_evaluate")

BOOLEANS = {"on_front", "knee", "feasible", *(name for name, info in SETTINGS.items() if info.kind == "switch")}
INTEGERS = {"trial", "footprint", "duplicate_of", "variants_computed", "variants_reused"}
INTEGERS |= {name for name, info in SETTINGS.items() if info.kind == "integer"}
TEXTS = {"state", "plan", "error", "origin", "ignored_scope"}
TEXTS |= {name for name, info in SETTINGS.items() if info.kind == "text"}


def effective_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings with what does not apply to the mode left out and the group size that was in force.

    int8 has one group a row and neither ratio, metric nor toggles; the other modes have a default group size.
    """
    mode = str(settings.get("mode"))
    effective = dict(settings)
    if mode.startswith("int8") or effective.get("allocation") == "budget":
        return {key: value for key, value in effective.items() if key not in SETTING_COLUMNS or key == "mode"}
    if effective.get("group_size") is None and "mode" in settings:
        effective["group_size"] = FORMATS[mode].group_size if mode in FORMATS else None
    if effective.get("ratio") == 1:
        effective["sensitivity_metric"] = None
    return effective


def row(record: TrialRecord, objectives: Iterable[str]) -> dict[str, Any]:
    """One trial's cells, without the verdicts (feasible, on_front, knee)."""
    cells: dict[str, Any] = {
        "trial": record.number,
        "state": record.state,
        "plan": record.plan,
        **{name: value for name, value in record.settings.items() if not isinstance(value, (list, dict))},
        "footprint": record.footprint,
        **{name: record.numbers.get(name) for name in (*SIZE_COLUMNS[1:], *TIME_COLUMNS)},
        "error": record.error_text,
        "duplicate_of": record.duplicate_of,
        "origin": record.origin,
        "ignored_scope": "; ".join(record.settings.get("ignored_scope") or ()) or None,
        "variants_computed": record.numbers.get("variants_computed"),
        "variants_reused": record.numbers.get("variants_reused"),
        "started": record.started,
        "finished": record.finished,
    }
    for name, measured in record.metrics.items():
        if name != "footprint":
            cells[name] = measured.value
        cells[f"{name}_stderr"] = measured.stderr
    cells.update({name: value for name, value in record.values.items() if name in objectives and name != "footprint"})
    return cells


def build_frame(records: Mapping[int, TrialRecord], objectives: Iterable[str], metrics: Iterable[str]) -> pd.DataFrame:
    """All trials, by number: DESIGN's named columns, then further metrics and bookkeeping, then `<metric>_stderr`.

    Text is `str`, settings and sizes are nullable (`Int64`, `boolean`), measured numbers `float64` with NaN; every
    named column is there even when no trial has a value.

    Args:
        records: trial number -> record.
        objectives: names whose values come from the study itself.
        metrics: every metric that the study declares, also those no trial has.
    """
    import pandas as pd

    objectives = tuple(objectives)
    rows = [row(record, objectives) for record in records.values()]
    named = (
        "trial",
        "state",
        "plan",
        *SETTING_COLUMNS,
        *SIZE_COLUMNS,
        *MEASURE_COLUMNS,
        *TIME_COLUMNS,
        "on_front",
        "error",
    )
    measured = {name: None for record in records.values() for name in record.metrics}
    further = [name for name in dict.fromkeys((*metrics, *measured, *objectives)) if name not in named]
    present = {name: None for cells in rows for name in cells if not name.endswith("_stderr")}
    book = ["feasible", "knee", "duplicate_of", "origin", "variants_computed", "variants_reused", "started", "finished"]
    advanced = [name for name in present if name not in (*named, *further, *book)]
    scored = [name for name in (*MEASURE_COLUMNS, *further) if any(f"{name}_stderr" in cells for cells in rows)]
    columns = [*named, *further, *advanced, *book, *(f"{name}_stderr" for name in scored)]

    return pd.DataFrame(
        {name: _column(pd, name, [cells.get(name) for cells in rows]) for name in columns},
        index=pd.Index([cells["trial"] for cells in rows], name="number"),
    )


def add_unseen(frame: pd.DataFrame, scores: Mapping[int, Mapping[str, Score]]) -> None:
    """Add ``report_<metric>`` and its ``_stderr``: the scores on the report texts, trial number -> metric -> score."""
    for name in dict.fromkeys(name for found in scores.values() for name in found):
        known = {trial: found[name] for trial, found in scores.items() if name in found}
        for column, part in ((f"report_{name}", "value"), (f"report_{name}_stderr", "stderr")):
            values = [getattr(known.get(int(trial)), part, None) for trial in frame["trial"]]
            frame[column] = [float("nan") if value is None else float(value) for value in values]


def _column(pd: Any, name: str, values: list[Any]) -> Any:
    index = None
    if name in BOOLEANS:
        return pd.array(values, dtype="boolean")
    if name in INTEGERS:
        return pd.array([None if value is None else int(value) for value in values], dtype="Int64")
    if name in ("started", "finished"):
        return pd.array(values, dtype="datetime64[us]")
    texts = name in TEXTS or any(isinstance(value, (str, bool)) for value in values)
    if texts:
        return pd.array([None if value is None else str(value) for value in values], dtype="str")
    return pd.Series(
        [float("nan") if value is None else float(value) for value in values], index=index, dtype="float64"
    ).array
