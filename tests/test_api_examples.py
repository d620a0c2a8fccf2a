"""The examples in the documentation of the Python API run on the demo model."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest
from once import built_once

import autotune
from autotune.reporting.trackers import TRACKERS

DEMO = Path(__file__).parents[1] / "examples" / "demo"

EXAMPLES = [
    ("autotune.api", name) for name in ("search", *sorted(set(import_module("autotune.api").__all__) - {"search"}))
] + [
    ("autotune.config.config", "Config"),
    ("autotune.evaluation.scores", "Scores"),
    ("autotune.study.single", "CompressedModel"),
    ("autotune.study.view", "Study"),
    ("autotune.config.starter", "init"),
    ("autotune.reporting.listing", "list_studies"),
    *(("autotune.reporting.trackers", tracker.__name__) for tracker in TRACKERS.values()),
]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the repository's root, in which the examples may write."""
    folder = tmp_path_factory.mktemp("examples")
    (folder / "examples").mkdir()
    (folder / "examples" / "demo").symlink_to(DEMO)
    return folder


@pytest.mark.parametrize(("module", "name"), EXAMPLES, ids=[name for _, name in EXAMPLES])
def test_examples_run(
    module: str,
    name: str,
    examples: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Every public name has an example, whose results are those that it shows."""
    monkeypatch.chdir(examples)
    monkeypatch.setenv("AUTOTUNE_CACHE", str(built_once(tmp_path_factory, "demo-cache", lambda folder: None)))
    if not (examples / "reports" / "demo" / "study.db").exists() and name != "search":
        run_example("autotune.api", "search")
    run_example(module, name)
    assert capfd.readouterr().out == ""


def run_example(module: str, name: str) -> None:
    """Run the example in the documentation of a name."""
    home = import_module(module)
    if hasattr(getattr(home, name), "extra"):
        pytest.importorskip(getattr(home, name).extra)
    found = doctest.DocTestFinder(recurse=False).find(getattr(home, name), name, home, {}, {"autotune": autotune})
    assert sum(len(test.examples) for test in found) > 0, f"{name} has no example"
    failures: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.REPORT_ONLY_FIRST_FAILURE)
    for test in found:
        runner.run(test, out=failures.append)
    assert not failures, "".join(failures)


def test_every_public_name_has_an_example() -> None:
    """The list of examples is that of the package, whose names are those of their modules."""
    assert {name for _, name in EXAMPLES} == set(autotune.__all__) - {"__version__"}
    for module, name in EXAMPLES:
        assert getattr(autotune, name) is getattr(import_module(module), name)
