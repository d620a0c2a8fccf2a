"""report.html while a search runs: the front so far on a page that reloads itself, and opening a page in a browser."""

from __future__ import annotations

import logging
import os
import time
import webbrowser
from pathlib import Path

from autotune.common.files import atomic_write
from autotune.reporting.front_table import front_table
from autotune.reporting.html.drawings import front_drawings, front_marks, theme_css
from autotune.reporting.html.page import template
from autotune.results.load import load_results

logger = logging.getLogger(__name__)

SECONDS = 3
"""Time after which the page reloads itself."""

PAUSE = 30
"""The next page waits this many times as long as the last one took: writing takes at most 3% of the time."""


class LivePage:
    """The page of one running search, in place of its report."""

    def __init__(self, folder: Path, model: str, storage: str | None) -> None:
        """Take the study's folder, the model's name, and the URL of the storage, None for the folder's own."""
        self.path, self.model, self.storage = folder / "report.html", model, storage
        self._next = 0.0

    def write(self, status: str, stage: str, *, begun: bool, running: bool = True) -> None:
        """Write the page, unless the last one is too recent; it reloads itself while `running`.

        Args:
            status: how many trials are finished, and the time left; or why the search ended.
            stage: the current step.
            begun: there are trials.
            running: False ends the reloading.
        """
        now = time.monotonic()
        if running and now < self._next:
            return
        try:
            text = self._text(status, stage, begun, running)
            with atomic_write(self.path, durable=False) as temporary:
                temporary.write_text(text, encoding="utf-8", newline="\n")
        except Exception:  # a page must not end a search
            logger.debug("the page of the running search was not written", exc_info=True)
        self._next = time.monotonic() + max(SECONDS, PAUSE * (time.monotonic() - now))

    def _text(self, status: str, stage: str, begun: bool, running: bool) -> str:
        results = load_results(self.path.parent, self.storage) if begun else None
        front = results if results is not None and results.front else None
        table = None if front is None else front_table(front)
        if table is not None:  # under "trial", numbers link to the table of all trials, which this page has not
            table = table._replace(header=["number", *table.header[1:]])
        return template("live.html").render(
            model=self.model,
            status=status,
            stage=stage,
            seconds=SECONDS if running else None,
            fronts=[] if front is None else front_drawings(front)[:1],
            legend=[] if front is None else front_marks(front, tied=False),
            table=table,
            theme=theme_css(),
        )


def open_in_browser(path: Path) -> bool:
    """Open a page in the user's browser; False if there is none, or only one for text, which would take the terminal.

    The environment variable BROWSER names another program.
    """
    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    if type(browser) is webbrowser.GenericBrowser and not os.environ.get("BROWSER"):
        return False
    return browser.open(path.absolute().as_uri())
