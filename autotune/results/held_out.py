"""How the front does on texts that the search has not seen: by how much its scores fall (the winner's curse)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from autotune.common.formatting import DASH, label, markdown_table, score
from autotune.compression.describe import describe_settings
from autotune.results.decision import accuracy_metric
from autotune.results.pareto import front_indices
from autotune.results.types import Score, StudyResults

__all__ = ["fall", "overtaken", "unseen_markdown", "unseen_rows", "unseen_sentences", "unseen_table"]

TITLE = "On texts that the search has not seen"


def fall(results: StudyResults, trial: int, name: str) -> Score | None:
    """By how much a trial's metric is worse on the report texts, in the metric's unit; below 0 where it is better.

    The standard error takes both scores as independent, as the texts are disjoint.
    """
    known = results.unseen.trials.get(trial, {}) if results.unseen else {}
    before, after = results.value(trial, name), known.get(name)
    if before is None or after is None:
        return None
    sign = 1.0 if results.metrics[name].direction == "minimize" else -1.0
    error = results.stderr(trial, name)
    both = None if error is None or after.stderr is None else math.hypot(error, after.stderr)
    return Score(sign * (after.value - before), both)


def shown_metrics(results: StudyResults) -> list[str]:
    """The objectives that were scored on the report texts; without any, the metric that stands for accuracy."""
    measured = {name for scores in results.unseen.trials.values() for name in scores} if results.unseen else set()
    names = [name for name in results.objectives if name in measured]
    other = accuracy_metric(results)
    return names or ([other] if other in measured and other is not None else [])


def scored(results: StudyResults) -> list[int]:
    """The front's trials that have scores on the report texts, in the front's order."""
    return [trial for trial in results.front if results.unseen and results.unseen.trials.get(trial)]


def unseen_rows(results: StudyResults) -> tuple[list[str], list[list[str]], str]:
    """Header, rows and alignment of the table; no rows where nothing was scored."""
    names = shown_metrics(results)
    header = ["trial", "settings"]
    for name in names:
        header += [f"{label(name)}, search texts", "report texts", "worse by"]
    rows = []
    for trial in scored(results) if names else []:
        assert results.unseen is not None
        row = [str(trial), describe_settings(results.records[trial].settings, short=True)]
        for name in names:
            metric, after, lost = (
                results.metrics[name],
                results.unseen.trials[trial].get(name),
                fall(results, trial, name),
            )
            row.append(score(results.value(trial, name), results.stderr(trial, name), name=name, metric=metric))
            row.append(DASH if after is None else score(after.value, after.stderr, name=name, metric=metric))
            row.append(DASH if lost is None else score(lost.value, lost.stderr, name=name, metric=metric))
        rows.append(row)
    return header, rows, "rl" + "rrr" * len(names)


def unseen_table(results: StudyResults) -> str:
    """`unseen_rows` as Markdown."""
    return markdown_table(*unseen_rows(results))


def unseen_sentences(results: StudyResults) -> list[str]:
    """What the table says, and what it is worth; nothing where nothing was scored."""
    trials, names = scored(results), shown_metrics(results)
    if not trials or not names or results.unseen is None:
        return []
    found = [_mean_fall(results, trials, name) for name in names]
    found.append(
        "The best of many trials looks better on the texts that it was chosen by than it is. What all trials share in "
        "this table is the other text's; what one of them has beyond its error was luck."
    )
    gone = overtaken(results)
    if gone:
        said = "; ".join(f"{trial} is beaten by {other}" for trial, other in gone.items())
        found.append(f"By these scores no longer on the front: {said}.")
    elif len(trials) > 1:
        found.append("By these scores, too, every one of them is on the front.")
    found.append(disjoint_sentence(results.unseen.overlaps))
    return [*found, *(f"No report text for {note}." for note in results.unseen.notes)]


def _mean_fall(results: StudyResults, trials: list[int], name: str) -> str:
    """In percent of the search's score where there is one; in the metric's unit for a share, which is near 1."""
    lost = {trial: fall(results, trial, name) for trial in trials}
    metric = results.metrics[name]
    relative = metric.perfect == 0.0 or metric.perfect is None
    values = []
    for trial, each in lost.items():
        before = results.value(trial, name)
        if each is not None and before:
            values.append(100 * each.value / abs(before) if relative else each.value)
    if not values:
        return f"{label(name)} could not be compared."
    mean = float(np.mean(values))

    def said(value: float) -> str:
        amount = f"{abs(value):.1f}%" if relative else f"{abs(value):.4f}"
        return f"{amount} {'worse' if value > 0 else 'better'}"

    ends = f"{said(min(values))} to {said(max(values))}"
    text = f"On the report texts the front's {label(name)} is {said(mean)} in the mean"
    return f"{text} ({ends})." if len(values) > 1 else f"{text}."


def overtaken(results: StudyResults) -> dict[int, int]:
    """Trial of the front -> the one of it that beats it by the scores on the report texts."""
    trials = scored(results)
    names = list(results.objectives)
    if results.unseen is None or len(trials) < 2:
        return {}
    table = [[_unseen_value(results, trial, name) for name in names] for trial in trials]
    if any(value is None for row in table for value in row):
        return {}
    values = np.array(table, np.float64)
    directions = list(results.objectives.values())
    stays = {trials[index] for index in front_indices(values, directions, feasible=[True] * len(trials), keys=trials)}
    signs = np.array([1.0 if way == "minimize" else -1.0 for way in directions])
    costs = values * signs
    found = {}
    for index, trial in enumerate(trials):
        if trial not in stays:
            better = (costs <= costs[index]).all(axis=1) & (costs < costs[index]).any(axis=1)
            found[trial] = trials[int(np.flatnonzero(better)[0])]
    return found


def _unseen_value(results: StudyResults, trial: int, name: str) -> float | None:
    """A score on the report texts; sizes do not depend on texts."""
    assert results.unseen is not None
    after = results.unseen.trials[trial].get(name)
    return results.value(trial, name) if after is None else after.value


def disjoint_sentence(overlaps: Mapping[str, float]) -> str:
    """What the check of the texts for common parts found."""
    if not overlaps:
        return "Whether the texts have parts in common was not checked."
    common = [f"{100 * share:.1f}% of the second of {pair}" for pair, share in overlaps.items() if share > 0]
    if not common:
        pairs = ", ".join(overlaps)
        return f"The texts are disjoint ({pairs}): no 64 tokens in a row of one stand in the other."
    return f"The texts are not disjoint: {'; '.join(common)} stands in the first too, so that these scores flatter."


def unseen_markdown(results: StudyResults) -> list[str]:
    """The section of report.md."""
    sentences = unseen_sentences(results)
    if not sentences:
        return []
    return [f"## {TITLE}", "", unseen_table(results), "", " ".join(sentences)]
