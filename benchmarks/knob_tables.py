"""Put the figures of README and docs/figures.md into the pages of docs/knobs: `python benchmarks/knob_tables.py`.

A page names its rows in a comment, ``<!-- measured: int4_asym g64 | int4_asym g64 ratio 0.8 * -->``; what follows the
comment is written anew. So a figure is measured in one place (benchmarks/quality.py prints both tables).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "knobs"
MARK = re.compile(r"<!-- measured: (.*?) -->")


def texts() -> str:
    """The texts that hold the figures."""
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/figures.md"))


def measured(text: str) -> dict[str, tuple[str, str]]:
    """Setting -> (bytes, KL divergence with its standard error), in the table's order."""
    found: dict[str, tuple[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) >= 3 and re.fullmatch(r"[\d,]+", cells[1]) and "±" in cells[2]:
            found.setdefault(cells[0], (cells[1], cells[2]))
    return found


def table(wanted: str, known: dict[str, tuple[str, str]]) -> str:
    """The rows that a page asks for; a name that ends in ``*`` is a beginning."""
    rows: list[str] = []
    for name in (part.strip() for part in wanted.split("|")):
        begins = name.removesuffix("*").strip() if name.endswith("*") else None
        rows += [key for key in known if key == name or (begins and key.startswith(begins) and key != begins)]
    if len(rows) < 2:
        return "There is no figure for it yet.\n"
    first = float(known[rows[0]][1].split("±")[0])
    lines = ["| setting | bytes | KL divergence | to the first row |", "|---|---:|---:|---:|"]
    for row in dict.fromkeys(rows):
        size, divergence = known[row]
        change = 100 * (float(divergence.split("±")[0]) / first - 1)
        lines.append(f"| {row} | {size} | {divergence} | {'–' if row == rows[0] else f'{change:+.0f}%'} |")
    return "\n".join(lines) + "\n"


def filled(page: str, known: dict[str, tuple[str, str]]) -> str:
    """A page with its table; a page without a mark stays as it is."""
    mark = MARK.search(page)
    if mark is None:
        return page
    intro = "The demo model, KL divergence to the original in nats a token ± one standard error:"
    return f"{page[: mark.end()]}\n\n**Measured.** {intro}\n\n{table(mark[1], known)}"


def main() -> None:
    known = measured(texts())
    for page in sorted(PAGES.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8"), known), encoding="utf-8")
    print(f"{len(known)} rows", file=sys.stderr)


if __name__ == "__main__":
    main()
