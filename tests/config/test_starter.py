"""The model.yaml that `autotune init` writes."""

from __future__ import annotations

import json
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from autotune.config.config import Config, load_config
from autotune.config.starter import Choices, starter_yaml
from autotune.evaluation import registry
from autotune.models.intake import Intake, read_intake


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The built-in evaluators, whether or not the package is installed."""
    values = {"similarity": "evaluators.similarity:Similarity", "perplexity": "evaluators.perplexity:Perplexity"}
    points = [EntryPoint(name, value, registry.GROUP) for name, value in values.items()]
    monkeypatch.setattr(registry, "_entry_points", lambda: points)


def test_it_loads_as_it_is_and_says_the_defaults(tmp_path: Path) -> None:
    """A starter file is valid and equal to one with the model alone: it only spells out the defaults."""
    (tmp_path / "model.yaml").write_text(starter_yaml("HuggingFaceTB/SmolLM2-135M"), encoding="utf-8")
    (tmp_path / "short.yaml").write_text("model: HuggingFaceTB/SmolLM2-135M\n", encoding="utf-8")
    assert load_config(tmp_path / "model.yaml") == load_config(tmp_path / "short.yaml")


def test_every_section_is_there_with_a_comment() -> None:
    """Each key of a configuration stands in the file (constraints as a comment), after a line that explains it."""
    lines = starter_yaml("a/b").splitlines()
    for key in Config.model_fields:
        at = next(index for index, line in enumerate(lines) if line.removeprefix("# ").startswith(f"{key}:"))
        assert lines[at - 1].startswith("#")
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("name", ["llama", "My Llama: 7B #1", "1e-3", "it's"])
def test_a_local_folder_with_local_texts_validates(tmp_path: Path, name: str) -> None:
    """A model's folder of any name becomes a valid file, and its texts may be files."""
    (tmp_path / name).mkdir()
    (tmp_path / name / "config.json").write_text("{}")
    for text in ("calibration.txt", "search.txt"):
        (tmp_path / text).write_text("Some words.\n")
    (tmp_path / "model.yaml").write_text(starter_yaml(f"./{name}"), encoding="utf-8")
    config = load_config(
        tmp_path / "model.yaml",
        ["calibration={path: calibration.txt, samples: 8}", "evaluators.perplexity={path: search.txt}"],
    )
    assert config.model == str(tmp_path / name)
    assert config.calibration.path == tmp_path / "calibration.txt"
    assert config.evaluators["perplexity"] == {"path": str(tmp_path / "search.txt")}


def test_own_texts_stand_in_place_of_the_hubs(tmp_path: Path) -> None:
    """Files, whatever their names, or text that the model writes; no dataset of the hub is left, and it is valid."""
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text("{}")
    for name in ("a, b: c.txt", "prompts.txt"):
        (tmp_path / name).write_text("Some words.\n")
    text = starter_yaml(
        "./m", choices=Choices(calibration="a, b: c.txt", text="synthetic", prompts="prompts.txt", embedder="minilm")
    )
    assert "Salesforce" not in text.replace("# A text", "")
    (tmp_path / "model.yaml").write_text(text)
    config = load_config(tmp_path / "model.yaml")
    assert config.calibration.path == tmp_path / "a, b: c.txt"
    assert config.evaluators["perplexity"] == {"synthetic": True, "sequence_length": 512, "samples": 16}
    assert config.evaluators["similarity"]["prompts"] == str(tmp_path / "prompts.txt")
    assert config.evaluators["similarity"]["embedder"] == "minilm"


def test_the_schema_line_is_the_first_where_the_schema_is() -> None:
    """Editors look at the first line; without a schema file it stays a hint."""
    assert starter_yaml("a/b", schema=True).startswith("# yaml-language-server: $schema=model.schema.json\n")
    assert not starter_yaml("a/b").startswith("# yaml-language-server")


def test_it_fits_the_model_and_the_machine(tmp_path: Path) -> None:
    """Short contexts, large models, chat templates and too little memory show in the file, which stays valid."""
    (tmp_path / "m").mkdir()
    config = {"vocab_size": 151936, "max_position_embeddings": 256, "torch_dtype": "bfloat16"}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    (tmp_path / "m" / "tokenizer_config.json").write_text(json.dumps({"chat_template": "{{ messages }}"}))
    with (tmp_path / "m" / "model.safetensors").open("wb") as stream:
        tensor = {"dtype": "BF16", "shape": [70_000, 100_000], "data_offsets": [0, 14_000_000_000]}
        header = json.dumps({"w": tensor}).encode()
        stream.write(len(header).to_bytes(8, "little") + header)
        stream.truncate(8 + len(header) + 14_000_000_000)  # a sparse file
    intake = read_intake(str(tmp_path / "m"))
    assert intake is not None
    assert intake == Intake(
        str(tmp_path / "m"),
        parameters=7_000_000_000,
        stored=8 + len(header) + 14_000_000_000,
        dtype="bfloat16",
        vocabulary=151936,
        positions=256,
        chat=True,
    )
    text = starter_yaml("./m", intake, {"usable_cores": 2, "memory": 24_000_000_000})
    for message in (
        "7,000 million parameters",
        "151,936 tokens",
        "more than this machine has",
        "chat template",
        '4.340 GB"',
    ):
        assert message in text
    assert max(map(len, text.splitlines())) <= 120
    (tmp_path / "model.yaml").write_text(text)
    loaded = load_config(tmp_path / "model.yaml")
    assert loaded.calibration.sequence_length == 256
    assert loaded.evaluators["perplexity"]["samples"] == 16


def test_a_broken_model_still_gets_its_file(tmp_path: Path) -> None:
    """A first look never fails."""
    (tmp_path / "config.json").write_text("{")
    assert read_intake(str(tmp_path)) is None
