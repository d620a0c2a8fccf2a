"""Several studies as one page for a paper: settings by model, the best within each size, and geometric means.

A geometric mean weighs the models alike, whatever the size of their scores. Its standard error follows from those of
the scores, to first order: se(ln g) = sqrt(sum((se_i / x_i)²)) / n. It does not cover the choice of models.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from autotune.common.formatting import DASH
from autotune.compression.describe import describe_settings
from autotune.evaluation import Measurement
from autotune.reporting.compare import Comparison, differing_texts
from autotune.reporting.folder import write_text
from autotune.reporting.front_table import POINTS, Table, latex_float, points
from autotune.reporting.html.drawings import theme_css
from autotune.reporting.html.page import template
from autotune.reporting.html.svg import inline_svg
from autotune.reporting.plots.compare import comparison_figure
from autotune.results.front.decision import baseline
from autotune.results.front.recommendation import most_accurate
from autotune.results.records import StudyResults

MEAN = "geometric mean"
FURTHER = ("similarity", "perplexity_increase")
"""Metrics with a table of their own, beside the one that the studies compare by."""


def geometric_mean(values: Sequence[Measurement]) -> Measurement | None:
    """Return the geometric mean with its standard error; None if a value is not positive.

    The error is None if one of the values has none.
    """
    if not values or any(each.value <= 0 for each in values):
        return None
    mean = math.exp(sum(math.log(each.value) for each in values) / len(values))
    if any(each.stderr is None for each in values):
        return Measurement(mean, None)
    relative = math.sqrt(sum(((each.stderr or 0.0) / each.value) ** 2 for each in values)) / len(values)
    return Measurement(mean, mean * relative)


def mean_score(values: Sequence[Measurement], unit: str) -> Measurement | None:
    """Return the geometric mean of scores; of changes in percent, that of the ratios, as a change in percent."""
    if unit != "%":
        return geometric_mean(values)
    ratios = [Measurement(1 + v.value / 100, None if v.stderr is None else v.stderr / 100) for v in values]
    mean = geometric_mean(ratios)
    if mean is None:
        return None
    return Measurement(100 * (mean.value - 1), None if mean.stderr is None else 100 * mean.stderr)


def settings_key(study: StudyResults, trial: int) -> str:
    """Return a text that is equal for equal settings in all studies."""
    return json.dumps(dict(study.records[trial].settings), sort_keys=True, default=list)


def shared_settings(comparison: Comparison, *, short: bool = False) -> dict[str, list[int]]:
    """Return label -> trial of each study, for the settings that every study scored; the largest models first.

    With `short` the labels are short, as for the columns of a paper.
    """
    found: list[dict[str, int]] = []
    for study in comparison.studies:
        trials: dict[str, int] = {}
        for number, record in study.records.items():
            if record.complete:
                trials.setdefault(settings_key(study, number), number)
        found.append(trials)
    keys = [key for key in found[0] if all(key in trials for trials in found)]
    by_key = {key: [trials[key] for trials in found] for key in keys}
    ordered = sorted(keys, key=lambda key: (_rate(comparison, by_key[key]), key))
    labels = {key: describe_settings(json.loads(key), short=short) for key in ordered}
    for key in ordered:
        metric = json.loads(key).get("sensitivity_metric")
        if list(labels.values()).count(labels[key]) > 1 and metric:
            labels[key] += f", {metric}"
    return {labels[key]: by_key[key] for key in ordered}


def _rate(comparison: Comparison, trials: Sequence[int | None]) -> float:
    """Return the geometric mean of the compression rates."""
    rates = _measured(comparison, trials, "compression_rate")
    mean = None if rates is None else geometric_mean(rates)
    return math.inf if mean is None else mean.value


def _score(study: StudyResults, trial: int | None, name: str) -> Measurement | None:
    value = None if trial is None else study.value(trial, name)
    return None if trial is None or value is None else Measurement(value, study.stderr(trial, name))


def _measured(comparison: Comparison, trials: Sequence[int | None], name: str) -> list[Measurement] | None:
    """Return the scores of one trial of each study; None if one is missing."""
    scores = [_score(study, trial, name) for study, trial in zip(comparison.studies, trials, strict=True)]
    found = [each for each in scores if each is not None]
    return found if len(found) == len(scores) else None


def is_worth_showing(comparison: Comparison, trials: Sequence[int]) -> bool:
    """Return True if a trial is on the front of its study, or the baseline of its study."""
    return any(t in (*s.front, baseline(s)) for s, t in zip(comparison.studies, trials, strict=True))


def settings_table(comparison: Comparison, metric: str, *, short: bool = False) -> Table:
    """Return settings by model with the geometric means, for the settings that every study scored and a front has."""
    shared = shared_settings(comparison, short=short)
    shown = {name: trials for name, trials in shared.items() if is_worth_showing(comparison, trials)}
    return _table(comparison, metric, "settings", shown.items())


def sizes_table(comparison: Comparison, metric: str) -> Table:
    """Return the score of the most accurate model of each front from a compression rate on, by model.

    The rates are those that at least one front spans, in steps of 1, or of 0.5 if there are few.
    """
    rates = {study: [study.value(n, "compression_rate") or 0.0 for n in study.front] for study in comparison.studies}
    positive = [rate for each in rates.values() for rate in each if rate > 0]
    low, high = (min(positive), max(positive)) if positive else (1.0, 0.0)
    step = 1.0 if high - low >= 3 else 0.5
    limits = [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
    rows = []
    for limit in limits:
        within = [
            most_accurate(study, [n for n, rate in zip(study.front, rates[study], strict=True) if rate >= limit])
            for study in comparison.studies
        ]
        rows.append((f"at least {limit:g}x", within))
    return _table(comparison, metric, "compression rate", rows)


def _table(comparison: Comparison, metric: str, first: str, rows: Iterable[tuple[str, Sequence[int | None]]]) -> Table:
    """Return a row for each label with one trial of each study, and the geometric means of score and rate."""
    first_study = comparison.studies[0]
    unit = first_study.metrics[metric].unit

    def cell(measured: Measurement | None) -> str:
        return first_study.measurement_text(measured, metric)

    cells = []
    for name, trials in rows:
        scores = (_score(study, trial, metric) for study, trial in zip(comparison.studies, trials, strict=True))
        row = [name, *map(cell, scores)]
        measured, rate = _measured(comparison, trials, metric), _rate(comparison, trials)
        row.append(cell(None if measured is None else mean_score(measured, unit)))
        cells.append([*row, DASH if math.isinf(rate) else f"{rate:.2f}x"])
    header = [first, *comparison.names, MEAN, "mean compression rate"]
    return Table(header, cells, "l" + "r" * (len(header) - 1))


def shared_metrics(comparison: Comparison) -> list[str]:
    """Return the metrics with tables: the one that the studies compare by first."""
    others = [name for name in FURTHER if name != comparison.metric]
    scored = [name for name in others if all(study.has_scores(name) for study in comparison.studies)]
    return [*([] if comparison.metric is None else [comparison.metric]), *scored]


PLUS_MINUS = re.compile(r"([\d.]+) ± ([\d.]+)")


def _in_brackets(found: re.Match[str]) -> str:
    """Write a score as papers do: ``2.598 ± 0.052`` is ``2.598(52)``."""
    return f"{found[1]}({found[2].replace('.', '').lstrip('0')})"


def settings_latex(comparison: Comparison, metric: str) -> str:
    """Write `settings_table` as floats that fit an article, each with as many models as fit, and the means last."""
    table = settings_table(comparison, metric, short=True)
    names = [name.rpartition("/")[2] for name in table.header]
    rows = [[PLUS_MINUS.sub(_in_brackets, cell) for cell in row] for row in table.rows]
    table = Table([*names[:-2], "geom. mean", "mean rate"], rows, table.align)
    parts: list[list[int]] = []
    for column in range(1, len(names) - 2):
        if parts and points(_columns(table, [*parts[-1], column])) <= POINTS:
            parts[-1].append(column)
        else:
            parts.append([column])
    score_name = comparison.studies[0].heading(metric).replace("1e-3", "0.001")
    caption = f"{score_name} by settings and model, with geometric means over the models. In brackets: the standard "
    caption += "error of the last digits."
    labels = [f"tab:settings{f'-{number}' if len(parts) > 1 else ''}" for number in range(1, len(parts) + 1)]
    return "\n".join(
        latex_float(_columns(table, part), caption, name) for part, name in zip(parts, labels, strict=True)
    )


def _columns(table: Table, models: Sequence[int]) -> Table:
    """Keep the first column, some of the models, and the two means."""
    kept = [0, *models, len(table.header) - 2, len(table.header) - 1]
    rows = [[row[position] for position in kept] for row in table.rows]
    return Table([table.header[position] for position in kept], rows, "".join(table.align[i] for i in kept))


def settings_csv(comparison: Comparison) -> str:
    """Write all shared settings, one row a setting, study and metric: value, standard error, compression rate."""
    import pandas as pd

    rows = [
        (name, study_name, trial, metric, study.value(trial, metric), study.stderr(trial, metric), rate)
        for name, trials in shared_settings(comparison).items()
        for study_name, study, trial in zip(comparison.names, comparison.studies, trials, strict=True)
        for rate in (study.value(trial, "compression_rate"),)
        for metric in shared_metrics(comparison)
    ]
    columns = ["settings", "study", "trial", "metric", "value", "stderr", "compression_rate"]
    text = pd.DataFrame(rows, columns=columns).to_csv(index=False, lineterminator="\n")
    assert isinstance(text, str)
    return text


def write_report(comparison: Comparison, folder: Path) -> None:
    """Write compare.html, compare-settings.tex and compare-settings.csv; the same studies give the same bytes."""
    shared, metrics = shared_settings(comparison), shared_metrics(comparison)
    shown = sum(is_worth_showing(comparison, trials) for trials in shared.values())
    parts = []
    for metric in metrics:
        meaning = comparison.studies[0].metrics[metric]
        parts.append(
            {
                "title": comparison.studies[0].heading(metric),
                "better": "lower" if meaning.direction == "minimize" else "higher",
                "settings": settings_table(comparison, metric) if shown else None,
                "sizes": sizes_table(comparison, metric),
            }
        )
    figure = comparison_figure(comparison.names, comparison.studies, comparison.metric)
    page = template("across.html").render(
        names=comparison.names,
        parts=parts,
        hidden=len(shared) - shown,
        differing=differing_texts(comparison.studies),
        drawing="" if figure is None else inline_svg(figure, "compare", alternative="The fronts"),
        theme=theme_css(),
    )
    write_text(folder / "compare.html", page)
    write_text(folder / "compare-settings.csv", settings_csv(comparison))
    if metrics and shown:
        write_text(folder / "compare-settings.tex", settings_latex(comparison, metrics[0]))
