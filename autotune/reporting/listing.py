"""List the studies of a folder: model, state, trials, best point, age."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.errors import AutotuneError, StudyError
from autotune.results.front.recommendation import accuracy_metric, recommend
from autotune.results.load import load_results

if TYPE_CHECKING:
    import pandas as pd

DATABASE = "study.db"
DEPTH = 3
"""Levels of folders that are looked into."""


@dataclass(frozen=True, slots=True)
class StudySummary:
    """One study in a list.

    Attributes:
        folder: the study's folder.
        model: the original model; None if the study cannot be read.
        state: ``running``, ``finished`` (it has its trials), ``stopped`` (it has fewer) or ``unreadable``.
        trials: number of finished trials without repeats.
        total: number of trials of the whole study.
        failed: number of failed trials.
        trial: the recommended trial; None without one.
        settings: of that trial, on one line.
        footprint: of that trial, in bytes.
        metric: the study's accuracy metric, and `value` and `stderr` of that trial in it.
        age: seconds since the last trial ended.
        error: why the study cannot be read.
    """

    folder: str
    model: str | None = None
    state: str = "unreadable"
    trials: int | None = None
    total: int | None = None
    failed: int | None = None
    trial: int | None = None
    settings: str | None = None
    footprint: int | None = None
    metric: str | None = None
    value: float | None = None
    stderr: float | None = None
    age: float | None = None
    error: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Convert to plain data for `--json`."""
        return asdict(self)


def list_studies(folder: str | Path = "reports") -> pd.DataFrame:
    """List the studies in a folder and up to three levels of folders inside it, the latest first. Needs no OpenVINO.

    Returns:
        One row a study with the columns of `StudySummary`; empty if there is none.

    Raises:
        StudyError: there is no such folder.

    Example:
        >>> studies = autotune.list_studies("reports")
        >>> studies[["model", "state", "trials", "total", "trial"]].values.tolist()
        [['demo/model', 'finished', 2, 2, 1]]
    """
    import pandas as pd

    columns = list(StudySummary.__dataclass_fields__)
    return pd.DataFrame([summary.as_dict() for summary in summaries(Path(folder))], columns=columns)


def summaries(folder: Path) -> list[StudySummary]:
    """Summarise the studies of a folder, the latest first; see `list_studies`."""
    if not folder.is_dir():
        raise StudyError(f"{folder}: there is no such folder; name the one that holds the studies' folders")
    found = [_summary(each) for each in _folders(folder)]
    return sorted(found, key=lambda summary: (summary.age is None, summary.age or 0.0, summary.folder))


def _folders(folder: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield the folders of studies, without looking inside of them."""
    if (folder / DATABASE).is_file():
        yield folder
    elif depth:
        for inner in sorted(each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")):
            yield from _folders(inner, depth - 1)


def _summary(folder: Path) -> StudySummary:
    try:
        results = load_results(folder)
    except AutotuneError as error:
        return StudySummary(str(folder), error=str(error))
    ended = [record for record in results.records.values() if record.state in ("COMPLETE", "PRUNED", "FAIL")]
    unique = [record for record in ended if record.duplicate_of is None and not record.interrupted]
    total = int((results.config.get("study") or {}).get("trials") or len(unique))
    times = [record.finished for record in ended if record.finished is not None]
    best, metric = recommend(results).trial, accuracy_metric(results)
    footprint = None if best is None else results.value(best, "footprint")
    return StudySummary(
        folder=str(folder),
        model=results.model,
        state=_state(folder, len(unique) >= total),
        trials=len(unique),
        total=total,
        failed=sum(record.state == "FAIL" for record in unique),
        trial=best,
        settings=None if best is None else results.records[best].describe(),
        footprint=None if footprint is None else int(footprint),
        metric=metric,
        value=None if best is None or metric is None else results.value(best, metric),
        stderr=None if best is None or metric is None else results.stderr(best, metric),
        age=max(0.0, (datetime.now() - max(times)).total_seconds()) if times else None,
    )


def _state(folder: Path, is_complete: bool) -> str:
    """Return the state of a readable study; a search holds the folder's lock while it runs."""
    from filelock import FileLock, Timeout

    lock = folder / ".lock"
    try:
        if lock.exists():
            with FileLock(lock, timeout=0):
                pass
    except Timeout:
        return "running"
    except OSError:
        pass  # a folder of another user: without write access the lock cannot be tested
    return "finished" if is_complete else "stopped"
