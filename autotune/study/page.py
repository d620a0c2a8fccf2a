"""The page of a running search: report.html with the trials so far, in the browser."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from autotune.common.formatting import duration
from autotune.study.progress import Listener, Listeners, StudyInfo
from autotune.study.storage.rows import Row

if TYPE_CHECKING:
    from autotune.reporting.html.live import LivePage


class PageListener:
    """Listener that keeps the report's page up to date while a search runs."""

    def __init__(self, page: LivePage) -> None:
        self.page = page
        self.info: StudyInfo | None = None
        self.count = 0
        self.is_over = False

    def show(self, stage: str) -> None:
        """Write the page with the number of trials, the time left and a stage."""
        status = "preparing the search"
        if self.info is not None:
            left = self.info.remaining()
            status = f"{self.count} of {self.info.total} trials"
            status += "" if left is None else f", about {duration(round(left))} left"
        self.page.write(status, stage, begun=self.info is not None)

    def stage(self, message: str, trial: int | None = None) -> None:
        """See `Listener`."""
        if trial is None:
            self.show(message)

    def started(self, info: StudyInfo) -> None:
        """See `Listener`."""
        self.info, self.count = info, info.done
        self.show("")

    def trial_finished(self, row: Row, front: Sequence[Row], eta: float | None) -> None:
        """See `Listener`."""
        self.count = row.count
        self.show("")

    def finished(self, message: str) -> None:
        """See `Listener`; the report has replaced the page."""
        self.is_over = True

    def close(self) -> None:
        """See `Listener`; after an error there is no report."""
        if not self.is_over:
            self.page.write("the search ended without a report; the terminal shows why", "", begun=False, running=False)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: None


def with_page(listener: Listener, folder: Path, model: str, storage: str | None) -> Listener:
    """Open the page of a search in the browser; return a listener that also keeps it up to date."""
    from autotune.reporting.html.live import LivePage, open_in_browser

    page = PageListener(LivePage(folder, model, storage))
    page.show("preparing")
    if not open_in_browser(page.page.path):
        listener.note(f"no browser was found; open {page.page.path} yourself, which follows the search")
    return Listeners(listener, page)
