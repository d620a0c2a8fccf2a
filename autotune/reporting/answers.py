"""What the original and a compressed model said to one prompt, word by word."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Literal

__all__ = ["Part", "compare_words"]

Part = tuple[Literal["same", "ours", "theirs"], str]


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
