"""What every kind of demo text is made of: alternatives, sentences about the world, and the choice of a kind.

A document is one block of lines without blank lines. Whatever it says about people, towns, owners, places and sums is
true inside the document, and the lasting facts are those of `world.py`.
"""

from __future__ import annotations

import random
import re

import world as w
from world import Person, article, pick, plural, spell

_ALTERNATIVES = re.compile(r"\(([^()]*\|[^()]*)\)")


def choose(rng: random.Random, text: str) -> str:
    """Resolves every `(one|two|three)` of the text, innermost first, to one of its alternatives."""
    while match := _ALTERNATIVES.search(text):
        text = text[: match.start()] + rng.choice(match.group(1).split("|")) + text[match.end() :]
    return text


def capital(text: str) -> str:
    """Returns the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def listing(items: list[str]) -> str:
    """Returns `a, b and c`."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]


def someone(rng: random.Random, key: str) -> Person:
    """Returns a person; some are more often in a kind of text than others."""
    return pick(rng, w.PEOPLE, key)


def companion(rng: random.Random, *others: Person) -> Person:
    """Returns whom the first of the others meets: not one of them, and some much more often than others."""
    while (found := pick(rng, w.PEOPLE, f"meets {others[0].name}")) in others:
        pass
    return found


def number(rng: random.Random, low: int, high: int, key: str) -> str:
    """Returns a number between the bounds in words, by the habits of the key."""
    return spell(pick(rng, range(low, high + 1), f"number {key}"))


def weather(rng: random.Random, key: str) -> str:
    kind, look, did = pick(rng, w.WEATHERS, key).split("|")
    return choose(
        rng,
        f"(It was a {kind} day|The morning was {kind}|It was {kind} and {look} outside|The afternoon was {kind})"
        f"(.|, and people {did}.|, so everyone {did}.)",
    )


def aside(rng: random.Random, p: Person) -> str:
    """Returns a sentence with one lasting fact about a person."""
    his = capital(p.his)
    return choose(
        rng,
        f"({p.name} lives in {p.town}|{p.name} {p.work}|{his} treasure is {article(p.treasure)}"
        f"|{his} {p.pet} is called {p.pet_name}|{p.name} loves {p.food}|{p.name} likes {p.hobby}"
        f"|{p.name} is afraid of {p.fear}|{p.name} plays the {p.instrument}|{p.name} was born in {p.month}"
        f"|{p.name} is {p.age} years old|{his} best friend is {p.friend}|{his} favourite colour is {p.colour}).",
    )


def saying(rng: random.Random, speaker: str, words: str) -> str:
    """Returns the words as direct speech."""
    words = words[:-1] + "," if words.endswith(".") else words
    verb = "asked" if words.endswith("?") else rng.choice(("said", "said", "answered", "whispered", "called"))
    return f'"{words}" {verb} {speaker}.'


def deed(rng: random.Random, p: Person) -> str:
    """Returns a free sentence: who does what to which thing, how, where and when, by this world's habits."""
    verb = pick(rng, w.VERBS, p.job)
    thing = pick(rng, w.THINGS, f"{verb} {p.job}")
    who = rng.choice((p.name, p.name, f"The {p.job} of {p.town}", f"{p.name} the {p.job}"))
    how = f"{pick(rng, w.ADVERBS, verb)} " if rng.random() < 0.35 else ""
    where = f" {pick(rng, w.SPOTS, thing)}" if rng.random() < 0.45 else ""
    when = f" {pick(rng, w.TIMES, p.name)}" if rng.random() < 0.45 else ""
    return f"{who} {how}{verb} {some(rng, thing, p)}{where}{when}."


def some(rng: random.Random, thing: str, p: Person) -> str:
    """Returns a noun phrase for one or several of a thing, perhaps somebody's."""
    look = f"{pick(rng, w.ADJECTIVES, thing)} " if rng.random() < 0.65 else ""
    if look and rng.random() < 0.15:
        look = f"{look.rstrip()} {pick(rng, w.COLOURS, thing)} "
    kind = rng.random()
    if kind < 0.2:
        return f"{number(rng, 2, 12, thing)} {look}{plural(thing)}"
    if kind < 0.35:
        return article(f"{look}{thing}")
    if kind < 0.45:
        return f"the {look}{thing} of {companion(rng, p).name}"
    return f"{p.his if kind < 0.65 else 'the'} {look}{thing}"
