"""The trials of a study as a pandas DataFrame: the columns of trials.csv."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from autotune.compression.formats.table import FORMATS
from autotune.compression.settings import SETTINGS
from autotune.results.records import DEPLOYED_SOURCES

if TYPE_CHECKING:
    import pandas as pd

    from autotune.evaluation import Measurement
    from autotune.results.records import DeployedScores, StudyResults, TrialRecord

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
NAMED = (
    *("trial", "state", "plan"),
    *SETTING_COLUMNS,
    *SIZE_COLUMNS,
    *MEASURE_COLUMNS,
    *TIME_COLUMNS,
    *("on_front", "error"),
)
"""The columns that every study has, in their order."""

BOOKKEEPING = (
    *("feasible", "knee", "duplicate_of", "origin", "scored_on", "tokens"),
    *("variants_computed", "variants_reused", "started", "finished"),
)

BOOLEANS = {"on_front", "knee", "feasible", *(name for name, info in SETTINGS.items() if info.kind == "switch")}
INTEGERS = {"trial", "footprint", "duplicate_of", "tokens", "variants_computed", "variants_reused"}
INTEGERS |= {name for name, info in SETTINGS.items() if info.kind == "integer"}
TEXTS = {"state", "plan", "candidate", "error", "origin", "ignored_scope", "scored_on"}
TEXTS |= {name for name, info in SETTINGS.items() if info.kind == "text"}


def effective_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the settings that do not apply to the mode, and fill in the default group size.

    int8 has one group a row and neither ratio, metric nor algorithms; the other modes have a default group size.
    """
    mode = str(settings.get("mode"))
    effective = dict(settings)
    if mode.startswith("int8") or effective.get("allocation", "ratio") != "ratio":
        return {key: value for key, value in effective.items() if key not in SETTING_COLUMNS or key == "mode"}
    if effective.get("group_size") is None and "mode" in settings:
        effective["group_size"] = FORMATS[mode].group_size if mode in FORMATS else None
    if effective.get("ratio") == 1:
        effective["sensitivity_metric"] = None
    return effective


def build_frame(records: Mapping[int, TrialRecord], objectives: Iterable[str], metrics: Iterable[str]) -> pd.DataFrame:
    """Build the frame: `NAMED`, then further metrics, advanced settings, `BOOKKEEPING` and `<metric>_stderr`.

    Text is `str`, settings and sizes are nullable (`Int64`, `boolean`), measured numbers `float64` with NaN. Every
    named column exists even if no trial has a value.

    Args:
        records: trial number -> record.
        objectives: names whose values come from the study itself.
        metrics: every metric that the study declares, also those without a value.
    """
    import pandas as pd

    objectives = tuple(objectives)
    rows = [_cells(record, objectives) for record in records.values()]
    scored = {name: None for record in records.values() for name in record.metrics}
    further = [name for name in dict.fromkeys((*metrics, *scored, *objectives)) if name not in NAMED]
    present = {name: None for cells in rows for name in cells if not name.endswith("_stderr")}
    advanced = [name for name in present if name not in (*NAMED, *further, *BOOKKEEPING)]
    errors = [name for name in (*MEASURE_COLUMNS, *further) if any(f"{name}_stderr" in cells for cells in rows)]
    columns = [*NAMED, *further, *advanced, *BOOKKEEPING, *(f"{name}_stderr" for name in errors)]
    return pd.DataFrame(
        {name: _column(name, [cells.get(name) for cells in rows]) for name in columns},
        index=pd.Index([cells["trial"] for cells in rows], name="number"),
    )


def _cells(record: TrialRecord, objectives: Iterable[str]) -> dict[str, Any]:
    """Return one trial's cells, without feasible, on_front and knee."""
    cells: dict[str, Any] = {
        "trial": record.number,
        "state": "INTERRUPTED" if record.interrupted else record.state,
        "plan": record.plan,
        **{name: value for name, value in record.settings.items() if not isinstance(value, (list, dict))},
        "footprint": record.footprint,
        **{name: record.numbers.get(name) for name in (*SIZE_COLUMNS[1:], *TIME_COLUMNS)},
        "error": record.error_text,
        "duplicate_of": record.duplicate_of,
        "origin": record.origin,
        "scored_on": _scored_on(record),
        "tokens": sum(record.tokens.values()) if record.tokens else None,
        "ignored_scope": "; ".join(record.settings.get("ignored_scope") or ()) or None,
        "variants_computed": record.numbers.get("variants_computed"),
        "variants_reused": record.numbers.get("variants_reused"),
        "started": record.started,
        "finished": record.finished,
    }
    for name, measurement in record.metrics.items():
        if name != "footprint":
            cells[name] = measurement.value
        cells[f"{name}_stderr"] = measurement.stderr
    cells.update({name: value for name, value in record.values.items() if name in objectives and name != "footprint"})
    return cells


def _scored_on(record: TrialRecord) -> str | None:
    """Return which of the texts the trial was scored on; a stopped trial has no scores in the table."""
    if record.scored_sequences is not None:
        return f"first {record.scored_sequences} sequences"
    if record.windows is not None and record.metrics:
        return f"first {record.windows} sequences"
    return "all texts" if record.metrics else None


def _column(name: str, values: list[Any]) -> Any:
    import pandas as pd

    if name in BOOLEANS:
        return pd.array(values, dtype="boolean")
    if name in INTEGERS:
        return pd.array([None if value is None else int(value) for value in values], dtype="Int64")
    if name in ("started", "finished"):
        return pd.array(values, dtype="datetime64[us]")
    if name in TEXTS or any(isinstance(value, (str, bool)) for value in values):
        return pd.array([None if value is None else str(value) for value in values], dtype="str")
    return pd.array([float("nan") if value is None else float(value) for value in values], dtype="float64")


def add_held_out(frame: pd.DataFrame, scores: Mapping[int, Mapping[str, Measurement]]) -> None:
    """Add ``report_<metric>`` and its ``_stderr``, the scores on the report texts.

    Args:
        frame: of `build_frame`.
        scores: trial number -> metric -> score.
    """
    for name in dict.fromkeys(name for metrics in scores.values() for name in metrics):
        for column, part in ((f"report_{name}", "value"), (f"report_{name}_stderr", "stderr")):
            values = [getattr(scores.get(int(trial), {}).get(name), part, None) for trial in frame["trial"]]
            frame[column] = [float("nan") if value is None else float(value) for value in values]


def add_deployed(frame: pd.DataFrame, deployed: DeployedScores) -> None:
    """Add ``deployed_<metric>`` with its ``_stderr``, and by how much activations and KV cache alone change the score.

    The columns of `DEPLOYED_SOURCES` are ``deployed_<metric>_<source>``, the score with that error alone minus the
    score of the search. They and the error of the weights add up to the deployed score if the errors are independent.
    """
    names = {name: None for parts in deployed.trials.values() for name in parts.get("deployed", {})}
    for name in names:
        columns: dict[str, list[float]] = {f"deployed_{name}": [], f"deployed_{name}_stderr": []}
        columns |= {f"deployed_{name}_{source}": [] for source in DEPLOYED_SOURCES}
        for number, scored in zip(frame["trial"], frame[name], strict=True):
            parts = deployed.trials.get(int(number), {})
            whole = parts.get("deployed", {}).get(name)
            columns[f"deployed_{name}"].append(_number(whole and whole.value))
            columns[f"deployed_{name}_stderr"].append(_number(whole and whole.stderr))
            for source in DEPLOYED_SOURCES:
                alone = parts.get(source, {}).get(name)
                columns[f"deployed_{name}_{source}"].append(_number(alone and alone.value - float(scored)))
        for column, values in columns.items():
            frame[column] = values


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)


def front_frame(results: StudyResults, *, original: bool = False) -> pd.DataFrame:
    """Return the rows of the front's trials, the largest model first.

    Args:
        results: the study.
        original: add the original model as the first row, with the mode ``original`` and no trial number.
    """
    import pandas as pd

    front = results.trials.loc[list(results.front)]
    if not original or results.original is None:
        return front
    cells: dict[str, Any] = {"mode": "original", "int4_percent": 0.0, "int8_percent": 0.0}
    for name in dict.fromkeys((*SIZE_COLUMNS, *results.metrics, *results.original.metrics)):
        score = results.original_score(name)
        if score is not None:
            cells |= {name: score.value, f"{name}_stderr": score.stderr}
    row = pd.DataFrame([cells], columns=front.columns).astype(dict(front.dtypes))
    return pd.concat([row.set_axis(pd.Index(["original"], name="number")), front])


def answers_frame(record: TrialRecord) -> pd.DataFrame:
    """Return the answers of a trial that differ most from the original's: prompt, original, answer and score."""
    import pandas as pd

    rows = list((record.answers or {}).get("different") or ())
    return pd.DataFrame(rows, columns=["prompt", "original", "answer", "score"])
