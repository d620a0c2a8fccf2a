"""The end of a search: its front is scored once more, on texts that decided nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from autotune.compression.settings import Settings
from autotune.errors import AutotuneError
from autotune.search.rows import front_trials

if TYPE_CHECKING:
    import optuna

    from autotune.config import Config
    from autotune.search.history import History
    from autotune.search.pool import Pool
    from autotune.search.progress import Listener

__all__ = ["ATTRIBUTE", "rescore_front"]

ATTRIBUTE = "report"
"""The study's attribute: ``fingerprint``, ``original``, ``overlaps``, ``notes``, and ``trials``, number as text ->
``metrics`` or ``error``. A finished trial takes no more attributes, so the scores stand here."""

TOLD = 0.01
"""The share of a text that two sets may have in common before that is told."""


def rescore_front(study: optuna.Study, config: Config, history: History, pool: Pool, listener: Listener) -> None:
    """Score the front's models on the report texts; what was scored on the same ones before is kept.

    Each model's scores are in the storage as soon as they are there, so that little is lost by a kill.
    """
    prepared = pool.prepared()
    front = front_trials(history, list(config.objectives.values()))
    text = prepared.report_fingerprint() if front else None
    if text is None:
        return
    known = study.user_attrs.get(ATTRIBUTE, {})
    if known.get("fingerprint") != text:
        known = {"fingerprint": text, "trials": {}}
    missing = [trial for trial in front if str(trial.number) not in known["trials"]]
    if not missing:
        return
    try:
        listener.stage("preparing the report texts")
        known = {**known, **prepared.report_texts()}
        for pair, share in known["overlaps"].items():
            if share > TOLD:
                listener.note(f"the texts of {pair} are not disjoint: {100 * share:.0f}% of the second is in the first")
        for note in known["notes"]:
            listener.note(f"no report text for {note}")
        models = [settings_from(trial.user_attrs["settings"]) for trial in (missing if known["original"] else ())]
        if models:
            listener.stage(f"scoring the front on the report texts: {len(models)} models")
        for done, (index, scores) in enumerate(pool.report_scores(models), 1):
            known["trials"] = {**known["trials"], str(missing[index].number): scores}
            study.set_user_attr(ATTRIBUTE, known)
            listener.stage(f"scoring the front on the report texts: {done} of {len(models)} models")
    except AutotuneError as error:  # a worker that died of it, say: the search's own results are none the worse
        listener.note(f"the front could not be scored on the report texts: {error}")
    study.set_user_attr(ATTRIBUTE, known)


def settings_from(data: Mapping[str, Any]) -> Settings:
    """The settings that `Settings.as_dict` wrote."""
    lists = {name: tuple(data.get(name) or ()) for name in ("ignored_scope", "codebook")}
    return Settings(**{**data, **lists})
