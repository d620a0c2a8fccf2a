"""report.html: whole by itself, safe against what models say, and with the numbers of trials.csv."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from autotune.common.formatting import score, size
from autotune.reporting.front_table import trials_csv
from autotune.reporting.html.page import notebook_html, report_html
from autotune.reporting.report import build_report
from autotune.reporting.text.markdown import report_markdown
from autotune.results.front.decision import choices
from autotune.results.load import results_of
from autotune.results.records import StudyResults

Make = Callable[..., StudyResults]
SAME = "the text of the cell"
EVIL = "</style></textarea><script>alert('model')</script><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    """Parsed page: elements, ids, links and the cells of the trials' table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.rows: dict[str, list[tuple[str, str]]] = {}
        self._row = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.tags.append(tag)
        self.attributes += list(values.items())
        if "id" in values:
            self.ids.append(values["id"])
        self.links += [values[name] for name in ("href", "src", "xlink:href") if name in values]
        if tag == "tr":
            self._row = values.get("id", "")
        self._cell = tag == "td" and bool(re.fullmatch(r"t\d+", self._row))
        if self._cell:
            self.rows.setdefault(self._row, []).append((values.get("data-v", SAME), ""))

    def handle_endtag(self, tag: str) -> None:
        if self._cell and tag == "td" and self.rows[self._row][-1][0] == SAME:
            self.rows[self._row][-1] = (self.rows[self._row][-1][1],) * 2
        self._cell = self._cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._cell:
            value, text = self.rows[self._row][-1]
            self.rows[self._row][-1] = (value, text + data)


def page_of(results: StudyResults, folder: Path | None = None) -> str:
    """The page of a study, with the plans of a folder."""
    return report_html(results, build_report(results, folder))


@pytest.fixture(scope="module")
def study(fake: Any) -> StudyResults:
    """24 trials, two of them failed."""
    return results_of(fake.build(trials=24))


@pytest.fixture(scope="module")
def text(study: StudyResults, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Its page, without plans and answers."""
    return page_of(study)


def write_extras(folder: Path, results: StudyResults, prompt: str) -> None:
    """A plan's file and answers for every choice, as a search leaves them."""
    (folder / "plans").mkdir()
    for pick in choices(results):
        record = results.records[pick.trial]
        variants = {
            f"self.model.layers.{layer}.{kind}._openvino_orig_weight": {"mode": "int4_asym", "group_size": 64}
            for layer in range(2)
            for kind in ("self_attn.q_proj", "mlp.down_proj")
        }
        plan = {"key": record.plan, "variants": variants, "notes": [prompt]}
        (folder / "plans" / f"{record.plan}.json").write_text(json.dumps(plan))
        answer = {"prompt": prompt, "original": "one two", "answer": f"one {prompt}", "score": 0.4}
        object.__setattr__(record, "answers", {"count": 3, "same": 2, "different": [answer]})


@pytest.mark.parametrize(
    "options",
    [
        {"trials": 0},
        {"trials": 1},
        {"trials": 4, "only_failing": True},
        {"trials": 8, "objectives": {"kl_divergence": "minimize"}},
        {"trials": 4, "objectives": {"similarity": "maximize", "kl_divergence": "minimize", "footprint": "minimize"}},
        {"trials": 12, "constraints": {"perplexity_increase": {"op": "<=", "value": -5.0, "text": "<= -5%"}}},
    ],
)
def test_the_page_is_whole_by_itself(make: Make, tmp_path: Path, options: dict[str, Any]) -> None:
    """Every link stays inside the page, ids are unique, and nothing is fetched, whatever became of the study."""
    text = page_of(make(**options))
    page = Page(text)
    assert len(page.ids) == len(set(page.ids))
    outside = [link for link in page.links if not link.startswith("#") and link != "data:,"]
    assert outside == []
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|https?://(?!www\.w3\.org)", text)
    assert set(re.findall(r"url\(#?([^)]*)\)", text)) <= set(page.ids)
    assert "connect-src" in text or "default-src 'none'" in text
    assert not re.search(r"[>\"\s]nan[<\"\s]", text)


def test_every_number_equals_trials_csv(study: StudyResults, text: str) -> None:
    """Each cell of the table carries the csv's number and prints it as every other table does."""
    page = Page(text)
    rows = {row["trial"]: row for row in csv.DictReader(io.StringIO(trials_csv(study)))}
    names = ["footprint", "compression_rate", "bits_per_weight", "kl_divergence", "similarity", "perplexity_increase"]
    header = re.findall(r"<th[^>]*scope=\"col\">(.*?)</th>", text)
    assert len(rows) == len(page.rows) == 24
    compared = 0
    for number, row in rows.items():
        cells = dict(zip((re.sub("<.*", "", name) for name in header), page.rows[f"t{number}"], strict=True))
        for name in names:
            value, printed = cells[
                {"compression_rate": "rate", "kl_divergence": "KL divergence"}.get(name, name.replace("_", " "))
            ]
            assert value == row[name] or float(value) == float(row[name])
            if name in study.metrics and row[name]:
                stderr = row.get(f"{name}_stderr")
                scale = 1e-3 if name == "kl_divergence" else 1
                error = float(stderr) / scale if stderr else None
                expected = score(float(row[name]) / scale, error, name=name, metric=study.metrics[name])
                assert printed == expected
            compared += bool(row[name])
    assert compared > 100


def test_the_decision_says_the_tables_numbers(study: StudyResults, text: str) -> None:
    """Size and scores of each choice stand on its card as in the table."""
    articles = re.findall(r"<article class=\"card.*?</article>", text, flags=re.DOTALL)
    for pick, card in zip(choices(study), articles, strict=False):
        assert f">trial {pick.trial}</a>" in card
        assert size(study.value(pick.trial, "footprint")) in card
        assert study.score_text(pick.trial, "kl_divergence") in card
    assert len(articles) >= 3


def test_what_models_and_users_write_stays_text(make: Make, tmp_path: Path) -> None:
    """Prompts, answers, model names and errors with markup in them are printed and never run."""
    results = make(trials=12, failing=[5], config={"model": f"org/{EVIL}"})
    object.__setattr__(results.records[5], "error", {"type": "ValueError", "message": EVIL})
    write_extras(tmp_path, results, EVIL)
    text = page_of(results, tmp_path)
    page = Page(text)
    assert page.tags.count("script") == 1
    assert "img" not in page.tags
    assert not [name for name, _ in page.attributes if name.startswith("on")]
    assert "<script>alert" not in text
    assert text.count("&lt;script&gt;alert") >= 4
    assert 'id="answers"' in text


def test_the_map_shows_what_was_applied(make: Make, text: str, tmp_path: Path) -> None:
    """With a plan in the folder there is a map of layers by kinds, without one no such section."""
    assert 'id="weights"' not in text
    results = make(trials=4)
    write_extras(tmp_path, results, "Who?")
    page = page_of(results, tmp_path)
    assert "4 × int4_asym g64" in page
    assert "<th>q_proj</th><th>down_proj</th>" in page


def test_same_study_same_page(study: StudyResults, text: str, tmp_path: Path) -> None:
    """Two renderings are equal, the drawings included."""
    assert page_of(study) == text


def test_every_colour_has_one_for_the_dark(text: str) -> None:
    """No drawing keeps a colour made for white paper."""
    used = set(re.findall(r"var\(--x-([0-9a-f]{6})", text))
    assert used
    assert used <= set(re.findall(r"--x-([0-9a-f]{6}):#", text))


def test_a_notebook_shows_table_and_plot(study: StudyResults, make: Make) -> None:
    """The front's trials and one drawing, with ids of its own for each study; markup in names stays text."""
    text, other = notebook_html(study), notebook_html(make(trials=8, config={"model": f"org/{EVIL}"}))
    pages = Page(text), Page(other)
    assert [page.tags.count("svg") for page in pages] == [1, 1]
    assert text.count("<tr") == len(study.front) + 2
    assert pages[0].ids
    assert not set(pages[0].ids) & set(pages[1].ids)
    assert "script" not in pages[1].tags
    assert "<svg" not in notebook_html(make(trials=0))


def test_a_mark_of_the_front_links_to_its_row_in_the_same_window(make: Make) -> None:
    """Each link of a drawing goes to a row of the table, and none opens another window."""
    results = make()
    page = report_html(results, build_report(results))
    drawing = page[page.index('<section id="front">') : page.index("</figure>")]
    targets = re.findall(r'<a href="#t(\d+)">', drawing)
    assert set(map(int, targets)) == set(results.unique.index)
    assert "target=" not in page
    assert set(Page(page).ids) >= {f"t{number}" for number in targets}


def test_a_page_of_a_large_study_lists_the_front_and_the_latest(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page names how many; every link in it has a target; trials.csv has all trials."""
    whole = Page(page_of(make(failing=(9, 34))))
    monkeypatch.setattr("autotune.results.records.MOST_LISTED", 16)
    results = make(failing=(9, 34))
    report = build_report(results)
    text = report_html(results, report)
    page, front = Page(text), set(results.front)
    latest = [number for number in results.records if number not in front]
    assert set(page.rows) == {f"t{number}" for number in {*front, *latest[len(front) - 16 :]}}
    assert len(page.rows) == 16
    assert {link[1:] for link in page.links if re.fullmatch(r"#t\d+", link)} <= set(page.rows)
    assert text.count("16 of the 36 trials") == 2
    assert "16 of the 36 trials" in report_markdown(report)
    assert len(trials_csv(results).splitlines()) == 37
    assert page.tags.count("use") < 0.7 * whole.tags.count("use")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_click_on_a_mark_selects_its_row(make: Make, tmp_path: Path) -> None:
    """In a browser: the pointer shows the tooltip, a click selects the row and brings it into view."""
    results = make()
    trial = results.front[2]
    script = f"""<script>
    var mark = document.querySelector('figure .wide a[href="#t{trial}"]'), row = document.getElementById("t{trial}");
    function pointer(type, kind) {{ return new PointerEvent(type, {{ pointerType: kind, bubbles: true }}); }}
    mark.closest(".trial").dispatchEvent(new PointerEvent("pointerenter", {{ pointerType: "mouse" }}));
    var hovered = document.getElementById("tip").textContent;
    mark.closest(".trial").dispatchEvent(new PointerEvent("pointerleave", {{ pointerType: "mouse" }}));
    mark.dispatchEvent(pointer("pointerdown", "touch"));
    mark.dispatchEvent(new MouseEvent("click", {{ bubbles: true, cancelable: true }}));
    var touched = !document.getElementById("tip").hidden && !row.classList.contains("selected");
    mark.dispatchEvent(pointer("pointerdown", "touch"));
    mark.dispatchEvent(new MouseEvent("click", {{ bubbles: true, cancelable: true }}));
    var selected = row.classList.contains("selected"), focused = document.activeElement === row;
    document.title = JSON.stringify([hovered, touched, selected, focused]);
    </script></body>"""
    page = report_html(results, build_report(results)).replace("</body>", script)
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", str(tmp_path / "page.html")]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(\[.*?\])</title>", dom, re.DOTALL)
    assert title is not None
    hovered, *rest = json.loads(unescape(title[1]))
    assert hovered.startswith(f"trial {trial}: ")
    assert rest == [True, True, True]
