"""Effects of single settings: trials grouped by a setting's values, and pairs of trials that differ in it alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from autotune.common.formatting import is_missing
from autotune.results.frame import SETTING_COLUMNS
from autotune.results.records import StudyResults

if TYPE_CHECKING:
    import pandas as pd


MOST_CHANGES = 15
"""Most changes of one setting; a range with a step has thousands of pairs of values, six choices have 15."""


@dataclass(frozen=True, slots=True)
class PairedChange:
    """The change of one metric when one setting goes from `before` to `after`, all else equal.

    Attributes:
        pairs: number of pairs of trials.
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


def applicable(results: StudyResults, name: str) -> pd.DataFrame:
    """Return the unique trials to which a setting applies, e.g. no int8 for `group_size`.

    If the study's parameters include the setting, only trials that sampled it count: mxfp4 has a fixed group size.
    """
    if name not in results.applicable:
        trials = results.unique
        sampled = [number for number, record in results.records.items() if name in record.sampled]
        applies = trials[name].notna()
        results.applicable[name] = trials[applies & trials.index.isin(sampled) if sampled else applies]
    return results.applicable[name]


def varying_settings(results: StudyResults) -> list[str]:
    """Return the settings with at least two values among the trials to which they apply."""
    return [name for name in SETTING_COLUMNS if applicable(results, name)[name].nunique() > 1]


def effects_frame(results: StudyResults) -> pd.DataFrame:
    """Return `paired_changes` of every objective, one row each, with the attributes of `PairedChange` as columns."""
    import pandas as pd

    rows = [asdict(change) for metric in results.objectives for change in paired_changes(results, metric)]
    return pd.DataFrame(rows, columns=[field.name for field in fields(PairedChange)])


def paired_changes(results: StudyResults, metric: str) -> list[PairedChange]:
    """For every setting and every two of its values, compare the pairs of trials that are equal in all else.

    Plain averages over a guided search are biased, since a sampler tries good combinations more often; pairs are not.
    The changes are relative to the first trial's value, also for a metric of which the original has 0, such as a
    divergence. Pairs whose first value is 0 are left out. A setting has at most `MOST_CHANGES` changes: those with the
    most pairs.
    """
    found: list[PairedChange] = []
    values = {int(number): results.value(int(number), metric) for number in results.unique["trial"]}
    identities = {number: _identity(results.records[number].settings) for number in values}
    for name in SETTING_COLUMNS:
        # sensitivity_metric exists only below ratio 1, and changes with it.
        groups = _groups(identities, name, drop=("sensitivity_metric",) if name == "ratio" else ())
        changes: dict[tuple[Any, Any], list[float]] = {}
        for group in groups:
            for (a, x), (b, y) in combinations(sorted(group.items(), key=lambda item: _order(item[0])), 2):
                before, after = values[x], values[y]
                if before and after is not None:
                    changes.setdefault((a, b), []).append(100 * (after - before) / abs(before))
        most = sorted(changes, key=lambda change: -len(changes[change]))[:MOST_CHANGES]
        for a, b in sorted(most, key=lambda change: (_order(change[0]), _order(change[1]))):
            each = changes[a, b]
            found.append(PairedChange(name, a, b, metric, len(each), float(np.median(each)), min(each), max(each)))
    return found


def _identity(settings: Mapping[str, Any]) -> dict[str, Hashable]:
    flat = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    return {key: value for key, value in flat.items() if value is not None}


def _groups(identities: Mapping[int, Mapping[str, Hashable]], name: str, drop: tuple[str, ...]) -> list[dict[Any, int]]:
    """Group the trials that have `name` by all other settings; a group maps the setting's value to its first trial."""
    groups: dict[Hashable, dict[Any, int]] = {}
    for number, identity in identities.items():
        if name in identity:
            rest = frozenset((key, value) for key, value in identity.items() if key != name and key not in drop)
            groups.setdefault(rest, {}).setdefault(identity[name], number)
    return [group for group in groups.values() if len(group) > 1]


def _order(value: Any) -> tuple[int, Any]:
    return (0, float(value)) if isinstance(value, (bool, int, float)) and not is_missing(value) else (1, str(value))
