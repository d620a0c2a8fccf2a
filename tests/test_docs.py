"""README and documentation: every command, YAML block, Python block, link, table and generated part is checked."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import typer
import yaml

from autotune import errors
from autotune.cli.app import app, main
from autotune.config.config import load_config

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
FENCE = re.compile(r"^```(?P<kind>[^\n]*)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)
KINDS = {"sh", "python", "yaml", "text", "toml", "{.yaml .space}", "{.yaml .template}"}
COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
CHEAP = ("autotune --version", "autotune cache info", "autotune spaces", "autotune evaluators", "autotune schema")
CLASSES = {"search": "Study", "load_study": "Study", "compress": "CompressedModel", "evaluate": "Scores"}
"""Functions of the API -> the class of their result."""


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    kind: str
    code: str


def script(path: Path) -> ModuleType:
    """Import a Python file that is not part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOOKS = script(DOCS / "hooks.py")
TABLES = script(ROOT / "benchmarks" / "doc_tables.py")


@cache
def filled(page: Path) -> str:
    """A page with its generated parts."""
    text: str = HOOKS.filled(page.read_text(encoding="utf-8"))
    return text


def blocks(*kinds: str) -> list[Block]:
    """All blocks of these kinds, the generated parts of pages included."""
    found = []
    for page in PAGES:
        for match in FENCE.finditer(filled(page)):
            if match["kind"] in kinds:
                found.append(Block(page, match["kind"], match["code"]))
    return found


def shell_lines() -> Iterator[tuple[Path, list[str]]]:
    """(page, words) of every command; comments and redirections are dropped, ``a && b`` counts as two."""
    for page, _, code in blocks("sh"):
        for line in code.splitlines():
            for part in line.split("&&"):
                words = shlex.split(part.split(" > ")[0], comments=True)
                if words:
                    yield page, words


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def test_readme_is_short() -> None:
    """README has at most 120 lines and names its two commands, the picture, and the distribution."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 120
    for needed in ("make demo", "make test", "reports/example/plots/front.png", "pip install ov-autotune"):
        assert needed in text


def test_every_block_has_a_known_kind() -> None:
    """No block is left out of the tests by a kind that they do not know."""
    for page in PAGES:
        for match in FENCE.finditer(page.read_text(encoding="utf-8")):
            assert match["kind"] in KINDS, f"{name_of(page)}: {match['kind']!r}"


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, generated ones included."""
    text = FENCE.sub("", filled(page))
    return {HOOKS.slug(title) for title in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_every_link_resolves() -> None:
    """Relative links name files of the repository, and headings that exist."""
    count = 0
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8"))
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if link.startswith(("http://", "https://")):
                continue
            file, _, anchor = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.is_file(), f"{name_of(page)}: {link}"
            if anchor:
                assert anchor in anchors(target), f"{name_of(page)}: {link}"
            count += 1
    assert count > 100


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml lists every page, and only pages that exist."""

    def files(entry: Any) -> Iterator[str]:
        if isinstance(entry, str):
            yield entry
        else:
            for each in entry.values() if isinstance(entry, dict) else entry:
                yield from files(each)

    listed = sorted(files(yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    assert listed == sorted(page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md"))


def test_every_command_exists_with_its_options() -> None:
    """Commands of autotune, targets of make, extras of pip, and scripts of benchmarks exist."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    programs = set()
    for page, words in shell_lines():
        where = f"{name_of(page)}: {' '.join(words)}"
        program, *rest = words
        program = Path(program).name
        programs.add(program)
        if program == "autotune":
            check_command(rest, where)
        elif program == "make":
            assert re.search(rf"^{rest[0]}:", makefile, re.MULTILINE), where
        elif program == "pip":
            for found in re.findall(r"(?:ov-autotune|\.)\[([\w,-]+)\]", " ".join(rest)):
                assert set(found.split(",")) <= set(extras), where
        elif program == "python" and rest[0] != "-m":
            source = (ROOT / rest[0]).read_text(encoding="utf-8")
            assert all(f'"{word}"' in source for word in rest if word.startswith("--")), where
        else:
            assert program in ("python", "hf", "optuna-dashboard"), where
    assert {"autotune", "make", "pip", "python"} <= programs


def check_command(words: list[str], where: str) -> None:
    """A command line of autotune names a command and options that it has, with a value for each that takes one."""
    if words in (["--version"], ["--install-completion"]):
        return
    if words[0] == "--debug":
        words = words[1:]
    assert words[0] in COMMANDS, where
    command = COMMANDS[words[0]]
    options = {
        option: parameter
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
        if parameter.param_type_name == "option"
    }
    arguments = 0
    rest = iter(words[1:])
    for word in rest:
        if word.startswith("-"):
            assert word in options, f"{where}: no option {word}"
            if not options[word].is_flag:
                assert next(rest, None) is not None, f"{where}: {word} needs a value"
        else:
            arguments += 1
    taken = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    assert sum(parameter.required for parameter in taken) <= arguments, where
    assert arguments <= len(taken) or any(parameter.nargs == -1 for parameter in taken), where


def test_inline_commands_exist() -> None:
    """Commands in running text and tables name commands and options that exist."""
    for page in PAGES:
        text = FENCE.sub("", filled(page))
        if page.name == "changelog.md":
            continue  # its older entries may name what is gone
        for command, rest in re.findall(r"`autotune ([a-z]\w*)([^`]*)`", text):
            assert command in COMMANDS, f"{name_of(page)}: autotune {command}"
            options = {option for parameter in COMMANDS[command].params for option in parameter.opts} | {"--help"}
            for option in re.findall(r"(?<![\w-])--[\w-]+", rest):
                assert option in options, f"{name_of(page)}: autotune {command} {option}"


@pytest.mark.parametrize("line", CHEAP)
def test_cheap_commands_run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The commands that need no model run as written."""
    with pytest.raises(SystemExit) as stop:
        main(shlex.split(line)[1:])
    assert stop.value.code in (0, None)
    assert capsys.readouterr().out


def make_texts(folder: Path) -> None:
    """Write the model folder and the texts that the YAML blocks name."""
    (folder / "my-model").mkdir()
    (folder / "my-model" / "config.json").write_text("{}")
    for name in (
        "calibration.txt",
        "search.txt",
        "report.txt",
        "prompts.txt",
        "queries.jsonl",
        "images.jsonl",
        "questions.jsonl",
    ):
        (folder / name).write_text("Some words.\n")


def test_every_model_yaml_is_valid(tmp_path: Path) -> None:
    """The YAML blocks load as model.yaml, where the files that they name exist."""
    make_texts(tmp_path)
    found = blocks("yaml")
    assert len(found) >= 10
    for page, _, code in found:
        (tmp_path / "model.yaml").write_text(code)
        assert load_config(tmp_path / "model.yaml").model == str(tmp_path / "my-model"), name_of(page)
    for _, _, code in blocks("{.yaml .template}", "{.yaml .space}"):
        assert isinstance(yaml.safe_load(code), dict)
    for _, _, code in blocks("toml"):
        tomllib.loads(code)


def test_every_python_block_compiles_and_its_imports_exist() -> None:
    """Imported modules and names exist; those of optional packages only where the package is installed."""
    for page, _, code in blocks("python"):
        for node in ast.walk(ast.parse(code)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [str(node.module)]
            for name in names:
                if importlib.util.find_spec(name.partition(".")[0]) is None:
                    continue
                if name.partition(".")[0] in ("autotune", "evaluators"):
                    module = importlib.import_module(name)
                    for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                        assert hasattr(module, alias.name), f"{name_of(page)}: {name}.{alias.name}"


def test_python_blocks_use_names_and_arguments_of_the_api() -> None:
    """Functions, keyword arguments, methods and attributes that the blocks use exist in `autotune`."""
    api = importlib.import_module("autotune")
    for page in PAGES:
        made: dict[str, Any] = {}
        for block in (each for each in blocks("python") if each.page == page):
            for node in ast.walk(ast.parse(block.code)):
                if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                    name = api_name(node.value.func)
                    if name in CLASSES and isinstance(node.targets[0], ast.Name):
                        made[node.targets[0].id] = getattr(api, CLASSES[name])
            for node in ast.walk(ast.parse(block.code)):
                where = f"{name_of(page)}: {ast.unparse(node)}" if isinstance(node, ast.expr) else ""
                name = api_name(node)
                if name is not None:
                    assert hasattr(api, name) or importlib.util.find_spec(f"autotune.{name}"), where
                owner = node.value.id if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None
                if owner in made:
                    assert isinstance(node, ast.Attribute)
                    members = {*dir(made[owner]), *getattr(made[owner], "__annotations__", {})}
                    assert node.attr in members, where
                if isinstance(node, ast.Call):
                    check_arguments(node, api, made, where)


def api_name(node: ast.AST) -> str | None:
    """NAME of an expression ``autotune.NAME``."""
    inside = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "autotune"
    return node.attr if inside and isinstance(node, ast.Attribute) else None


def check_arguments(call: ast.Call, api: Any, made: dict[str, Any], where: str) -> None:
    """The keyword arguments of a call exist."""
    function: Any = None
    name = api_name(call.func)
    if name is not None:
        function = getattr(api, name)
    elif isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        function = getattr(made.get(call.func.value.id), call.func.attr, None)
    if not callable(function):
        return
    parameters = inspect.signature(function).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for keyword in call.keywords:
        assert keyword.arg is None or keyword.arg in parameters, f"{where}: {keyword.arg}"


def test_the_example_evaluator_works() -> None:
    """The evaluator of the how-to passes the conformance suite that the how-to names."""
    page = DOCS / "how-to" / "write-an-evaluator.md"
    space: dict[str, Any] = {}
    for block in (each for each in blocks("python") if each.page == page):
        exec(compile(block.code, str(page), "exec"), space)
    suite = space["TestFlips"]()
    suite.test_is_an_evaluator()
    suite.test_fingerprint_is_stable()


@pytest.mark.parametrize("name", ["test_original_scores_like_itself", "test_disturbed_model_scores_worse"])
def test_the_example_evaluator_scores(name: str, tmp_path: Path) -> None:
    """Its scores are right for an equal and for a disturbed model."""
    page = DOCS / "how-to" / "write-an-evaluator.md"
    space: dict[str, Any] = {}
    for block in (each for each in blocks("python") if each.page == page):
        exec(compile(block.code, str(page), "exec"), space)
    getattr(space["TestFlips"](), name)(tmp_path)


def test_measured_tables_are_up_to_date() -> None:
    """`python benchmarks/doc_tables.py` would change nothing, and every stored result names its source."""
    count = 0
    for page in TABLES.pages():
        text = page.read_text(encoding="utf-8")
        assert TABLES.filled(text) == text, f"{name_of(page)}: run python benchmarks/doc_tables.py"
        count += len(TABLES.BLOCK.findall(text))
    assert count >= 20
    for file in sorted((DOCS / "data").glob("*.json")):
        found = TABLES.stored(file.stem)
        assert {"measured", "command", "machine", "versions", "rows"} <= set(found), file.name
        assert found["rows"]
        assert found["machine"] or found["recorded_from"], file.name


def test_generated_parts_hold_everything() -> None:
    """Commands, keys, formats, evaluators and presets are all on their pages."""
    from autotune.compression.formats.table import FORMATS
    from autotune.config.config import config_schema
    from autotune.config.space.presets import presets

    commands = HOOKS.commands()
    for name, command in COMMANDS.items():
        assert f"## autotune {name}\n" in commands
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert f"`{option}`" in commands, f"{name} {option}"
    keys = HOOKS.model_yaml()
    for key in config_schema()["properties"]:
        assert f"`{key}`" in keys or f"## {key}\n" in keys
    assert all(f"`{name}`" in HOOKS.formats() for name in FORMATS)
    assert all(f"## {preset.name}\n" in HOOKS.presets() for preset in presets() if preset.origin == "search_spaces")
    marks = [mark for page in DOCS.rglob("*.md") for mark in HOOKS.MARK.findall(page.read_text(encoding="utf-8"))]
    assert sorted(marks) == sorted(HOOKS.PARTS)


def test_every_setting_has_its_page() -> None:
    """Each setting that a preset varies is in the table of settings, which links to a page."""
    text = (DOCS / "reference" / "settings" / "index.md").read_text(encoding="utf-8")
    for file in sorted((ROOT / "search_spaces").glob("*.yaml")):
        for name in yaml.safe_load(file.read_text(encoding="utf-8")):
            assert name == "description" or f"`{name}`" in text, name


def test_every_error_has_its_remedies() -> None:
    """Each class of errors is a section of the page on errors, with its exit code."""
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    for name in errors.__all__:
        kind = getattr(errors, name)
        if inspect.isclass(kind) and kind is not errors.AutotuneError:
            section = re.search(rf"^## {name}\n\nExit code (\d)", text, re.MULTILINE)
            assert section is not None, name
            assert int(section[1]) == kind.exit_code, name


def test_named_objectives_exist(tmp_path: Path) -> None:
    """The metrics that the page on objectives names can be objectives, in one direction."""
    text = (DOCS / "how-to" / "choose-objectives.md").read_text(encoding="utf-8")
    table = text[text.index("| objective |") : text.index("## Why KL divergence")]
    names = re.findall(r"^\| `(\w+)`", table, re.MULTILINE)
    assert len(names) >= 6
    make_texts(tmp_path)
    source = "model: my-model\nevaluators: {perplexity: {path: search.txt}, similarity: {prompts: prompts.txt}}\n"
    source = source.replace("}}", "}, chat_similarity: {}, memory: {}, latency: {}}")
    for name in names:
        problems = []
        for direction in ("minimize", "maximize"):
            (tmp_path / "model.yaml").write_text(f"{source}objectives: {{{name}: {direction}}}\n")
            try:
                load_config(tmp_path / "model.yaml")
            except errors.ConfigError as error:
                problems.append(str(error))
        assert len(problems) == 1, f"{name}: {problems}"


def test_named_files_and_tests_exist() -> None:
    """Paths in CONTRIBUTING and docs exist, and so do the tests that the pages name."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for path, name in re.findall(r"`((?:autotune|benchmarks|docs|evaluators|tests)/[\w./-]+)(?:::(\w+))?`", text):
            target = ROOT / path
            assert target.exists(), f"{name_of(page)}: {path}"
            if name:
                assert f"def {name}(" in target.read_text(encoding="utf-8"), f"{name_of(page)}: {path}::{name}"


def test_the_site_builds(tmp_path: Path) -> None:
    """`mkdocs build --strict` finds no broken link, page or reference."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    pytest.importorskip("mkdocstrings_handlers.python", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "commands" / "index.html").is_file()
