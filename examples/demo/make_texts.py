"""Writes the demo's texts: `calibration.txt`, `search.txt` and `report.txt`.

    python examples/demo/make_texts.py [--check]

The three files are drawn from different seeds and share no document; neither does the training text, which
`training_documents` streams without end. Documents are separated by a blank line. `--check` writes nothing and fails
where a file differs from what the generator says.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import exercises
import stories

FOLDER = Path(__file__).resolve().parent
FILES = {"calibration.txt": (101, 140_000), "search.txt": (202, 110_000), "report.txt": (303, 110_000)}
TRAINING_SEED = 404
KINDS: dict[Callable[[random.Random], str], int] = {
    stories.story: 16,
    stories.scene: 50,
    stories.chronicle: 6,
    stories.letter: 10,
    stories.because: 7,
    stories.poem: 6,
    stories.diary: 8,
    exercises.tracking: 6,
    exercises.sums: 8,
    exercises.shop: 4,
    exercises.counting: 6,
    exercises.portrait: 8,
    exercises.town: 6,
    exercises.ages: 4,
    exercises.recipe: 5,
    exercises.riddle: 3,
}


def _documents(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    kinds, weights = list(KINDS), list(KINDS.values())
    while True:
        yield rng.choices(kinds, weights)[0](rng)


def held_out() -> dict[str, list[str]]:
    """Returns the documents of each file; no document is in two files, or twice in one."""
    seen: set[str] = set()
    files: dict[str, list[str]] = {}
    for name, (seed, size) in FILES.items():
        texts: list[str] = []
        for text in _documents(seed):
            if text not in seen:
                seen.add(text)
                texts.append(text)
                size -= len(text.encode()) + 2
            if size <= 0:
                break
        files[name] = texts
    return files


def training_documents(seed: int = TRAINING_SEED) -> Iterator[str]:
    """Yields documents without end, none of which is in one of the files."""
    seen = {text for texts in held_out().values() for text in texts}
    return (text for text in _documents(seed) if text not in seen)


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the texts of the demo.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a file differs")
    check = parser.parse_args().check
    for name, texts in held_out().items():
        path, content = FOLDER / name, ("\n\n".join(texts) + "\n").encode()
        if not check:
            path.write_bytes(content)
        elif not path.is_file() or path.read_bytes() != content:
            raise SystemExit(f"{path} is not what the generator writes; run `python {Path(__file__).name}` again")
        print(f"{name}: {len(texts)} documents, {len(content)} bytes")


if __name__ == "__main__":
    main()
