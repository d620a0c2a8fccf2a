"""The names of packages in `pip install`: in documentation, help and error messages."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
ALLOWED = {"torch", "gguf"}
"""Packages that the product needs only by way of another, or never: texts name them as a remedy."""

INSTALL = re.compile(
    r"pip install\s+(?:-[cr] \S+\s+|-e\s+)*[\"'\\]*(?P<name>\.|\{?\w[\w.-]*\w\}?)(?:\[(?P<extras>[\w,-]+)\])?"
)


def name_of(requirement: str) -> str:
    """The normalized name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


def commands() -> list[tuple[Path, str, list[str]]]:
    """File, package and extras of every `pip install` for users."""
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    files += [
        path for package in ("autotune", "evaluators", "search_spaces") for path in (ROOT / package).rglob("*.py")
    ]
    return [
        (path, found["name"], (found["extras"] or "").split(",") if found["extras"] else [])
        for path in files
        for found in INSTALL.finditer(path.read_text(encoding="utf-8"))
    ]


def test_pip_install_names_packages_that_exist() -> None:
    """Our name is that of the distribution, extras are declared, other names are requirements of ours."""
    requirements = [*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]
    allowed = ALLOWED | {name_of(each) for each in requirements}
    found = commands()
    assert len(found) >= 8
    for path, name, extras in found:
        if name.startswith("{"):
            continue  # a constant of the code, whose value has tests of its own
        ours = name == "." or "autotune" in name
        assert not ours or name in (".", "ov-autotune"), f"{path}: {name}"
        assert ours or name_of(name) in allowed, f"{path}: {name}"
        assert set(extras) <= set(EXTRAS if ours else ()), f"{path}: {name}{extras}"


def test_the_distribution_is_ours() -> None:
    """`autotune` on PyPI is a package of others; import name and command stay `autotune`."""
    assert PROJECT["name"] == "ov-autotune"
    assert PROJECT["scripts"] == {"autotune": "autotune.cli.app:main"}
