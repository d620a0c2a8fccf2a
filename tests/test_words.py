"""Words of the source and the documentation: docstrings, identifiers and phrases that have a better term."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("autotune", "evaluators", "search_spaces", "tests", "benchmarks", "docs")
DOCUMENTS = (
    "README.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "docs/**/*.md",
    "search_spaces/*.yaml",
    "examples/**/*.yaml",
)


FIRST_WORDS = ("What", "Whether", "How", "Where", "Why", "Who", "Whose", "Which", "When")
"""A docstring is a noun phrase or begins with a verb; it is no question and no relative clause."""

NAMES = {
    "able": "usable, eligible",
    "adopt": "set_source",
    "asked": "requested, or the noun",
    "bear": "tolerate, or the limit",
    "bears": "tolerate, or the limit",
    "beat": "dominate, heartbeat",
    "beaten": "dominated",
    "beaten_by": "dominated_by",
    "beats": "dominates, heartbeats",
    "befalls": "faults",
    "bury": "replace_worker, fail_trial",
    "dear": "expensive, excluded",
    "doubtful": "uncertain",
    "foretold": "predicted",
    "gone": "exited, removed, missing",
    "hopeless": "crash_limit",
    "known": "the noun: names, options, present",
    "last_words": "stderr_tail",
    "mine": "own, or the noun",
    "opened": "model, file, or the noun",
    "ready": "is_ready, or the noun",
    "said": "message, output",
    "seen": "visited, covered, or the noun",
    "seen_as": "view",
    "settle": "finish",
    "settle_in": "warm_up",
    "settle_twins": "finish_twins",
    "spent": "elapsed, cost",
    "standing": "current",
    "stands_for": "restored, value",
    "tell": "finish_trial, report",
    "theirs": "peer, other",
    "told": "reported, output, or the noun",
    "treated": "transformed, or the noun",
    "unfit": "indivisible, invalid",
    "unkept": "expanded",
    "unread": "invalid, skipped",
    "verdict": "reason, result",
    "wanted": "expected, requested, or the noun",
    "witness": "sample, measured_index",
}
"""Retired identifier -> better words. Underscores around a name and its case do not matter."""

PHRASES = {
    r"a budget is spent": "budget allocation needs",
    r"as a rule": "usually, by default",
    r"befalls?": "happens to, faults",
    r"be(?:ars?|aring|orne)(?! (?:in mind|witness))": "tolerates, allows",
    r"beaten": "dominated",
    r"beats": "dominates, is better than",
    r"beyond doubt": "with high confidence",
    r"comes? to know": "learns, reads",
    r"foretold|foretells?": "predicted, forecast",
    r"its last words": "last lines of stderr",
    r"nothing but": "only",
    r"settles? in": "warms up",
    r"somebody else|whoever": "another process, a user",
    r"spent by": "used by",
    r"means? nothing": "has no effect",
    r"nothing to win back": "not supported",
    r"stands? in for": "replaces",
    r"(?:is|are|was|be) told(?! apart)": "is reported, receives",
    r"anew": "again",
    r"surely worse": "dominated with high confidence",
    r"what there is": "what is available",
    r"has been asked for": "was requested",
}
"""Retired phrase, as a regular expression of whole words -> better words."""

PHRASE = re.compile(rf"\b(?:{'|'.join(PHRASES)})\b".replace(" ", r"\s+(?:#\s+)?"), re.IGNORECASE)


def first_words(path: str, tree: ast.Module) -> Iterator[str]:
    """Find docstrings that begin with a relative pronoun."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            text = ast.get_docstring(node) or ""
            if text.split(" ")[0] in FIRST_WORDS:
                yield f"{path}:{getattr(node, 'lineno', 1)}: docstring: {text.splitlines()[0]}"


def identifiers(path: str, tree: ast.Module) -> Iterator[str]:
    """Find definitions of functions, classes, arguments, variables and attributes with a retired name."""
    found: set[tuple[int, str]] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found.add((node.lineno, name))
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add((node.lineno, name))
            case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
                found.add((node.lineno, name))
    for line, name in sorted(found):
        if better := NAMES.get(name.strip("_").lower()):
            yield f"{path}:{line}: name {name}: {better}"


def phrases(path: str, text: str) -> Iterator[str]:
    """Find retired phrases, also across the end of a line."""
    for match in PHRASE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        phrase = " ".join(word for word in match[0].split() if word != "#")
        yield f"{path}:{line}: phrase {phrase}: {better_phrase(phrase)}"


def better_phrase(phrase: str) -> str:
    return next(better for pattern, better in PHRASES.items() if re.fullmatch(pattern, phrase, re.IGNORECASE))


def prose(source: str) -> str:
    """Blank out everything in a Python file but strings and comments; lines stay where they are."""
    lines = [" " * len(line) for line in source.split("\n")]
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        # Since Python 3.12 an f-string is several tokens.
        if token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING), tokenize.COMMENT):
            (first, start), _ = token.start, token.end
            for offset, part in enumerate(token.string.split("\n")):
                line, at = lines[first - 1 + offset], start if offset == 0 else 0
                lines[first - 1 + offset] = line[:at] + part + line[at + len(part) :]
    return "\n".join(lines)


def lint(path: str, source: str) -> list[str]:
    """Return every hit in a file."""
    if not path.endswith(".py"):
        return list(phrases(path, source))
    tree = ast.parse(source)
    return [*first_words(path, tree), *identifiers(path, tree), *phrases(path, prose(source))]


def files() -> list[Path]:
    """Return the files to check."""
    found = [path for folder in SOURCES for path in (ROOT / folder).rglob("*.py")]
    found += [path for pattern in DOCUMENTS for path in ROOT.glob(pattern)]
    return sorted(path for path in found if path != Path(__file__))


@pytest.mark.parametrize("folder", [*SOURCES, "."])
def test_no_retired_words(folder: str) -> None:
    """Every text and name uses the field's word; see the tables above for it."""
    hits = []
    for path in files():
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(f"{folder}/") or (folder == "." and not name.startswith(SOURCES)):
            hits += lint(name, path.read_text(encoding="utf-8"))
    assert not hits, "\n".join(hits)


@pytest.mark.parametrize(
    ("source", "hit"),
    [
        ('"""What a study is."""\n', "docstring: What a study is."),
        ('def f() -> None:\n    """Whether it is."""\n', "docstring: Whether it is."),
        ("def settle_in() -> None: ...\n", "name settle_in: warm_up"),
        ("def f(told: int) -> None: ...\n", "name told"),
        ("class Gone: ...\n", "name Gone"),
        ("for _seen in []: ...\n", "name _seen"),
        ("self.spent = 1\n", "name spent: elapsed"),
        ('raise ValueError(f"{x} is beaten")\n', "phrase beaten: dominated"),
        ("x = 1  # as a\n# rule\n", ":1: phrase as a rule"),
        ('x = """a\nmodel beyond\n    doubt"""\n', ":2: phrase beyond doubt"),
    ],
)
def test_a_planted_word_is_found(source: str, hit: str) -> None:
    """Each kind of hit is found, in a file that has none otherwise."""
    clean = '"""Load a study."""\n\n\ndef load(path: str) -> str:\n    """Return the trials."""\n    return path\n'
    assert lint("a.py", clean) == []
    (found,) = lint("a.py", source)
    assert hit in found


def test_documents_are_read() -> None:
    """A phrase in Markdown is found with its line, and all kinds of files are among those checked."""
    assert lint("a.md", "# Title\n\nModels bear it.\n") == ["a.md:3: phrase bear: tolerates, allows"]
    names = {path.relative_to(ROOT).as_posix() for path in files()}
    assert {
        "README.md",
        "SECURITY.md",
        "docs/glossary.md",
        "search_spaces/int4.yaml",
        "evaluators/latency.py",
        "tests/conftest.py",
    } <= names
