"""The page of one study.

What the original and a compressed model said to one prompt, word by word.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from autotune.common.formatting import label
from autotune.compression.describe import describe_settings
from autotune.reporting.html.sections import budget_rows, cards, front_legend, stat_rows, trial_table
from autotune.reporting.html.svg import front_drawings, progress_drawing, setting_drawings, theme_css
from autotune.reporting.text.commands import compress_command, export_command, portable, where_to_run
from autotune.reporting.text.markdown import counts
from autotune.reporting.text.tables import front_rows, legend, metric_rows
from autotune.results.budgets import error_rows, no_regret, predictions_held, protected
from autotune.results.decision import (
    accuracy_metric,
    baseline,
    choices,
    decision_sentence,
    failures,
    reason,
    remedy,
    ties,
)
from autotune.results.effects import ABOUT_IMPORTANCES, importance_rows, importances_missing, paired_rows
from autotune.results.held_out import unseen_rows, unseen_sentences
from autotune.results.types import StudyResults
from autotune.results.weight_map import WeightMap, known_sensitivity, read_plan, weight_map

if TYPE_CHECKING:
    import jinja2

__all__ = ["Part", "compare_words", "report_html"]


def report_html(results: StudyResults, folder: Path) -> str:
    """The page as one HTML file; the same study gives the same text.

    Args:
        results: the study.
        folder: where its ``plans/`` are; without them there is no map of the weights.
    """
    picks = choices(results)
    fronts = front_drawings(results)
    template = environment().get_template("page.html")
    return template.render(
        title=f"{results.model}: what the search found",
        model=results.model,
        subtitle=_subtitle(results),
        counts=counts(results),
        decision=_strong(decision_sentence(results)),
        cards=cards(results),
        budgets=budget_rows(results),
        accuracy=label(accuracy_metric(results) or ""),
        baseline=baseline(results),
        fronts=fronts,
        legend=front_legend(results, tied=bool(ties(results))),
        ties=ties(results),
        limits=[(label(name), limit.text) for name, limit in results.constraints.items()],
        front_table=front_rows(results) if results.front or results.least_infeasible is not None else None,
        front_numbers=([None] if results.original is not None else []) + list(results.front),
        front_legend=[line.removeprefix("- ") for line in legend(results)],
        unseen=(unseen_rows(results), unseen_sentences(results)),
        table=trial_table(results) if results.records else None,
        settings=setting_drawings(results),
        paired=paired_rows(results),
        importances=importance_rows(results),
        too_few=importances_missing(results),
        about_importances=ABOUT_IMPORTANCES,
        maps=_maps(results, folder),
        spending=no_regret(results),
        predictions=predictions_held(results, folder),
        protected=protected(results, folder),
        errors=error_rows(results, folder),
        answers=_answers(results),
        progress=progress_drawing(results),
        failed=[
            (r.number, describe_settings(r.settings), reason(results, r), remedy(results, r)) for r in failures(results)
        ],
        where=where_to_run(results),
        exports=[export_command(results, pick.trial) for pick in picks] if results.front else [],
        commands=[compress_command(results, number) for number in results.front],
        metrics=metric_rows(results),
        described=[
            (key, stat_rows(portable(results, results.config[key])))
            for key in ("calibration", "evaluators", "report", "runtime", "study")
            if results.config.get(key)
        ],
        manifest=stat_rows(results.manifest),
        theme=theme_css(),
    )


def environment() -> jinja2.Environment:
    """Templates of this package; everything that is put into them is escaped, and a missing name is an error."""
    import jinja2

    found = jinja2.Environment(
        loader=jinja2.PackageLoader("autotune.reporting.html"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["sentence"] = lambda text: text[:1].upper() + text[1:]
    found.filters["code"] = _code
    return found


def _strong(text: str) -> Any:
    """The text, escaped, with ``**such words**`` in bold."""
    from markupsafe import Markup, escape

    parts = text.split("**")
    marked = [Markup("<strong>{}</strong>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)]
    return Markup("").join(marked)


def _code(text: str) -> Any:
    """The text, escaped, with words between backticks as code."""
    from markupsafe import Markup, escape

    parts = text.split("`")
    marked = [Markup("<code>{}</code>").format(part) if i % 2 else escape(part) for i, part in enumerate(parts)]
    return Markup("").join(marked)


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


def _maps(results: StudyResults, folder: Path) -> list[tuple[str, int, str, WeightMap]]:
    """(why, trial, settings, map) of every choice whose plan is there."""
    found = []
    plans = {record.plan: read_plan(folder, record.plan) for record in results.records.values() if record.complete}
    sensitivity = known_sensitivity(plan for plan in plans.values() if plan is not None)
    for pick in choices(results):
        record = results.records[pick.trial]
        plan = plans.get(record.plan)
        if plan is not None:
            drawn = weight_map(plan, sensitivity)
            found.append((", ".join(pick.roles), pick.trial, describe_settings(record.settings), drawn))
    return found


def _answers(results: StudyResults) -> dict[str, Any] | None:
    """The first choice's answers that differ most, in parts; None where none were kept."""
    picks = choices(results)
    kept = results.records[picks[0].trial].answers if picks else None
    if not kept:
        return None
    shown = [_parts(entry) for entry in kept["different"]]
    return {"trial": picks[0].trial, "count": kept["count"], "same": kept["same"], "shown": shown}


def _parts(entry: Mapping[str, Any]) -> dict[str, Any]:
    original, ours = compare_words(str(entry["original"]).strip(), str(entry["answer"]).strip())
    return {"prompt": str(entry["prompt"]), "score": f"{entry['score']:.3f}", "original": original, "ours": ours}


Part = tuple[Literal["same", "ours", "theirs"], str]


def compare_words(original: str, answer: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts that are the same or only in one of them; the parts of each join to the text again."""
    before, after = _words(original), _words(answer)
    left: list[Part] = []
    right: list[Part] = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            left.append(("same", "".join(before[a:b])))
            right.append(("same", "".join(after[c:d])))
            continue
        if b > a:
            left.append(("theirs", "".join(before[a:b])))
        if d > c:
            right.append(("ours", "".join(after[c:d])))
    return left, right


def _words(text: str) -> list[str]:
    """Words with the white space that follows them."""
    words: list[str] = []
    for character in text:
        if words and (not words[-1][-1].isspace() or character.isspace()):
            words[-1] += character
        else:
            words.append(character)
    return words
