"""The answers that a search kept beside its plans: what the original and a compressed model said to each prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Literal

__all__ = ["Answer", "Part", "compare_words", "most_different", "read_answers"]

Part = tuple[Literal["same", "ours", "theirs"], str]


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt with both answers and how alike they are (as the evaluator scores it, 1 for equal answers)."""

    prompt: str
    original: str
    answer: str
    score: float


def read_answers(folder: Path, key: str | None) -> list[Answer]:
    """The answers of one plan in the order of the prompts; empty where none were kept."""
    try:
        data = json.loads((folder / "answers" / f"{key}.json").read_text(encoding="utf-8"))
        return [
            Answer(str(entry["prompt"]), str(entry["original"]), str(entry["answer"]), float(entry["score"]))
            for entry in data["answers"]
        ]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def most_different(answers: list[Answer], count: int = 4) -> list[Answer]:
    """Those that differ most, the worst first; answers equal word for word are left out."""
    different = [answer for answer in answers if answer.answer != answer.original]
    return sorted(different, key=lambda answer: answer.score)[:count]


def compare_words(original: str, answer: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts that are the same or only in one of them; the parts of each join to the text again."""
    before, after = _words(original), _words(answer)
    left: list[Part] = []
    right: list[Part] = []
    for tag, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if tag == "equal":
            left.append(("same", "".join(before[a:b])))
            right.append(("same", "".join(after[c:d])))
            continue
        if b > a:
            left.append(("theirs", "".join(before[a:b])))
        if d > c:
            right.append(("ours", "".join(after[c:d])))
    return left, right


def _words(text: str) -> list[str]:
    """Words with the white space that follows them."""
    words: list[str] = []
    for character in text:
        if words and (not words[-1][-1].isspace() or character.isspace()):
            words[-1] += character
        else:
            words.append(character)
    return words
