"""Connection of the search to one worker process: messages, stderr, memory, exit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

from autotune.common.machine import own_memory
from autotune.common.threads import environment_for
from autotune.study.workers.messages import Begin, receive, send

COMMAND = "from autotune.study.workers.child import main; main()"
STDERR_LINES = 12
"""Lines of a worker's stderr that explain its death."""


@dataclass(frozen=True)
class Exited:
    """End of the process: exit status (negative: the signal that ended it) and the last lines of stderr."""

    status: int
    stderr_tail: str


@dataclass(frozen=True)
class LogLine:
    """Line of the process's stderr."""

    line: str


class WorkerProcess:
    """Child process that runs `autotune.study.workers.child`."""

    def __init__(self, begin: Begin, threads: int, inbox: SimpleQueue[tuple[WorkerProcess, Any]]) -> None:
        """Start the process with this number of threads.

        Its messages arrive in `inbox` as (this, message), its end as `Exited`.
        """
        self._inbox = inbox
        self._last: deque[str] = deque(maxlen=STDERR_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", COMMAND],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, **environment_for(threads), "PYTHONPATH": import_path()},
            start_new_session=True,  # Ctrl-C in a terminal is for the search alone, which then ends its workers
        )
        self._readers = [threading.Thread(target=read, daemon=True) for read in (self._read_errors, self._read)]
        for reader in self._readers:
            reader.start()
        self.send(begin)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def send(self, message: Any) -> None:
        """Send a message; a dead process ignores it, and its `Exited` follows."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            send(self._process.stdin, message)

    def memory(self) -> int:
        """Measure the process's private memory in bytes; 0 if it is dead."""
        return own_memory(self.pid)

    def kill(self) -> None:
        """Kill the process."""
        with suppress(OSError):
            self._process.kill()

    def close(self) -> None:
        """Close the pipe, so that the process exits, and clean up."""
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        for reader in self._readers:
            reader.join(timeout=5)
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            with suppress(OSError):
                stream.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with suppress(EOFError, OSError, ValueError):
            while True:
                self._inbox.put((self, receive(self._process.stdout)))
        status = self._process.wait()
        self._readers[0].join(timeout=5)  # so that the last lines of stderr arrive before `Exited`
        self._inbox.put((self, Exited(status, "\n".join(self._last))))

    def _read_errors(self) -> None:
        assert self._process.stderr is not None
        with suppress(OSError, ValueError):
            for line in self._process.stderr:
                text = line.decode(errors="replace").rstrip()
                self._last.append(text)
                self._inbox.put((self, LogLine(text)))


def import_path() -> str:
    """Convert this process's import path to PYTHONPATH for the worker."""
    return os.pathsep.join(entry or os.getcwd() for entry in sys.path)


def exit_text(status: int) -> str:
    """Format an exit status: ``SIGKILL``, or ``exit status 3``."""
    if status >= 0:
        return f"exit status {status}"
    names: Mapping[int, str] = {member.value: member.name for member in signal.Signals}
    return names.get(-status, f"signal {-status}")
