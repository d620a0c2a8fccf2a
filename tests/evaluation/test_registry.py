"""Finding evaluators by entry point and by module:attribute."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import ConfigError, PrerequisiteError
from autotune.evaluation import Evaluator, Metric, registry

BUILT_IN = {"similarity": "evaluators.similarity:Similarity", "perplexity": "evaluators.perplexity:Perplexity"}


class Plain:
    """An evaluator without an options model."""

    metrics: Mapping[str, Metric] = {"length": Metric("minimize", "tokens", "length of the answers")}

    def __init__(self, *, limit: int = 3) -> None:
        self.limit = limit

    def fingerprint(self) -> str:
        return str(self.limit)

    def reference(self, original: Any) -> dict[str, Any]:
        return {}

    def evaluate(self, candidate: Any, reference: Any) -> dict[str, Any]:
        return {}

    def original(self, reference: Any) -> dict[str, Any]:
        return {}


class Half:
    """Not an evaluator: most of it is missing."""

    metrics: Mapping[str, Metric] = {}

    def fingerprint(self) -> str:
        return ""


def _point(name: str, value: str, distribution: str = "ov-autotune") -> metadata.EntryPoint:
    point = metadata.EntryPoint(name=name, value=value, group=registry.GROUP)
    vars(point).update(dist=SimpleNamespace(name=distribution, version="1.0"))
    return point


@pytest.fixture
def points(monkeypatch: pytest.MonkeyPatch) -> list[metadata.EntryPoint]:
    """The registered entry points: the built-in ones, and what a test adds."""
    registered = [_point(name, value) for name, value in BUILT_IN.items()]
    monkeypatch.setattr(registry, "_entry_points", lambda: registered)
    return registered


def test_evaluators_are_listed_with_their_origin(points: list[metadata.EntryPoint]) -> None:
    """The list is sorted, tells which package an evaluator is from, and imports none of them."""
    points.append(_point("broken", "no.such.module:Thing", "their-plugin"))
    assert registry.available() == [
        ("broken", "no.such.module:Thing of their-plugin 1.0"),
        ("perplexity", "evaluators.perplexity:Perplexity of ov-autotune 1.0"),
        ("similarity", "evaluators.similarity:Similarity of ov-autotune 1.0"),
    ]


@pytest.mark.usefixtures("points")
def test_metrics_are_told_without_making_an_evaluator() -> None:
    """Metrics and options of a name need no options; an evaluator without an options model has none."""
    assert "kl_divergence" in registry.evaluator_metrics("perplexity")
    model = registry.evaluator_options("perplexity")
    assert model is not None
    assert "sequence_length" in model.model_fields
    assert registry.evaluator_options(f"{__name__}:Plain") is None


@pytest.mark.usefixtures("points")
def test_an_evaluator_is_made_with_its_options(tmp_path: Path) -> None:
    """A registered name and module:attribute both make an evaluator from a mapping of options."""
    made = registry.create_evaluator("perplexity", {"path": tmp_path / "t.txt", "sequence_length": 8})
    assert isinstance(made, Evaluator)
    plain = registry.create_evaluator(f"{__name__}:Plain", {"limit": 9})
    assert isinstance(plain, Plain)
    assert plain.limit == 9


@pytest.mark.usefixtures("points")
def test_an_unknown_name_gets_the_nearest_one() -> None:
    """A misspelt evaluator is a ConfigError with its key, the nearest name and all names."""
    with pytest.raises(ConfigError, match=r"'perplexty'\. Did you mean perplexity\?.*perplexity, similarity") as caught:
        registry.create_evaluator("perplexty")
    assert caught.value.key == "evaluators.perplexty"


def test_nothing_registered_means_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any entry point the message says that autotune is not installed."""
    monkeypatch.setattr(registry, "_entry_points", list)
    with pytest.raises(PrerequisiteError, match="not installed"):
        registry.create_evaluator("perplexity")
    assert isinstance(registry.create_evaluator(f"{__name__}:Plain"), Plain)


def test_a_broken_plugin_fails_for_its_own_name(points: list[metadata.EntryPoint]) -> None:
    """A plug-in that cannot be imported is named with its package; the others work."""
    points.append(_point("broken", "no.such.module:Thing", "their-plugin"))
    with pytest.raises(PrerequisiteError, match=r"'broken' \(no\.such\.module:Thing of their-plugin 1\.0\)"):
        registry.evaluator_metrics("broken")
    assert registry.evaluator_metrics("similarity")


def test_a_name_registered_twice_names_both_packages(points: list[metadata.EntryPoint]) -> None:
    """Two packages with one name are a ConfigError; the same registration seen twice is not."""
    points.append(_point("perplexity", BUILT_IN["perplexity"]))
    assert registry.evaluator_metrics("perplexity")
    points.append(_point("perplexity", f"{__name__}:Plain", "their-plugin"))
    with pytest.raises(ConfigError, match=r"of ov-autotune 1\.0.*of their-plugin 1\.0"):
        registry.create_evaluator("perplexity")


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (f"{__name__}:Half", "Half is not an evaluator: it lacks reference, evaluate, original"),
        ("math:pi", "is not an evaluator"),
        ("math:", "not of the form module:attribute"),
    ],
)
def test_what_is_no_evaluator_is_refused(name: str, problem: str) -> None:
    """An attribute that lacks a part of the protocol is a ConfigError that says which."""
    with pytest.raises(ConfigError, match=problem):
        registry.create_evaluator(name)


@pytest.mark.parametrize("name", ["math:no_such_thing", "no_such_module:Thing"])
def test_an_attribute_that_is_not_there_is_an_error(name: str) -> None:
    """A module or attribute that does not exist is a PrerequisiteError with the name."""
    with pytest.raises(PrerequisiteError, match=name):
        registry.create_evaluator(name)


@pytest.mark.usefixtures("points")
@pytest.mark.parametrize(
    ("name", "options", "key", "problem"),
    [
        ("perplexity", {"path": "a", "sequnce_length": 3}, "sequnce_length", "did you mean 'sequence_length'"),
        ("perplexity", {"path": "a", "sequence_length": 1}, "sequence_length", "at least 2"),
        ("perplexity", {"path": "a", "samples": 0}, "samples", "at least 1"),
        ("perplexity", {"path": "a", "samples": "3"}, "samples", "a whole number"),
        ("perplexity", {}, None, "one of path, dataset, texts, tokens and synthetic"),
        ("perplexity", {"path": "a", "dataset": "b"}, None, "one of path, dataset, texts, tokens and synthetic"),
        ("similarity", {"max_new_tokens": 0}, "max_new_tokens", "at least 1"),
        ("similarity", {"embeder": "minilm"}, "embeder", "did you mean 'embedder'"),
        ("similarity", {"prompts": []}, "prompts", "at least one prompt"),
        ("similarity", {"prompts": ["a", " "]}, "prompts", "not blank"),
        ("similarity", {"prompts": 3}, "prompts", "a list of prompts, got 3"),
    ],
)
def test_a_wrong_option_is_named(name: str, options: dict[str, Any], key: str | None, problem: str) -> None:
    """Each wrong option is a ConfigError that carries the option's path and says what is allowed."""
    with pytest.raises(ConfigError, match=problem) as caught:
        registry.create_evaluator(name, options)
    assert caught.value.key == ".".join(["evaluators", name, *([key] if key else [])])


def test_a_wrong_option_without_a_model_is_named() -> None:
    """An evaluator without an options model still gives a ConfigError for an unknown option."""
    with pytest.raises(ConfigError, match="limt") as caught:
        registry.create_evaluator(f"{__name__}:Plain", {"limt": 3})
    assert caught.value.key == f"evaluators.{__name__}:Plain"


def test_metrics_need_no_heavy_imports() -> None:
    """The built-in evaluators can be imported without openvino, torch, transformers or datasets."""
    heavy = "{'openvino', 'torch', 'transformers', 'datasets', 'sentence_transformers', 'optimum'}"
    code = (
        "import sys; from autotune.evaluation import registry\n"
        f"for name in {list(BUILT_IN.values())}: assert registry.evaluator_metrics(name)\n"
        f"assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
