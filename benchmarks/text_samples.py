"""Samples of texts before and after a change: docstrings, error messages and help texts, chosen by a seed.

    python benchmarks/text_samples.py --before OLD_CHECKOUT

Docstrings are those of functions and classes that both checkouts have by the same name; of these, only those whose text
differs are sampled. Messages are paired by class and place in their function. Help texts are those of one option.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import random
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from error_catalogue import FOLDERS, catalogue

Pairs = list[tuple[str, str, str]]


def trees(root: Path) -> Iterator[tuple[Path, ast.Module]]:
    """Yield the files of a checkout with their syntax trees."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def first_sentences(root: Path) -> dict[str, str]:
    """Return name -> first paragraph of the docstring; a name that occurs twice is left out."""
    found: dict[str, list[str]] = {}
    for _, tree in trees(root):
        for node in ast.walk(tree):
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                found.setdefault(node.name, []).append(" ".join(text.split("\n\n")[0].split()))
    return {name: texts[0] for name, texts in found.items() if len(texts) == 1}


def option_helps(root: Path) -> dict[str, str]:
    """Return ``command.option`` or the name of a setting -> its help."""
    found: dict[str, str] = {}
    for path, tree in trees(root):
        if "cli" not in path.relative_to(root).as_posix() and path.name != "settings.py":
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                for argument in (*node.args.args, *node.args.kwonlyargs):
                    found.update({f"{node.name} {argument.arg}": text for text in helps(argument.annotation)})
            elif isinstance(node, ast.AnnAssign):
                found.update({ast.unparse(node.target): text for text in helps(node)})
    return found


def helps(node: ast.AST | None) -> list[str]:
    """Return the first help text inside a node."""
    calls = [] if node is None else [call for call in ast.walk(node) if isinstance(call, ast.Call)]
    return [text for call in calls for text in help_of(call)][:1]


def help_of(call: ast.Call) -> Iterator[str]:
    """Yield the help text of a call of typer, or of `describe` in the settings."""
    texts = [keyword.value for keyword in call.keywords if keyword.arg == "help"]
    if ast.unparse(call.func) == "describe":
        texts += call.args[:1]
    for text in texts:
        if isinstance(text, ast.Constant):
            yield " ".join(str(text.value).split())


def by_name(before: Mapping[str, str], after: Mapping[str, str]) -> Pairs:
    """Pair the texts of one name; equal ones are left out."""
    return [(name, before[name], after[name]) for name in sorted(before.keys() & after) if before[name] != after[name]]


def words(message: str) -> str:
    """Return a message without the names of what is filled in."""
    return re.sub(r"\{[^{}]*\}", "{}", message)


def messages(before: Path, after: Path) -> Pairs:
    """Pair each changed message with the most similar old message of its class; each old one is used once."""
    old, new = ({(site.kind, words(site.message)): site for site in catalogue(root)} for root in (before, after))
    removed, added = [key for key in old if key not in new], [key for key in new if key not in old]
    ratios = [
        (difflib.SequenceMatcher(None, one[1], other[1]).ratio(), other, one)
        for other in added
        for one in removed
        if one[0] == other[0]
    ]
    pairs: dict[tuple[str, str], tuple[str, str]] = {}
    for ratio, other, one in sorted(ratios, reverse=True):
        if ratio > 0.55 and other not in pairs and one not in pairs.values():
            pairs[other] = one
    return sorted((f"{new[key].where} {key[0]}", old[one].message, new[key].message) for key, one in pairs.items())


def table(title: str, pairs: Pairs, count: int, rng: random.Random) -> None:
    """Print a sample as a Markdown table."""
    chosen = sorted(rng.sample(pairs, min(count, len(pairs))))
    print(f"\n## {title}: {len(chosen)} of {len(pairs)} changed\n\n| name | before | after |\n|---|---|---|")
    for cells in chosen:
        print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(description=inspect.getdoc(inspect.getmodule(main)))
    parser.add_argument("--before", type=Path, required=True, help="checkout before the change")
    parser.add_argument("--after", type=Path, default=Path(__file__).parents[1], help="checkout after the change")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    before, after = options.before, options.after
    table("Docstrings", by_name(first_sentences(before), first_sentences(after)), 30, rng)
    table("Messages", messages(before, after), 30, rng)
    table("Help", by_name(option_helps(before), option_helps(after)), 10, rng)


if __name__ == "__main__":
    main()
