"""Coordinate the processes that work on one study: a single one, or several on several machines.

Processes that share a storage send heartbeats. A trial whose process is dead is marked as interrupted by the first
process that notices, and repeated by the first one that is free. One process at a time chooses the next trial or claims
a plan.
"""

from __future__ import annotations

import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from autotune.common.files import locked
from autotune.study.storage.history import History
from autotune.study.storage.patience import repeated

if TYPE_CHECKING:
    import optuna
    from optuna.trial import FrozenTrial

INTERVAL = 10.0
"""Seconds between two heartbeats."""

GRACE = 60.0
"""Seconds without a heartbeat after which a process counts as dead."""

LOCK = 0x6175746F74756E65
"""Key of PostgreSQL's advisory lock: the ASCII letters of autotune."""


class Sharing(Protocol):
    """Coordination with the other processes that work on the study."""

    alone: bool
    """Whether there are no other processes."""

    poll_interval: float
    """Seconds after which the storage is read again even if nothing happened in this process."""

    def claim(self) -> AbstractContextManager[None]:
        """Lock the study while the next trial or a plan is chosen."""

    def begun(self, trial: optuna.Trial) -> None:
        """Register a trial that begins in this process."""

    def ended(self, trial: optuna.Trial) -> None:
        """Unregister a trial that has ended."""

    def lost(self, history: History) -> list[FrozenTrial]:
        """Find the running trials whose process is dead."""

    def others(self, history: History) -> int:
        """Count the trials that run in other processes."""

    def close(self) -> None:
        """Stop the heartbeats."""


class Alone:
    """Coordination of a single process, which has locked the study's folder: all other running trials are lost."""

    alone = True
    poll_interval = 60.0

    def __init__(self) -> None:
        self._own: set[int] = set()

    def claim(self) -> AbstractContextManager[None]:
        """See `Sharing`."""
        return nullcontext()

    def begun(self, trial: optuna.Trial) -> None:
        """See `Sharing`."""
        self._own.add(trial.number)

    def ended(self, trial: optuna.Trial) -> None:
        """See `Sharing`."""
        self._own.discard(trial.number)

    def lost(self, history: History) -> list[FrozenTrial]:
        """See `Sharing`."""
        return [trial for trial in history.running if trial.number not in self._own]

    def others(self, history: History) -> int:
        """See `Sharing`."""
        return 0

    def close(self) -> None:
        """See `Sharing`."""


class Shared:
    """Coordination of several processes that share a storage."""

    alone = False
    poll_interval = 1.0

    def __init__(self, study: optuna.Study) -> None:
        """Start the heartbeats."""
        self._study = study
        self._storage: Any = study._storage
        self._own: dict[int, int] = {}
        self._silent: dict[int, float] = {}
        self._stop = threading.Event()
        self._heartbeats = threading.Thread(target=self._write_heartbeats, daemon=True)
        self._heartbeats.start()

    @contextmanager
    def claim(self) -> Iterator[None]:
        """See `Sharing`."""
        from sqlalchemy.exc import SQLAlchemyError

        engine = backend(self._storage).engine
        if engine.dialect.name == "postgresql":
            with repeated(locked_connection)(self._lock_engine) as connection:
                try:
                    yield
                finally:
                    with suppress(SQLAlchemyError):  # a lost connection has released the lock
                        connection.exec_driver_sql(f"SELECT pg_advisory_unlock({LOCK})")
        elif engine.dialect.name == "sqlite" and engine.url.database:
            with locked(Path(engine.url.database)):
                yield
        else:
            yield

    @cached_property
    def _lock_engine(self) -> Any:
        """Connections to hold the lock with; no pool keeps them, for a server has only so many."""
        from sqlalchemy import NullPool, create_engine

        return create_engine(backend(self._storage).engine.url, poolclass=NullPool)

    def begun(self, trial: optuna.Trial) -> None:
        """See `Sharing`."""
        trial.set_user_attr("process", identity(os.getpid()))
        self._storage.record_heartbeat(trial._trial_id)
        self._own[trial.number] = trial._trial_id

    def ended(self, trial: optuna.Trial) -> None:
        """See `Sharing`."""
        self._own.pop(trial.number, None)

    def lost(self, history: History) -> list[FrozenTrial]:
        """See `Sharing`. A process on this machine is looked up by its id, any other one by its heartbeat."""
        running = [trial for trial in history.running if trial.number not in self._own]
        if not running:
            return []
        stale = set(self._storage._get_stale_trial_ids(self._study._study_id))
        now = time.monotonic()
        found = []
        for trial in running:
            alive = is_alive(trial.user_attrs.get("process"))
            if alive is None and "process" not in trial.user_attrs:  # it may have died before its first heartbeat
                alive = now - self._silent.setdefault(trial.number, now) < GRACE
            if alive is False or (alive is None and trial._trial_id in stale):
                found.append(trial)
        return found

    def others(self, history: History) -> int:
        """See `Sharing`."""
        return sum(trial.number not in self._own for trial in history.running)

    def close(self) -> None:
        """See `Sharing`."""
        self._stop.set()
        self._heartbeats.join(timeout=5)

    def _write_heartbeats(self) -> None:
        while not self._stop.wait(INTERVAL):
            for trial_id in list(self._own.values()):
                with suppress(Exception):  # the search itself reports a storage that does not work
                    self._storage.record_heartbeat(trial_id)


def locked_connection(engine: Any) -> Any:
    """Open a connection that holds PostgreSQL's advisory lock."""
    connection = engine.connect()
    try:
        connection.exec_driver_sql(f"SELECT pg_advisory_lock({LOCK})")
    except BaseException:
        connection.close()
        raise
    return connection


def backend(storage: Any) -> Any:
    """Unwrap the relational storage inside Optuna's cache."""
    return getattr(storage, "_backend", storage)


def identity(pid: int) -> dict[str, Any]:
    """Identify a process among all processes of all machines."""
    import psutil

    return {"machine": machine(), "pid": pid, "started": psutil.Process(pid).create_time()}


def machine() -> str:
    """Identify this machine, boot and namespace of process ids (containers have their own)."""
    parts = [platform.node()]
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        with suppress(OSError):
            parts.append(os.readlink(path) if path.endswith("pid") else Path(path).read_text().strip())
    return " ".join(parts)


def is_alive(process: Mapping[str, Any] | None) -> bool | None:
    """Test if a process of this machine is running; None for a process of another machine, or an unknown one."""
    import psutil

    if process is None or process["machine"] != machine():
        return None
    try:
        found = psutil.Process(process["pid"])
        return bool(found.create_time() == process["started"] and found.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return None
