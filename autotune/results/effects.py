"""What each setting did: the trials grouped by its values, and pairs of trials that differ in nothing else."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np

from autotune.common.formatting import DASH, is_missing, label, percent, signed_percent
from autotune.results.frame import SETTING_COLUMNS
from autotune.results.load import ENOUGH_FOR_IMPORTANCES
from autotune.results.types import StudyResults

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "ABOUT_IMPORTANCES",
    "PairedChange",
    "applicable",
    "importance_rows",
    "importances_missing",
    "paired_changes",
    "paired_rows",
    "varying_settings",
]

_APPLICABLE: WeakKeyDictionary[StudyResults, dict[str, pd.DataFrame]] = WeakKeyDictionary()
"""What `applicable` found; every plot of a study asks for the same few."""

ABOUT_IMPORTANCES = (
    "PED-ANOVA: how much each parameter separates the good trials from the rest; they describe the trials of this "
    "study and are no prediction; rarely active parameters are overrated"
)


@dataclass(frozen=True, slots=True)
class PairedChange:
    """What changing one setting from `before` to `after` did to one metric, all else equal.

    Attributes:
        pairs: how many pairs of trials there are.
        median, least, most: relative changes of the metric in percent, after against before.
    """

    setting: str
    before: Any
    after: Any
    metric: str
    pairs: int
    median: float
    least: float
    most: float


def scored(results: StudyResults) -> pd.DataFrame:
    """Complete trials, each plan once, whatever the constraints say of them."""
    complete = results.complete
    return complete[complete["duplicate_of"].isna()]


def applicable(results: StudyResults, name: str) -> pd.DataFrame:
    """The scored trials in which a setting was in force and free, e.g. no int8 for `group_size`, no mxfp4.

    Where the study's parameters carry the setting's name, the trials that decided it count.
    """
    known = _APPLICABLE.setdefault(results, {})
    if name not in known:
        known[name] = _applicable(results, name)
    return known[name]


def _applicable(results: StudyResults, name: str) -> pd.DataFrame:
    trials = scored(results)
    trials = trials[trials[name].notna()]
    deciders = [number for number, record in results.records.items() if name in record.sampled]
    return trials[trials.index.isin(deciders)] if deciders else trials


def varying_settings(results: StudyResults) -> list[str]:
    """The named settings that took at least two values among the trials they apply to."""
    return [name for name in SETTING_COLUMNS if applicable(results, name)[name].nunique() > 1]


def paired_changes(results: StudyResults, metric: str) -> list[PairedChange]:
    """For every setting and every two of its values: the relative change over pairs equal in all other settings.

    A comparison all else equal, which the plain averages of a guided search are not: a sampler tries good
    company more often. Metrics whose original value is 0 (a divergence) have relative changes as well, since both
    trials' values are positive; pairs with a zero are left out.
    """
    trials = scored(results)
    found: list[PairedChange] = []
    values = {number: results.value(number, metric) for number in map(int, trials.index)}
    identities = {number: _identity(results.records[number].settings) for number in values}
    for name in SETTING_COLUMNS:
        if name == "sensitivity_metric":
            # It exists only below ratio 1, and moves with it; pairs at one ratio are still equal in all else.
            groups = _groups(identities, name, drop=())
        else:
            groups = _groups(identities, name, drop=("sensitivity_metric",) if name == "ratio" else ())
        ratios: dict[tuple[Any, Any], list[float]] = {}
        for group in groups:
            for (a, x), (b, y) in combinations(sorted(group.items(), key=lambda item: _order(item[0])), 2):
                before, after = values[x], values[y]
                if before and after is not None:
                    ratios.setdefault((a, b), []).append(100 * (after - before) / abs(before))
        for (a, b), changes in sorted(ratios.items(), key=lambda item: (_order(item[0][0]), _order(item[0][1]))):
            median = float(np.median(changes))
            found.append(PairedChange(name, a, b, metric, len(changes), median, min(changes), max(changes)))
    return found


def _identity(settings: Mapping[str, Any]) -> dict[str, Hashable]:
    flat = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return {key: value for key, value in flat.items() if value is not None}


def _groups(identities: Mapping[int, Mapping[str, Hashable]], name: str, drop: tuple[str, ...]) -> list[dict[Any, int]]:
    """Trials that have `name`, grouped by all other settings; a group maps the setting's value to its first trial."""
    groups: dict[Hashable, dict[Any, int]] = {}
    for number, identity in identities.items():
        if name not in identity:
            continue
        rest = frozenset((key, value) for key, value in identity.items() if key != name and key not in drop)
        groups.setdefault(rest, {}).setdefault(identity[name], number)
    return [group for group in groups.values() if len(group) > 1]


def _order(value: Any) -> tuple[int, Any]:
    return (0, float(value)) if isinstance(value, (bool, int, float)) and not is_missing(value) else (1, str(value))


def paired_rows(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """`paired_changes` of every objective as a table: its header and its rows, none without pairs."""
    changes = {name: paired_changes(results, name) for name in results.objectives}
    found: dict[tuple[str, str, str], dict[str, str]] = {}
    pairs: dict[tuple[str, str, str], int] = {}
    for name, entries in changes.items():
        for entry in entries:
            key = (entry.setting, _word(entry.before), _word(entry.after))
            text = signed_percent(entry.median)
            least, most = signed_percent(entry.least), signed_percent(entry.most)
            if least != most:
                text += f" ({least} … {most})"
            found.setdefault(key, {})[name] = text
            pairs[key] = max(pairs.get(key, 0), entry.pairs)
    header = ["setting", "change", "pairs", *(label(name) for name in changes)]
    rows = [
        [label(key[0]), f"{key[1]} → {key[2]}", str(pairs[key]), *(texts.get(name, DASH) for name in changes)]
        for key, texts in found.items()
    ]
    return header, rows


def importance_rows(results: StudyResults) -> tuple[list[str], list[list[str]]]:
    """The importances as a table: its header and its rows, none without importances."""
    names = sorted({name for shares in results.importances.values() for name in shares})
    header = ["setting", *(label(name) for name in results.importances)]
    rows = [[label(n), *(percent(100 * s[n]) if n in s else DASH for s in results.importances.values())] for n in names]
    return header, rows


def importances_missing(results: StudyResults) -> str:
    """Why there are no importances, as a sentence; empty where there are some, or nothing was scored."""
    count = len(results.complete)
    if results.importances or not count or count >= ENOUGH_FOR_IMPORTANCES:
        return ""
    return f"Importances are told from {ENOUGH_FOR_IMPORTANCES} complete trials on, below which they are noise."


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:g}" if isinstance(value, float) else str(value)
