"""A study's report as plain data: every fact and sentence once, for report.md and report.html."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from autotune.common.formatting import label
from autotune.reporting.front_table import Table, front_legend, front_table
from autotune.reporting.tables import (
    RUNTIME_NOTE,
    TrialsTable,
    budget_errors_table,
    failures_table,
    held_out_table,
    importances_table,
    metrics_table,
    paired_table,
    runtime_table,
    sizes_table,
    trials_table,
)
from autotune.reporting.text.commands import compress_command, export_command
from autotune.reporting.text.places import shown
from autotune.results.front.decision import (
    Choice,
    baseline,
    broken_limits,
    choices,
    context_metrics,
    decision_sentence,
    languages_sentence,
    saving,
)
from autotune.results.front.held_out import held_out_sentences
from autotune.results.front.recommendation import accuracy_metric, recommend, ties
from autotune.results.load import ENOUGH_FOR_IMPORTANCES
from autotune.results.plans import (
    WeightMap,
    budget_sentences,
    known_sensitivity,
    prediction_sentence,
    protected_weights,
    read_plans,
    weight_map,
)
from autotune.results.records import StudyResults

PAIRED = (
    "In the plots, the other settings vary too. The table compares pairs of trials that differ in one setting only: "
    "the median change over the pairs, and its range."
)
EXPORTS = (
    "Run these commands in the study's folder. `autotune export` builds the model of a trial "
    "with the study's own texts and statistics:"
)
COMMANDS = (
    "Every model of the front, in the same folder. `autotune compress` reads only the original model and the "
    "calibration text; `autotune export` reads the study, too:"
)


@dataclass(frozen=True, slots=True)
class Card:
    """One model to choose, or to compare with.

    Attributes:
        role: the reason why it is shown.
        trial: its number; None for the original.
        settings: its settings; the model's name for the original.
        rows: (name, value, remark); names are the same in all cards of a report.
        command: the command that exports it; empty for a model to compare with.
        chosen: the recommended trial.
    """

    role: str
    trial: int | None
    settings: str
    size: str
    rows: tuple[tuple[str, str, str], ...]
    command: str = ""
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class PlanMap:
    """The precision of every weight of one choice."""

    role: str
    trial: int
    settings: str
    map: WeightMap


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers of one trial beside the original's.

    Attributes:
        count, same: number of prompts, and of answers that are equal word for word.
        different: ``place``, ``prompt``, ``original``, ``answer`` and ``score`` of the others that were kept.
        languages: sentence on prompts in English and others; empty if all are of one kind.
    """

    trial: int
    count: int
    same: int
    different: tuple[Mapping[str, Any], ...]
    languages: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """The sections of a report, in their order; None or empty where a study has nothing to say.

    A sentence may hold ``**bold**`` words and words between backticks.

    Attributes:
        counts: number of trials by state, and the objectives.
        decision: the recommendation.
        cards: the choices, then int8 and the original to compare with.
        sizes: the most accurate trial under each of some round sizes.
        front, legend: the table and the meaning of its columns.
        limits: the constraints, ``perplexity increase <= 1.2%``.
        ties: neighbours on the front with the same accuracy within the errors.
        outside: scored trials that break a limit.
        runtime, runtime_note: the recommended runtime settings of the front, and where all of them are.
        trials: settings, sizes, scores and times of the listed trials; `trials_note` says which, if not all.
        paired: changes of one setting, all else equal.
        importances_note: what importances are, or why there are none.
        maps: the precision of every weight of each choice.
        budgets: sentences about the plans from budgets; `budget_notes` and `budget_errors` say more.
        export_note: sentence above `exports`, the commands that export the choices.
        commands: one command for each trial of the front, below `commands_note`; without the study where possible.
        described: sections of the configuration that define the scores.
        unmeasured: sentence on what the report does not cover.
    """

    model: str
    subtitle: str
    counts: str
    decision: str
    cards: tuple[Card, ...]
    sizes: Table | None
    front: Table | None
    legend: tuple[str, ...]
    limits: tuple[str, ...]
    ties: str
    outside: tuple[str, ...]
    held_out: Table | None
    held_out_note: str
    runtime: Table | None
    runtime_note: str
    trials: TrialsTable
    trials_note: str
    paired: Table | None
    paired_note: str
    importances: Table | None
    importances_note: str
    maps: tuple[PlanMap, ...]
    budgets: tuple[str, ...]
    budget_notes: tuple[str, ...]
    budget_errors: Table | None
    answers: Answers | None
    failures: Table | None
    export_note: str
    exports: tuple[str, ...]
    commands_note: str
    commands: tuple[str, ...]
    metrics: Table | None
    described: Mapping[str, Any]
    manifest: Mapping[str, Any]
    unmeasured: str


def build_report(results: StudyResults, folder: Path | None = None) -> Report:
    """Collect everything that a report says.

    Args:
        results: the study.
        folder: the study's folder with ``plans/``; None leaves out what the plans say.
    """
    plans = {} if folder is None else read_plans(results, folder)
    prediction = prediction_sentence(results, plans)
    budgets, paired = budget_sentences(results), paired_table(results)
    return Report(
        model=results.model,
        subtitle=_subtitle(results),
        counts=_counts(results),
        decision=decision_sentence(results),
        cards=_cards(results),
        sizes=sizes_table(results),
        front=front_table(results) if results.shown else None,
        legend=tuple(front_legend(results)),
        limits=tuple(f"{label(name)} {limit.text}" for name, limit in results.constraints.items()),
        ties=_ties(results),
        outside=_outside(results),
        held_out=held_out_table(results),
        held_out_note=" ".join(held_out_sentences(results)),
        runtime=runtime_table(results),
        runtime_note=RUNTIME_NOTE,
        trials=trials_table(results),
        trials_note=_trials_note(results),
        paired=paired,
        paired_note=PAIRED if paired else "",
        importances=importances_table(results),
        importances_note=_importances_note(results) if paired or results.importances else "",
        maps=_maps(results, plans),
        budgets=(*budgets, *([prediction] if budgets and prediction else [])),
        budget_notes=tuple(protected_weights(results, plans)) if budgets else (),
        budget_errors=budget_errors_table(results, plans) if budgets else None,
        answers=_answers(results),
        failures=failures_table(results),
        export_note=EXPORTS,
        exports=tuple(export_command(results, pick.trial) for pick in choices(results)) if results.front else (),
        commands_note=COMMANDS,
        commands=tuple(compress_command(results, trial) for trial in results.front),
        metrics=metrics_table(results),
        described={
            key: shown(results.config[key], results.folder)
            for key in ("calibration", "evaluators", "report", "runtime", "study")
            if results.config.get(key)
        },
        manifest=results.manifest,
        unmeasured=_unmeasured(results),
    )


def _subtitle(results: StudyResults) -> str:
    manifest = results.manifest
    parts = []
    finished = [record.finished for record in results.records.values() if record.finished is not None]
    if finished:
        parts.append(max(finished, key=datetime.timestamp).strftime("%-d %B %Y"))
    machine = manifest.get("machine") or manifest.get("cpu") or {}
    cpu = machine.get("cpu") or machine.get("model")
    if cpu:
        cores = machine.get("usable_cores") or machine.get("cores")
        parts.append(f"{cpu}, {cores} cores" if cores else str(cpu))
    versions = manifest.get("versions") or {}
    parts += [f"{name} {versions[name]}" for name in ("autotune", "openvino") if name in versions]
    return " · ".join(parts)


def _counts(results: StudyResults) -> str:
    states = ["interrupted" if record.interrupted else record.state for record in results.records.values()]
    complete = states.count("COMPLETE")
    total = f"{len(states)} trials" if len(states) != 1 else "1 trial"
    repeats = sum(record.duplicate_of is not None for record in results.records.values())
    outside = complete - len(results.feasible)
    details = [f"{complete} complete" + (f" ({outside} outside the limits)" if outside else "")]
    for state, word in (
        ("FAIL", "failed"),
        ("interrupted", "interrupted"),
        ("PRUNED", "stopped before scoring"),
        ("RUNNING", "running"),
        ("WAITING", "waiting"),
    ):
        if state in states:
            details.append(f"{states.count(state)} {word}")
    details += [f"{repeats} of them repeats of an earlier plan"] if repeats else []
    ways = " and ".join(f"{label(name)} ({way}d)" for name, way in results.objectives.items())
    return f"{total}: {', '.join(details)}. Objectives: {ways}."


def _trials_note(results: StudyResults) -> str:
    listed, every = len(results.listed), len(results.records)
    if listed == every:
        return ""
    return (
        f"Tables and dots are of {listed:,} of the {every:,} trials: the front and the latest others. "
        "All trials are in trials.csv and in the pictures in plots/."
    )


def _cards(results: StudyResults) -> tuple[Card, ...]:
    picks, other, metrics = choices(results), baseline(results), context_metrics(results)
    if not picks:
        return ()
    cards = [_card(results, pick, other, metrics) for pick in picks]
    if other is not None and other not in [pick.trial for pick in picks]:
        mode = results.records[other].settings["mode"]
        cards.append(_card(results, Choice(other, (f"to compare: {mode}",)), other, metrics, offer=False))
    if results.original_score("footprint") is not None:
        scored = [name for name in metrics if results.original_score(name) is not None]
        rows = tuple((results.heading(name), results.score_text(None, name, stderr=False), "") for name in scored)
        size = results.score_text(None, "footprint")
        cards.append(Card("to compare: the original", None, results.model, size, rows))
    return tuple(cards)


def _card(results: StudyResults, pick: Choice, other: int | None, metrics: list[str], *, offer: bool = True) -> Card:
    rows = []
    ours, original = results.value(pick.trial, "footprint"), results.original_score("footprint")
    if original is not None:
        rows.append(("against the original", saving(ours, original.value), ""))
    eight = "" if other is None or other == pick.trial else str(results.records[other].settings["mode"])
    if other is not None and eight:
        rows.append((f"against {eight}", saving(ours, results.value(other, "footprint")), ""))
    for name in metrics:
        remark = ""
        if other is not None and eight and name == metrics[0] and results.value(other, name) is not None:
            remark = f"{eight}: {results.score_text(other, name, stderr=False)}"
        rows.append((results.heading(name), results.score_text(pick.trial, name), remark))
    if offer and not results.front:
        rows.append(("outside", "; ".join(broken_limits(results, pick.trial)), ""))
    return Card(
        role=", ".join(pick.roles),
        trial=pick.trial,
        settings=results.records[pick.trial].describe(),
        size=results.score_text(pick.trial, "footprint"),
        rows=tuple(rows),
        command=export_command(results, pick.trial) if offer else "",
        chosen=offer and pick.trial == recommend(results).trial,
    )


def _ties(results: StudyResults) -> str:
    pairs = ", ".join(f"{a} and {b}" for a, b in ties(results))
    return pairs and (
        f"Tied in {label(accuracy_metric(results) or '')}: {pairs}. They differ by less than two standard errors, or "
        "by less than the original differs from itself. Of tied models the recommendations take the smaller one."
    )


def _outside(results: StudyResults) -> tuple[str, ...]:
    if not results.front:
        return ()
    feasible = set(results.feasible["trial"])
    return tuple(
        f"trial {number} ({results.records[number].describe()}): {'; '.join(broken_limits(results, number))}"
        for number in map(int, results.unique["trial"])
        if number not in feasible
    )


def _importances_note(results: StudyResults) -> str:
    if results.importances:
        return (
            "Importances by PED-ANOVA: how well each parameter separates the best trials from the rest. They describe "
            "the trials of this study only. Parameters that few trials have are overestimated."
        )
    if 0 < len(results.complete) < ENOUGH_FOR_IMPORTANCES:
        return f"Importances are reported from {ENOUGH_FOR_IMPORTANCES} complete trials on."
    return ""


def _maps(results: StudyResults, plans: Mapping[str, Mapping[str, Any]]) -> tuple[PlanMap, ...]:
    sensitivity = known_sensitivity(plans.values())
    maps = []
    for pick in choices(results):
        record = results.records[pick.trial]
        if record.plan is not None and record.plan in plans:
            weights = weight_map(plans[record.plan], sensitivity)
            maps.append(PlanMap(", ".join(pick.roles), pick.trial, record.describe(), weights))
    return tuple(maps)


def _answers(results: StudyResults) -> Answers | None:
    """Return the answers of the first choice; None if none were kept."""
    picks = choices(results)
    record = results.records[picks[0].trial] if picks else None
    kept = None if record is None else record.answers
    if record is None or not kept:
        return None
    return Answers(record.number, kept["count"], kept["same"], tuple(kept["different"]), languages_sentence(record))


def _unmeasured(results: StudyResults) -> str:
    text = "The report does not cover run-time speed or memory unless the `latency` evaluator was enabled"
    if results.held_out is None:
        text += (
            ". There are no scores on held-out texts: the best of many trials looks slightly better on the texts that "
            "selected it than on others. Name other texts with `report` in model.yaml"
        )
    return f"{text}."
