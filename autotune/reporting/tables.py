"""The other tables of a report as text cells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from autotune.common.formatting import DASH, label, number, percent, signed_percent, size, times
from autotune.evaluation import SCORING_CONFIG
from autotune.reporting.front_table import Table, front_cell
from autotune.reporting.text.places import without_folders
from autotune.results.effects import paired_changes
from autotune.results.front.decision import choices_by_size, failures, reason, remedy
from autotune.results.front.held_out import degradation, held_out_metrics, held_out_trials
from autotune.results.front.recommendation import accuracy_metric, recommend
from autotune.results.front.runtime import recommended_setting
from autotune.results.plans import measured_errors, readable
from autotune.results.records import StudyResults

REASON = 400
"""Characters of an error message that a report shows; trials.csv has all of it."""

RUNTIME_NOTE = (
    "The recommended setting of OpenVINO's properties for each model, which export writes. runtime.md has all settings "
    "with their scores and speed."
)


def sizes_table(results: StudyResults) -> Table | None:
    """Return the most accurate trial for each of some round sizes; None if the front is too short."""
    metric, choices = accuracy_metric(results), choices_by_size(results)
    if metric is None or not choices:
        return None
    rows = [
        [
            size(limit),
            *(front_cell(results, trial, column) for column in ("trial", "settings", "footprint")),
            results.score_text(trial, metric),
        ]
        for limit, trial in choices
    ]
    return Table(["at most", "trial", "settings", "footprint", results.heading(metric)], rows, "rrlrr")


def held_out_table(results: StudyResults) -> Table | None:
    """Return the front's scores on the search texts and on the report texts; None without the latter."""
    names, trials = held_out_metrics(results), held_out_trials(results)
    if results.held_out is None or not names or not trials:
        return None
    header, rows = ["trial", "settings"], []
    for name in names:
        header += [f"{results.heading(name)}, search texts", "report texts", "worse by"]
    for trial in trials:
        row = [front_cell(results, trial, column) for column in ("trial", "settings")]
        for name in names:
            change = degradation(results, trial, name)
            row += [
                results.score_text(trial, name),
                results.measurement_text(results.held_out.trials[trial].get(name), name),
                results.measurement_text(change, name),
            ]
        rows.append(row)
    return Table(header, rows, "rl" + "rrr" * len(names))


def runtime_table(results: StudyResults) -> Table | None:
    """Return the recommended runtime setting of each trial of the front; None without a search of runtime settings."""
    chosen = {trial: recommended_setting(results, trial) for trial in results.front}
    found = {
        trial: results.runtime.trials[trial][n] for trial, n in chosen.items() if results.runtime and n is not None
    }
    if not found:
        return None
    names = [name for name in results.objectives if any(name in each.metrics for each in found.values())]
    header = ["trial", "settings", "precision", "KV cache", "dynamic quantization", *map(results.heading, names)]
    rows = [
        [
            *(str(trial), results.records[trial].describe(short=True)),
            *(each.properties.get(name, DASH) for name in SCORING_CONFIG),
            *(results.measurement_text(each.metrics.get(name), name) for name in names),
            *(f"{each.cache_bytes:,}", number(each.tokens_per_second, 1)),
        ]
        for trial, each in found.items()
    ]
    return Table([*header, "bytes per token", "tokens/s"], rows, "rlrrr" + "r" * (len(names) + 2))


def paired_table(results: StudyResults) -> Table | None:
    """Return `paired_changes` of every objective, one row a change; None without pairs."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    pairs: dict[tuple[str, str], int] = {}
    for name in results.objectives:
        for change in paired_changes(results, name):
            key = (label(change.setting), f"{_word(change.before)} → {_word(change.after)}")
            least, most = signed_percent(change.least), signed_percent(change.most)
            text = signed_percent(change.median) + (f" ({least} … {most})" if least != most else "")
            cells.setdefault(key, {})[name] = text
            pairs[key] = max(pairs.get(key, 0), change.pairs)
    if not cells:
        return None
    header = ["setting", "change", "pairs", *(label(name) for name in results.objectives)]
    rows = [
        [*key, str(pairs[key]), *(texts.get(name, DASH) for name in results.objectives)] for key, texts in cells.items()
    ]
    return Table(header, rows, "llr" + "r" * len(results.objectives))


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)


def importances_table(results: StudyResults) -> Table | None:
    """Return the importances of the settings for each objective; None without importances."""
    if not results.importances:
        return None
    names = sorted({name for shares in results.importances.values() for name in shares})
    header = ["setting", *(label(name) for name in results.importances)]
    rows = [
        [label(name), *(percent(100 * s[name]) if name in s else DASH for s in results.importances.values())]
        for name in names
    ]
    return Table(header, rows, "l" + "r" * len(results.importances))


def budget_errors_table(results: StudyResults, plans: Mapping[str, Mapping[str, Any]]) -> Table | None:
    """Return `measured_errors`, the most sensitive weight first; None if nothing was measured."""
    errors = measured_errors(results, plans)
    if not errors:
        return None
    totals: dict[str, float] = {}
    for row in errors.values():
        for name, error in row.items():
            totals[name] = totals.get(name, 0.0) + error
    formats = sorted(totals, key=lambda name: totals[name])
    rows = [
        [readable(weight), *(number(row[name]) if name in row else DASH for name in formats)]
        for weight, row in sorted(errors.items(), key=lambda item: -max(item[1].values(), default=0.0))
    ]
    return Table(["weight", *formats], rows, "l" + "r" * len(formats))


def failures_table(results: StudyResults) -> Table | None:
    """Return the listed trials without scores, with reason and remedy; None without such trials."""
    rows = []
    listed = set(results.listed)
    for record in failures(results):
        if record.number not in listed:
            continue
        why = without_folders(reason(results, record), results)
        why = why if len(why) <= REASON else f"{why[: REASON - 3]}..."
        rows.append(
            [str(record.number), record.describe(), _state(results, record.number, None), why, remedy(results, record)]
        )
    return Table(["trial", "settings", "state", "reason", "remedy"], rows, "rllll") if rows else None


def metrics_table(results: StudyResults) -> Table | None:
    """Return unit, direction, the original's value and meaning of every metric that was scored."""
    rows = []
    for name, metric in results.metrics.items():
        if name in results.trials.columns and results.trials[name].notna().any():
            better = "lower" if metric.direction == "minimize" else "higher"
            value = results.score_text(None, name)
            rows.append([name, results.unit(name) or metric.unit or DASH, better, value, metric.description or DASH])
    return Table(["metric", "unit", "better", "original", "what it is"], rows, "lllrl") if rows else None


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One row of `TrialsTable`; `cells` holds (text, sort key) a column, the key as trials.csv has it."""

    trial: int
    classes: str
    cells: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class TrialsTable:
    """The table of the listed trials; `columns` holds (title, unit, is numeric)."""

    columns: tuple[tuple[str, str, bool], ...]
    rows: tuple[TrialRow, ...]


def trials_table(results: StudyResults) -> TrialsTable:
    """Return the listed trials: settings, sizes, every metric that was scored, times."""
    names = ["footprint", "compression_rate", "bits_per_weight"]
    scored = [name for name in results.metrics if name not in (*names, "int4_percent", "int8_percent")]
    deciding = [name for name in results.deciding if name in scored]
    names += dict.fromkeys((*deciding, *scored, "seconds_compress", "seconds_evaluate"))
    names = [n for n in names if n in results.trials.columns and results.trials[n].notna().any()]
    titles = {"seconds_compress": "compressing", "seconds_evaluate": "scoring", "compression_rate": "rate"}
    columns = [("trial", "", True), ("state", "", False), ("settings", "", False)]
    for name in names:
        unit = "s" if name.startswith("seconds_") else results.unit(name)
        columns.append((titles.get(name, label(name)), unit, True))
    rows, chosen, front = [], recommend(results).trial, set(results.front)
    for trial in results.listed:
        record = results.records[trial]
        state, settings = _state(results, trial, chosen), record.describe(short=True)
        cells = [(str(trial), str(trial)), (state, state), (settings, settings)]
        cells += [_trial_cell(results, trial, name) for name in names]
        flags = {"front": trial in front, "knee": trial == chosen, "unscored": not record.complete}
        rows.append(TrialRow(trial, " ".join(name for name, flag in flags.items() if flag), tuple(cells)))
    return TrialsTable(tuple(columns), tuple(rows))


def _trial_cell(results: StudyResults, trial: int, name: str) -> tuple[str, str]:
    value = results.value(trial, name)
    key = "" if value is None else str(int(value)) if name == "footprint" else repr(value)
    if name == "compression_rate":
        return times(value), key
    if name in ("bits_per_weight", "seconds_compress", "seconds_evaluate"):
        return number(value, 2), key
    return results.score_text(trial, name), key


def _state(results: StudyResults, trial: int, chosen: int | None) -> str:
    record = results.records[trial]
    if trial == chosen != results.knee:
        return "recommended"
    if trial == results.knee:
        return "the knee" if len(results.objectives) > 1 else "the best"
    if trial in results.front:
        return "on the front"
    if record.duplicate_of is not None:
        return f"as trial {record.duplicate_of}"
    if record.complete:
        return "dominated" if trial in results.feasible.index else "outside the limits"
    if record.interrupted:
        return "interrupted"
    states = {"FAIL": "failed", "PRUNED": "not scored"}
    return states.get(record.state, record.state.lower())
