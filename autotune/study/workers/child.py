"""Worker process: receive messages on stdin, answer them on stdout.

A worker holds one session and runs many trials. It never touches the study's storage, which belongs to the search that
started it. When that search ends, however it ends, the pipe closes and the worker exits.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, BinaryIO

from autotune.common.threads import all_cores, take_share
from autotune.errors import AutotuneError
from autotune.study.trials.trial import PlanStatus
from autotune.study.workers.messages import (
    Begin,
    Clock,
    Describe,
    Done,
    FrontScores,
    GetStatus,
    Raised,
    Reply,
    Run,
    ScoreFront,
    SetSource,
    Share,
    Stage,
    receive,
    send,
)
from autotune.study.workers.pool import run_in_session

if TYPE_CHECKING:
    from autotune.study.session import Session


class Worker:
    """The worker's end of the pipes."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.inbox: SimpleQueue[Any] = SimpleQueue()

    def listen(self) -> None:
        """Move messages into the inbox; exit the process at once when the pipe closes."""
        try:
            while True:
                self.inbox.put(receive(self.incoming))
        except (EOFError, OSError):
            os._exit(0)

    def send(self, message: Any) -> None:
        """Send a message; exit if nobody receives it."""
        try:
            send(self.outgoing, message)
        except OSError:
            os._exit(0)

    def stage(self, text: str) -> None:
        """Send a progress message."""
        self.send(Stage(text))

    def status(self, plan: str) -> PlanStatus:
        """Ask the search for the status of a plan."""
        self.send(GetStatus(plan))
        reply = self.inbox.get()
        assert isinstance(reply, Reply)
        return reply.status

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Stop the trial's clock during work that all trials share, whichever needs it first.

        The other workers wait for it, or soon will, so it uses all cores.
        """
        self.send(Clock(running=False))
        try:
            with all_cores():
                yield
        finally:
            self.send(Clock(running=True))

    def work(self) -> None:
        """Handle messages until the pipe closes."""
        begin = self.inbox.get()
        assert isinstance(begin, Begin)
        logging.basicConfig(level=begin.log_level, format="%(levelname)s: %(message)s", stream=sys.stderr)
        try:
            session = begin.open_session(begin.config, self.stage)
            session.warm_up(self.shared)
            gc.freeze()  # later collections skip the imported modules
            while True:
                self.handle(self.inbox.get(), session)
        except Exception as error:
            self.send(Raised(error if isinstance(error, AutotuneError) else as_study_error(error)))

    def handle(self, message: Any, session: Session) -> None:
        """Handle one message."""
        match message:
            case SetSource(source):
                session.source = source
            case Share(threads):
                take_share(threads)
            case Describe(original, report):
                self.send(session.describe(original=original, report=report))
            case ScoreFront(settings, scoring):
                self.send(FrontScores(getattr(session, scoring)(settings)))
            case Run(settings, site, rivals):
                result = run_in_session(session, settings, site, rivals, status=self.status, stage=self.stage)
                self.send(Done(result, session.counts(), session.manifest()))


def as_study_error(error: Exception) -> Exception:
    """Convert an error of any class to a StudyError: third-party exceptions may not survive pickling."""
    import traceback

    from autotune.errors import StudyError

    logging.getLogger(__name__).debug("%s", "".join(traceback.format_exception(error)))
    return StudyError(
        f"the worker process failed: {type(error).__name__}: {error}. Finished trials are kept; run the same command "
        "with --debug to see where it failed"
    )


def main() -> None:
    """Run a worker on this process's stdin and stdout; redirect everything printed to stderr."""
    outgoing = os.fdopen(os.dup(1), "wb")
    incoming = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    worker = Worker(incoming, outgoing)
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
