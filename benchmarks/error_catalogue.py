"""Catalogue of error messages: one row for each place that raises an `AutotuneError` or collects a finding.

    python benchmarks/error_catalogue.py                 # a Markdown table, and the totals
    python benchmarks/error_catalogue.py --missing       # only rows without a place or without a remedy
    python benchmarks/error_catalogue.py --root FOLDER   # another checkout

`place` is the file, key or name in the message: the argument `file=` or `key=`, or a placeholder. `remedy` is the
instruction in the message, found by its words, so check each "no" by reading it. A message that only wraps the text of
another error is "passed on": the remedy is in that text.
"""

from __future__ import annotations

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

FOLDERS = ("autotune", "evaluators", "search_spaces")
CLASSES = {
    "AutotuneError",
    "UsageError",
    "ConfigError",
    "PrerequisiteError",
    "CompressionError",
    "PlanError",
    "EvaluationError",
    "StudyError",
}
COLLECTED = {"Finding": "ConfigError", "Invalid": "ConfigError", "Problem": "PlanError", "error": "ConfigError"}
"""Calls that make a part of an error: the class of the error."""

PLACES = ("file", "key", "path", "source")
REMEDIES = """
add allow ask check choose clear compress continue copy correct delete download export free give install join keep leave
lower make move name open pass raise reduce remove rename report run save set shorten start stop take try uninstall
update use wait write calibrate select search
must needs? expected available known supports? allowed accepts? nearest larger smaller fewer
"""
REMEDY = re.compile(rf"\b({'|'.join(REMEDIES.split())}|did you mean|one of|at least|at most)\b", re.IGNORECASE)


class Site(NamedTuple):
    """One place that raises: file and line, class, template of the message, and what it points at."""

    where: str
    kind: str
    message: str
    place: str

    @property
    def remedy(self) -> str:
        """Return the part of the message from the first word that tells what to do; empty if there is none."""
        found = REMEDY.search(self.message)
        return self.message[found.start() :] if found else ""

    @property
    def passed_on(self) -> bool:
        """Return True if the message holds no words of its own."""
        return not re.search(r"[a-z]{3}", re.sub(r"`?\{[^{}]*\}`?|`[a-z_]+`|ignored_scope", "", self.message))


def template(node: ast.expr | None, strings: dict[str, ast.expr]) -> str:
    """Return the text of an expression, with names in braces for what is filled in."""
    match node:
        case None:
            return ""
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr():
            return "".join(template(part, strings) for part in node.values)
        case ast.FormattedValue(value=ast.IfExp() | ast.Name() as value):
            return template(value, {key: text for key, text in strings.items() if key.isupper() or key[0] == "_"})
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.BinOp(op=ast.Add()):
            return template(node.left, strings) + template(node.right, strings)
        case ast.IfExp():
            return " | ".join(template(branch, strings) for branch in (node.body, node.orelse))
        case ast.Name(id=name) if name in strings:
            return template(strings[name], {key: value for key, value in strings.items() if key != name})
    return f"{{{ast.unparse(node)}}}"


def sites(path: Path, root: Path) -> Iterator[Site]:
    """Yield the sites of one file from top to bottom."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    strings: dict[ast.AST, dict[str, ast.expr]] = {}
    functions = [each for each in ast.walk(tree) if isinstance(each, (ast.FunctionDef, ast.Module))]
    owner: dict[ast.AST, ast.AST] = {}
    for function in functions:  # outer ones come first, so that an inner one wins
        strings[function] = dict(strings.get(tree, {}))
        for node in ast.walk(function):
            owner[node] = function
            match node:
                case ast.Assign(targets=[ast.Name(id=name)], value=value) if function is not tree or node in tree.body:
                    strings[function].setdefault(name, value)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    for call in sorted(calls, key=lambda each: (each.lineno, each.col_offset)):
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        if name == "error" and ast.unparse(call.func) not in ("source.error", "self.source.error"):
            continue
        kind = name if name in CLASSES else COLLECTED.get(name)
        if kind is None or (name == "Invalid" and "Finding(" in ast.unparse(call)):
            continue
        arguments = [argument for argument in call.args if not isinstance(argument, ast.Starred)]
        if not arguments:
            continue
        index = 0 if name in CLASSES or name == "Invalid" else 1
        words = template(arguments[min(index, len(arguments) - 1)], strings[owner[call]])
        keywords = [keyword.arg for keyword in call.keywords if keyword.arg in PLACES]
        marks = keywords + (["key"] if index else []) + re.findall(r"\{[^{}]*\}|--[a-z-]+|`[^`]+`", words)[:2]
        yield Site(f"{path.relative_to(root)}:{call.lineno}", kind, " ".join(words.split()), ", ".join(marks))


def catalogue(root: Path) -> list[Site]:
    """Return the sites of all files of a checkout."""
    files = [path for folder in FOLDERS for path in sorted((root / folder).rglob("*.py"))]
    return [site for path in files for site in sites(path, root)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).parents[1], help="checkout to read")
    parser.add_argument("--missing", action="store_true", help="only rows without a place or a remedy")
    arguments = parser.parse_args()
    found = catalogue(arguments.root)
    print("| where | class | place | remedy | message |\n|---|---|---|---|---|")
    for site in found:
        if not (arguments.missing and site.place and site.remedy):
            remedy = "yes" if site.remedy else "passed on" if site.passed_on else "no"
            cells = (site.where, site.kind, site.place or "no", remedy, site.message)
            print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    places, remedies = (sum(bool(getattr(site, name)) for site in found) for name in ("place", "remedy"))
    passed_on = sum(site.passed_on and not site.remedy for site in found)
    print(f"\n{len(found)} sites: {places} name a place, {remedies} a remedy, {passed_on} pass another error on.")


if __name__ == "__main__":
    main()
