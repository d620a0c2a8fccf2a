"""Generated inputs, most of them broken: model.yaml, texts and prompts, search spaces, codebooks.

Each kind has a generator, which writes a file by a seeded `random.Random`, and a check, which reads it.
A check returns ``right`` or ``refused``, and raises `Fault` for anything else: another exception than a clear error, a
wrong result, more than `SECONDS`, or files left behind.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from autotune.compression.formats.table import parse_codebook, read_codebook
from autotune.config.config import load_config, load_configs
from autotune.config.space.presets import load_space
from autotune.errors import AutotuneError, ConfigError
from autotune.evaluation.texts.prompts import read_prompts
from autotune.evaluation.texts.sources import TextSource, read_texts

__all__ = ["KINDS", "SECONDS", "Fault", "try_input"]

SECONDS = 10
DEMO = Path(__file__).parents[2] / "examples" / "demo"
LONGEST = 4000
"""Characters of one error message."""

WITHOUT_LINE = re.compile(r"is empty|nested too deeply|holds more than|no such file|is not UTF-8|cannot be read")
"""Problems of a whole file."""


class Fault(Exception):
    """autotune did not cope with an input."""


class Hang(BaseException):
    """An input took longer than `SECONDS`."""


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1,
    3,
    10**30,
    1e308,
    float("inf"),
    float("nan"),
    0.1,
    "",
    " ",
    "\n",
    "\t",
    "a" * 300,
    "0x10",
    "1e3",
    "~",
    "on",
    "=cmd",
    "../..",
    "/",
    "~nobody/x",
    "\u202eevil",
    "\x1b[2J",
    "\x00",
    "\ud7ff",
    "ß字🙂",
    "<= 5%",
    ">= -1 GB",
    "2h",
    "-2h",
    "1e400 GB",
    "minimize",
    "int4",
    "int4_asym",
    "text.txt",
    "missing.txt",
    [],
    {},
    [[]],
    {"a": {}},
    [1, "a", None],
    [None],
    {"low": 0, "high": 1},
    {"low": 1, "high": 0, "step": 0},
    {"low": 0.1, "high": 1e9, "step": 1e-9},
    {"path": "text.txt"},
    {"path": "."},
    {"synthetic": True},
    {"dataset": "a/b", "split": 3},
    list(range(2000)),
)
WORDS = ("model", "space", "mode", "path", "samples", "trials", "perplexity", "similarity", "footprint", "ratio")


def valid_config() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEMO / "model.yaml").read_text(encoding="utf-8"))
    config |= {"model": str(DEMO / "model"), "output": "study"}
    config["calibration"]["path"] = "text.txt"
    similarity = {"prompts": "text.txt", "embedder": "minilm"}
    config["evaluators"] = {"similarity": similarity, "perplexity": {"path": "text.txt"}}
    config["report"] = {"perplexity": {"path": "text.txt"}}
    config["constraints"] = {"perplexity_increase": "<= 5%", "footprint": "<= 1.2 GB"}
    config["runtime"] = {"device": "CPU", "ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    config["cache"] = {"directory": "cache", "limit": "20GB"}
    return config


def places(data: Any, found: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    """Every (container, key) in nested data."""
    for key, value in list(data.items() if isinstance(data, dict) else enumerate(data)):
        found.append((data, key))
        if isinstance(value, (dict, list)):
            places(value, found)
    return found


def changed(data: Any, dice: random.Random) -> Any:
    """Change nested data at a few places: other values, keys that are renamed, moved, missing or wrapped."""
    data = deepcopy(data)
    for _ in range(dice.choice((0, 1, 1, 1, 2, 3, 8))):
        around, key = dice.choice(places(data, []) or [(data, None)])
        if key is None:
            return deepcopy(dice.choice(ODD_VALUES))
        match dice.randrange(6):
            case 0 | 1:
                around[key] = deepcopy(dice.choice(ODD_VALUES))
            case 2:
                del around[key]
            case 3:
                around[key] = [around[key]] if dice.random() < 0.5 else {dice.choice(WORDS): around[key]}
            case 4 if isinstance(around, dict) and isinstance(key, str):
                name = dice.choice((*WORDS, key.upper(), key + "s", key[:-1], f" {key}"))
                around[name] = around.pop(key)
            case _:
                other, place = dice.choice(places(data, []) or [(around, key)])
                present = other if isinstance(other, dict) else range(len(other))
                around[key] = deepcopy(other[place]) if place in present else 1
    return data


SNIPPETS = (
    *(bytes([code]) for code in b"{}[]\"'|>%@`#\t\r\n\x00\xff\x85"),
    *(
        b"\xef\xbb\xbf",
        b"\xed\xa0\x80",
        "\u2028".encode(),
        b"&a ",
        b"*a",
        b"<<: *a",
        b"? ",
        b"- ",
        b": ",
        b"---\n",
        b"...\n",
    ),
    *(b"!!python/object/apply:os.mkdir [x]", b"!!binary x", b"1e999", b"0o9", b"{" * 2000, b"- " * 2000, b"9" * 5000),
)


def mutated(content: bytes, dice: random.Random, most: int = 6) -> bytes:
    """Flip, delete, repeat, cut and insert bytes."""
    data = bytearray(content)
    for _ in range(dice.randint(1, most)):
        at = dice.randrange(len(data) + 1)
        match dice.randrange(6):
            case 0 if data:
                data[at % len(data)] ^= 1 << dice.randrange(8)
            case 1:
                del data[at : at + dice.choice((1, 1, 2, 30))]
            case 2:
                data[at:at] = data[at : at + dice.choice((3, 40, 200))] * dice.choice((1, 2))
            case 3:
                data[at:at] = dice.choice(SNIPPETS)
            case 4 if dice.random() < 0.2:
                del data[at:]
            case _:
                lines = bytes(data).split(b"\n")
                one, two = dice.randrange(len(lines)), dice.randrange(len(lines))
                lines[one], lines[two] = lines[two], lines[one]
                data = bytearray(b"\n".join(lines))
    return bytes(data)


def as_yaml(data: Any, dice: random.Random) -> bytes:
    style = dice.choice((None, True, False))
    plain = dice.random() < 0.8
    text: str = yaml.safe_dump(data, default_flow_style=style, allow_unicode=plain, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")


def check_error(error: AutotuneError, file: Path) -> str:
    """Check that an error is one paragraph that names the file, and the line if a line is wrong."""
    text = str(error)
    if "\n" in text or len(text) > LONGEST:
        raise Fault(f"no paragraph: {text[:300]!r}")
    if str(file) not in text:
        raise Fault(f"does not name the file: {text[:300]!r}")
    has_line = re.search(rf"{re.escape(str(file))}:\d+", text) or WITHOUT_LINE.search(text)
    if file.suffix == ".yaml" and not has_line:
        raise Fault(f"does not name a line: {text[:300]!r}")
    return "refused"


def make_config(folder: Path, dice: random.Random) -> Path:
    file = folder / "model.yaml"
    content = as_yaml(changed(valid_config(), dice), dice)
    file.write_bytes(content if dice.random() < 0.5 else mutated(content, dice))
    return file


def check_config(file: Path) -> str:
    try:
        config = load_config(file)
    except ConfigError as error:
        if "lists several models" in str(error):
            try:
                load_configs(file)
            except ConfigError as several:
                return check_error(several, file)
            return "right"
        return check_error(error, file)
    again = file.with_name("again.yaml")
    again.write_text(config.to_yaml(), encoding="utf-8")
    try:
        if load_config(again).as_dict() != config.as_dict():
            raise Fault("written as YAML it reads back as another configuration")
    except ConfigError as error:
        raise Fault(f"written as YAML it is refused: {error}") from error
    finally:
        again.unlink()
    return "right"


ALPHABETS = (
    "The ferry takes the post across. ",
    "שלום עולם مرحبا بالعالم abc ",
    "字漢字かな交じり文。",
    "🙂👩‍👩‍👧‍👦🏳️‍🌈 e\u0301\u0302 ",
    " \t\n\r\x0b\x0c\u2028\u3000\xa0\ufeff",
    "\x00\x01\x1b[31m\x7f\u202e",
    '"a","b"\n{"prompt": "x"}\n- text: y\n---\n',
)
ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1251", "shift-jis", "utf-7")
SUFFIXES = (".txt", ".md", ".jsonl", ".yaml", ".json", ".csv", ".tsv", "")


def make_text(folder: Path, dice: random.Random) -> Path:
    alphabet = "".join(dice.sample(ALPHABETS, dice.randint(1, 3)))
    length = dice.choice((0, 1, 5, 100, 3000, 3000, 200_000, 10_000_000 if dice.random() < 0.1 else 500))
    piece = "".join(dice.choices(alphabet, k=min(length, 3000)))
    text = piece * (length // max(len(piece), 1)) if dice.random() < 0.9 else piece.replace("\n", " ") * 3
    match dice.randrange(5):
        case 0:
            words = text[:3000].split()
            text = "\n".join(json.dumps(dice.choice(({"prompt": word}, word, [word], 1))) for word in words)
        case 1:
            text = yaml.safe_dump({"prompts": text[:300].split()}) + dice.choice(("", "- 2024-01-01\n", "? [a]\n"))
    encoding = "utf-8" if dice.random() < 0.4 else dice.choice(ENCODINGS)
    content = text.encode(encoding, "surrogatepass" if encoding == "utf-8" and dice.random() < 0.2 else "ignore")
    file = folder / f"text{dice.choice(SUFFIXES)}"
    file.write_bytes(mutated(content, dice) if dice.random() < 0.4 and len(content) < 10**6 else content)
    return file


def check_text(file: Path) -> str:
    content, kinds = file.read_bytes(), set()
    try:
        right: str | None = content.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError:
        right = None
    try:
        (text,) = read_texts(TextSource(path=file))
        if text != right or not text.strip():
            raise Fault("another text than that of the file")
        kinds.add("right")
    except ConfigError as error:
        if right is not None and right.strip():
            raise Fault(f"a text is refused: {error}") from error
        kinds.add(check_error(error, file.with_suffix("")))  # a text has no lines to name, whatever its suffix
    try:
        prompts = read_prompts(file)
        if not prompts or not all(isinstance(prompt, str) and prompt == prompt.strip() != "" for prompt in prompts):
            raise Fault("prompts that are none")
    except ConfigError as error:
        if "\n" in str(error) or str(file) not in str(error) or len(str(error)) > LONGEST:
            raise Fault(f"no paragraph with the file's name: {str(error)[:300]!r}") from error
        kinds.add("refused")
    return "refused" if "refused" in kinds else "right"


def make_space(folder: Path, dice: random.Random) -> Path:
    presets = sorted((Path(__file__).parents[2] / "search_spaces").glob("*.yaml"))
    data = yaml.safe_load(dice.choice(presets).read_text(encoding="utf-8"))
    content = as_yaml(changed(data, dice), dice)
    file = folder / "space.yaml"
    file.write_bytes(content if dice.random() < 0.7 else mutated(content, dice))
    return file


def check_space(file: Path) -> str:
    try:
        space = load_space(str(file), base_dir=file.parent)
    except ConfigError as error:
        return check_error(error, file)
    again = load_space(space.as_dict(), base_dir=file.parent)
    if again != space or again.fingerprint() != space.fingerprint():
        raise Fault("its own data is another space")
    for point in space.enumerate(200) or ():
        problems = [str(problem) for problem in space.settings(point).problems()]
        if problems:
            raise Fault(f"it has a point that is invalid: {point}: {problems[0]}")
    return "right"


def make_codebook(folder: Path, dice: random.Random) -> Path:
    import numpy as np

    odd = (0.5, -7, 1e400, float("nan"), 10**400)
    count = dice.choice((0, 2, 8, 16, 500))
    levels = [dice.uniform(-1, 1) if dice.random() < 0.9 else dice.choice(odd) for _ in range(count)]
    suffix = dice.choice((".npy", ".json", ".txt", ".csv"))
    file = folder / f"levels{suffix}"
    if suffix == ".npy":
        kind = dice.choice(("f4", "f8", "f2", "c8", "U5"))
        array = np.array([min(level, 1000) for level in levels], kind)
        array = array.reshape(dice.choice(((-1,), (-1,), (1, -1)))) if count else array
        with file.open("wb") as stream:
            np.savez(stream, levels=array) if dice.random() < 0.1 else np.save(stream, array)
    else:
        words = ", ".join(map(str, levels)) if suffix == ".json" else dice.choice(" ,;\n\t").join(map(str, levels))
        file.write_text(f"[{words}]" if suffix == ".json" else f"{words}\n# note\n", encoding="utf-8")
    if dice.random() < 0.5:
        file.write_bytes(mutated(file.read_bytes(), dice))
    return file


def check_codebook(file: Path) -> str:
    for reader in (read_codebook, lambda path: parse_codebook(str(path))):
        try:
            levels = reader(file)
        except ValueError as error:
            if type(error) is not ValueError or "\n" in str(error) or str(file) not in str(error):
                raise Fault(f"no paragraph with the file's name: {error!r}") from error
            return "refused"
        if not all(type(level) is float for level in levels):
            raise Fault("levels that are no numbers")
    space = {"mode": "codebook", "codebook": str(file), "group_size": 32}
    try:
        load_space(space, base_dir=file.parent)
    except ConfigError as error:
        if "\n" in str(error) or "codebook" not in str(error):
            raise Fault(f"no paragraph with the key: {error}") from error
        return "refused"
    return "right"


@dataclass(frozen=True)
class Kind:
    """A kind of input: how often a full run tries it, how it is made and how it is read."""

    count: int
    make: Callable[[Path, random.Random], Path]
    check: Callable[[Path], str]


KINDS = {
    "model.yaml": Kind(10_000, make_config, check_config),
    "text": Kind(1_000, make_text, check_text),
    "space": Kind(300, make_space, check_space),
    "codebook": Kind(200, make_codebook, check_codebook),
}


def try_input(kind: str, folder: Path, seed: int) -> str:
    """Make one input in an empty folder and check it; its files are removed.

    Raises:
        Fault: autotune did not cope with it.
    """
    dice = random.Random(f"{kind} {seed}")
    (folder / "text.txt").write_text("The ferry takes the post across. " * 20, encoding="utf-8")
    here = Path.cwd()
    os.chdir(folder)
    try:
        file = KINDS[kind].make(folder, dice)
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        with time_limit():
            found = KINDS[kind].check(file)
        if set(folder.rglob("*")) != set(before):
            raise Fault(f"files are left: {set(folder.rglob('*')) - set(before)}")
        return found
    except Fault:
        raise
    except (Exception, Hang) as error:
        raise Fault(f"{type(error).__name__}: {error}") from error
    finally:
        os.chdir(here)
        for path in folder.iterdir():
            path.unlink()
