"""The narrating kinds of demo text: stories, scenes, chronicles, letters, poems, diaries, causes and effects."""

from __future__ import annotations

import random

import world as w
from grammar import aside, capital, choose, companion, deed, number, saying, some, someone, weather
from world import Person, article, pick, plural


def story(rng: random.Random) -> str:
    """Somebody finds a thing that somebody else has lost, and gives it back or keeps it."""
    a = someone(rng, "story")
    b = companion(rng, a)
    thing = pick(rng, w.THINGS, f"finds {a.name}")
    place = pick(rng, w.PLACES, a.job)
    other = pick(rng, [p for p in w.PLACES if p != place], b.name)
    feel = pick(rng, w.FEELINGS, a.name)
    spot = pick(rng, w.SPOTS, place)
    took = f"{pick(rng, w.VERBS, thing)} it {pick(rng, w.ADVERBS, feel)}"
    item = f"{pick(rng, w.ADJECTIVES, thing)} {thing}"
    when = f"One {pick(rng, w.MONTHS, a.name)} morning, |Long ago, |Last {pick(rng, w.DAYS, a.job)}, "
    lines = [
        choose(
            rng,
            f"(Once upon a time, |{when}|In the spring, |)"
            f"{a.name} the {a.job} (went to|walked to|travelled to|was sitting near) {place}.",
        ),
        choose(rng, f"({weather(rng, place)}|{aside(rng, a)}|{deed(rng, a)})"),
        choose(
            rng,
            f"There {a.he} (found|saw|discovered|noticed) {article(item)} {spot}. "
            f"{capital(a.he)} felt {feel} and ({took}|put it in {a.his} bag|wanted to keep it).",
        ),
        choose(rng, f"Then {b.name} came (along|running|from {other}|with {b.his} {b.pet}, {b.pet_name})."),
    ]
    question = f"(Have you seen my {thing}?|Is that my {item}?|I have lost my {thing}.|Where did you find the {thing}?)"
    lines.append(saying(rng, b.name, choose(rng, question)))
    if rng.random() < 0.3:
        lines.append(aside(rng, b))
    return " ".join(lines + _ending(rng, a, b, thing, place, other))


def _ending(rng: random.Random, a: Person, b: Person, thing: str, place: str, other: str) -> list[str]:
    later = pick(rng, w.FEELINGS, f"{thing} {b.name}")
    spot = pick(rng, w.SPOTS, place)
    if rng.random() < 0.6:
        said = f"(Here it is.|I found it at {place}.|Yes, it was lying {spot}.|Is it really yours?)"
        fruit = f"a {pick(rng, w.COLOURS, b.name)} {pick(rng, w.FRUITS, b.town)}"
        gift = f"{number(rng, 2, 12, b.job)} coins|{fruit}|some {b.food}"
        mood = f"no longer {later}|{later} no more|very grateful"
        done = (
            f"{a.name} gave the {thing} to {b.name}, and now the {thing} belongs to {b.name}. "
            f"{b.name} was ({mood}) and gave {a.him} ({gift})."
        )
    else:
        said = f"(It is mine now.|I found it first.|You may borrow it for {number(rng, 2, 9, a.name)} days.)"
        done = f"So {a.name} kept the {thing}, and {b.name} went (home|to {other}|away) {later}."
    moral = pick(rng, w.PROVERBS, later)
    end = (
        f"(In the evening they talked about it|That night {a.name} could not sleep|The next day everyone knew the story"
        f"|Years later {b.name} still told the story), for {moral}."
    )
    return [saying(rng, a.name, choose(rng, said)), choose(rng, done), choose(rng, end)]


def scene(rng: random.Random) -> str:
    """A chain of free sentences about two people and whom they meet."""
    a = someone(rng, "scene")
    people = [a, companion(rng, a)]
    lines = []
    for _ in range(rng.randint(3, 8)):
        p = rng.choice(people)
        lines.append(deed(rng, p))
        kind = rng.random()
        if kind < 0.2:
            lines.append(_turn(rng, p))
        elif kind < 0.4:
            lines[-1] = lines[-1][:-1] + f", {_clause(rng, p)}."
        elif kind < 0.5:
            lines.append(choose(rng, f"({weather(rng, p.town)}|{aside(rng, p)})"))
    if rng.random() < 0.3:
        day = article(pick(rng, w.ADJECTIVES, a.name))
        words = (
            f"(What {day} day.|Remember that {pick(rng, w.PROVERBS, a.name)}.|I am {pick(rng, w.FEELINGS, a.name)}.)"
        )
        lines.append(saying(rng, a.name, choose(rng, words)))
    return " ".join(lines)


def _turn(rng: random.Random, p: Person) -> str:
    link = rng.choice(("Then", "Meanwhile", "Soon", "At last", "But", "Later"))
    q = companion(rng, p)
    verb = pick(rng, w.VERBS, q.name)
    return f"{link} {q.name} {pick(rng, w.ADVERBS, q.name)} {verb} {some(rng, pick(rng, w.THINGS, verb), q)}."


def _clause(rng: random.Random, p: Person) -> str:
    q = companion(rng, p)
    verb = pick(rng, w.VERBS, q.job)
    what = some(rng, pick(rng, w.THINGS, q.name), q)
    feel = pick(rng, w.FEELINGS, verb)
    place = pick(rng, w.PLACES, p.job)
    return choose(
        rng,
        f"(while {q.name} {verb} {what}|because {p.he} was {feel}|and {p.he} went to {place}|but {q.name} felt {feel}"
        f"|so {q.name} {verb} {what}|although {place} was {pick(rng, w.ADJECTIVES, place)}|and {q.name} {verb} {what})",
    )


def chronicle(rng: random.Random) -> str:
    """Events of the world in the order of time, or asked for."""
    if rng.random() < 0.5:
        start = rng.randrange(len(w.CHRONICLE) - 6)
        events = w.CHRONICLE[start : start + rng.randint(3, 6)]
        told = [f"In {e.year} {e.what} of {e.town}; {e.witness} wrote about it." for e in events]
        return "From the chronicle. " + " ".join(told)
    lines = []
    for e in rng.sample(w.CHRONICLE, rng.randint(1, 3)):
        lines.append(f"Question: What happened in {e.year}?\nAnswer: In {e.town}, {e.what}.")
        if rng.random() < 0.5:
            lines.append(f"Question: Who wrote about it?\nAnswer: {e.witness} of {e.town}.")
    return "\n".join(lines)


def letter(rng: random.Random) -> str:
    """A letter between friends, with place and date."""
    a = someone(rng, "letter")
    b = companion(rng, a)
    c = companion(rng, b, a)
    present = f"{pick(rng, w.ADJECTIVES, b.name)} {pick(rng, w.THINGS, b.name)}"
    sky = pick(rng, w.WEATHERS, a.town).split("|")[0]
    season = pick(rng, ("week", "month", "summer", "winter"), a.hobby)
    feel, day = pick(rng, w.FEELINGS, a.pet_name), pick(rng, w.DAYS, a.instrument)
    body = [
        (
            f"(Thank you for the {present} you sent me.|How are you and your {b.pet} {b.pet_name}?|I hope you are well."
            f"|It is a long time since I was in {b.town}.)"
        ),
        (
            f"(Here in {a.town} it is {sky}.|My {a.pet} {a.pet_name} is {feel}.|I still play the {a.instrument} every {day}."
            f"|{deed(rng, c)}|I have been {a.hobby} all {season}.)"
        ),
        (
            f"(Yesterday I met {c.name}, who {c.work}.|{c.name} sends you greetings from {c.town}."
            f"|Do you remember {c.name}, the {c.job}?|{c.name} asked me about your {pick(rng, w.THINGS, c.name)}.)"
        ),
        (
            f"(Please come in {pick(rng, w.MONTHS, b.name)}; I will cook {b.food} for you."
            f"|Could you bring {number(rng, 2, 20, b.name)} {plural(pick(rng, w.FRUITS, a.town))} when you come?"
            f"|I will wait at {pick(rng, w.PLACES, a.name)} at {number(rng, 1, 12, a.name)} o'clock."
            f"|Write soon, and remember that {pick(rng, w.PROVERBS, b.name)}.)"
        ),
    ]
    if rng.random() < 0.4:
        body.pop(rng.randrange(3))
    head = f"{a.town}, {rng.randint(1, 28)} {pick(rng, w.MONTHS, a.town)}\nDear {b.name},\n"
    return head + choose(rng, " ".join(body) + f"\n(Your friend|With love|Best wishes|Yours),\n{a.name}")


def because(rng: random.Random) -> str:
    """Causes, their effects, and what somebody did about it, in varied order."""
    lines = []
    for _ in range(rng.randint(1, 3)):
        plot = pick(rng, w.CAUSES, "because")
        p = someone(rng, plot)
        slots = {
            "t": pick(rng, w.THINGS, plot),
            "n": number(rng, 2, 12, plot),
            "a": pick(rng, w.PETS, plot),
            "r": pick(rng, w.ROOMS, plot),
            "f": pick(rng, w.FRUITS, plot),
        }
        cause, effect, act = plot.format(**slots).split("|")
        lines.append(
            choose(
                rng,
                f"({capital(cause)}, so {effect}. {p.name} {act}."
                f"|{capital(effect)} because {cause}. Therefore {p.name} {act}."
                f"|Because {cause}, {effect}, and {p.name} {act}."
                f"|Why was {p.name} (busy|late|tired)? {capital(cause)}, {effect}, and {p.he} {act}.)",
            )
        )
    return " ".join(lines)


def poem(rng: random.Random) -> str:
    """Two or three couplets that rhyme."""
    p = someone(rng, "poem")
    lines = [f"A poem by {p.name}"]
    for x, y in (rng.sample(family.split(), 2) for family in rng.sample(w.RHYMES, rng.randint(2, 3))):
        q = companion(rng, p)
        pet = f"{pick(rng, w.COLOURS, x)} {pick(rng, w.PETS, x)}"
        month = pick(rng, w.MONTHS, x)
        lines.append(
            choose(
                rng,
                f"(The {pet} dreams of the|{p.name} was looking for a|Oh, sing to me about the|In {month} comes another) {x},",
            )
        )
        lines.append(
            choose(
                rng,
                f"(and all the {plural(pick(rng, w.THINGS, x))} wait for the|and nobody remembers the"
                f"|while {q.name} {pick(rng, w.ADVERBS, y)} forgets the|and {p.he} will never lose the) {y}(.|;|!)",
            )
        )
    return "\n".join(lines)


def diary(rng: random.Random) -> str:
    """A day of somebody, hour by hour."""
    p = someone(rng, "diary")
    day = pick(rng, w.DAYS, f"diary {p.name}")
    lines = [f"{day}, {rng.randint(1, 28)} {pick(rng, w.MONTHS, p.pet_name)}. Diary of {p.name}."]
    hour = rng.randint(5, 9)
    for _ in range(rng.randint(3, 5)):
        q = companion(rng, p)
        kind = pick(rng, w.WEATHERS, p.month).split("|")[0]
        did = f"{pick(rng, w.VERBS, p.job)} {article(pick(rng, w.THINGS, p.name))}"
        met = f"met {q.name} at {pick(rng, w.PLACES, q.name)}"
        cleaned = f"cleaned the {pick(rng, w.ROOMS, p.town)}"
        felt = f"felt {pick(rng, w.FEELINGS, kind)} because it was {kind}"
        read = f"read a book about {pick(rng, w.CRAFTS, p.town)}"
        choices = f"ate {p.food}|fed {p.pet_name}, my {p.pet}|looked for my {p.treasure}|practised the {p.instrument}"
        lines.append(
            choose(rng, f"At {w.spell(hour)} o'clock I ({choices}|{did}|{met}|{cleaned}|{felt}|{read})."),
        )
        hour = min(hour + rng.randint(1, 3), 19)
    q = companion(rng, p)
    feel, moral = pick(rng, w.FEELINGS, p.job), capital(pick(rng, w.PROVERBS, p.name))
    return choose(rng, " ".join(lines) + f" (Tomorrow I will visit {q.town}.|I am {feel} tonight.|{moral}.)")
