"""Score the final front, in all workers: the metrics that trials left out, and texts that no decision was based on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from autotune.compression.settings import Settings
from autotune.errors import AutotuneError
from autotune.evaluation import Measurement
from autotune.study.trials.trial import as_data, with_relative_error

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

    from autotune.study.progress import Listener
    from autotune.study.storage.attributes import Description
    from autotune.study.workers.pool import Pool

REPORT = "report"
"""The study's attribute: ``fingerprint`` (None without texts), ``original``, ``overlaps``, ``notes``, and ``trials``,
number as text -> ``metrics`` or ``error``. Optuna refuses new attributes of finished trials, so the scores are stored
in the study."""

FRONT = "front"
"""The study's attribute: ``deferred``, the evaluators that score the front only, and ``trials``, number as text ->
``metrics``, ``answers``, ``stages`` and ``tokens`` that are added to those of the trial, or ``error``."""

LARGEST_OVERLAP = 0.01
"""Share of a text that two sets may have in common without a note."""


def is_scored(stored: Mapping[str, Any], front: Sequence[FrozenTrial], *, report: bool) -> bool:
    """Test if the attributes of a study have all scores of its front, on report texts too if `report`."""
    numbers = {str(trial.number) for trial in front}
    rest, texts = stored.get(FRONT), stored.get(REPORT)
    if rest is None or (rest["deferred"] and not numbers <= set(rest["trials"])):
        return False
    return not report or (texts is not None and (texts["fingerprint"] is None or numbers <= set(texts["trials"])))


def score_front(
    study: optuna.Study, pool: Pool, description: Description, front: Sequence[FrozenTrial], listener: Listener
) -> None:
    """Score the front's models; stored scores, and those on the same report texts, are kept.

    Args:
        study: receives the scores of each model at once, so that a kill loses little.
        pool: runs no trial.
        description: the study's inputs.
        front: the trials.
        listener: receives the progress.
    """
    texts = description.report_fingerprint
    rest = {"trials": {}, **study.user_attrs.get(FRONT, {}), "deferred": list(description.deferred)}
    record = study.user_attrs.get(REPORT, {})
    if record.get("fingerprint") != texts or texts is None:
        record = {"fingerprint": texts, "trials": {}}
    numbers = {str(trial.number) for trial in front}
    unreported = numbers - set(record["trials"]) if texts is not None else set()
    missing = numbers - set(rest["trials"]) if rest["deferred"] else set()
    try:
        if unreported:
            listener.stage("preparing the report texts")
            record = {**record, **(pool.describe(report=True).report or {})}
            for pair, share in record["overlaps"].items():
                if share > LARGEST_OVERLAP:
                    percent = f"{100 * share:.0f}%"
                    listener.note(f"the texts of {pair} are not disjoint: {percent} of the second is in the first")
            for note in record["notes"]:
                listener.note(f"no report text for {note}")
        if not record.get("original"):
            unreported = set()
        chosen = [trial for trial in front if str(trial.number) in missing | unreported]
        if chosen:
            listener.stage(f"scoring the front: {len(chosen)} models")
        models = [Settings.from_dict(trial.user_attrs["settings"]) for trial in chosen]
        for done, (index, scores) in enumerate(pool.front_scores(models), 1):
            trial, number = chosen[index], str(chosen[index].number)
            if number in unreported:
                reported = scores.get("report", {name: scores[name] for name in ("error",) if name in scores})
                record["trials"] = {**record["trials"], number: reported}
                study.set_user_attr(REPORT, record)
            rest["trials"] = {**rest["trials"], number: completed(trial, scores, study.user_attrs["original"])}
            study.set_user_attr(FRONT, rest)
            listener.stage(f"scoring the front: {done} of {len(chosen)} models")
    except AutotuneError as error:  # for example, a worker died: the search's own results are not affected
        listener.note(f"the front could not be scored completely: {error}")
    for name, value in ((REPORT, record), (FRONT, rest)):
        if study.user_attrs.get(name) != value:
            study.set_user_attr(name, value)


def completed(trial: FrozenTrial, scores: Mapping[str, Any], original: Mapping[str, Any]) -> dict[str, Any]:
    """Make the entry of a trial in `FRONT` from a worker's answer."""
    found = {**scores.get("search", {}), **{n: scores[n] for n in ("error", "stages", "tokens") if n in scores}}
    data = {**trial.user_attrs.get("metrics", {}), **found.get("metrics", {})}
    measured = {name: Measurement(**score) for name, score in data.items()}
    both = with_relative_error(measured, {name: score["value"] for name, score in original["metrics"].items()})
    if found.get("metrics") and "relative_error" in both:
        found["metrics"] = {**found["metrics"], **as_data({"relative_error": both["relative_error"]})}
    return found
