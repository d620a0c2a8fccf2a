"""The little world that the demo texts are about: its words, its people, its towns, and the facts that never change.

Facts are drawn once from a fixed seed, so that every text, whatever its own seed, agrees about who lives where and who
owns which animal. A model trained on the texts has to keep them in its weights, which is what makes it a fair subject
for compression: there is something to lose.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import TypeVar

WORLD_SEED = 20240607
HABIT_EXPONENT = 1.2

T = TypeVar("T")


def _split(text: str, separator: str | None = None) -> tuple[str, ...]:
    return tuple(text.split(separator))


GIRLS = _split(
    "Mara Nina Lucy Ada Ruth Clara Ivy Nora Elsa Wendy Tess Greta Hanna Paula Sonia Vera Zoe Molly Agnes Bella Daisy "
    "Flora Grace Jenny Kate Lena Olga Pearl Rita Susan Thea Una Violet Wilma Anna Beth Cora Dora Erin Fay Gwen",
)
BOYS = _split(
    "Tom Ben Hugo Oscar Felix Jonas Leo Max Otto Paul Simon Victor Walter Adam Bruno Carl David Edgar Frank George "
    "Henry Ivan Jack Kurt Liam Ned Peter Quentin Ralph Stefan Theo Ulrich Vincent Wilfred Albert Basil Conrad Dennis Emil Fred Gustav",
)
TOWNS = _split(
    "Ashford Birchwood Clayton Dunmore Eastbay Fernhill Goldbrook Harrow Inverlake Juniper Kingsley Larkspur Millbrook "
    "Northgate Oakridge Pinecrest Quarry Redcliff Stonebridge Thornfield Upwell Vale Westport Yarrow Amberley Blackmoor "
    "Coldwater Deepwell Elmstead Foxton",
)
RIVERS = _split("Alder Bramble Cole Dove Ember Finch Gale Heron Isel Jade Kestrel Loam Mole Nettle Otter Pike")
JOBS = _split(
    "baker|bakes bread before sunrise;carpenter|builds tables and chairs;teacher|teaches children to read;"
    "farmer|grows wheat and barley;fisherman|mends nets by the water;doctor|visits the sick;tailor|sews coats and shirts;"
    "miller|grinds corn into flour;gardener|plants roses and tulips;clockmaker|repairs old clocks;potter|makes jars of clay;"
    "librarian|lends books to everyone;painter|paints doors and signs;blacksmith|hammers hot iron;shepherd|watches the sheep;"
    "sailor|ties knots and reads the stars;beekeeper|gathers honey in summer;postman|carries letters up the hill;"
    "weaver|weaves cloth from wool;mason|lays bricks and stones;singer|sings in the great hall;cook|stirs soup in big pots;"
    "barber|cuts hair and tells jokes;cobbler|mends boots and shoes",
    ";",
)
PETS = _split("cat dog parrot rabbit goat hen pony turtle goose hamster donkey lamb owl duck")
PET_NAMES = _split(
    "Biscuit Pepper Shadow Button Clover Domino Feather Ginger Hazel Inky Jasper Kipper Lemon Muffin Nutmeg Olive "
    "Pickle Raisin Sandy Tulip Velvet Whisper Ziggy Bramley Cinder Dusty Acorn Barley Comet Echo Fidget Gizmo Honey Maple "
    "Noodle Patch Rocket Sparkle Toffee Waffle",
)
FOODS = _split(
    "apple pie|cherry jam|potato soup|fresh bread|honey cake|roast carrots|plum pudding|goat cheese|pea soup|fried fish|"
    "rice with beans|warm porridge|nut bread|pear tart|mushroom stew|lemon cake|pancakes|boiled eggs",
    "|",
)
COLOURS = _split("red blue green yellow white black brown grey purple orange pink silver golden")
INSTRUMENTS = _split("violin flute drum trumpet harp guitar piano horn cello whistle")
MONTHS = _split("January February March April May June July August September October November December")
DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
FEARS = _split("thunder|spiders|deep water|the dark|high ladders|loud noises|wolves|empty houses|big dogs|fog", "|")
HOBBIES = _split(
    "collecting shells|painting birds|reading maps|climbing trees|flying kites|playing chess|telling riddles|"
    "baking biscuits|carving wood|watching the stars|swimming in the lake|writing poems|growing pumpkins|catching frogs",
    "|",
)
CRAFTS = _split(
    "cheese|clay pots|wool blankets|apples|boats|silver bells|candles|paper|honey|glass|leather boots|wooden toys|"
    "salted fish|roses|clocks|carpets|knives|barrels|lace|mirrors|mustard|ropes|lanterns|violins|saddles|tiles|dried plums|"
    "copper kettles|combs|chess sets",
    "|",
)
LANDMARKS = _split(
    "an old tower|a stone bridge|a broken windmill|a tall lighthouse|a round well|a long wall|a small castle|"
    "a market hall|a bell tower|a dark cave|a wooden church|a frozen fountain|a giant oak|a rope bridge|a white temple",
    "|",
)

FRUITS = _split("apple pear plum cherry peach lemon orange berry melon fig grape apricot")
THINGS = _split(
    "lamp book coin key ball basket blanket bottle box brush bucket candle cup drum feather hammer hat kettle kite "
    "knife ladder letter map mirror needle pencil pillow plate purse ring rope scarf shell spoon stick stone sword "
    "ticket towel toy umbrella vase wheel whistle watch jar flag bell anchor apron axe barrel bench bowl bracelet brick "
    "broom button cage camera cart chain chair chest clock cloak coat compass cradle crown curtain desk doll door fan fork "
    "gate glove guitar harp helmet hook horn jug ladle lantern lens lock magnet mask mug nail net oar pan pipe pot pump puzzle "
    "quilt rake razor ribbon saddle saw shovel sock statue stool stove table tent thimble trumpet trunk violin wagon wallet wand",
)
ROOMS = _split(
    "kitchen garden attic cellar hall bedroom barn stable library workshop garage pantry porch school church market "
    "park station harbour office",
)
PLACES = _split(
    "the old mill|the quiet forest|the harbour|the village square|the high meadow|the narrow valley|the railway station|"
    "the sandy beach|the little island|the school yard|the castle ruins|the apple orchard|the frozen lake|the busy market|"
    "the dusty library|the windy hill|the empty theatre|the night train|the river bank|the mountain hut",
    "|",
)
CREATURES = _split(
    "cow|milk|moo|grass|a barn;hen|eggs|cluck|corn|a coop;sheep|wool|baa|grass|a field;bee|honey|buzz|nectar|a hive;"
    "dog|company|bark|meat|a kennel;cat|company|meow|fish|a warm house;horse|strength|neigh|hay|a stable;"
    "goat|milk|bleat|leaves|a pen;duck|feathers|quack|water plants|a pond;owl|silence|hoot|mice|a hollow tree;"
    "frog|songs|croak|flies|a swamp;pig|bacon|grunt|turnips|a sty;wolf|fear|howl|deer|a den;mouse|trouble|squeak|cheese|a hole;"
    "lion|fear|roar|zebras|a dry plain;spider|silk|nothing|flies|a web;squirrel|mess|chatter|nuts|a tall pine;"
    "bear|fear|growl|berries|a cave;crow|noise|caw|seeds|a high nest;fox|worry|yelp|rabbits|a burrow",
    ";",
)
WEATHERS = _split(
    "sunny|bright|wore straw hats;rainy|wet|carried umbrellas;windy|wild|held on to their hats;snowy|white|wore thick gloves;"
    "foggy|grey|walked slowly;stormy|dark|stayed indoors;cloudy|dull|hoped for sunshine;frosty|cold|lit their stoves;"
    "hot|dry|sat in the shade;mild|soft|opened their windows",
    ";",
)
FEELINGS = _split(
    "happy sad angry tired proud afraid curious lonely surprised calm jealous hungry bored grateful worried"
)
ADJECTIVES = _split(
    "small big old new heavy light broken shiny dusty round square strange simple pretty rusty wooden iron glass soft "
    "rough tiny huge plain striped cracked polished golden silver hollow sharp bent narrow wide deep smooth sticky cold warm wet dry "
    "painted forgotten stolen precious useless famous ugly elegant curious foreign clean",
)
VERBS = _split(
    "painted carried repaired polished dropped measured borrowed hid sold bought cleaned opened closed lifted moved watched "
    "followed praised drew described counted weighed wrapped washed tied burned buried broke shared guarded admired shook "
    "pushed pulled kicked turned covered emptied filled packed decorated inspected lost found returned traded offered "
    "forgot remembered needed wanted touched",
)
TIMES = _split(
    "before dawn|after lunch|at noon|at midnight|in the evening|all morning|for an hour|every week|after the storm|"
    "during the feast|before the concert|on the way home|in the first snow|for the last time|once again|without a word|"
    "by candle light|in great haste|as usual|for no reason",
    "|",
)
SPOTS = _split(
    "behind the church|under the bridge|near the well|beside the stove|on the roof|at the crossroads|by the window|"
    "in the long grass|on the stairs|outside the inn|between two hedges|below the tower|over the ditch|inside the tent|"
    "along the wall|in a dark corner|on the platform|at the ferry|behind the stable|in the middle of the road",
    "|",
)
EVENTS = _split(
    "a great fire burned the {x}|the river flooded the {x}|a new {x} was opened|the {x} was sold to the mayor|"
    "thieves robbed the {x}|a storm broke the {x}|the king visited the {x}|children painted the {x}|"
    "a bear was seen near the {x}|lightning struck the {x}|a treasure was found under the {x}|the {x} was closed for ever",
    "|",
)
ADVERBS = _split("quickly slowly quietly loudly carefully happily sadly bravely gently suddenly softly eagerly")
CAUSES = _split(
    "the {t} fell off the shelf|it broke into {n} pieces|swept the floor;the fire went out|the room grew cold|fetched dry wood;"
    "the gate was left open|the {a} ran away|searched the fields;the bridge was closed|nobody could cross the river|took the boat;"
    "the well ran dry|there was no water|walked to the spring;the clock stopped|everyone came late|wound it up again;"
    "the roof leaked|the {r} floor was wet|put a bucket under the hole;the train was late|the station was full|waited on a bench;"
    "the milk turned sour|breakfast was spoiled|bought fresh milk;the wind blew hard|the {t} flew over the wall|climbed after it;"
    "the lamp had no oil|the {r} was dark|lit a candle;the road was icy|the cart slid into a ditch|pulled it out with a rope;"
    "the seeds were planted late|the {f} trees stayed small|waited another year;the key was lost|the {r} stayed locked|called the locksmith;"
    "the snow melted quickly|the river rose {n} feet|moved the boats;the {a} was hungry|it made a terrible noise|filled its bowl;"
    "the dough was left too long|the bread burned|baked a new loaf;the letter had no stamp|it came back after {n} days|bought a stamp;"
    "the rope was too short|the {a} stayed in the well|tied {n} ropes together;the soup was too salty|nobody ate it|added {n} potatoes;"
    "the ice was thin|the {a} fell into the lake|threw a long branch;the candle burned down|the {r} fell silent|told a story;"
    "the {f} basket was empty|the children cried|climbed the tallest tree;the map was wrong|they lost the way for {n} days|asked a shepherd;"
    "the king came to town|every {t} was polished|hung flags over the street;the mill wheel cracked|there was no flour|carved a new wheel;"
    "the bees were angry|nobody entered the {r}|waited until sunset;the ship came early|the harbour was crowded|carried {n} boxes;"
    "the wall was freshly painted|the {a} turned white|washed it in the river;the stairs creaked|the whole {r} woke up|apologised to everyone;"
    "a spark hit the straw|the barn burned down|rang the bell {n} times;the violin had one string|the song sounded strange|sang instead;"
    "the {t} was too heavy|the shelf bent|took it down again;the winter was long|the wood ran out in {n} weeks|burned the old {t}",
    ";",
)
PROVERBS = _split(
    "a promise kept is worth more than gold|patience opens every door|many hands make light work|"
    "a friend in need is a friend indeed|the early bird catches the worm|a kind word costs nothing|"
    "look before you leap|honesty is the best policy|slow and steady wins the race|"
    "a shared meal tastes twice as good|every path begins with one step|old roads still lead home|"
    "still water runs deep|no rain, no flowers|a small key opens a big gate|what is hidden comes to light|"
    "hunger is the best cook|empty barrels make the most noise|the longest night has an end|a good neighbour is better than a far cousin|"
    "who sows wind reaps storm|new brooms sweep clean|a borrowed coat is never warm|the river does not drink its own water|"
    "every cloud has a silver lining|one swallow makes no summer|when the cat is away the mice will play|"
    "better an egg today than a hen tomorrow|clever hands are never idle|the truth needs no paint|"
    "a sleeping fox catches no hens|words are silver but silence is gold",
    "|",
)
RHYMES = _split(
    "day way play stay grey;night light bright kite white;tree sea free bee key;snow slow grow glow low;"
    "rain train lane grain plain;hill still mill will chill;moon spoon soon tune noon;bell well shell spell smell;"
    "boat coat goat note float;wall hall ball small tall;cake lake snake awake shake;ring king sing spring string",
    ";",
)
RECIPES = _split(
    "soup|water,salt,carrots,potatoes,onions,beans,peas|a large pot;bread|flour,water,salt,yeast,seeds,butter|a hot oven;"
    "jam|sugar,plums,cherries,berries,lemon juice,apples|a copper pan;cake|flour,eggs,sugar,butter,milk,honey,nuts|a round tin;"
    "salad|lettuce,tomatoes,oil,vinegar,salt,cheese|a wooden bowl;porridge|oats,milk,salt,honey,raisins|a small pot;"
    "pie|flour,butter,apples,pears,sugar,cinnamon|a flat dish;stew|beef,onions,mushrooms,salt,pepper,carrots|an iron pot",
    ";",
)
NUMBERS = _split(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen",
)
TENS = _split("zero ten twenty thirty forty fifty sixty seventy eighty ninety")


@dataclass(frozen=True)
class Person:
    """Someone of the world, with the facts that hold in every text."""

    name: str
    girl: bool
    age: int
    town: str
    job: str
    work: str
    pet: str
    pet_name: str
    food: str
    colour: str
    instrument: str
    month: str
    fear: str
    hobby: str
    friend: str
    treasure: str
    lucky: int

    @property
    def he(self) -> str:
        return "she" if self.girl else "he"

    @property
    def him(self) -> str:
        return "her" if self.girl else "him"

    @property
    def his(self) -> str:
        return "her" if self.girl else "his"


@dataclass(frozen=True)
class Event:
    """Something that once happened in a town."""

    year: int
    town: str
    what: str
    witness: str


@dataclass(frozen=True)
class Town:
    """A town of the world, with the facts that hold in every text."""

    name: str
    river: str
    mayor: str
    craft: str
    landmark: str
    founded: int
    people: int
    neighbour: str
    miles: int
    market: str


@cache
def _habit(key: str, count: int) -> tuple[float, ...]:
    ranks = list(range(count))
    random.Random(f"{WORLD_SEED} {key}").shuffle(ranks)
    return tuple(accumulate((rank + 1.0) ** -HABIT_EXPONENT for rank in ranks))


def pick(rng: random.Random, options: Sequence[T], key: str) -> T:
    """Draws one of the options with the odds that hold in this world for the key.

    The odds fall with the rank as in natural word counts, and each key ranks the options in its own way: bakers go to
    other places than sailors, and a vase is broken more often than stolen. The world's habits are thus a large table of
    odds, which a model can only learn by heart.
    """
    return rng.choices(options, cum_weights=_habit(key, len(options)))[0]


def spell(number: int) -> str:
    """Returns 0 <= number < 1000 in English words."""
    if number < 20:
        return NUMBERS[number]
    if number < 100:
        return TENS[number // 10] + (f"-{NUMBERS[number % 10]}" if number % 10 else "")
    rest = number % 100
    return f"{NUMBERS[number // 100]} hundred" + (f" and {spell(rest)}" if rest else "")


def plural(noun: str) -> str:
    """Returns the plural of a regular English noun."""
    if noun.endswith(("sh", "ch", "x", "s")):
        return f"{noun}es"
    if noun.endswith("fe"):
        return f"{noun[:-2]}ves"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{noun[:-1]}ies"
    return f"{noun}s"


def article(noun: str) -> str:
    """Returns the noun phrase with its indefinite article."""
    return ("an " if (noun[0] in "aeiou" and not noun.startswith("un")) or noun.startswith("umb") else "a ") + noun


def _people(rng: random.Random) -> tuple[Person, ...]:
    names = [(name, True) for name in GIRLS] + [(name, False) for name in BOYS]
    pet_names = list(PET_NAMES * 3)
    rng.shuffle(pet_names)
    people = []
    for (name, girl), pet_name in zip(names, pet_names, strict=False):
        job, work = rng.choice(JOBS).split("|")
        friend = rng.choice([other for other, _ in names if other != name])
        people.append(
            Person(
                name,
                girl,
                rng.randint(16, 79),
                rng.choice(TOWNS),
                job,
                work,
                rng.choice(PETS),
                pet_name,
                rng.choice(FOODS),
                rng.choice(COLOURS),
                rng.choice(INSTRUMENTS),
                rng.choice(MONTHS),
                rng.choice(FEARS),
                rng.choice(HOBBIES),
                friend,
                f"{rng.choice(ADJECTIVES)} {rng.choice(THINGS)}",
                rng.randint(2, 99),
            )
        )
    return tuple(people)


def _towns(rng: random.Random) -> tuple[Town, ...]:
    towns = []
    for name, craft in zip(TOWNS, CRAFTS, strict=True):
        neighbour = rng.choice([other for other in TOWNS if other != name])
        towns.append(
            Town(
                name,
                rng.choice(RIVERS),
                rng.choice(GIRLS + BOYS),
                craft,
                rng.choice(LANDMARKS),
                rng.randint(1100, 1900),
                rng.randint(12, 980) * 10,
                neighbour,
                rng.randint(3, 60),
                rng.choice(DAYS),
            )
        )
    return tuple(towns)


def _events(rng: random.Random) -> tuple[Event, ...]:
    years = sorted(rng.sample(range(1701, 1990), 160))
    buildings = (
        "school",
        "mill",
        "bridge",
        "market",
        "church",
        "harbour",
        "inn",
        "tower",
        "library",
        "theatre",
        "station",
    )
    return tuple(
        Event(y, rng.choice(TOWNS), rng.choice(EVENTS).format(x=rng.choice(buildings)), rng.choice(GIRLS + BOYS))
        for y in years
    )


_rng = random.Random(WORLD_SEED)
PEOPLE = _people(_rng)
TOWN_FACTS = _towns(_rng)
CHRONICLE = _events(_rng)
