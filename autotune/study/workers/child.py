"""The worker process: reads what to do on stdin, says on stdout what became of it.

It holds one `Prepared` and runs many trials. It never touches the study's storage: that belongs to the search that
started it. When that search is gone, however it went, the pipe ends and so does the worker.
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
from typing import Any, BinaryIO

from autotune.common.threads import all_cores, take_share
from autotune.errors import AutotuneError
from autotune.study.trials.trial import Seen, Workplace, plan_saver, run_trial
from autotune.study.workers.messages import (
    Adopt,
    Ask,
    Begin,
    Call,
    Clock,
    Done,
    Raised,
    Reply,
    Returned,
    Run,
    Share,
    Stage,
    receive,
    send,
)
from autotune.study.workers.prepared import Prepared

__all__ = ["main"]


class Worker:
    """One worker, at its end of the pipes."""

    def __init__(self, incoming: BinaryIO, outgoing: BinaryIO) -> None:
        self.incoming = incoming
        self.outgoing = outgoing
        self.inbox: SimpleQueue[Any] = SimpleQueue()

    def listen(self) -> None:
        """Move messages into the inbox; the end of the pipe ends the process, in the middle of whatever it is at."""
        try:
            while True:
                self.inbox.put(receive(self.incoming))
        except (EOFError, OSError):
            os._exit(0)

    def say(self, message: Any) -> None:
        """Send a message; without a listener there is no point in going on."""
        try:
            send(self.outgoing, message)
        except OSError:
            os._exit(0)

    def ask(self, plan: str) -> Seen:
        """Ask the search about a plan, and wait for the answer."""
        self.say(Ask(plan))
        reply = self.inbox.get()
        assert isinstance(reply, Reply)
        return reply.seen

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Around work that all trials share, whichever comes first: it does not count as this trial's time.

        As the other workers wait for it, or soon will, it takes all cores.
        """
        self.say(Clock(running=False))
        try:
            with all_cores():
                yield
        finally:
            self.say(Clock(running=True))

    def work(self) -> None:
        """Do what the messages say, until the pipe ends."""
        begin = self.inbox.get()
        assert isinstance(begin, Begin)
        logging.basicConfig(level=begin.log_level, format="%(levelname)s: %(message)s", stream=sys.stderr)
        try:
            prepared = begin.prepare(begin.config, lambda text: self.say(Stage(text)))
            prepared.settle_in(self.shared)
            gc.freeze()  # what is imported by now need not be looked at after each trial
            while True:
                self.obey(self.inbox.get(), prepared)
        except Exception as error:
            self.say(Raised(error if isinstance(error, AutotuneError) else as_study_error(error)))

    def obey(self, message: Any, prepared: Prepared) -> None:
        """Do what one message says."""
        match message:
            case Adopt(found):
                prepared.adopt(found)
            case Share(threads):
                take_share(threads)
            case Call(name, arguments):
                attribute = getattr(prepared, name)
                self.say(Returned(attribute(*arguments) if callable(attribute) else attribute))
            case Run():
                self.run(message, prepared)

    def run(self, task: Run, prepared: Prepared) -> None:
        """Do one trial."""
        site = task.site
        place = Workplace(
            engine=prepared.engine,
            score=prepared.score,
            objectives=site.objectives,
            limits=site.limits,
            original=site.original,
            save_plan=plan_saver(site.folder),
            earlier=self.ask,
            stage=lambda text: self.say(Stage(text)),
        )
        result = run_trial(task.settings, place, task.rivals)
        self.say(Done(result, prepared.counts(), prepared.manifest()))


def as_study_error(error: Exception) -> Exception:
    """An error of any class as one that can travel: third parties' exceptions may not survive pickling."""
    import traceback

    from autotune.errors import StudyError

    logging.getLogger(__name__).debug("%s", "".join(traceback.format_exception(error)))
    return StudyError(f"the worker process could not go on: {type(error).__name__}: {error}")


def main() -> None:
    """Run a worker on this process's stdin and stdout; everything that prints goes to stderr instead."""
    outgoing = os.fdopen(os.dup(1), "wb")
    incoming = os.fdopen(os.dup(0), "rb")
    os.dup2(2, 1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    worker = Worker(incoming, outgoing)
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.work()


if __name__ == "__main__":
    main()
