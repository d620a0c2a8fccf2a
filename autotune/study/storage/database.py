"""Folder and Optuna storage of a study: used by one search at a time, created in one step, never overwritten."""

from __future__ import annotations

import json
import math
import os
import re
import shlex
import warnings
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autotune.common.files import remove_leftovers
from autotune.common.formatting import problem_of
from autotune.errors import StudyError, UsageError
from autotune.evaluation import Direction
from autotune.results.storage import open_storage
from autotune.study.storage import coordination as sharing
from autotune.study.storage.patience import repeat_lost_operations

if TYPE_CHECKING:
    import optuna

DATABASE = "study.db"
STUDY_NAME = "autotune"
CONNECTIONS = 3
"""Connections to a server that a process has at the same time: for the lock, the trials and the heartbeats."""

SQLITE_TIMEOUT = 60
"""Seconds to wait for another process that reads or writes the same SQLite file (a dashboard, a report)."""

COUNTS = ("samples", "sequence_length", "max_new_tokens")
"""Options of texts that always change their fingerprint."""

WORDS = ("true", "false", "null", "yes", "no", "on", "off")
"""Words that YAML does not read as text."""

SUBJECTS = {
    "model": "the model",
    "tokenizer": "the tokenizer",
    "calibration": "the calibration texts or options",
    "space": "the search space",
    "objectives": "the objectives",
    "constraints": "the constraints",
    "runtime": "the runtime options",
    "engine": "the compression engine's version",
    "study.precision": "the precision of the scores",
}


@contextmanager
def folder_lock(folder: Path, *, fresh: bool) -> Iterator[Path | None]:
    """Create `folder` and keep every other search out of it; with `fresh`, an old study is first moved aside.

    Temporary files of killed processes are deleted.

    Yields where the old study is now, or None.

    Raises:
        StudyError: another search works in the folder, or it cannot be written.
    """
    from filelock import FileLock, Timeout

    def acquire() -> FileLock:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
        return lock

    aside = None
    try:
        lock = acquire()
        if fresh and any(entry.name != ".lock" for entry in folder.iterdir()):
            if os.name == "nt":  # Windows renames no folder in which a file is open
                lock.release()
            aside = move_aside(folder)
            lock.release()
            lock = acquire()
    except Timeout:
        raise StudyError(
            f"{folder}: another search is running in this folder. Wait for it, stop it, or choose another folder "
            "with --output."
        ) from None
    except OSError as error:
        raise StudyError(
            f"{folder}: the study's folder cannot be written ({error.strerror or error}). Choose another with --output."
        ) from error
    try:
        remove_leftovers(folder.rglob(".*.tmp"))
        yield aside
    finally:
        lock.release()


def move_aside(folder: Path) -> Path:
    """Rename `folder` to itself plus the time; nothing is deleted. Returns the new name."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1000):
        aside = folder.with_name(f"{folder.name}.{stamp}" + (f"-{attempt}" if attempt else ""))
        if not aside.exists():
            folder.rename(aside)
            return aside
    raise OSError(f"{folder.name}.{stamp}-* exist already")


@contextmanager
def open_study(
    folder: Path, url: str | None, directions: Mapping[str, Direction], *, fresh: bool = False, joins: bool = False
) -> Iterator[optuna.Study]:
    """Open the study of `folder`, created where there is none, in its own SQLite file or at an Optuna storage URL.

    Args:
        folder: the study's folder, locked by the caller.
        url: an Optuna storage URL, one for each study; None is the folder's `study.db`.
        directions: objective name -> ``minimize`` or ``maximize``; used for a new study only.
        fresh: the caller wants a new study (its folder is already moved aside).
        joins: the study must exist already.

    Raises:
        StudyError: there is no study to join; the storage cannot be opened, is of another version
            of Optuna, or fails while it is used.
        UsageError: `fresh` with a storage that already holds the study.
    """
    import optuna
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    name = STUDY_NAME
    if url is None:
        create_database(folder / DATABASE, directions)
    storage = connect(database_url(folder / DATABASE) if url is None else url)
    try:
        names = optuna.get_all_study_names(storage)
        if fresh and url is not None and name in names:
            raise UsageError(
                "--fresh: the storage already holds a study, which autotune does not delete. Use another database, or "
                f"delete the study yourself: optuna delete-study --storage URL --study-name {name}"
            )
        if name in names:
            study = optuna.load_study(study_name=name, storage=storage)
        elif not joins:
            study = create(storage, name, directions)
        if joins and (name not in names or "schema_version" not in study.user_attrs):
            raise StudyError(
                "this storage holds no study to join. Start `autotune search model.yaml --storage URL` first, and the "
                "workers once its first trial runs"
            )
        yield study
    except (StorageInternalError, SQLAlchemyError) as error:
        problem = str(error.__cause__ or error).splitlines()[0]
        raise StudyError(
            f"{folder}: the study's storage stopped working ({problem}). Every finished trial is kept; check "
            "that the disk has free space and that the database can be reached, then run the same command to continue."
        ) from error
    finally:
        close(storage)


def create_database(path: Path, directions: Mapping[str, Direction]) -> None:
    """Create the SQLite file with an empty study under a temporary name first: a kill never leaves half a schema."""
    if path.exists():
        return
    temporary = path.with_name(f".{path.name}.new")
    for leftover in path.parent.glob(f"{temporary.name}*"):
        leftover.unlink()
    storage = connect(database_url(temporary))
    try:
        create(storage, STUDY_NAME, directions)
    finally:
        close(storage)
    os.replace(temporary, path)


def create(storage: optuna.storages.BaseStorage, name: str, directions: Mapping[str, Direction]) -> optuna.Study:
    """Create an empty study whose values carry the objectives' names."""
    import optuna

    study = optuna.create_study(storage=storage, study_name=name, directions=[*directions.values()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        study.set_metric_names(list(directions))
    return study


def database_url(path: Path) -> str:
    """Make the URL of an SQLite file; braces are doubled because Optuna fills templates in URLs."""
    return f"sqlite:///{path.resolve().as_posix()}".replace("{", "{{").replace("}", "}}")


def connect(url: str) -> optuna.storages.RDBStorage:
    """Open a relational storage; a wrong URL, a damaged file or a foreign schema becomes a StudyError."""
    import optuna
    from sqlalchemy import event

    sqlite = url.startswith("sqlite")
    # A connection of the pool may have been closed by a server that was restarted.
    options: dict[str, Any] = {"connect_args": {"timeout": SQLITE_TIMEOUT}} if sqlite else {"pool_pre_ping": True}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # heartbeats; accepted
            storage = open_storage(
                url,
                engine_kwargs=options,
                heartbeat_interval=math.ceil(sharing.INTERVAL),
                grace_period=math.ceil(sharing.GRACE),
            )
    except Exception as error:  # SQLAlchemy's, the driver's or Optuna's own, all without a common base
        where = url if sqlite else f"{url.partition(':')[0]}://…"  # the rest may hold a password
        inner = error.__cause__ if isinstance(error, optuna.exceptions.StorageInternalError) else None
        problem = problem_of(inner or error, url)
        remedy = "If the file is damaged, run with --fresh, which moves the old study aside."
        if "too many clients" in problem:
            remedy = f"Set the server's max_connections to {CONNECTIONS} for each process of the study, or more."
        raise StudyError(f"{where}: the study's storage cannot be opened ({problem}). {remedy}") from error
    if sqlite:
        event.listen(storage.engine, "connect", use_write_ahead_log)
        storage.engine.dispose()  # the connection that made the tables has no such setting
    else:
        repeat_lost_operations(storage)
    return storage


def use_write_ahead_log(connection: Any, _: Any) -> None:
    """Let commits append to a log: some ten a trial, each hundreds of times faster, and as safe from a kill.

    After a power cut the file is whole, and at most the latest trials are missing.
    """
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")


def close(storage: optuna.storages.RDBStorage) -> None:
    """Close every connection, and fold SQLite's log into the file, which can then be copied and read by itself."""
    from sqlalchemy.exc import SQLAlchemyError

    storage.remove_session()
    if storage.engine.dialect.name == "sqlite":
        with suppress(SQLAlchemyError), storage.engine.connect() as connection:  # a reader may hold the file open
            connection.exec_driver_sql("PRAGMA busy_timeout=200")
            connection.exec_driver_sql("PRAGMA journal_mode=DELETE")
    storage.engine.dispose()


def check_unchanged(
    folder: Path, old: Mapping[str, str], new: Mapping[str, str], configs: tuple[Mapping[str, Any], Mapping[str, Any]]
) -> None:
    """Refuse to continue a study whose finished trials do not compare with new ones.

    Args:
        folder: for the message.
        old: fingerprints at the time the study was created, by subject; new: the same as of now.
        configs: model.yaml as plain data, then and now, to name the keys that differ.

    Raises:
        StudyError: names what changed, the keys of model.yaml behind it, and the remedy.
    """
    changed = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    if not changed:
        return
    subjects = [SUBJECTS.get(key) or f"the options or texts of evaluator {key.partition('.')[2]}" for key in changed]
    sections = {key.partition(".")[0] for key in changed}
    # Of the options of the study only this one changes scores.
    before, now = ({**each, "study": {"precision": (each.get("study") or {}).get("precision")}} for each in configs)
    configs = before, now
    keys = [line for line in differences(*configs) if line.partition(".")[0].partition(":")[0] in sections]
    if keys:
        details = "; ".join(keys[:5]) + (f"; and {len(keys) - 5} more" if len(keys) > 5 else "")
    else:
        details = "the same keys of model.yaml now refer to other content"
    remedy = repeat_options(*configs, sections)
    raise StudyError(
        f"{folder}: {', '.join(subjects)} changed since this study was started ({details}), so new trials would "
        "not compare with the finished ones. "
        + (f"To continue the study, add {' '.join(remedy)}. " if remedy else "To continue the study, undo the change. ")
        + "To start a new one, use --fresh, which moves the old study aside, or another folder with --output."
    )


def check_config(study: optuna.Study, folder: Path, new: Mapping[str, str], config: Mapping[str, Any]) -> None:
    """Refuse a changed configuration before the model is loaded.

    It compares the sections that the configuration alone determines, and the numbers of windows and tokens, which are
    part of the fingerprints of texts; `check_unchanged` compares everything later.

    Args:
        study: the stored study; a new one has nothing to compare.
        folder: for the message.
        new: fingerprints of this configuration's own sections.
        config: model.yaml as plain data.

    Raises:
        StudyError: as `check_unchanged`.
    """
    stored, before = study.user_attrs.get("fingerprints"), study.user_attrs.get("config", {})
    if stored is None:
        return
    now = {**stored, **new}
    for subject in stored:
        section, _, name = subject.partition(".")
        if section in ("calibration", "evaluators"):
            old_options, options = ((each.get(section) or {}) for each in (before, config))
            if name:
                old_options, options = ((each.get(name) or {}) for each in (old_options, options))
            both = [key for key in COUNTS if key in old_options and key in options]
            if any(old_options[key] != options[key] for key in both):
                now[subject] = "changed"
    check_unchanged(folder, stored, now, (before, config))


def repeat_options(old: Mapping[str, Any], new: Mapping[str, Any], sections: Collection[str]) -> list[str]:
    """Return the `--set` options that give `new` the values of `old` in these sections; empty if none can.

    A key that only `new` has cannot be removed by an option.
    """
    options: list[str] = []
    for section in sections:
        before, now = old.get(section), new.get(section)
        if before == now:
            continue
        if section == "space" and isinstance(before, Mapping):
            inline = {key: value for key, value in before.items() if key != "name"}
            pairs = [("space", inline if before.get("name") == "inline" else before.get("name"))]
        else:
            pairs = list(changed_leaves(before, now, section))
        if any(value is MISSING for _, value in pairs):
            return []
        options += [f"--set {shlex.quote(f'{key}={as_yaml(value)}')}" for key, value in pairs]
    return options


MISSING = object()


def changed_leaves(old: Any, new: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield (dotted key, old value) of the leaves that differ; the value is `MISSING` if only `new` has the key."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from changed_leaves(old.get(key, MISSING), new.get(key, MISSING), f"{path}.{key}")
    elif old != new:
        yield path, old


def as_yaml(value: Any) -> str:
    """Format plain data as YAML on one line, so that `--set` reads the same value."""
    return value if isinstance(value, str) and plain(value) else json.dumps(value, ensure_ascii=False)


def plain(text: str) -> bool:
    """Test if YAML reads the text, unquoted, as itself."""
    return bool(re.fullmatch(r"[A-Za-z][\w./-]*|[<>]= ?[\w.]+ ?[\w%]*", text)) and text.lower() not in WORDS


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """List the leaves that differ between two trees of plain data, as ``dotted.key: old -> new``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = dict.fromkeys([*old, *new])
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if old == new else [f"{path}: {old!r} -> {new!r}"]


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log lines; autotune reports warnings and errors itself."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)
