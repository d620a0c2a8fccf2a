"""YAML files as plain data, with the line of every key.

The files are read by the rules of YAML 1.2 (its core schema), not by PyYAML's YAML 1.1: ``1e-3`` is a number, ``on``,
``no`` and ``2024-01-01`` are texts, ``010`` is ten. Only plain data comes out: mappings with text keys, lists, texts,
numbers, true, false and null. A key given twice, a tag and a merge key are refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from autotune.common.formatting import shortened
from autotune.errors import ConfigError

KeyPath: TypeAlias = tuple[str | int, ...]
"""Path of a value: keys of mappings and indices of lists, from the top."""

NODE_LIMIT = 100_000
"""More values than this in one configuration file is a mistake, or a bomb made of aliases."""

LONGEST_KEY, LONGEST_PROBLEM = 100, 1000
"""Characters of an error about one value."""

TAG = "tag:yaml.org,2002:"
CORE_SCHEMA = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        "float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
)


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's parser with the scalar rules of YAML 1.2."""


class _SafeDumper(yaml.SafeDumper):
    """Writes YAML that versions 1.1 and 1.2 read back unchanged: text that is a number in either gets quotes."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def represent_text(self, data: str) -> yaml.ScalarNode:
        # PyYAML loses line breaks of other alphabets unless they are escaped, which double quotes do.
        style = '"' if re.search("[\n\r\x85\u2028\u2029]", data) else None
        return self.represent_scalar(TAG + "str", data, style=style)


_SafeDumper.add_representer(str, _SafeDumper.represent_text)
_CoreLoader.yaml_implicit_resolvers = {}
_SafeDumper.yaml_implicit_resolvers = {
    first: list(resolvers) for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
}
for _name, _pattern, _first in CORE_SCHEMA:
    _whole = re.compile(f"(?:{_pattern})\\Z")
    _CoreLoader.add_implicit_resolver(TAG + _name, _whole, _first)
    _SafeDumper.add_implicit_resolver(TAG + _name, _whole, _first)


@dataclass
class Source:
    """Data of a YAML text, with the line of every key.

    Attributes:
        file: the file, or None for a text without one.
        data: plain data.
        lines: 1-based line of each key and list item.
        problems: problems of the text itself that did not stop reading: (path, message).
        overridden: paths of values from the command line.
    """

    file: Path | None
    data: Any
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[tuple[KeyPath, str]] = field(default_factory=list)
    overridden: list[KeyPath] = field(default_factory=list)

    def is_overridden(self, path: KeyPath) -> bool:
        """Return True if the value at `path` (or one around or inside it) came from the command line."""
        return any(path[: len(top)] == top for top in self.overridden)

    def line(self, path: KeyPath) -> int | None:
        """Return the line of the nearest key at or around `path`, or None if the value does not come from a file."""
        if self.file is None or self.is_overridden(path):
            return None
        around = (path[:end] for end in range(len(path), -1, -1))
        return next((self.lines[key] for key in around if key in self.lines), None)

    def error(self, path: KeyPath, message: str) -> ConfigError:
        """Make a ConfigError about the value at `path`."""
        key, message = shortened(dotted(path), LONGEST_KEY), shortened(message, LONGEST_PROBLEM)
        if self.is_overridden(path):
            return ConfigError(message, key=f"--set {key}")
        return ConfigError(message, file=self.file, line=self.line(path), key=key or None)

    def override(self, assignment: str) -> None:
        """Apply one ``a.b=c``: `c` is read as YAML, mappings on the way are made where they are missing.

        Raises:
            ConfigError: no ``=``, `c` is not YAML, or `a` is not a mapping.
        """
        dots, equals, text = assignment.partition("=")
        if not equals or not dots.strip() or not all(part.strip() for part in dots.split(".")):
            raise ConfigError(
                f"must be a key and a value, such as --set study.trials=10, got {assignment!r}", key="--set"
            )
        path = self._split(dots.strip())
        # A limit such as >= 0.9 needs quotes in a file, where > begins a folded text; here it cannot mean that.
        limit = text.strip().startswith(">=")
        value = text.strip() if limit else parse_value(text, where=f"--set {dots.strip()}")
        if self.data is None:
            self.data = {}
        around = self.data
        for depth, key in enumerate(path[:-1]):
            if isinstance(around, dict) and around.get(key) is None:
                around[key] = {}
            around = around[key] if isinstance(around, dict) else None
            if not isinstance(around, dict):
                at = ".".join(path[: depth + 1])
                raise ConfigError(f"{at} is not a mapping, so nothing can be set inside it", key=f"--set {dots}")
        if not isinstance(around, dict):
            raise ConfigError("the file is not a mapping, so nothing can be set inside it", key=f"--set {dots}")
        around[path[-1]] = value
        self.overridden.append(path)

    def _split(self, dots: str) -> tuple[str, ...]:
        """Split at dots, but keep a key of the file that has dots itself (an evaluator ``pkg.module:Name``) whole."""
        path: list[str] = []
        around, parts = self.data, dots.split(".")
        while parts:
            keys = around if isinstance(around, dict) else {}
            ends = (end for end in range(len(parts), 0, -1) if ".".join(parts[:end]) in keys)
            # A new evaluator named module:attribute is not in the file yet: its name ends at the first dot after ':'.
            end = next(ends, next((i + 1 for i, part in enumerate(parts) if ":" in part), 1))
            path.append(".".join(parts[:end]))
            around, parts = keys.get(path[-1]), parts[end:]
        return tuple(path)


def dotted(path: KeyPath) -> str:
    """Format ``("space", "ratio", 2)`` as ``space.ratio[2]``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")


def read_yaml(path: Path) -> Source:
    """Read one YAML file.

    Raises:
        ConfigError: no such file, not UTF-8, or not YAML.
    """
    if path.is_dir():
        raise ConfigError("is a folder; name a YAML file", file=path)
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise ConfigError("no such file; check the path", file=path) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}; check its permissions", file=path) from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ConfigError(f"is not UTF-8 text (byte {error.start}); save it as UTF-8", file=path, line=line) from None
    return parse_yaml(text, file=path)


def parse_yaml(text: str, *, file: Path | None = None) -> Source:
    """Read one YAML text that came from `file`.

    Raises:
        ConfigError: not YAML, with the line.
    """
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
    except yaml.YAMLError as error:
        raise _syntax_error(error, text, file) from None
    except RecursionError:
        raise ConfigError("is nested too deeply to be a configuration; remove levels", file=file) from None
    source = Source(file, None)
    if node is not None:
        source.lines[()] = node.start_mark.line + 1
        source.data = _Reader(source).value(node, ())
    return source


def parse_value(text: str, *, where: str) -> Any:
    """Parse a YAML text of the command line; `where` names it in errors.

    Raises:
        ConfigError: not YAML.
    """
    try:
        source = parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{text!r} {error.problem}", key=where) from None
    for _, message in source.problems:
        raise ConfigError(f"{text!r}: {message}", key=where)
    return source.data


def dump_yaml(data: Any) -> str:
    """Write plain data as YAML: keys in their order, short lists on one line, no aliases."""
    text: str = yaml.dump(
        data, Dumper=_SafeDumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=110
    )
    return text


def yaml_line(key: str, value: str) -> str:
    """Write ``key: value`` as one line of YAML, with quotes if `value` needs them."""
    text: str = yaml.dump(
        {key: value}, Dumper=_SafeDumper, default_flow_style=False, allow_unicode=True, width=float("inf")
    )
    return text.strip()


def yaml_flow(value: dict[str, Any]) -> str:
    """Write ``{key: value, other: value}`` on one line, with quotes if a value needs them."""
    text: str = yaml.dump(
        value, Dumper=_SafeDumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=float("inf")
    )
    return text.strip()


class _Reader:
    """Turns parsed nodes into plain data and notes lines and problems in the source."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.count = 0
        self.open: list[yaml.Node] = []

    def value(self, node: yaml.Node, path: KeyPath) -> Any:
        self.count += 1
        if self.count > NODE_LIMIT:
            raise ConfigError(
                f"holds more than {NODE_LIMIT} values; shorten it",
                file=self.source.file,
            )
        if any(node is around for around in self.open):
            self.problem(path, "an alias that refers to what it is part of")
            return None
        self.open.append(node)
        try:
            if isinstance(node, yaml.MappingNode) and node.tag == TAG + "map":
                return dict(self.items(node, path))
            if isinstance(node, yaml.SequenceNode) and node.tag == TAG + "seq":
                return [self.item(child, (*path, index)) for index, child in enumerate(node.value)]
            if isinstance(node, yaml.ScalarNode):
                return self.scalar(node, path)
        finally:
            self.open.pop()
        self.problem(path, f"has the YAML tag {node.tag.replace(TAG, '!!')}; only plain data is allowed")
        return None

    def item(self, node: yaml.Node, path: KeyPath) -> Any:
        self.source.lines[path] = node.start_mark.line + 1
        return self.value(node, path)

    def items(self, node: yaml.MappingNode, path: KeyPath) -> Iterator[tuple[str, Any]]:
        first_lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.problem(path, f"has a key on line {line} that is not a text")
                continue
            key, at = key_node.value, (*path, key_node.value)
            if key_node.tag == TAG + "merge" or (key == "<<" and key_node.style is None):
                self.source.lines[at] = line
                self.problem(at, "merge keys are not supported; write the keys out")
                continue
            if key in first_lines:
                self.problem(at, f"is given twice, on lines {first_lines[key]} and {line}; keep one")
                continue
            first_lines[key] = self.source.lines[at] = line
            yield key, self.value(value_node, at)

    def scalar(self, node: yaml.ScalarNode, path: KeyPath) -> Any:
        kind, text = node.tag.removeprefix(TAG), node.value
        try:
            if kind == "str":
                return text
            if kind == "null":
                return None
            if kind == "bool":
                return {"true": True, "false": False}[text.lower()]
            if kind == "int":
                return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
            if kind == "float":
                return float(re.sub(r"\.(inf|nan)$", r"\1", text.lower()))
            self.problem(path, f"has the YAML tag {node.tag.replace(TAG, '!!')}; only plain data is allowed")
        except (ValueError, KeyError):
            self.problem(path, f"is not a valid {node.tag.replace(TAG, '!!')}: {text[:40]!r}")
        return None

    def problem(self, path: KeyPath, message: str) -> None:
        self.source.problems.append((path, message))


def _syntax_error(error: yaml.YAMLError, text: str, file: Path | None) -> ConfigError:
    """Convert an error of the YAML parser to one line, with a hint for common mistakes."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line = None if mark is None else mark.line + 1
    if isinstance(error, yaml.reader.ReaderError):  # a character that YAML does not allow
        line = text.count("\n", 0, int(error.position)) + 1
    problem = getattr(error, "problem", None) or str(getattr(error, "reason", None) or error).splitlines()[0]
    context = getattr(error, "context", None)
    lines: Sequence[str] = text.splitlines()
    shown = lines[line - 1].strip() if line is not None and line <= len(lines) else ""
    hint = "; correct this line or the one before it"
    if re.search(r"(:\s+|^)>=", shown):
        hint = '; put quotes around a limit with >=, as in ">= 0.9"'
    elif "\t" in (lines[line - 1] if line is not None and line <= len(lines) else ""):
        hint = "; indent with spaces, not tabs"
    elif "\\" in shown and '"' in shown:
        hint = "; a path with backslashes needs single quotes"
    elif re.search(r":\s+%", shown):
        hint = "; put quotes around a text that begins with %"
    problem = f"{context}, {problem}" if context and context != problem else problem
    return ConfigError(f"is not valid YAML: {problem}{hint}", file=file, line=line)
