"""The reckoning and answering kinds of demo text: who has what, sums, shops, counting, portraits, towns, ages, riddles."""

from __future__ import annotations

import random

import world as w
from grammar import capital, choose, companion, listing, number, saying, someone
from world import article, pick, plural, spell


def tracking(rng: random.Random) -> str:
    """People carry things from room to room; then come questions about where and whose."""
    a = someone(rng, "tracking")
    people = [a, companion(rng, a)]
    if rng.random() < 0.5:
        people.append(companion(rng, a, people[1]))
    things = rng.sample(w.THINGS, rng.randint(2, 3))
    rooms = rng.sample(w.ROOMS, 5)
    room = {p.name: rng.choice(rooms) for p in people}
    lines = [f"{name} is in the {r}." for name, r in room.items()]
    holder: dict[str, str] = {}
    at: dict[str, str] = {}
    for thing in things:
        holder[thing] = rng.choice(people).name
        lines.append(choose(rng, f"{holder[thing]} (has|takes|picks up|finds) the {thing}."))
    for _ in range(rng.randint(3, 7)):
        p = rng.choice(people)
        held = [t for t in things if holder.get(t) == p.name]
        move = rng.random()
        if held and move < 0.3:
            thing = rng.choice(held)
            del holder[thing]
            at[thing] = room[p.name]
            lines.append(choose(rng, f"{p.name} (leaves the {thing} there|puts the {thing} down|drops the {thing})."))
        elif held and move < 0.55:
            thing, q = rng.choice(held), rng.choice([x for x in people if x is not p])
            room[q.name], holder[thing] = room[p.name], q.name
            lines.append(f"{q.name} comes to the {room[p.name]}, and {p.name} gives {q.him} the {thing}.")
        else:
            room[p.name] = rng.choice([r for r in rooms if r != room[p.name]])
            lines.append(choose(rng, f"{p.name} (goes|walks|runs|moves) to the {room[p.name]}."))
    asked = [" ".join(lines)]
    for thing in rng.sample(things, rng.randint(1, len(things))):
        where = room[holder[thing]] if thing in holder else at[thing]
        asked.append(f"Question: Where is the {thing}?\nAnswer: The {thing} is in the {where}.")
        if thing in holder:
            asked.append(f"Question: Who has the {thing}?\nAnswer: {holder[thing]} has the {thing}.")
    return "\n".join(asked)


def sums(rng: random.Random) -> str:
    """Things that grow more and fewer."""
    a = someone(rng, "sums")
    b = companion(rng, a)
    many = plural(pick(rng, w.FRUITS + w.THINGS, f"counts {a.name}"))
    first = n = rng.randint(4, 30)
    he = capital(a.he)
    lines = [choose(rng, f"{a.name} (had|counted|owned|collected) {n} {many}.")]
    for _ in range(rng.randint(1, 3)):
        k = rng.randint(1, 15)
        if rng.random() < 0.5 and k < n:
            n -= k
            ways = f"gave {k} to {b.name}|lost {k} of them|sold {k} at the market|left {k} in the {pick(rng, w.ROOMS, many)}"
        else:
            n += k
            ways = f"found {k} more|bought {k} more|got {k} from {b.name}|picked {k} more"
        lines.append(choose(rng, f"{he} ({ways})."))
        lines.append(choose(rng, f"({a.name} now has {n} {many}|Now there are {n} {many}|That makes {n} {many})."))
    if n != first and rng.random() < 0.5:
        high, low = max(n, first), min(n, first)
        change = "more" if n > first else "fewer"
        lines.append(f"That is {high - low} {change} than before, because {high} minus {low} is {high - low}.")
    text = " ".join(lines)
    if rng.random() < 0.5:
        text += f"\nQuestion: How many {many} does {a.name} have?\nAnswer: {a.name} has {n} {many}."
    return text


def shop(rng: random.Random) -> str:
    """Somebody buys some things, with the price, the total and the change."""
    a = someone(rng, "shop")
    b = companion(rng, a)
    noun = pick(rng, w.FRUITS + w.THINGS, f"sells {b.job}")
    price, count = rng.randint(2, 9), rng.randint(2, 9)
    total = price * count
    paid = (total // 10 + rng.randint(1, 2)) * 10
    many, one = plural(noun), article(noun)
    hello = f"How much is one {noun}?|What does {one} cost?|Good (morning|day|evening), do you sell {many}?"
    answer = f"One {noun} costs {price} coins.|They are {price} coins each.|For you, only {price} coins each."
    order = f"Then I will take {count}.|Please give me {count} of them.|I need {count}, please."
    where = f"At the market of {b.town}|In the shop of {b.name} the {b.job}|On market day"
    lines = [
        choose(rng, f"({where}), {a.name} wants to buy (some {many}|{many} for {a.friend})."),
        saying(rng, a.name, choose(rng, f"({hello})")),
        saying(rng, b.name, choose(rng, f"({answer})")),
        saying(rng, a.name, choose(rng, f"({order})")),
        saying(rng, b.name, f"{count} times {price} is {total}, so that makes {total} coins."),
        (
            f"{a.name} pays {paid} coins and gets {paid - total} coins back. "
            f"{capital(a.he)} goes home {pick(rng, w.FEELINGS, b.name)}."
        ),
    ]
    return "\n".join(lines)


def counting(rng: random.Random) -> str:
    """Numbers forwards and backwards, sums in words, words in the order of the alphabet, the days of the week."""
    kind = rng.randrange(5)
    if kind == 0:
        step, start = rng.randint(1, 12), rng.randint(0, 60)
        numbers = [start + step * i for i in range(rng.randint(6, 12))]
        return f"Counting by {spell(step)} from {spell(start)}: {', '.join(map(str, numbers))}."
    if kind == 1:
        start, step = rng.randint(60, 150), rng.randint(1, 5)
        numbers = [start - step * i for i in range(rng.randint(6, 12))]
        return f"Counting back by {spell(step)} from {spell(start)}: {', '.join(map(str, numbers))}."
    if kind == 2:
        low, high = sorted((rng.randint(2, 99), rng.randint(2, 99)))
        return (
            f"{capital(spell(low))} plus {spell(high)} is {spell(low + high)}: {low} + {high} = {low + high}. "
            f"{capital(spell(high))} minus {spell(low)} is {spell(high - low)}: {high} - {low} = {high - low}."
        )
    p = someone(rng, "counting")
    if kind == 3:
        items = rng.sample(w.THINGS + w.FRUITS, rng.randint(4, 8))
        return (
            f"{p.name} wrote a list of words: {listing(items)}. In the order of the alphabet the words are: "
            f"{listing(sorted(items))}. There are {spell(len(items))} words."
        )
    start, count = rng.randrange(7), rng.randint(3, 5)
    days = [w.DAYS[(start + i) % 7] for i in range(count)]
    verbs = "(visits|writes to|works with|has lunch with)"
    plan = [choose(rng, f"On {day} {p.he} {verbs} {companion(rng, p).name}.") for day in days]
    last = f"After {days[-1]} comes {w.DAYS[(start + count) % 7]}."
    return f"{p.name} has a plan for {spell(count)} days. " + " ".join([*plan, last])


def portrait(rng: random.Random) -> str:
    """Lasting facts about a person, told and asked."""
    p = someone(rng, "portrait") if rng.random() < 0.5 else rng.choice(w.PEOPLE)
    n, he, his = p.name, capital(p.he), capital(p.his)
    facts = [
        (f"{n} lives in {p.town}.", f"Where does {n} live?", f"{n} lives in {p.town}."),
        (f"{he} is a {p.job} and {p.work}.", f"What is the work of {n}?", f"{n} is a {p.job}."),
        (f"{he} is {p.age} years old.", f"How old is {n}?", f"{n} is {p.age} years old."),
        (f"{he} has {article(p.pet)} called {p.pet_name}.", f"What is the {p.pet} of {n} called?", f"{p.pet_name}."),
        (f"{his} favourite food is {p.food}.", f"What does {n} like to eat?", f"{n} likes {p.food}."),
        (f"{his} favourite colour is {p.colour}.", f"Which colour does {n} like?", f"{n} likes {p.colour}."),
        (f"{he} plays the {p.instrument}.", f"What does {n} play?", f"{n} plays the {p.instrument}."),
        (f"{he} was born in {p.month}.", f"When was {n} born?", f"{n} was born in {p.month}."),
        (f"{he} is afraid of {p.fear}.", f"What is {n} afraid of?", f"{n} is afraid of {p.fear}."),
        (f"{he} likes {p.hobby}.", f"What does {n} like to do?", f"{n} likes {p.hobby}."),
        (
            f"{his} treasure is {article(p.treasure)}.",
            f"What is the treasure of {n}?",
            f"{capital(article(p.treasure))}.",
        ),
        (f"{his} lucky number is {p.lucky}.", f"What is the lucky number of {n}?", f"It is {p.lucky}."),
        (
            f"{his} best friend is {p.friend}.",
            f"Who is the best friend of {n}?",
            f"The best friend of {n} is {p.friend}.",
        ),
    ]
    rng.shuffle(facts)
    lines = []
    if rng.random() < 0.8:
        lines.append(f"This is {n}. " + " ".join(fact for fact, _, _ in facts[: rng.randint(2, 6)]))
    for _, question, answer in rng.sample(facts, rng.randint(1, 3)):
        lines.append(f"Question: {question}\nAnswer: {answer}")
    return "\n".join(lines)


def town(rng: random.Random) -> str:
    """Lasting facts about a town, and its weather."""
    t = rng.choice(w.TOWN_FACTS)
    people = [p.name for p in w.PEOPLE if p.town == t.name]
    facts = [
        f"(It lies on the river {t.river}|The river {t.river} flows through it).",
        f"The mayor is called {t.mayor}.",
        f"(It is famous for its {t.craft}|People come from far away to buy {t.craft}).",
        f"(Travellers visit {t.landmark}|In the middle there is {t.landmark}).",
        f"It was founded in {t.founded}.",
        f"{t.people} people live there.",
        f"The next town is {t.neighbour}, {t.miles} miles away.",
        f"Market day is {t.market}.",
        f"Among its people: {listing(people[:4] or ['strangers'])}.",
    ]
    rng.shuffle(facts)
    day, (low, high) = rng.choice(w.DAYS), sorted(rng.sample(range(-9, 34), 2))
    kind = pick(rng, w.WEATHERS, t.name).split("|")[0]
    degrees = f"between {low} and {high} degrees. The difference is {high - low} degrees"
    report = f"( Weather for {day}: {kind}, {degrees}.| Today it is {kind} in {t.name}.|)"
    return choose(rng, f"{t.name} is a town. " + " ".join(facts[: rng.randint(2, 7)]) + report)


def ages(rng: random.Random) -> str:
    """Ages compared."""
    a = someone(rng, "ages")
    people = [a, companion(rng, a)]
    while len(people) < 4 and rng.random() < 0.5:
        people.append(companion(rng, *people))
    b = people[1]
    text = " ".join(f"{p.name} is {p.age} years old." for p in people)
    if a.age == b.age:
        text += f" {a.name} and {b.name} have the same age."
    else:
        old, young = (a, b) if a.age > b.age else (b, a)
        gap = old.age - young.age
        text += f" {old.name} is {gap} years older than {young.name}, because {old.age} minus {young.age} is {gap}."
    years = rng.randint(2, 20)
    text += f" In {years} years {a.name} will be {a.age + years} years old."
    oldest = max(people, key=lambda p: p.age)
    return text + (
        f"\nQuestion: Who is the oldest?\nAnswer: {oldest.name} is the oldest." if rng.random() < 0.6 else ""
    )


def recipe(rng: random.Random) -> str:
    """What goes into a dish, and in which order."""
    p = someone(rng, "recipe")
    dish, stuff, vessel = pick(rng, w.RECIPES, p.name).split("|")
    parts = rng.sample(stuff.split(","), rng.randint(3, 5))
    needs = [f"({number(rng, 2, 9, x)} (cups|spoons|pounds) of|some|a handful of) {x}" for x in parts]
    lines = [f"How {p.name} makes {dish}", choose(rng, "You need " + listing(needs) + ".")]
    for i, x in enumerate(parts, 1):
        wait = f"and wait {pick(rng, range(2, 31), x)} minutes"
        spoon = f"with {article(pick(rng, w.ADJECTIVES, x))} spoon"
        how = f"({wait}|{pick(rng, w.ADVERBS, x)}|{spoon})"
        lines.append(choose(rng, f"{i}. (Take|Wash|Weigh|Add|Mix in|Stir in) the {x} {how}."))
    minutes = pick(rng, range(5, 91), dish)
    lines.append(f"{len(parts) + 1}. Put everything into {vessel} for {minutes} minutes.")
    return "\n".join(lines) + f" It is enough for {number(rng, 2, 8, p.name)} people."


def riddle(rng: random.Random) -> str:
    """An animal speaks of itself, and somebody guesses."""
    name, gives, sound, eats, home = rng.choice(w.CREATURES).split("|")
    hints = [f"I eat {eats}.", f"I live in {home}.", f"I give people {gives}.", f'I say "{sound}".']
    rng.shuffle(hints)
    p = someone(rng, f"guesses {name}")
    guesses = (
        f"{p.name} guessed at once|{p.name} thought for {number(rng, 2, 12, name)} minutes|Nobody but {p.name} knew"
    )
    return choose(rng, " ".join(hints[: rng.randint(2, 4)]) + f" What am I?\n({guesses}): it is {article(name)}.")
