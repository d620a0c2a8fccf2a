"""report.html while a search runs: it follows the search, and stops reloading itself at the end."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from search_fakes import FakeConfig, FakeSession, StudyOptions, search

from autotune.reporting.html import live

REFRESH = 'http-equiv="refresh"'


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that a browser was given; pages are written without pauses."""
    found: list[str] = []
    browser = SimpleNamespace(open=lambda address: found.append(address) is None)
    monkeypatch.setattr(live.webbrowser, "get", lambda: browser)
    monkeypatch.setattr(live, "PAUSE", 0)
    monkeypatch.setattr(live, "SECONDS", 0.01)
    return found


def test_the_page_follows_the_search(tmp_path: Path, addresses: list[str]) -> None:
    """A browser gets it once; after each trial it has the front so far and reloads itself; the report replaces it."""
    page, pages = tmp_path / "report.html", []
    search(
        FakeConfig(tmp_path, study=StudyOptions(trials=4)),
        open_page=True,
        callbacks=[lambda study, trial: pages.append(page.read_text())],
        report=lambda folder: (folder / "report.html").write_text("the report"),
    )
    assert addresses == [page.as_uri()]
    assert all(REFRESH in text for text in pages)
    assert "4 of 4 trials" in pages[-1]
    assert "The front so far" in pages[-1]
    assert '<td class="n"><a href=' not in pages[-1]
    assert pages[-1].count("<svg viewBox") >= 2
    assert page.read_text() == "the report"


def test_after_an_error_it_stops_reloading(tmp_path: Path, addresses: list[str]) -> None:
    """The last page says so."""

    def refuse(config: Any, stage: Any) -> FakeSession:
        raise RuntimeError("no model")

    with pytest.raises(RuntimeError):
        search(FakeConfig(tmp_path), open_page=True, open_session=refuse)
    text = (tmp_path / "report.html").read_text()
    assert REFRESH not in text
    assert "ended without a report" in text


def test_without_a_browser_the_path_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A browser for text would take the terminal, so it is not started, unless BROWSER names it."""
    program = live.webbrowser.GenericBrowser("true")
    monkeypatch.setattr(live.webbrowser, "get", lambda: program)
    monkeypatch.delenv("BROWSER", raising=False)
    assert not live.open_in_browser(tmp_path)
    monkeypatch.setenv("BROWSER", "true")
    assert live.open_in_browser(tmp_path)
