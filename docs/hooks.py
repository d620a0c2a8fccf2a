"""MkDocs hook: fill in the generated parts of pages, link glossary terms, and add the example report.

A page marks a generated part with `<!-- generated: NAME -->`. The parts come from the code of autotune, so that
they cannot be out of date: commands from the command line's own definitions, model.yaml from its JSON Schema, formats,
evaluators and presets from their tables.
"""

from __future__ import annotations

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
MARK = re.compile(r"^<!-- generated: (.+?) -->$", re.MULTILINE)
EXAMPLE = {
    "assets/front.png": ROOT / "reports" / "example" / "plots" / "front.png",
    "example/report.html": ROOT / "reports" / "example" / "report.html",
}
"""Files of the demo study that the site shows: path in the site -> file."""

GLOSSARY_FOLDERS = ("concepts/", "tutorials/", "how-to/", "reference/settings/")
"""Pages whose first use of a term links to the glossary."""


def table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Format a Markdown table; `|` inside a cell is escaped."""
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *([str(cell).replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def sentence(text: str) -> str:
    """Join the lines of a docstring's first paragraph, ended by a full stop."""
    words = " ".join(text.split("\n\n")[0].split())
    return words if not words or words.endswith((".", ")")) else f"{words}."


# Commands


def commands() -> str:
    """Every command: description, usage, example, arguments and options with their defaults."""
    import typer

    from autotune.cli.app import app

    group = typer.main.get_command(app)
    return "\n\n".join(_command(name, command) for name, command in group.commands.items())  # type: ignore[attr-defined]


def _command(name: str, command: Any) -> str:
    panels: dict[str, list[list[str]]] = {}
    arguments = []
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        text = (getattr(parameter, "help", None) or "").strip()
        if parameter.param_type_name == "argument":
            shown = (parameter.metavar or parameter.name).upper().strip("[]")
            arguments.append(shown if parameter.required else f"[{shown}]")
            panel, cell = "Arguments", f"`{shown}`"
        else:
            names = ", ".join(f"`{option}`" for option in (*parameter.opts, *parameter.secondary_opts))
            panel = getattr(parameter, "rich_help_panel", None) or "Options"
            cell = names if parameter.is_flag else f"{names} {_value(parameter)}"
        panels.setdefault(panel, []).append([cell, text, "required" if parameter.required else _default(parameter)])
    if not any(text for _, text, _ in panels.get("Arguments", ())):
        panels.pop("Arguments", None)
    # Arguments first, then the groups of the help, then the options without a group.
    order = sorted(panels, key=lambda panel: {"Arguments": 0, "Options": 2}.get(panel, 1))
    listing = "\n\n".join(
        table([panel.lower() if panel in ("Arguments", "Options") else panel, "description", "default"], panels[panel])
        for panel in order
    )
    description, _, example = inspect.cleandoc(command.help or "").partition("\n\n\b\nExample:\n")
    block = f"\n\n```sh\n{example.strip()}\n```" if example else ""
    usage = " ".join(["autotune", name, *arguments, "[OPTIONS]"])
    return f"## autotune {name}\n\n{sentence(description)}\n\n`{usage}`{block}\n\n{listing}"


def _value(option: Any) -> str:
    kind = option.type
    if option.metavar:
        return str(option.metavar)
    choices = getattr(kind, "choices", None)
    if choices:
        return "\\|".join(map(str, choices))
    return {"integer range": "N", "integer": "N", "float": "NUMBER", "path": "PATH"}.get(kind.name, "TEXT")


def _default(parameter: Any) -> str:
    default = parameter.default
    if callable(default) or default is None or default is False or default in ((), []):
        return ""
    if type(default).__name__ in ("Sentinel", "_UnsetType") or "UNSET" in repr(default):
        return ""
    if default is True:
        return f"`{parameter.opts[0]}`"
    return f"`{default}`"


# model.yaml


def model_yaml() -> str:
    """Every key of model.yaml with type, default and description."""
    from autotune.config.config import config_schema

    schema = config_schema()
    definitions = schema.get("$defs", {})
    plain, parts = [], []
    for key, value in schema["properties"].items():
        inner = _section(value, definitions)
        about = sentence(value.get("description") or (inner or {}).get("description", ""))
        if inner is None:
            required = key in schema.get("required", ()) or key == "model"
            plain.append([f"`{key}`", _type(value, definitions), "required" if required else _shown(value), about])
        else:
            rows = [
                [f"`{name}`", _type(each, definitions), _shown(each), sentence(each.get("description", ""))]
                for name, each in inner["properties"].items()
            ]
            parts.append(f"## {key}\n\n{about}\n\n{table(['key', 'type', 'default', 'description'], rows)}")
    first = table(["key", "type", "default", "description"], plain)
    return "\n\n".join(["## Top level", first, *parts])


def _section(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    for each in (value, *value.get("anyOf", ()), *value.get("allOf", ()), *value.get("oneOf", ())):
        name = each.get("$ref", "").rpartition("/")[2]
        found = definitions.get(name, {})
        if "properties" in found and name != "SearchSpace":
            return dict(found)
    return None


def _type(value: Mapping[str, Any], definitions: Mapping[str, Any]) -> str:
    if "$ref" in value:
        return _type(definitions.get(value["$ref"].rpartition("/")[2], {}), definitions)
    if "enum" in value or "const" in value:
        return ", ".join(f"`{json.dumps(each)}`" for each in value.get("enum", [value.get("const")])).replace('"', "")
    for several in ("anyOf", "oneOf"):
        if several in value:
            kinds = [_type(each, definitions) for each in value[several]]
            return " or ".join(dict.fromkeys(kind for kind in kinds if kind))
    kind = value.get("type", "any")
    kinds = [kind] if isinstance(kind, str) else list(kind)
    named = {"object": "mapping", "array": "list", "boolean": "true, false", "null": "null"}
    text = " or ".join(named.get(each, each) for each in kinds)
    low = value.get("minimum", value.get("exclusiveMinimum"))
    return f"{text} ≥ {low}" if low is not None else text


def _shown(value: Mapping[str, Any]) -> str:
    if "default" not in value:
        return ""
    default = value["default"]
    if isinstance(default, int) and not isinstance(default, bool) and default >= 10**9:
        return f"`{default / 1e9:g}GB`"
    if isinstance(default, dict) and len(json.dumps(default)) > 40:
        return ", ".join(f"`{key}`" for key in default)
    return f"`{json.dumps(default, ensure_ascii=False)}`"


# Formats, evaluators, presets


def formats() -> str:
    """Every format with bits, storage, scale, group size and what the CPU keeps compressed."""
    from autotune.compression.formats.table import FORMATS

    rows = []
    for name, each in FORMATS.items():
        scale = {"f16": "float16", "f8e8m0": "power of two (E8M0)", "f8e4m3": "E4M3 × one float32"}[each.scale_storage]
        group = "one row" if each.group_size == -1 else str(each.group_size)
        kept = ", ".join(
            {"matmul": "MatMul", "embedding": "embedding", "experts": "experts"}[kind]
            for kind in each.runtime_compressed
        )
        rows.append(
            [
                f"`{name}`",
                "4 or 8" if name == "codebook" else str(each.bits),
                f"{each.storage}{' + table' if each.table_storage else ''}",
                scale,
                "yes" if each.has_zero_point else "no",
                f"{group}{', fixed' if each.fixed_group_size else ''}",
                "yes" if each.takes_algorithms else "no",
                kept or "nothing: disk space only",
                f"`{each.backup}`",
            ]
        )
    heads = ["mode", "bits", "storage", "scale", "zero point", "default group size", "algorithms"]
    return table([*heads, "stays compressed in CPU memory", "default backup"], rows)


def evaluators() -> str:
    """Every installed evaluator of autotune: metrics and options."""
    from autotune.evaluation.registry import available, evaluator_metrics, evaluator_options

    parts = []
    for name, origin in available():
        if not origin.startswith("evaluators."):
            continue
        metrics = [
            [f"`{metric}`", "lower" if about.direction == "minimize" else "higher", about.unit, f"{about.description}"]
            for metric, about in evaluator_metrics(name).items()
        ]
        part = f"## {name}\n\n{table(['metric', 'better', 'unit', 'meaning'], metrics)}"
        model = evaluator_options(name)
        if model is not None:
            schema = model.model_json_schema()
            definitions = schema.get("$defs", {})
            options = [
                [f"`{key}`", _type(value, definitions), _shown(value), value.get("description", "")]
                for key, value in schema["properties"].items()
            ]
            part += f"\n\n{table(['option', 'type', 'default', 'description'], options)}"
        parts.append(part)
    return "\n\n".join(parts)


def presets() -> str:
    """Every preset with its file."""
    from autotune.config.space.presets import presets as found

    parts = []
    for preset in found():
        file = ROOT / "search_spaces" / f"{preset.name}.yaml"
        if file.is_file():
            text = file.read_text(encoding="utf-8").strip()
            parts.append(f"## {preset.name}\n\n{sentence(preset.description)}\n\n```{{.yaml .space}}\n{text}\n```")
    return "\n\n".join(parts)


# Python API, changelog, contributing


def api() -> str:
    """The functions and callbacks of the package, documented from their docstrings."""
    source = (ROOT / "autotune" / "__init__.py").read_text(encoding="utf-8")
    homes = {
        alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.name[0].islower() or alias.name.endswith("Callback")
    }
    shown = {name: home for name, home in homes.items() if str(home).startswith("autotune.")}
    return "\n\n".join(f"::: {home}.{name}\n    options:\n      heading_level: 2" for name, home in shown.items())


def included(name: str) -> str:
    """A Markdown file of the repository's root without its title."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"^# .*\n", "", text, count=1).strip()


def terms() -> dict[str, str]:
    """The glossary's terms and the first sentence of each."""
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    found = re.findall(r"^### (.+?)\n\n(.+?)(?:\n\n|\Z)", text, re.MULTILINE | re.DOTALL)
    return {term: re.split(r"(?<=\.)\s", " ".join(meaning.split()))[0] for term, meaning in found}


def glossary_index() -> str:
    """Links to every term."""
    return " · ".join(f"[{term}](#{slug(term)})" for term in terms())


def slug(title: str) -> str:
    """The anchor that MkDocs gives a heading."""
    return re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower())


PARTS: dict[str, Callable[[], str]] = {
    "commands": commands,
    "model.yaml": model_yaml,
    "formats": formats,
    "evaluators": evaluators,
    "presets": presets,
    "api": api,
    "changelog": lambda: included("CHANGELOG.md"),
    "contributing": lambda: included("CONTRIBUTING.md"),
    "glossary index": glossary_index,
}


def filled(markdown: str) -> str:
    """Replace every mark of a generated part."""
    return MARK.sub(lambda match: PARTS[match[1]](), markdown)


def breakable(line: str) -> str:
    """Allow line breaks inside long code in a table's line: at spaces, and in the names of tests."""

    def code(match: re.Match[str]) -> str:
        text = match[1]
        if not text.startswith("tests/") and (len(text) < 24 or " " not in text):
            return match[0]
        shown = escape(text.replace("\\|", "|")).replace("|", "&#124;")
        if text.startswith("tests/"):
            shown = re.sub("(::|/|_)", r"\1<wbr>", shown)
        return f'<code class="long">{shown}</code>'

    return re.sub(r"`([^`]+)`", code, line) if line.startswith("|") else line


def linked(markdown: str, up: str) -> str:
    """Link the first use of each glossary term to the glossary, outside of code, links, headings and tables.

    Args:
        markdown: the page.
        up: the path from the page to the folder of the glossary, such as ``../``.
    """
    open_terms = sorted(terms(), key=len, reverse=True)
    lines = markdown.split("\n")
    in_code = False
    for number, line in enumerate(lines):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        if in_code or line.startswith(("#", "|", "<", "!", "    ", ":::")):
            continue
        for term in list(open_terms):
            # Pieces between code spans and links; a term inside of those is left alone.
            pieces = re.split(r"(`[^`]*`|!?\[[^\]]*\]\([^)]*\)|\*\*[^*]*\*\*)", lines[number])
            for index in range(0, len(pieces), 2):
                match = re.search(rf"(?<![\w/-]){re.escape(term)}s?(?![\w/-])", pieces[index], re.IGNORECASE)
                if match:
                    link = f"[{match[0]}]({up}glossary.md#{slug(term)})"
                    pieces[index] = pieces[index][: match.start()] + link + pieces[index][match.end() :]
                    lines[number] = "".join(pieces)
                    open_terms.remove(term)
                    break
    return "\n".join(lines)


# MkDocs events


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the demo study."""
    from mkdocs.structure.files import File

    for path, file in EXAMPLE.items():
        files.append(File.generated(config, path, abs_src_path=str(file)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in generated parts, point to the copied files, and link glossary terms."""
    source = page.file.src_uri
    up = "../" * source.count("/")
    for path, file in EXAMPLE.items():
        markdown = markdown.replace(f"]({up}../{file.relative_to(ROOT).as_posix()})", f"]({up}{path})")
    markdown = "\n".join(map(breakable, filled(markdown).split("\n")))
    return linked(markdown, up) if source.startswith(GLOSSARY_FOLDERS) else markdown
